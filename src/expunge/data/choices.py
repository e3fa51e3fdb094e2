"""Questions with four choices: MMLU (arXiv 2009.03300) and files in the schema of WMDP (arXiv 2403.03218).

MMLU is read from parquet files in the schema of cais/mmlu, WMDP's questions from JSON or JSON Lines:
rows ``{question, choices, answer}`` with four choices and the index of the right one."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..files import is_text, read_rows

SPLITS = ("dev", "val", "test")
FIELDS = ("question", "subject", "choices", "answer")
ALL = "all"
DEV_EXAMPLES = 5


@dataclass(frozen=True)
class Choice:
    """One question. ``answer`` is the index of the right choice, ``subject`` may be empty."""

    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str = ""


def load_mmlu(subject: str, split: str = "test") -> list[Choice]:
    """Questions of one subject (``abstract_algebra``), or of ``all``, in the order of the file.

    Read from ``$EXPUNGE_DATA/mmlu/SPLIT.parquet``. Raises UserError for an unknown subject or split, a missing
    or malformed file, and when pyarrow is not installed."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r} of MMLU; {nearest(split, SPLITS)}")
    path = _mmlu_file(split)
    rows = list(enumerate(parquet_rows(path, FIELDS), 1))
    name = subject.strip().replace(" ", "_")
    chosen = [(number, row) for number, row in rows if name in (ALL, row["subject"])]
    if not chosen:
        subjects = sorted({str(row["subject"]) for _, row in rows})
        raise UserError(f"{path}: no questions on {subject!r}; {nearest(name, [*subjects, ALL])}")
    return [choice_of(row, path, number) for number, row in chosen]


def mmlu_examples(subject: str, shots: int = DEV_EXAMPLES) -> list[Choice]:
    """The first ``shots`` (0 to 5) questions of MMLU's dev split for a subject, or of each for ``all``.

    Raises UserError as load_mmlu does, and for a number of shots that is out of range."""
    if not 0 <= shots <= DEV_EXAMPLES:
        raise UserError(f"{shots} shots: MMLU has {DEV_EXAMPLES} examples a subject; choose 0 to {DEV_EXAMPLES}.")
    if shots == 0:
        return []
    taken: dict[str, list[Choice]] = {}
    for example in load_mmlu(subject, "dev"):
        taken.setdefault(example.subject, []).append(example)
    return [example for examples in taken.values() for example in examples[:shots]]


def load_choices(path: Path | str, subject: str = "") -> list[Choice]:
    """Questions of a JSON or JSON Lines file in WMDP's schema; a row's own ``subject`` goes before ``subject``.

    lm-eval calls the subjects of WMDP biology, chemistry and cybersecurity. Raises UserError that names file
    and row (empty lines not counted) for anything malformed."""
    path = Path(path).expanduser()
    return [
        choice_of({"subject": subject, **row}, path, number)
        for number, row in enumerate(read_rows(path, ("question",)), 1)
    ]


def _mmlu_file(split: str) -> Path:
    root = os.environ.get("EXPUNGE_DATA")
    name = Path("mmlu") / f"{split}.parquet"
    path = Path(root).expanduser() / name if root else None
    if path is None or not path.is_file():
        found = f"EXPUNGE_DATA is {root!r}, which has no {name}" if root else "EXPUNGE_DATA is not set"
        raise UserError(
            f"MMLU is not there: {found}. Set it to a folder that holds {name} "
            f"(columns {', '.join(FIELDS)}, as the data set cais/mmlu has them)."
        )
    return path


def parquet_rows(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a parquet file that has these columns. Raises UserError for anything else, and without pyarrow."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: reading parquet needs pyarrow; pip install 'expunge[data]'") from None
    try:
        table = parquet.ParquetFile(path).read()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as parquet ({error}).") from None
    missing = [name for name in fields if name not in table.column_names]
    if missing:
        raise UserError(
            f"{path}: found the columns {', '.join(table.column_names)}; expected also {', '.join(missing)}."
        )
    return table.to_pylist()


def choice_of(row: dict[str, Any], path: Path, number: int) -> Choice:
    """The question of a row. Raises UserError that names file and row for anything malformed."""
    question, choices, answer, subject = (row.get(field) for field in ("question", "choices", "answer", "subject"))
    if not is_text(question):
        problem = f"question is {question!r:.80}, expected a non-empty text"
    elif not isinstance(choices, list) or len(choices) != 4 or not all(map(is_text, choices)):
        problem = f"choices is {choices!r:.80}, expected four non-empty texts"
    elif type(answer) is not int or not 0 <= answer < 4:  # True is an int too
        problem = f"answer is {answer!r:.80}, expected the index of the right choice, 0 to 3"
    elif subject != "" and not is_text(subject):
        problem = f"subject is {subject!r:.80}, expected a text"
    else:
        return Choice(str(question), tuple(choices), answer, str(subject).strip())
    raise UserError(f"{path}: row {number}: {problem}.")
