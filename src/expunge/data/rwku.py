"""RWKU (arXiv 2406.10890): one target's probes, and the RULE boundary rows that go with it.

Forget rows ``{query, answer, level, type, subject}`` on three levels: FB (fill in the blank),
QA (question) and AA (nine adversarial types); neighbour rows add ``neighbor``. Boundary rows are
``{prompt, solution}`` with ``["<reject>", refusal, target]`` or ``["<normal>", gold answer]``."""

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..files import is_text, read_json, read_rows, read_text
from .prompts import QUESTIONS

FORGET_FILES = {"FB": "forget_level1.json", "QA": "forget_level2.json", "AA": "forget_level3.json"}
NEIGHBOR_FILES = {"FB": "neighbor_level1.json", "QA": "neighbor_level2.json"}
BOUNDARY_FILE = "rl_rejection_with_fb_neighbor_target.json"
PACKAGED = {"Stephen King": "1_Stephen_King"}


@dataclass(frozen=True)
class Probe:
    """One question of the benchmark. ``side`` is forget or neighbor; ``level`` FB, QA or AA."""

    side: str
    level: str
    kind: str
    query: str
    answer: str
    about: str


@dataclass(frozen=True)
class BoundaryRow:
    """One RULE training row. ``answer`` is a refusal for forget rows, the gold answer otherwise; ``target`` is
    whom the refusal of a forget row is about; ``seed`` the number of the question that it was made from, where the
    file says so."""

    forget: bool
    prompt: str
    answer: str
    target: str = ""
    seed: int | None = None


@dataclass(frozen=True)
class Target:
    """Everything known about one forget target."""

    name: str
    probes: tuple[Probe, ...]
    boundary: tuple[BoundaryRow, ...]

    def select(self, side: str, *levels: str) -> list[Probe]:
        return [p for p in self.probes if p.side == side and (not levels or p.level in levels)]


def load_target(target: str) -> Target:
    """A packaged target by name, one of those under EXPUNGE_DATA, or a folder in RWKU's layout.

    Raises UserError for an unknown name, a missing file or a malformed row (file and row named)."""
    folder = Path(target).expanduser()
    if target in PACKAGED:
        folder = _packaged_folder(target)
    elif target in (known := targets_at_hand()):
        folder = known[target]
    elif not folder.is_dir():
        raise UserError(
            f"unknown target {target!r}: neither a packaged target, nor one of EXPUNGE_DATA, nor a folder in RWKU's "
            f"layout. {nearest(target, [*PACKAGED, *known])} A folder holds {FORGET_FILES['FB']}, …."
        )
    probes = [
        _probe(row, "forget", level) for level, name in FORGET_FILES.items() for row in _probe_rows(folder / name)
    ]
    probes += [
        _probe(row, "neighbor", level)
        for level, name in NEIGHBOR_FILES.items()
        for row in _probe_rows(folder / name, "neighbor")
    ]
    path = folder / BOUNDARY_FILE
    name = probes[0].about
    return Target(name, tuple(probes), tuple(load_boundary(path) if path.exists() else stand_in_boundary(name)))


def targets_at_hand() -> dict[str, Path]:
    """Name -> folder of the targets under EXPUNGE_DATA (``rwku/Target/3_Bruce_Lee``)."""
    root = os.environ.get("EXPUNGE_DATA")
    folders = sorted(Path(root).expanduser().glob("rwku/Target/*_*/")) if root else []
    return {folder.name.partition("_")[2].replace("_", " "): folder for folder in folders}


def stand_in_boundary(name: str) -> list[BoundaryRow]:
    """Rows for a target that brings none: open questions about it, and the packaged target's questions on
    other subjects with their answers, as far as they do not name it."""
    packaged = load_boundary(_packaged_folder("Stephen King") / BOUNDARY_FILE)
    beside = [row for row in packaged if not row.forget and name.lower() not in f"{row.prompt} {row.answer}".lower()]
    return [BoundaryRow(True, question.format(name=name), "", name) for question in QUESTIONS] + beside


def _packaged_folder(target: str) -> Path:
    return Path(str(resources.files("expunge.data") / "packaged" / "rwku" / PACKAGED[target]))


def load_boundary(path: Path) -> list[BoundaryRow]:
    """Boundary rows of a released file, or of one made by `expunge boundary`. Raises UserError with the row for
    anything malformed."""
    rows = read_json(path) if read_text(path).lstrip().startswith("[") else read_rows(path, ("prompt",))
    out = []
    for number, row in enumerate(rows, 1):
        found = _boundary_row(row)
        if found is None:
            raise UserError(
                f"{path}: row {number} is {str(row)[:80]!a}; expected a prompt that is not empty and a solution, "
                '["<reject>", refusal, target] or ["<normal>", answer].'
            )
        out.append(found)
    return out


def _boundary_row(row: Any) -> BoundaryRow | None:
    match row:
        case {"prompt": prompt, "solution": ["<reject>", answer, str(target)]}:
            forget = True
        case {"prompt": prompt, "solution": ["<normal>", answer, *_]}:
            forget, target = False, ""
        case _:
            return None
    seed = row.get("seed")
    whole = is_text(prompt) and is_text(answer) and (seed is None or type(seed) is int)
    return BoundaryRow(forget, prompt.strip(), answer, target, seed) if whole else None


def _probe_rows(path: Path, *more: str) -> list[dict[str, Any]]:
    return read_rows(path, ("query", "answer", "type", "subject", *more))


def _probe(row: dict[str, Any], side: str, level: str) -> Probe:
    about = row["neighbor"] if side == "neighbor" else row["subject"]
    return Probe(side, level, row["type"], row["query"].strip(), row["answer"].strip(), about)
