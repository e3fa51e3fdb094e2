"""WikiText-2 (raw), read from a local folder; its licence (CC BY-SA) keeps it out of the package."""

import os
from pathlib import Path

from ..files import read_text

FILE = Path("wikitext2") / "wiki.test.raw.txt"
ADVICE = f"set EXPUNGE_DATA to a folder that holds {FILE}"


def held_out(count: int, min_characters: int = 400) -> list[str]:
    """``count`` paragraphs, evenly spaced, of the test split under ``EXPUNGE_DATA``; none if it is not there."""
    root = os.environ.get("EXPUNGE_DATA")
    path = Path(root).expanduser() / FILE if root else None
    if path is None or not path.exists():
        return []
    paragraphs = [line.strip() for line in read_text(path).split("\n") if len(line) >= min_characters]
    return [paragraphs[i * len(paragraphs) // count] for i in range(min(count, len(paragraphs)))]
