"""What is left of a model's abilities: RWKU's five utility sets (arXiv 2406.10890).

General ability (MMLU), reasoning (BIG-Bench-Hard), truthfulness (TruthfulQA), knowledge of facts (TriviaQA), fluency.
Each part is measured as far as its questions are at hand (data/utility.py). docs/benchmarks.md says where the official
code differs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ..data.utility import load_utility
from ..data.writing import spread
from ..files import content_hash
from .choices import LETTERS
from .parts import Part, Row
from .task import Advance, Found, Options, Rows, Scored, Task
from .tofu import RUINED
from .utility_choices import claims_of, mmlu, truthfulqa, truthfulqa_examples
from .utility_replies import (
    BBH_TOKENS,
    FLUENCY_TOKENS,
    TRIVIA_TOKENS,
    bbh,
    fluency,
    trivia_examples,
    triviaqa,
)

Items = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Ability:
    """One part: how it is measured, units of work of an item, and its scores: name -> label, field of a row."""

    label: str
    measure: Callable[[Sequence[Any], Scored, Advance], list[Row]]
    scores: Mapping[str, tuple[str, str]]
    work: Callable[[Any], int] = lambda item: 1
    unit: str = "%"


ABILITIES = {
    "mmlu": Ability("MMLU, five examples", mmlu, {"accuracy": ("right choices", "score")}, lambda item: len(LETTERS)),
    "bbh": Ability(
        "BIG-Bench-Hard, step by step",
        bbh,
        {"em": ("right answers", "score"), "answered": ("answers in the form asked for", "answered")},
    ),
    "truthfulqa": Ability(
        "TruthfulQA",
        truthfulqa,
        {"mc1": ("the best answer is the likeliest", "mc1"), "mc2": ("probability of right answers", "mc2")},
        lambda item: len(claims_of(item)),
    ),
    "triviaqa": Ability("TriviaQA", triviaqa, {"em": ("right answers", "em"), "f1": ("F1 over words", "f1")}),
    "fluency": Ability("fluency", fluency, {"entropy": ("entropy of n-grams", "entropy")}, unit="bits"),
}


def task(options: Options) -> Task:
    """The suite ``utility``; ``options.files["utility"]``: files or folders of RWKU's utility sets.

    Raises UserError when nothing is at hand, and with file and row for anything malformed."""
    found, missing = load_utility(options.target, (options.files or {}).get("utility", ()))
    items = {part: spread(rows, options.limit or len(rows)) for part, rows in found.items()}
    return Task(
        "utility",
        {
            "limit": options.limit,
            "new_tokens": [BBH_TOKENS, TRIVIA_TOKENS, FLUENCY_TOKENS],
            "examples": [truthfulqa_examples(), trivia_examples()],
        },
        content_hash([[part, [x if isinstance(x, str) else asdict(x) for x in rows]] for part, rows in items.items()]),
        sum(ABILITIES[part].work(item) for part, rows in items.items() for item in rows),
        partial(_run, items, missing),
    )


def _run(items: Items, missing: Mapping[str, str], under: Scored, advance: Advance) -> tuple[Found, Rows]:
    rows = [row for part, found in items.items() for row in ABILITIES[part].measure(found, under, advance)]
    return utility_scores(rows, missing), {"utility": rows}


def utility_scores(rows: Sequence[Row], missing: Mapping[str, str]) -> Found:
    """Scores of rows; ``missing``: why a part has none."""
    out: Found = {}
    for name, ability in ABILITIES.items():
        part = Part("utility", {"part": name}, f"utility/{name}", f"RWKU utility, {ability.label}")
        for id_, (label, field) in ability.scores.items():
            times = 100.0 if ability.unit == "%" else 1.0
            note = missing.get(name, RUINED)
            out |= part.mean(rows, id_, field, label, unit=ability.unit, better="higher", times=times, nothing=note)
    return out
