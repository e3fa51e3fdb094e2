"""Evaluation against its obvious rivals, in one run: King's RWKU probes, and MMLU with five examples.

    python benchmarks/eval.py [--model smollm2] [--questions 40] [--subject virology]

``rwku``: the 107 probes by `expunge.evals.rwku` against Hugging Face generate, one prompt at a time, greedy, ended at a
newline; the replies must be the same in float32. ``mmlu``: questions of one subject by `expunge.evals.choices` against
lm-eval's HF backend (batches of 8; package lm-eval), with the same prompts; the chosen letters must be the same.
The rival goes first, after a warm-up. Ends with lines ``ratio NAME VALUE``; exit code 1 if anything differs.
MMLU is read from EXPUNGE_DATA; without it or without lm-eval that half is left out, with a line that says so."""

import argparse
import importlib.util
import os
import sys
import time
from typing import Any

import torch

from expunge.data.chat import encode_prompt
from expunge.data.choices import load_mmlu, mmlu_examples
from expunge.data.rwku import load_target
from expunge.evals import rwku
from expunge.evals.choices import LETTERS, evaluate, prompt_of
from expunge.models.load import load, resolve


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="smollm2", help="embedded model, folder or hub id")
    options.add_argument("--questions", type=int, default=40)
    options.add_argument("--subject", default="virology")
    given = options.parse_args()
    model, tokenizer = load(resolve(given.model))
    ratios, differ = {"rwku": 0.0}, 0
    theirs, ours, unlike = probes(model, tokenizer)
    print(f"rwku  generate, one by one {theirs:7.2f} s, expunge {ours:7.2f} s, {unlike} replies differ", flush=True)
    ratios["rwku"], differ = theirs / ours, unlike
    if importlib.util.find_spec("lm_eval") is None or "EXPUNGE_DATA" not in os.environ:
        print("mmlu  left out: needs the package lm-eval, and MMLU under EXPUNGE_DATA")
    else:
        theirs, ours, unlike = choices(model, tokenizer, given.subject, given.questions)
        print(f"mmlu  lm-eval {theirs:7.2f} s, expunge {ours:7.2f} s, {unlike} answers differ", flush=True)
        ratios["mmlu"], differ = theirs / ours, differ + unlike
    for name, ratio in ratios.items():
        print(f"ratio {name} {ratio:.2f}")
    return int(differ > 0)


@torch.inference_mode()
def probes(model: Any, tokenizer: Any) -> tuple[float, float, int]:
    """Seconds of both, and how many replies differ."""
    asked = load_target("Stephen King").probes
    prompts = [encode_prompt(tokenizer, *rwku.prompt_of(probe)) for probe in asked]

    def reply(prompt: tuple[int, ...]) -> str:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=rwku.NEW_TOKENS,
            do_sample=False,
            stop_strings=["\n"],
            tokenizer=tokenizer,
            pad_token_id=tokenizer.pad_token_id,
        )
        text = tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True)
        return text.split("\n")[0].strip() or "NOANSWER"

    reply(prompts[0])
    started = time.perf_counter()
    replies = [reply(prompt) for prompt in prompts]
    theirs = time.perf_counter() - started
    rwku.evaluate(model, tokenizer, asked[:4])
    started = time.perf_counter()
    rows = rwku.evaluate(model, tokenizer, asked)
    ours = time.perf_counter() - started
    return theirs, ours, sum(row["reply"] != text for row, text in zip(rows, replies, strict=True))


def choices(model: Any, tokenizer: Any, subject: str, count: int) -> tuple[float, float, int]:
    """Seconds of both for the questions, and how many chosen letters differ."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    questions, examples = load_mmlu(subject)[:count], mmlu_examples(subject)
    prompts = [prompt_of(question, examples) for question in questions]
    rival = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    requests = [
        Instance("loglikelihood", {}, (prompt, f" {letter}"), i)
        for i, (prompt, letter) in enumerate((p, x) for p in prompts for x in LETTERS)
    ]
    rival.loglikelihood(requests[:4], disable_tqdm=True)
    started = time.perf_counter()
    found = [value for value, _ in rival.loglikelihood(requests, disable_tqdm=True)]
    theirs = time.perf_counter() - started
    evaluate(model, tokenizer, questions[:1], examples)
    started = time.perf_counter()
    rows = evaluate(model, tokenizer, questions, examples)
    ours = time.perf_counter() - started
    groups = [found[i : i + len(LETTERS)] for i in range(0, len(found), len(LETTERS))]
    chosen = [LETTERS[max(range(len(LETTERS)), key=group.__getitem__)] for group in groups]
    return theirs, ours, sum(row["chosen"] != letter for row, letter in zip(rows, chosen, strict=True))


if __name__ == "__main__":
    sys.exit(main())
