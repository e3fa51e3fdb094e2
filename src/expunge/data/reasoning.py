"""Problems with one right answer: GSM8K (arXiv 2110.14168), MATH-500 (2305.20050), AIME 2024.

Read from ``gsm8k``, ``math500`` and ``aime24`` under EXPUNGE_DATA, the test split of each (``test.jsonl``)."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..files import read_rows
from .corpora import data_file
from .writing import spread

MARK = "####"
GSM8K = Path("gsm8k") / "test.jsonl"


@dataclass(frozen=True)
class Problem:
    question: str
    answer: str
    solution: str = ""
    """Worked step by step, where the set has one as plain text."""


def load_problems(name: str) -> list[Problem]:
    """All problems of ``gsm8k``, ``math500`` or ``aime24``.

    Raises UserError for another name, a file that is not at hand and, with file and row, for anything malformed."""
    if name not in SETS:
        raise UserError(f"unknown problems {name!r}; {nearest(name, SETS)}")
    path = data_file(Path(name) / "test.jsonl")
    field, answer_of = SETS[name]
    out = []
    for number, row in enumerate(read_rows(path, (field, "answer")), 1):
        answer = answer_of(row)
        if not answer:
            found = row["answer"][-80:]
            raise UserError(f"{path}: row {number}: the answer ends in {found!r}; expected {MARK} and a number.")
        out.append(Problem(row[field], answer, _worked(row["answer"])))
    return out


def held_out_solutions(count: int) -> list[Problem]:
    """``count`` of GSM8K's test problems with their solutions, evenly spaced; none if they are not at hand."""
    try:
        data_file(GSM8K)
    except UserError:
        return []
    return spread(load_problems("gsm8k"), count)


def _worked(answer: str) -> str:
    """What stands before GSM8K's mark, without the marks of its calculator: ``<<48/2=24>>``."""
    solution, mark, _ = answer.rpartition(MARK)
    return re.sub(r"<<[^<>]*>>", "", solution).strip() if mark else ""


def _after_mark(row: dict[str, Any]) -> str:
    """GSM8K's answers are worked solutions, the last line of which is ``#### 42``."""
    _, mark, last = str(row["answer"]).rpartition(MARK)
    return last.strip().replace(",", "") if mark else ""


def _as_it_is(row: dict[str, Any]) -> str:
    return str(row["answer"]).strip()


SETS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "gsm8k": ("question", _after_mark),
    "math500": ("problem", _as_it_is),
    "aime24": ("problem", _as_it_is),
}
