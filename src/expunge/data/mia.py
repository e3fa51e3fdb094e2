"""RWKU's texts for membership inference (arXiv 2406.10890): FM, on the target, and RM, on others.

``forget_mia.json`` and ``retain_mia.json`` of a target's folder, rows with a field ``text``. They are Wikipedia's words
(share-alike) and do not travel with the package."""

from pathlib import Path

from ..errors import UserError, nearest
from ..files import read_rows
from .rwku import targets_at_hand

FILES = {"forget": "forget_mia.json", "retain": "retain_mia.json"}


def load_members(target: str | None) -> dict[str, list[str]]:
    """Texts by side (forget, retain) of a target by name, or of a folder in RWKU's layout.

    Raises UserError for a target that is not at hand, a missing file or a malformed row."""
    known = targets_at_hand()
    folder = known.get(target or "") or Path(target or "").expanduser()
    if not target or not folder.is_dir():
        raise UserError(
            f"no texts on {target!r}: they are looked for in $EXPUNGE_DATA/rwku/Target, or in a folder given as the "
            f"target. {nearest(target or '', known) if known else 'Set EXPUNGE_DATA to a folder with RWKU.'}"
        )
    return {side: [row["text"] for row in read_rows(folder / name, ("text",))] for side, name in FILES.items()}
