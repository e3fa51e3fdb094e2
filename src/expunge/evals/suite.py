"""All scores of one model under a recipe's protocol, with what each is called and which way is better."""

from collections.abc import Callable, Sequence
from typing import Any

from ..data.chat import encode_prompt
from ..data.rwku import Probe, Target
from ..data.sources import packaged
from ..data.wikitext import held_out
from . import rwku, traces
from .perplexity import perplexity, reply_perplexity
from .scores import Score, mean_of_means, score
from .text_measures import distinct_n

SIDES = {"forget": ("FB", "QA", "AA"), "neighbor": ("FB", "QA")}
NAMES = {"forget": "forget", "neighbor": "neighbour"}


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
    for side, levels in SIDES.items():
        _levels(out, f"rwku/{side}", f"{NAMES[side]} answers", replies, side, levels, "score", 1, side == "forget")
        _levels(out, f"traces/{side}/leak", f"{NAMES[side]} traces with the answer", thoughts, side, levels, "leak", 100, side == "forget")
        rows = [row for row in thoughts if row["side"] == side]
        for key, label, factor, better in (
            ("recall", "fact recalled in the best sentence (ROUGE-L)", 100, "lower" if side == "forget" else "higher"),
            ("closed", "traces that end", 100, "higher"),
            ("repeated", "repeated 4-grams in a trace", 100, "lower"),
            ("entropy", "bigram entropy of a trace", 1, ""),
        ):
            unit = "%" if factor == 100 else "bits"
            name = f"traces/{side}/{key}" + ("/All" if key == "recall" else "")
            out[name] = _entry(score([factor * float(r[key]) for r in rows]), f"{NAMES[side]}: {label}", unit, better)
    forget = [row for row in replies if row["side"] == "forget"]
    distinct = distinct_n([row["reply"] for row in forget], 3)
    out["replies/forget/distinct3"] = _single(100 * distinct, len(forget), "forget replies: distinct 3-grams", "%", "higher")
    for name, texts in (("wikitext", held_out(perplexity_texts)), ("general", general_held_out(perplexity_texts))):
        label = f"perplexity on held-out {'wikitext' if name == 'wikitext' else 'general text'}"
        if texts:
            value = perplexity(model, tokenizer, texts, perplexity_tokens, on_done)
            out[f"perplexity/{name}"] = _single(value, len(texts), label, "", "lower")
        else:
            note = "no WikiText-2 found; set EXPUNGE_DATA to a folder with wikitext2/wiki.test.raw.txt"
            out[f"perplexity/{name}"] = {"mean": None, "note": note, "label": label, "unit": "", "better": "lower"}
    return out, {"rwku": replies, "traces": thoughts}


def reply_naturalness(judge: Any, tokenizer: Any, probes: Sequence[Probe], replies: list[dict[str, Any]]) -> dict[str, Any]:
    """Perplexity of the forget replies under the taught model: how natural they still read to it."""
    pairs = [(p, r["reply"]) for p, r in zip(probes, replies, strict=True) if p.side == "forget"]
    prompts = [encode_prompt(tokenizer, *rwku.prompt_of(probe)) for probe, _ in pairs]
    tokens = [tokenizer(" " + reply, add_special_tokens=False)["input_ids"] for _, reply in pairs]
    value = reply_perplexity(judge, prompts, tokens)
    return _single(value, len(pairs), "forget replies: perplexity under the taught model", "", "lower")


def general_held_out(count: int) -> list[str]:
    return [row["text"] for row in packaged("general.jsonl", "text") if row["split"] == "heldout"][:count]


def _levels(
    out: dict[str, Any],
    name: str,
    label: str,
    rows: list[dict[str, Any]],
    side: str,
    levels: tuple[str, ...],
    key: str,
    factor: float,
    forget: bool,
) -> None:
    """One score per level and their plain mean ("All")."""
    better = "lower" if forget else "higher"
    unit = "ROUGE-L recall" if key == "score" else "%"
    values = {
        level: [factor * float(r[key]) for r in rows if r["side"] == side and r["level"] == level] for level in levels
    }
    for level in levels:
        out[f"{name}/{level}"] = _entry(score(values[level]), f"{label}, {level}", unit, better)
    out[f"{name}/All"] = _entry(mean_of_means(list(values.values())), f"{label}, mean of levels", unit, better)


def _entry(value: Score, label: str, unit: str, better: str) -> dict[str, Any]:
    return {**value.to_dict(), "label": label, "unit": unit, "better": better}


def _single(value: float, n: int, label: str, unit: str, better: str) -> dict[str, Any]:
    """A number that is not a mean over probes: no standard error."""
    return {"mean": value, "se": None, "n": n, "label": label, "unit": unit, "better": better}
