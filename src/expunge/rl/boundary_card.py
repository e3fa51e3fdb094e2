"""The card of a boundary file: what is in it, where that comes from, what the filters took, what meets a probe.

Its head is a block of ``name: value`` lines (YAML, every value written as JSON), from which a later run sees whether
the file is its own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_text
from .boundary_filters import Overlap
from .boundary_sift import Candidate, Sifted

EXAMPLES = 2  # shown of what each filter took
SHOWN = 200  # characters of an example
KIND = "expunge-boundary"


@dataclass(frozen=True)
class Record:
    """Everything a card tells. ``sources`` are (what, file name or description, SHA-256 or "")."""

    head: Mapping[str, Any]
    sources: Sequence[tuple[str, str, str]]
    stages: Sequence[tuple[str, int, Sifted]]
    """(what was filtered, how much of it there was, what became of it), in order."""
    unusable: Mapping[str, int]
    """Replies of the model that could not be used, by task."""
    overlaps: Sequence[tuple[Candidate, Overlap]]
    notes: Sequence[str] = field(default=())


def render(record: Record) -> str:
    """The card as Markdown."""
    head = {"kind": KIND, **record.head, "date": datetime.now(UTC).date().isoformat()}
    out = ["---", *(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items()), "---", ""]
    out += [f"# Boundary data: {_plain(str(head['target']))}", ""]
    out += [
        "Training rows of RULE's schema (arXiv 2506.07171), in groups: a question about the target, as a cloze and as "
        "it is, each with a refusal; then neighbours of it, a question and a cloze, each with its gold answer.",
        "",
        f"- rows: {head['forget'] + head['boundary']:,} ({head['forget']:,} to refuse, {head['boundary']:,} to answer)",
        *(f"- {note}" for note in record.notes),
        "",
        "## Sources",
        "",
        "| what | which | SHA-256 |",
        "|---|---|---|",
        *(f"| {what} | {_plain(which)} | {digest or 'n/a'} |" for what, which, digest in record.sources),
        "",
        "## Filters",
        "",
    ]
    for what, count, sifted in record.stages:
        dropped = sum(map(len, sifted.dropped.values()))
        out += [f"### {what}: {count:,}, of which {dropped:,} dropped", "", "| filter | dropped |", "|---|---|"]
        out += [f"| {name} | {len(rows):,} |" for name, rows in sifted.dropped.items()]
        out.append("")
        for name, rows in sifted.dropped.items():
            out += [f"- {name}: {_example(row)}" for row in rows[:EXAMPLES]]
        out.append("")
    if record.unusable:
        out += ["### Replies of the model that could not be used", "", "| task | replies |", "|---|---|"]
        out += [f"| {task} | {count:,} |" for task, count in record.unusable.items()]
        out.append("")
    return "\n".join([*out, *_overlap_report(record)]) + "\n"


def _overlap_report(record: Record) -> list[str]:
    out = ["## Overlap with evaluation probes", ""]
    if not record.head["probes"]:
        return [*out, "There were no probes to compare with."]
    fate = "kept, because of --keep-overlap" if record.head["keep_overlap"] else "dropped"
    out += [f"Compared with {record.head['probes']:,} probes. Rows that meet one are {fate}.", ""]
    out += ["| rows | exact | near |", "|---|---|---|"]
    for name, forget in (("to refuse", True), ("to answer", False)):
        kinds = [overlap.kind for row, overlap in record.overlaps if row.forget == forget]
        out.append(f"| {name} | {kinds.count('exact'):,} | {kinds.count('near'):,} |")
    out.append("")
    for kind in ("exact", "near"):
        met = [(row, overlap) for row, overlap in record.overlaps if overlap.kind == kind]
        out += [f"- {kind}: {_plain(row.prompt)} ~ {_plain(overlap.probe)}" for row, overlap in met[:EXAMPLES]]
    return out


def _example(row: Candidate) -> str:
    return _plain(row.prompt) + (f" -> {_plain(row.answer) or '(nothing)'}" if not row.forget else "")


def _plain(text: str) -> str:
    """One line that can not become markup: everything that Markdown or HTML would read is escaped."""
    line = " ".join(text.split())
    line = line if len(line) <= SHOWN else line[:SHOWN] + "…"
    for sign in "\\`*_[]<>|#":
        line = line.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return line


def read_head(path: Path) -> dict[str, Any]:
    """The head of a card. Raises UserError for a file that is no card of ours."""
    lines = read_text(path).split("\n")
    found: dict[str, Any] = {}
    if lines[0] == "---" and "---" in lines[1:]:
        for line in lines[1 : lines.index("---", 1)]:
            name, _, value = line.partition(": ")
            try:
                found[name] = json.loads(value)
            except (ValueError, RecursionError):
                break
    if found.get("kind") != KIND:
        raise UserError(
            f"{path} is not the card of a boundary file, and would be overwritten: give another --out, or move it away."
        )
    return found
