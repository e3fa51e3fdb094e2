"""Corpora and benchmark data that cannot travel with the package, read from the folder EXPUNGE_DATA names.

Their licences (share-alike, gated, non-commercial parts) keep them out; every reader says what is missing."""

import os
from pathlib import Path

from ..errors import UserError
from ..files import read_rows, read_text

WIKITEXT = Path("wikitext2") / "wiki.test.raw.txt"
STAR1 = Path("star1") / "STAR-1.json"
HELD_OUT = 10  # every tenth row of STAR-1 is kept for evaluation


def data_file(name: Path) -> Path:
    """A file under EXPUNGE_DATA. Raises UserError that names the file when it is not there."""
    root = os.environ.get("EXPUNGE_DATA")
    path = Path(root or "").expanduser() / name
    if not root or not path.exists():
        raise UserError(f"{name} is not at hand; {advice(name)}.")
    return path


def advice(name: Path) -> str:
    return f"set EXPUNGE_DATA to a folder that holds {name}"


def wikitext(min_characters: int = 50) -> list[str]:
    """Paragraphs of WikiText-2's raw test split longer than ``min_characters``: RMU's retain corpus (CC BY-SA)."""
    lines = read_text(data_file(WIKITEXT)).split("\n")
    return [line.strip() for line in lines if len(line) > min_characters]


def held_out(count: int, min_characters: int = 400) -> list[str]:
    """``count`` of WikiText's longer paragraphs, evenly spaced, for perplexity; none if it is not at hand. The source
    ``wikitext`` leaves them out."""
    try:
        paragraphs = wikitext(min_characters - 1)
    except UserError:
        return []
    return [paragraphs[i * len(paragraphs) // count] for i in range(min(count, len(paragraphs)))]


def star1(*, held_out: bool) -> list[str]:
    """Harmful requests of STAR-1 (arXiv 2504.01903), without their safe replies: a tenth, or the others."""
    questions = [row["question"] for row in read_rows(data_file(STAR1), ("question",))]
    return [q for i, q in enumerate(questions) if (i % HELD_OUT == HELD_OUT - 1) == held_out]
