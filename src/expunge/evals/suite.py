"""All scores of one model under a recipe's protocol, with what each is called and which way is better."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.chat import THINK, encode_prompt
from ..data.choices import Choice, load_choices, load_mmlu
from ..data.corpora import WIKITEXT, advice, held_out, star1
from ..data.rwku import Probe, Target
from ..data.sources import MMLU, packaged
from ..data.writing import spread
from ..files import read_rows
from ..recipe import Evaluate
from ..rl.refusals import detect
from . import choices, rwku, traces
from .generate import generate
from .perplexity import perplexity, reply_perplexity
from .scores import Score, mean_of_means, score
from .text_measures import distinct_n, normalise, repeated_share

NAMES = {"forget": "forget", "neighbor": "neighbour"}
LEVELS = {"forget": ("FB", "QA", "AA", "All"), "neighbor": ("FB", "QA", "All")}
OF_TARGET = (
    *(f"rwku/{side}/{level}" for side in NAMES for level in LEVELS[side]),
    *(f"traces/{side}/leak/{level}" for side in NAMES for level in LEVELS[side]),
    *(f"traces/{side}/{name}" for side in NAMES for name in ("recall/All", "closed", "repeated", "entropy")),
    "rwku/neighbor/apart",
    "replies/forget/distinct3",
    "replies/forget/perplexity",
)
ASKED = ("refusals", "closed", "repeated", "distinct3")
Found = dict[str, Any]
Rows = dict[str, list[dict[str, Any]]]
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Scored:
    """The model under test, the original that its replies are read by, and how replies begin."""

    model: Any
    original: Any
    tokenizer: Any
    opening: Callable[[str], str] = str


def scores(target: Target | None, protocol: Evaluate) -> tuple[str, ...]:
    """Ids of all scores that :func:`evaluate` gives."""
    return (
        *(OF_TARGET if target else ()),
        *(f"choices/{name}" for name in protocol.choices),
        *(f"questions/{name}/{measure}" for name in protocol.questions for measure in ASKED),
        "perplexity/wikitext",
        "perplexity/general",
    )


def work(target: Target | None, protocol: Evaluate) -> int:
    """Units of work of one evaluation, for a progress bar."""
    probes = 2 * len(target.probes) if target else 0
    return (
        probes
        + sum(len(_choices(name, protocol)) for name in protocol.choices)
        + sum(len(_asked(name, protocol)) for name in protocol.questions)
        + 2 * protocol.perplexity_texts
    )


def evaluate(under: Scored, target: Target | None, protocol: Evaluate, on_done: Advance) -> tuple[Found, Rows]:
    """Scores by id, and the rows they were made of by file name."""
    out: Found = {}
    rows: Rows = {"rwku": [], "traces": []}
    if target:
        rows = _target(out, under, target, protocol, on_done)
    for name in protocol.choices:
        found = choices.evaluate(under.model, under.tokenizer, _choices(name, protocol), on_done=on_done)
        rows.setdefault("choices", []).extend({"of": name, **row} for row in found)
        out[f"choices/{name}"] = _entry(choices.accuracy(found), f"{name}: right choices", "%", "")
    for name in protocol.questions:
        rows.setdefault("questions", []).extend(_questions(out, name, under, protocol, on_done))
    _perplexities(out, under, protocol, on_done)
    return out, rows


def _target(out: Found, under: Scored, target: Target, protocol: Evaluate, on_done: Advance) -> Rows:
    """RWKU's probes answered, and thought about."""
    model, tokenizer, opening = under.model, under.tokenizer, under.opening
    replies = rwku.evaluate(model, tokenizer, target.probes, on_done, opening)
    thoughts = traces.evaluate(model, tokenizer, target.probes, protocol.trace_tokens, on_done, opening)
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
    out["replies/forget/perplexity"] = reply_naturalness(under.original, tokenizer, target.probes, replies)
    return {"rwku": replies, "traces": thoughts}


def _choices(name: str, protocol: Evaluate) -> list[Choice]:
    """Questions of an MMLU subject's test split or of a file, at most ``max_choices``, evenly spaced."""
    found = load_mmlu(name.removeprefix(MMLU)) if name.startswith(MMLU) else load_choices(Path(name))
    return spread(found, protocol.max_choices)


def _asked(name: str, protocol: Evaluate) -> list[str]:
    """Questions of a source that are kept for evaluation where it keeps some, evenly spaced."""
    if name == "star1":
        return spread(star1(held_out=True), protocol.max_questions)
    return spread([row["text"] for row in read_rows(Path(name), ("text",))], protocol.max_questions)


def _questions(out: Found, name: str, under: Scored, protocol: Evaluate, on_done: Advance) -> list[dict[str, Any]]:
    """Questions in think mode: what is declined after the thought, and whether thought and reply are language."""
    asked = _asked(name, protocol)
    prompts = [encode_prompt(under.tokenizer, question, under.opening(THINK)) for question in asked]
    found = generate(under.model, under.tokenizer, prompts, max_new_tokens=protocol.trace_tokens, on_done=on_done)
    rows = []
    for question, generation in zip(asked, found, strict=True):
        trace, closing, reply = generation.text.partition("</think>")
        row: dict[str, Any] = {"of": name, "query": question, "trace": trace.strip(), "reply": reply.strip()}
        verdict = detect(reply if closing else trace)
        measures = {"closed": bool(closing), "refusal": verdict.refusal, "repeated": repeated_share(generation.text)}
        rows.append({**row, **measures})
    for key, label, better in (
        ("refusal", "replies that decline", ""),
        ("closed", "traces that end", "higher"),
        ("repeated", "repeated 4-grams", "lower"),
    ):
        id_ = f"questions/{name}/{'refusals' if key == 'refusal' else key}"
        out[id_] = _entry(score([100 * float(row[key]) for row in rows]), f"{name}: {label}", "%", better)
    distinct = 100 * distinct_n([f"{row['trace']} {row['reply']}" for row in rows], 3)
    out[f"questions/{name}/distinct3"] = _single(distinct, len(rows), f"{name}: distinct 3-grams", "%", "higher")
    return rows


def _perplexities(out: Found, under: Scored, protocol: Evaluate, on_done: Advance) -> None:
    count, tokens = protocol.perplexity_texts, protocol.perplexity_tokens
    for name, texts in (("wikitext", held_out(count)), ("general", general_held_out(count))):
        label = f"perplexity on held-out {'wikitext' if name == 'wikitext' else 'general text'}"
        if texts:
            value = perplexity(under.model, under.tokenizer, texts, tokens, on_done)
            out[f"perplexity/{name}"] = _single(value, len(texts), label, "", "lower")
        else:
            note = f"not at hand; {advice(WIKITEXT)}"
            out[f"perplexity/{name}"] = {"mean": None, "note": note, "label": label, "unit": "", "better": "lower"}


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
