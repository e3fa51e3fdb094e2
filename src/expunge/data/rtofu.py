"""R-TOFU (arXiv 2505.15214): TOFU's questions with a reference chain of thought for each.

Not under EXPUNGE_DATA: a user's own files, JSON or JSON Lines with ``question``, ``answer`` and ``cot``, as the data
set has them. A file's name is the name of its split: ``forget01.json``, ``retain_perturbed.json``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import read_rows


@dataclass(frozen=True)
class Thought:
    """One question, its answer, and the reference trace ("" where there is none)."""

    question: str
    answer: str
    trace: str = ""


def load_traced(files: Sequence[str]) -> dict[str, list[Thought]]:
    """Rows by split. Raises UserError for a missing or malformed file, and for two of one name."""
    out: dict[str, list[Thought]] = {}
    for file in files:
        path = Path(file).expanduser()
        if path.stem in out:
            raise UserError(f"{path}: another file is named {path.stem!r} too; a file's name is the name of its split.")
        rows = read_rows(path, ("question", "answer", "cot"))
        out[path.stem] = [Thought(row["question"], row["answer"], row["cot"]) for row in rows]
    return out
