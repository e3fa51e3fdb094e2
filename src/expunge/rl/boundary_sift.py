"""All filters of `boundary_filters` over the rows of a boundary file, in order, with what each of them took."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .boundary_filters import Overlap, Probes, Text, asks_nothing, has_gap, is_truncated, says_nothing
from .refusals import detect, names_target

FILTERS = (
    "truncated",
    "asks nothing",
    "names the target",
    "answer refuses",
    "answer says nothing",
    "exact duplicate",
    "near duplicate",
    "overlaps a probe",
)


@dataclass(frozen=True)
class Candidate:
    """A row that may become one of the file: ``answer`` is a refusal for forget rows, else the gold answer."""

    forget: bool
    prompt: str
    answer: str
    seed: int
    """The number of the question that it was made from."""

    @property
    def is_cloze(self) -> bool:
        return has_gap(self.prompt)


@dataclass
class Sifted:
    """What is left, what each filter took (in the order of FILTERS), and every row that meets a probe."""

    kept: list[Candidate] = field(default_factory=list)
    dropped: dict[str, list[Candidate]] = field(default_factory=lambda: {name: [] for name in FILTERS})
    overlaps: list[tuple[Candidate, Overlap]] = field(default_factory=list)


def fault_of(row: Candidate, target: str, aliases: Sequence[str]) -> str | None:
    """The first of FILTERS that a row meets by itself, apart from the others.

    >>> fault_of(Candidate(False, "Who wrote Carrie?", "It was Stephen King.", 0), "Stephen King", ())
    'names the target'
    """
    if is_truncated(row.prompt):
        return "truncated"
    if asks_nothing(row.prompt):
        return "asks nothing"
    if row.forget:
        return None
    if names_target(row.prompt, target, aliases) or names_target(row.answer, target, aliases):
        return "names the target"
    if says_nothing(row.prompt, row.answer):
        return "answer says nothing"
    return "answer refuses" if detect(row.answer, (target, *aliases)).refusal else None


def sift(
    rows: Iterable[Candidate],
    target: str,
    aliases: Sequence[str] = (),
    probes: Probes | None = None,
    *,
    keep_overlap: bool = False,
) -> Sifted:
    """All filters over rows in their order; of duplicates the first stays. Near ones are looked for among rows of one
    kind: a cloze is near the question it was made from, and meant to be."""
    out = Sifted()
    exact: set[str] = set()
    near: dict[tuple[bool, bool, frozenset[str]], list[Text]] = {}
    for row in rows:
        fault = fault_of(row, target, aliases)
        text = Text(row.prompt)
        alike = near.setdefault((row.forget, row.is_cloze, text.marked), [])
        if fault is None and text.whole in exact:
            fault = "exact duplicate"
        if fault is None and any(text.repeats(other) for other in alike):
            fault = "near duplicate"
        overlap = probes.overlap(row.prompt) if probes and fault is None else None
        if overlap:
            out.overlaps.append((row, overlap))
            fault = None if keep_overlap else "overlaps a probe"
        if fault is not None:
            out.dropped[fault].append(row)
            continue
        exact.add(text.whole)
        alike.append(text)
        out.kept.append(row)
    return out
