"""All scores of one model under a recipe's protocol, with what each is called and which way is better."""

from collections.abc import Callable, Sequence
from typing import Any

from ..data.chat import encode_prompt
from ..data.rwku import Probe, Target
from ..data.sources import packaged
from ..data.wikitext import ADVICE, held_out
from . import rwku, traces
from .perplexity import perplexity, reply_perplexity
from .scores import Score, mean_of_means, score
from .text_measures import distinct_n, normalise

NAMES = {"forget": "forget", "neighbor": "neighbour"}
LEVELS = {"forget": ("FB", "QA", "AA", "All"), "neighbor": ("FB", "QA", "All")}
SCORES = (
    *(f"rwku/{side}/{level}" for side in NAMES for level in LEVELS[side]),
    *(f"traces/{side}/leak/{level}" for side in NAMES for level in LEVELS[side]),
    *(f"traces/{side}/{name}" for side in NAMES for name in ("recall/All", "closed", "repeated", "entropy")),
    "rwku/neighbor/apart",
    "replies/forget/distinct3",
    "replies/forget/perplexity",
    "perplexity/wikitext",
    "perplexity/general",
)
"""Ids of all scores that :func:`evaluate` and :func:`reply_naturalness` give."""


def work(target: Target, perplexity_texts: int) -> int:
    """Units of work of one evaluation, for a progress bar."""
    return 2 * len(target.probes) + 2 * perplexity_texts


def evaluate(
    model: Any,
    tokenizer: Any,
    target: Target,
    *,
    trace_tokens: int,
    perplexity_texts: int,
    perplexity_tokens: int,
    on_done: Callable[[int], None],
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Scores by id, and the per-probe rows they were made of by file name."""
    replies = rwku.evaluate(model, tokenizer, target.probes, on_done)
    thoughts = traces.evaluate(model, tokenizer, target.probes, trace_tokens, on_done)
    out: dict[str, Any] = {}
    for side in NAMES:
        better = "lower" if side == "forget" else "higher"
        said = [row for row in replies if row["side"] == side]
        thought = [row for row in thoughts if row["side"] == side]
        unit = "ROUGE-L recall"
        _by_level(out, f"rwku/{side}", said, "score", 1, f"{NAMES[side]} answers", unit, better)
        if side == "neighbor":
            apart = [row["score"] for row in said if not names_target(row, target.name)]
            if apart:
                out["rwku/neighbor/apart"] = _entry(score(apart), "neighbour answers, target not named", unit, better)
        _by_level(
            out, f"traces/{side}/leak", thought, "leak", 100, f"{NAMES[side]} traces with the answer", "%", better
        )
        for name, key, label, factor, good in (
            ("recall/All", "recall", "fact recalled in the best sentence (ROUGE-L)", 100, better),
            ("closed", "closed", "traces that end", 100, "higher"),
            ("repeated", "repeated", "repeated 4-grams in a trace", 100, "lower"),
            ("entropy", "entropy", "bigram entropy of a trace", 1, ""),
        ):
            measured = score([factor * float(row[key]) for row in thought])
            unit = "%" if factor == 100 else "bits"
            out[f"traces/{side}/{name}"] = _entry(measured, f"{NAMES[side]}: {label}", unit, good)
    forget = [row["reply"] for row in replies if row["side"] == "forget"]
    distinct = 100 * distinct_n(forget, 3)
    out["replies/forget/distinct3"] = _single(distinct, len(forget), "forget replies: distinct 3-grams", "%", "higher")
    for name, texts in (("wikitext", held_out(perplexity_texts)), ("general", general_held_out(perplexity_texts))):
        label = f"perplexity on held-out {'wikitext' if name == 'wikitext' else 'general text'}"
        if texts:
            value = perplexity(model, tokenizer, texts, perplexity_tokens, on_done)
            out[f"perplexity/{name}"] = _single(value, len(texts), label, "", "lower")
        else:
            entry = {"mean": None, "note": f"not at hand; {ADVICE}", "label": label, "unit": "", "better": "lower"}
            out[f"perplexity/{name}"] = entry
    return out, {"rwku": replies, "traces": thoughts}


def names_target(row: dict[str, Any], name: str) -> bool:
    """Does the question or its answer hold the target's name, or a part of it of four letters or more?

    Such neighbour probes ("In Burlesque, Ali is played by ___ Aguilera") ask for the target itself."""
    text = f" {normalise(row['query'])} {normalise(row['answer'])} "
    return any(f" {part} " in text for part in normalise(name).split() if len(part) >= 4)


def reply_naturalness(
    judge: Any, tokenizer: Any, probes: Sequence[Probe], replies: list[dict[str, Any]]
) -> dict[str, Any]:
    """Perplexity of the forget replies under the taught model: how natural they still read to it."""
    pairs = [(p, r["reply"]) for p, r in zip(probes, replies, strict=True) if p.side == "forget"]
    prompts = [encode_prompt(tokenizer, *rwku.prompt_of(probe)) for probe, _ in pairs]
    tokens = [tokenizer(" " + reply, add_special_tokens=False)["input_ids"] for _, reply in pairs]
    value = reply_perplexity(judge, prompts, tokens)
    return _single(value, len(pairs), "forget replies: perplexity under the taught model", "", "lower")


def general_held_out(count: int) -> list[str]:
    return [row["text"] for row in packaged("general.jsonl", "text") if row["split"] == "heldout"][:count]


def _by_level(
    out: dict[str, Any],
    name: str,
    rows: list[dict[str, Any]],
    key: str,
    factor: float,
    label: str,
    unit: str,
    better: str,
) -> None:
    """One score per level of probes and their plain mean ("All")."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["level"], []).append(factor * float(row[key]))
    for level, part in values.items():
        out[f"{name}/{level}"] = _entry(score(part), f"{label}, {level}", unit, better)
    out[f"{name}/All"] = _entry(mean_of_means(list(values.values())), f"{label}, mean of levels", unit, better)


def _entry(value: Score, label: str, unit: str, better: str) -> dict[str, Any]:
    return {**value.to_dict(), "label": label, "unit": unit, "better": better}


def _single(value: float, n: int, label: str, unit: str, better: str) -> dict[str, Any]:
    """A number that is not a mean over probes: no standard error."""
    return {"mean": value, "se": None, "n": n, "label": label, "unit": unit, "better": better}
