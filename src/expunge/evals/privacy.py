"""Membership inference as RWKU reports it (arXiv 2406.10890): how familiar a model finds texts on the target (FM)
and on others (RM).

Bare texts, no template. Mean scores, the larger the more familiar: loss = mean log-probability of the tokens; zlib =
that over the bytes of the compressed text; Min-K% = mean of the lowest K % of log-probabilities; Min-K%++ = the same of
log-probabilities standardised over the vocabulary. Forgetting lowers FM; RM should hold. docs/benchmarks.md says where
the official code differs."""

import zlib
from collections.abc import Mapping, Sequence
from functools import partial

from ..data.mia import load_members
from ..data.writing import spread
from ..files import content_hash
from .likelihood import lowest, standardised, whole_text
from .parts import Part, Row, finite
from .task import Advance, Found, Options, Rows, Scored, Task

PERCENTS = tuple(range(10, 101, 10))
PLUS_PERCENT = 20
SIDES = {"forget": ("FM", "lower"), "retain": ("RM", "higher")}
LABELS = {
    "loss": ("log-probability", "nats a token"),
    "zlib": ("log-probability over compressed size", "nats a byte"),
    **{f"mink{percent}": (f"Min-{percent}% log-probability", "nats a token") for percent in PERCENTS},
    f"minkpp{PLUS_PERCENT}": (f"Min-{PLUS_PERCENT}%++", "standard deviations"),
}
NOTHING = "the model gave no number for any text of two tokens or more"
Texts = Mapping[str, Sequence[str]]


def task(options: Options) -> Task:
    texts = {side: spread(part, options.limit or len(part)) for side, part in load_members(options.target).items()}
    return Task(
        "privacy",
        {"target": options.target, "limit": options.limit},
        content_hash(texts),
        sum(map(len, texts.values())),
        partial(_run, texts),
    )


def _run(texts: Texts, under: Scored, advance: Advance) -> tuple[Found, Rows]:
    asked = [(side, text) for side, part in texts.items() for text in part]
    pairs = [whole_text(under.model, under.tokenizer, text) for _, text in asked]
    values = standardised(under.model, pairs, on_done=advance)
    rows: list[Row] = [
        {"side": side, "prompt": text, "tokens": len(found), **(familiarity(text, found) if found else {})}
        for (side, text), found in zip(asked, values, strict=True)
    ]
    return privacy_scores(rows), {"privacy": rows}


def familiarity(text: str, values: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    """All scores of one text; ``values``: log-probability and its standardised form for each token. None for what is
    no number, as a ruined model's are."""
    log_p = [value for value, _ in values]
    loss = sum(log_p) / len(log_p)
    found = {
        "loss": loss,
        "zlib": loss / len(zlib.compress(text.encode())),
        **{f"mink{percent}": lowest(log_p, percent) for percent in PERCENTS},
        f"minkpp{PLUS_PERCENT}": lowest([distance for _, distance in values], PLUS_PERCENT),
    }
    return {key: finite(value) for key, value in found.items()}


def privacy_scores(rows: Sequence[Row]) -> Found:
    """Mean scores by side; a text of a single token has none."""
    out: Found = {}
    for side, (name, better) in SIDES.items():
        part = Part("privacy", {"side": side}, f"privacy/{side}", f"RWKU {name}")
        for key, (label, unit) in LABELS.items():
            out |= part.mean(rows, key, key, label, unit=unit, better=better, times=1, nothing=NOTHING)
    return out
