"""One ReBO update against TRL's GRPO trainer, in one run: the embedded model, all of it trained, float32.

    python benchmarks/rebo_step.py [--repeats 3] [--model smollm2]

8 questions with 8 replies each, and every reply has exactly 48 tokens for both: the head gets a bias that makes the
end tokens impossible. ``rollouts``: `expunge.rl.rollout.sample` against the generation of TRL's trainer in its CPU
configuration (Hugging Face generate on 64 padded rows). ``update``: samples, rewards, reference, loss, gradients and
optimiser, from the log rows of `expunge.rl.rebo` and of TRL's trainer with its own generation, set up by
`expunge.rl.trl_engine` with the same settings: the same loss, no gradient checkpointing, ``--trl-tokens`` tokens at
once. The rival goes first, each of the two has a warm-up, figures are medians; for the updates each has a process of
its own, whose peak memory is told. Ends with lines ``ratio NAME VALUE``; exit code 1 if a reply has another length."""

import argparse
import copy
import importlib
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from expunge.data.chat import encode_prompt
from expunge.data.rwku import load_target
from expunge.evals.generate import end_tokens
from expunge.memory import keep_freed_memory
from expunge.models.load import load, resolve
from expunge.rl.dev import Guard
from expunge.rl.questions import Question
from expunge.rl.rebo import RL, rebo
from expunge.rl.rewards import Row
from expunge.rl.rollout import sample
from expunge.train.manifest import peak_memory_gb

SETTINGS = RL(prompts=8, rollouts=8, max_new_tokens=48, dev_every=10**6, guard=Guard(0.0, 1.0, 1.0))
REPLIES = SETTINGS.prompts * SETTINGS.rollouts


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--model", default="smollm2", help="embedded model, folder or hub id")
    options.add_argument("--trl-tokens", type=int, default=2048, help="a group of replies at once")
    given = options.parse_args()
    theirs, ours = rollouts(given.model, given.repeats)
    for name, seconds in (("TRL", theirs), ("expunge", ours)):
        tokens = REPLIES * SETTINGS.max_new_tokens
        print(f"rollouts {name:8} {seconds:7.2f} s, {tokens / seconds:6.0f} tokens/s", flush=True)
    found = {}
    for name, at_once in (("TRL", given.trl_tokens), ("expunge", SETTINGS.tree_tokens)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[name] = pool.apply(updates, (name, given.model, given.repeats, at_once))
        seconds, gigabytes, _ = found[name]
        print(f"update   {name:8} {seconds:7.2f} s, {gigabytes:.2f} GB at its peak", flush=True)
    print(f"ratio rollouts {theirs / ours:.2f}")
    print(f"ratio update {found['TRL'][0] / found['expunge'][0]:.2f}")
    return int(any(length != SETTINGS.max_new_tokens for _, _, length in found.values()))


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


def rollouts(source: str, repeats: int) -> tuple[float, float]:
    """Median seconds of TRL's generation and of ours, in turn."""
    from expunge.rl import trl_engine
    from expunge.rl.trl_course import Course

    model, reference, tokenizer = endless(source)
    train, dev = questions()
    keep_freed_memory(model.num_parameters())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    course = Course(
        model, tokenizer, train, dev, SETTINGS, 0, trained, print, interrupted=bool, saves=False, mixed=False
    )
    prompts = [encode_prompt(tokenizer, q.prompt, q.start) for q in train[: SETTINGS.prompts]]
    print(f"{REPLIES} replies of {SETTINGS.max_new_tokens} tokens, prompts of {sorted(map(len, prompts))} tokens")
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_engine.make_trainer(importlib.import_module("trl"), course, reference, Path(folder), "trl")
    repeated = [list(prompt) for prompt in prompts for _ in range(SETTINGS.rollouts)]

    def theirs() -> None:
        model.train()
        trainer._generate_single_turn(repeated, None, {}, SETTINGS.rollouts)

    def ours() -> None:
        model.eval()
        sample(model, tokenizer, prompts, SETTINGS.rollouts, max_new_tokens=SETTINGS.max_new_tokens)

    seconds = [(timed(theirs), timed(ours)) for _ in range(repeats + 1)][1:]
    return statistics.median(t for t, _ in seconds), statistics.median(o for _, o in seconds)


def timed(do: Callable[[], None]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def updates(name: str, source: str, repeats: int, at_once: int) -> tuple[float, float, float]:
    """Median seconds of an update after one to warm up, GB at the peak of the process, mean length of a reply."""
    model, reference, tokenizer = endless(source)
    settings = replace(SETTINGS, updates=repeats + 1, tree_tokens=at_once)
    rows: list[dict[str, Any]] = []
    engine: Callable[..., Any] = rebo
    more = {}
    if name == "TRL":
        from expunge.rl import trl_engine

        engine, more = trl_engine.rebo, {"sampler": "trl"}
    engine(model, reference, tokenizer, *questions(), settings, log=rows.append, **more)
    done = [row for row in rows if row["stage"] == "rebo"]
    return (
        statistics.median(row["seconds"] for row in done[1:]),
        peak_memory_gb(),
        statistics.mean(row["reply_tokens"] for row in done),
    )


if __name__ == "__main__":
    sys.exit(main())
