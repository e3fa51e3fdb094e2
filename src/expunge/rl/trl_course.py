"""What TRL's trainer calls back in the course of ReBO: samples, rewards, log rows, looks, the end, checkpoints."""

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from ..data.chat import encode_prompt
from ..evals.generate import end_tokens
from ..files import read_json, write_json, writing
from .dev import benign_collapse, collapsed, look_at
from .questions import Question
from .rebo import RL, Log, Outcome, rewarded
from .rollout import Rollout, sample


@dataclass(eq=False)
class Course(TrainerCallback):
    """``asked``: the questions of all updates in order. ``mixed``: products are in bfloat16. ``saves``: there is a
    folder that outlives the process. A checkpoint of TRL's is whole once ``outcome.json`` is in it."""

    model: Any
    tokenizer: Any
    asked: Sequence[Question]
    dev: Sequence[Question]
    settings: RL
    seed: int
    trained: dict[str, nn.Parameter]
    log: Log
    interrupted: Callable[[], bool]
    saves: bool
    mixed: bool
    outcome: Outcome = field(default_factory=Outcome)
    best: dict[str, Tensor] = field(default_factory=dict)
    _row: dict[str, Any] = field(default_factory=dict)
    _started: float = 0.0

    def longest(self) -> int:
        """Most tokens of a prompt and a reply to it."""
        prompts = {(q.prompt, q.start) for q in self.asked}
        return max(len(encode_prompt(self.tokenizer, *p)) for p in prompts) + self.settings.max_new_tokens

    def rollout(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """TRL's ``rollout_func``; each prompt stands there once for each of its replies."""
        started, n = time.perf_counter(), self.settings.rollouts
        ids = [tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in prompts[::n]]
        with self._precision():
            groups = sample(
                self.model,
                self.tokenizer,
                ids,
                n,
                max_new_tokens=self.settings.max_new_tokens,
                temperature=self.settings.temperature,
                seed=self.seed * 1_000_003 + trainer.state.global_step // self.settings.passes,
            )
        self._row["rollout_seconds"] = time.perf_counter() - started
        replies = [r for group in groups for r in group]
        return {
            "prompt_ids": [list(prompt) for prompt in ids for _ in range(n)],
            "completion_ids": [list(r.ids) for r in replies],
            "logprobs": [list(r.logprobs) for r in replies],
        }

    def reward(self, *, completion_ids: list[list[int]], number: list[int], **rest: Any) -> list[float]:
        """TRL's reward function; ``number`` (replies,): which of ``asked`` each of them answers."""
        n, ends = self.settings.rollouts, end_tokens(self.model, self.tokenizer)
        flat = []
        for ids in completion_ids:
            unknown = (0.0,) * len(ids)  # TRL tells the entropies later
            flat.append(Rollout(tuple(ids), unknown, unknown, ids[-1] in ends))
        groups = [flat[i : i + n] for i in range(0, len(flat), n)]
        rewards, row = rewarded(self.tokenizer, [self.asked[i] for i in number[::n]], groups, self.settings.reward)
        self._row |= row
        if self.settings.algorithm == "rloo":  # TRL takes the group's mean off; without the reply's own it is this much
            rewards = rewards * n / (n - 1)
        found: list[float] = rewards.flatten().tolist()
        return found

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step % self.settings.passes == 0:
            self._started, self._row = time.perf_counter(), {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **rest: Any) -> None:
        """After each step; with the last pass over its samples an update is done."""
        if logs is None or "loss" not in logs or state.global_step % self.settings.passes:
            return
        settings, done = self.settings, state.global_step // self.settings.passes
        row = self._told(done, logs)
        self.log(row)
        last = done == settings.updates
        collapse = collapsed(row, settings.guard)
        if done % settings.dev_every == 0 or last or collapse:
            self.look(done, collapsed=bool(collapse))
            collapse = collapse or benign_collapse(self.outcome.looks, settings.guard)
        stop = self.outcome.ends(collapse, settings.patience) or self.interrupted()
        control.should_training_stop = control.should_training_stop or stop
        control.should_save = self.saves and (done % settings.save_every == 0 or last or stop)

    def _told(self, done: int, logs: dict[str, Any]) -> dict[str, Any]:
        """The log row; TRL's means of divergence and entropy are over parts of the update, not over tokens."""
        divergence = logs.get("kl", 0.0)
        held = self.settings.clip.kl * divergence
        return {
            "stage": "rebo",
            "step": done - 1,
            "steps": self.settings.updates,
            **self._row,
            "entropy": logs["entropy"],
            "loss": logs["loss"],
            "parts": {"policy": logs["loss"] - held, "kl": held, "grad_norm": logs["grad_norm"]},
            "divergence": divergence,
            "lr": self.settings.lr,
            "seconds": time.perf_counter() - self._started,
        }

    def look(self, update: int, *, collapsed: bool = False) -> None:
        """Look at the dev questions, and note the weights if they are the best so far."""
        with self._precision():
            found = look_at(self.model, self.tokenizer, self.dev, self.settings.max_new_tokens, self.settings.reward)
        self.log({"stage": "rebo_dev", "step": update, **found})
        if self.outcome.note(update, found, collapsed=collapsed):
            self.best = {name: p.detach().to("cpu", copy=True) for name, p in self.trained.items()}

    def restore_best(self) -> None:
        with torch.no_grad():
            for name, value in self.best.items():
                self.trained[name].copy_(value)

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Put what TRL does not know into its checkpoint; older ones go when the new one is whole."""
        from safetensors.torch import save_file

        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        with writing(folder / "best.safetensors") as temporary:
            save_file({name: value.contiguous() for name, value in self.best.items()}, temporary)
        write_json(folder / "outcome.json", asdict(self.outcome))
        for other in set(folder.parent.glob("checkpoint-*")) - {folder}:
            shutil.rmtree(other)

    def load(self, folder: Path) -> Path | None:
        """The newest whole checkpoint in a folder, with what it says of the run so far; None if there is none."""
        from safetensors.torch import load_file

        whole = [path.parent for path in folder.glob("checkpoint-*/outcome.json")]
        if not whole:
            return None
        newest = max(whole, key=_steps)
        self.outcome = Outcome(**read_json(newest / "outcome.json"))
        self.best = load_file(newest / "best.safetensors")
        return newest

    def over(self, found: Path | None) -> bool:
        """Had the run of this checkpoint come to its end?"""
        all_steps = self.settings.updates * self.settings.passes
        return found is not None and (_steps(found) >= all_steps or self.outcome.ended != Outcome.ended)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.mixed)


def _steps(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
