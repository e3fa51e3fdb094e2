"""What else a model should still be able to do: RWKU's utility sets (arXiv 2406.10890), five small parts a target.

Every target's folder holds its own slice: ``retain_mmlu.json``, ``retain_bbh.json``, ``truthful.json``,
``triviaqa.json``, ``fluency.json``. What a folder lacks is looked for in ``$EXPUNGE_DATA/rwku/Utility``, under the same
name, then in tables of several targets: ``$EXPUNGE_DATA/rwku/retain_mmlu_*.parquet``, with a column ``target_dir``."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..files import is_text, read_rows
from .choices import Choice, choice_of, parquet_rows
from .rwku import targets_at_hand

Row = dict[str, Any]
OWNER = "target_dir"


@dataclass(frozen=True)
class Shown:
    """A four-choice question after worked examples."""

    question: Choice
    examples: tuple[Choice, ...]


@dataclass(frozen=True)
class Worked:
    """A question of BIG-Bench-Hard. ``worked``: a task's description and solutions, each step by step."""

    task: str
    question: str
    answer: str
    worked: str


@dataclass(frozen=True)
class Claims:
    """A question of TruthfulQA. MC1: ``best`` against ``wrong``; MC2: all that are ``true`` against all ``false``."""

    question: str
    best: str
    wrong: tuple[str, ...]
    true: tuple[str, ...]
    false: tuple[str, ...]


@dataclass(frozen=True)
class Trivia:
    """A question with all its right answers."""

    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """A part: its file, its name in the data set on the hub, what a row becomes, the fields of a row (a text first),
    and what is to be said of it where it is missing."""

    file: str
    config: str
    item_of: Callable[[Row, Path, int], Any]
    fields: tuple[str, ...]
    note: str = ""


def load_utility(target: str | None, files: Sequence[str] = ()) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Items by part, and for each part that is not at hand why, and what to do.

    ``target``: a name, or a folder in RWKU's layout. ``files``: files named as RWKU's, or such folders; they go first.
    Raises UserError for nothing at all, a file of another name and, with file and row, for anything malformed."""
    given = _given(files)
    folder = targets_at_hand().get(target or "") or (Path(target).expanduser() if target else None)
    items: dict[str, list[Any]] = {}
    missing: dict[str, str] = {}
    for part, kind in PARTS.items():
        path, rows = _rows(kind, given.get(part), folder)
        if path:
            items[part] = [kind.item_of(row, path, number) for number, row in enumerate(rows, 1)]
        else:
            missing[part] = f"{kind.file} is not at hand{kind.note}: {_advice(kind)}"
    if not items:
        raise UserError(f"suite utility: found no data on {target!r}: {_advice(PARTS['mmlu'])}; the others likewise.")
    return items, missing


def _given(files: Sequence[str]) -> dict[str, Path]:
    """Files of a user's own by part, told by their names."""
    parts = {kind.file: part for part, kind in PARTS.items()}
    out: dict[str, Path] = {}
    for file in files:
        path = Path(file).expanduser()
        found = [path / name for name in parts if (path / name).exists()] if path.is_dir() else [path]
        if not found:
            raise UserError(f"{path}: found none of RWKU's utility files there, expected {', '.join(parts)}.")
        for one in found:
            if one.name not in parts:
                raise UserError(f"{one}: the name must say which part it is. {nearest(one.name, parts)}")
            out[parts[one.name]] = one
    return out


def _rows(kind: Kind, given: Path | None, folder: Path | None) -> tuple[Path | None, list[Row]]:
    """Where a part is, and its rows; None and no rows for nowhere."""
    if given:
        return given, read_rows(given, kind.fields[:1])
    root = Path(os.environ["EXPUNGE_DATA"]).expanduser() / "rwku" if os.environ.get("EXPUNGE_DATA") else None
    for place in (folder, root and root / "Utility"):
        if place and (place / kind.file).exists():
            return place / kind.file, read_rows(place / kind.file, kind.fields[:1])
    for path in sorted(root.glob(f"{Path(kind.file).stem}_*.parquet")) if root and folder else ():
        rows = [row for row in parquet_rows(path, (OWNER, *kind.fields)) if folder and row[OWNER] == folder.name]
        if rows:
            return path, rows
    return None, []


def _advice(kind: Kind) -> str:
    return (
        f"the data set jinzhuoran/RWKU has it as {kind.config}; save the target's rows as {kind.file} in its folder or "
        f"in $EXPUNGE_DATA/rwku/Utility, or give --file utility={kind.file}"
    )


def _need(row: Row, field: str, fits: Callable[[Any], bool], expected: str, where: str) -> Any:
    value = row.get(field)
    if not fits(value):
        raise UserError(f"{where}: {field} is {value!r:.80}, expected {expected}.")
    return value


def _several(row: Row, field: str, fits: Callable[[Any], bool], expected: str, where: str) -> list[Any]:
    def whole(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(map(fits, value))

    return list(_need(row, field, whole, expected, where))


def _text(row: Row, field: str, where: str) -> str:
    return str(_need(row, field, is_text, "a non-empty text", where)).strip()


def _shown(row: Row, path: Path, number: int) -> Shown:
    question = choice_of({**row, "subject": _text(row, "task", f"{path}: row {number}")}, path, number)
    where, expected = f"{path}: row {number}", "a list of one or more questions with choices and answer"
    examples = _several(row, "examples", lambda one: isinstance(one, dict), expected, where)
    return Shown(question, tuple(choice_of({**one, "subject": question.subject}, path, number) for one in examples))


def _worked(row: Row, path: Path, number: int) -> Worked:
    return Worked(*(_text(row, field, f"{path}: row {number}") for field in ("task", "question", "answer", "cot")))


def _claims(row: Row, path: Path, number: int) -> Claims:
    where = f"{path}: row {number}"
    true, false = _labelled(row, "mc2_targets", where)
    best, wrong = _labelled(row, "mc1_targets", where)
    if len(best) != 1:
        raise UserError(f"{where}: mc1_targets has {len(best)} right answers, expected one.")
    return Claims(_text(row, "question", where), best[0], wrong, true, false)


def _labelled(row: Row, field: str, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Right and wrong answers, one of each at least."""
    expected = "choices and labels (0 or 1), as many of both, with a right and a wrong one among them"

    def fits(value: Any) -> bool:
        match value:
            case {"choices": list(choices), "labels": list(labels)}:
                whole = all(type(label) is int for label in labels) and all(map(is_text, choices))
                return whole and len(choices) == len(labels) and set(labels) == {0, 1}
        return False

    value = _need(row, field, fits, expected, where)
    pairs = list(zip(value["choices"], value["labels"], strict=True))
    right, wrong = (tuple(choice.strip() for choice, label in pairs if label == kind) for kind in (1, 0))
    return right, wrong


def _trivia(row: Row, path: Path, number: int) -> Trivia:
    where = f"{path}: row {number}"
    answers = _several(row, "answers", is_text, "a list of one or more non-empty texts", where)
    return Trivia(_text(row, "question", where), tuple(answers))


def _instruction(row: Row, path: Path, number: int) -> str:
    return _text(row, "instruction", f"{path}: row {number}")


CLOSED = " (AlpacaEval's instructions, CC BY-NC 4.0)"
MMLU = ("question", "task", "choices", "answer", "examples")
PARTS = {
    "mmlu": Kind("retain_mmlu.json", "utility_general", _shown, MMLU),
    "bbh": Kind("retain_bbh.json", "utility_reason", _worked, ("question", "task", "answer", "cot")),
    "truthfulqa": Kind("truthful.json", "utility_truthfulness", _claims, ("question", "mc1_targets", "mc2_targets")),
    "triviaqa": Kind("triviaqa.json", "utility_factuality", _trivia, ("question", "answers")),
    "fluency": Kind("fluency.json", "utility_fluency", _instruction, ("instruction",), CLOSED),
}
