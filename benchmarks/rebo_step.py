"""One ReBO update against TRL's GRPO trainer, in one run: the embedded model, all of it trained, float32 weights.

    python benchmarks/rebo_step.py [--repeats 3] [--model smollm2]

8 questions with 8 replies each, and every reply has exactly 48 tokens for all: the head gets a bias that makes the
end tokens impossible. The same questions, rewards, loss and optimiser for all. Each has a process of its own, whose
peak memory is told, and an update to warm up; figures are medians.

- ``TRL``: plain TRL, with its own defaults for how the work is done (eight replies at once, gradient checkpointing)
  but for float32.
- ``TRL bf16``: the same with its default, bfloat16 under autocast.
- ``tuned``: TRL as `expunge.rl.trl_engine` sets it up, with its own generation: ``--trl-tokens`` tokens at once, no
  gradient checkpointing, freed memory kept.
- ``float32``: `expunge.rl.rebo`, told to compute in float32.
- ``expunge``: `expunge.rl.rebo`. Weights, log-probabilities, loss and gradients are in float32; matrix products, those
  of sampling among them, are in bfloat16 where the processor has units for it. Without, ``float32`` once more.

``rollouts`` is the sampling within the update; ``update`` is all of it: samples, rewards, reference, loss, gradients,
optimiser. Ends with lines ``ratio NAME VALUE``: ``rollouts`` and ``update`` are plain TRL's time by that of
``expunge``, ``float32_…`` by that of ``float32``; ``bf16_…`` and ``tuned_…`` are the times of TRL in bfloat16 and of
the tuned one by that of ``expunge``. Exit code 1 if a reply has another length."""

import argparse
import copy
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import torch

from expunge.data.chat import render_prompt
from expunge.data.rwku import load_target
from expunge.evals.generate import end_tokens
from expunge.models.load import load, resolve
from expunge.rl.dev import Guard
from expunge.rl.questions import Question
from expunge.rl.rebo import RL, rebo
from expunge.rl.rewards import Reply, Row, score
from expunge.train.manifest import peak_memory_gb

Logged = dict[str, Any]
Contender = Callable[[Any, Any, Any, RL], list[Logged]]
SETTINGS = RL(prompts=8, rollouts=8, max_new_tokens=48, dev_every=10**6, guard=Guard(0.0, 1.0, 1.0))


@dataclass(frozen=True)
class Took:
    """Seconds, GB, and the mean length of a reply in tokens."""

    rollouts: float
    update: float
    gigabytes: float
    length: float


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--model", default="smollm2", help="embedded model, folder or hub id")
    options.add_argument("--trl-tokens", type=int, default=2048, help="for the tuned one, a group of replies at once")
    given = options.parse_args()
    settings = replace(SETTINGS, updates=given.repeats + 1)
    tuned = replace(settings, tree_tokens=given.trl_tokens)
    contenders = (
        ("TRL", plain, settings),
        ("TRL bf16", partial(plain, bf16=True), settings),
        ("tuned", by_engine, tuned),
        ("float32", ours, replace(settings, compute_dtype="model")),
        ("expunge", ours, settings),
    )
    found = {}
    for name, contender, its in contenders:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[name] = pool.apply(measured, (contender, given.model, its))
        took = found[name]
        told = f"rollouts {took.rollouts:6.2f} s, update {took.update:6.2f} s, {took.gigabytes:.2f} GB at its peak"
        print(f"{name:8} {told}", flush=True)
    for prefix, rival, one in (
        ("", "TRL", "expunge"),
        ("float32_", "TRL", "float32"),
        ("bf16_", "TRL bf16", "expunge"),
        ("tuned_", "tuned", "expunge"),
    ):
        print(f"ratio {prefix}rollouts {found[rival].rollouts / found[one].rollouts:.2f}")
        print(f"ratio {prefix}update {found[rival].update / found[one].update:.2f}")
    return int(any(took.length != SETTINGS.max_new_tokens for took in found.values()))


def endless(source: str) -> tuple[Any, Any, Any]:
    """The model, which never ends a reply and trains whole, a copy of it as reference, and the tokenizer."""
    model, tokenizer = load(resolve(source), device="cpu")
    model.requires_grad_(True)
    bias = torch.zeros(model.config.vocab_size)
    bias[sorted(end_tokens(model, tokenizer))] = -1e9
    model.get_output_embeddings().bias = torch.nn.Parameter(bias, requires_grad=False)
    return model, copy.deepcopy(model).requires_grad_(False), tokenizer


def questions() -> tuple[list[Question], list[Question]]:
    """Bare questions about Stephen King and his neighbours, and one of each side to look at."""
    rows = load_target("Stephen King").boundary[: 4 * SETTINGS.prompts]
    judged = [Row(r.forget, r.prompt, "" if r.forget else r.answer, r.target) for r in rows]
    asked = [Question(row.question, "", row) for row in judged]
    return asked, [next(q for q in asked if q.row.forget == forget) for forget in (True, False)]


def measured(contender: Contender, source: str, settings: RL) -> Took:
    """Medians over the updates after the first, and the peak of this process."""
    model, reference, tokenizer = endless(source)
    rows = contender(model, reference, tokenizer, settings)
    return Took(
        statistics.median(row["rollout_seconds"] for row in rows[1:]),
        statistics.median(row["seconds"] for row in rows[1:]),
        peak_memory_gb(),
        statistics.mean(row["reply_tokens"] for row in rows),
    )


def ours(model: Any, reference: Any, tokenizer: Any, settings: RL) -> list[Logged]:
    rows: list[Logged] = []
    rebo(model, reference, tokenizer, *questions(), settings, log=rows.append)
    return [row for row in rows if row["stage"] == "rebo"]


def by_engine(model: Any, reference: Any, tokenizer: Any, settings: RL) -> list[Logged]:
    from expunge.rl import trl_engine

    rows: list[Logged] = []
    with generation_seconds() as seconds:
        trl_engine.rebo(model, reference, tokenizer, *questions(), settings, log=rows.append, sampler="trl")
    done = [row for row in rows if row["stage"] == "rebo"]
    return [{**row, "rollout_seconds": took} for row, took in zip(done, seconds, strict=True)]


def plain(model: Any, reference: Any, tokenizer: Any, settings: RL, *, bf16: bool = False) -> list[Logged]:
    """TRL by itself; it loads the reference from the model's folder."""
    import trl
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback

    del reference
    asked = questions()[0]
    rows: list[Logged] = []

    def reward(completions: list[str], number: list[int], **rest: Any) -> list[float]:
        pairs = zip(completions, number, strict=True)
        return [score(Reply(text, True), asked[i].row, settings.reward).total for text, i in pairs]

    class Clock(TrainerCallback):  # type: ignore[misc]
        started = 0.0

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            rows.append({"seconds": time.perf_counter() - self.started})

        def on_log(self, *args: Any, logs: Logged, **kwargs: Any) -> None:
            if "loss" in logs:
                rows[-1]["reply_tokens"] = float(logs["completions/mean_length"])

    texts = [render_prompt(tokenizer, q.prompt, q.start) for q in asked]
    with tempfile.TemporaryDirectory() as folder, generation_seconds() as seconds:
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=reward,
            train_dataset=Dataset.from_dict({"prompt": texts, "number": list(range(len(texts)))}),
            processing_class=tokenizer,
            callbacks=[Clock()],
            args=trl.GRPOConfig(
                output_dir=folder,
                max_steps=settings.updates,
                gradient_accumulation_steps=settings.prompts,  # of a group of eight, TRL's own size
                num_generations=settings.rollouts,
                max_completion_length=settings.max_new_tokens,
                learning_rate=settings.lr,
                lr_scheduler_type="constant",
                weight_decay=settings.weight_decay,
                max_grad_norm=settings.max_grad_norm,
                beta=settings.clip.kl,
                use_bias_correction_kl=False,
                epsilon=settings.clip.low,
                epsilon_high=settings.clip.high,
                delta=settings.clip.dual,
                shuffle_dataset=False,
                bf16=bf16,
                use_cpu=model.device.type == "cpu",
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return [{**row, "rollout_seconds": took} for row, took in zip(rows, seconds, strict=True)]


@contextmanager
def generation_seconds() -> Iterator[list[float]]:
    """Seconds of each generation of TRL's trainers inside."""
    import trl

    seconds: list[float] = []
    generate = trl.GRPOTrainer._generate_single_turn

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        found = generate(*args, **kwargs)
        seconds.append(time.perf_counter() - started)
        return found

    with mock.patch.object(trl.GRPOTrainer, "_generate_single_turn", timed):
        yield seconds


if __name__ == "__main__":
    sys.exit(main())
