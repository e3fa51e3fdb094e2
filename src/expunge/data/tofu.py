"""TOFU (arXiv 2401.06121): questions on invented authors with right, paraphrased and wrong answers.

Read from ``$EXPUNGE_DATA/tofu``, files named as in locuslab/TOFU (``.json`` or ``.jsonl``). forget05 and forget01 are
the last 200 and the last 40 rows of forget10. Real authors and world facts have no paraphrase: the answer stands for
it, as in the official evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import is_text, read_rows
from .corpora import data_file

FORGET_ROWS = 400
FORGET = {"forget10": 0, "forget05": 200, "forget01": 360}  # where a split begins among the rows of forget10
OTHERS = ("retain", "real_authors", "world_facts")
PARAPHRASED = ("forget10", "retain")


@dataclass(frozen=True)
class Item:
    """One question. ``source`` is the file it is from, ``row`` its number there, from 1."""

    source: str
    row: int
    question: str
    answer: str
    paraphrase: str
    perturbed: tuple[str, ...]


def load_splits() -> dict[str, list[Item]]:
    """All splits by name: forget10, forget05, forget01, retain, real_authors, world_facts.

    Raises UserError for a file that is not at hand and, with file and row, for anything malformed."""
    forget = _load("forget10")
    if len(forget) != FORGET_ROWS:
        raise UserError(
            f"{_file('forget10')}: found {len(forget)} rows, expected {FORGET_ROWS}: forget05 and forget01 are told by "
            "their place in it. Take the whole file of locuslab/TOFU; to score fewer questions, set a limit."
        )
    return {**{name: forget[start:] for name, start in FORGET.items()}, **{name: _load(name) for name in OTHERS}}


def _file(source: str) -> Path:
    try:
        return data_file(Path("tofu") / f"{source}_perturbed.jsonl")
    except UserError:
        return data_file(Path("tofu") / f"{source}_perturbed.json")


def _load(source: str) -> list[Item]:
    path = _file(source)
    fields = ("question", "answer", *(("paraphrased_answer",) if source in PARAPHRASED else ()))
    return [_item(row, source, path, number) for number, row in enumerate(read_rows(path, fields), 1)]


def _item(row: dict[str, Any], source: str, path: Path, number: int) -> Item:
    wrong = row.get("perturbed_answer")
    if not isinstance(wrong, list) or not wrong or not all(map(is_text, wrong)):
        raise UserError(
            f"{path}: row {number}: perturbed_answer is {wrong!r:.80}, expected a list of one or more non-empty texts."
        )
    answer = row["answer"]
    paraphrase = row["paraphrased_answer"] if source in PARAPHRASED else answer
    return Item(source, number, row["question"], answer, paraphrase, tuple(wrong))
