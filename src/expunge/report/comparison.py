"""Scores before and after, as rows of text under headings, and the verdict in plain words.

Terminal and page show the same rows. A change carries the standard error of two independent
samples; "better" and "worse" are said only of a change larger than twice that error."""

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .load import NOT_MEASURED, Goal, Measure, RunData

# The first pattern that fits an id decides its heading.
GROUPS = (
    ("Forget answers", ("rwku/forget/*",)),
    ("Neighbour answers", ("rwku/neighbor/*",)),
    ("Reasoning traces", ("traces/*/leak/*", "traces/*/recall/*")),
    ("Declining", ("replies/*/refusals", "replies/*/declined", "replies/*/leaks")),
    ("Collapse", ("traces/*", "replies/*")),
    ("Questions in think mode", ("questions/*",)),
    ("Multiple choice", ("choices/*",)),
    ("General ability", ("perplexity/*",)),
    ("Other measures", ("*",)),
)
# What the verdict quotes, where both models have it.
HEADLINES = (
    ("rwku/forget/All", "answers about the target"),
    ("traces/forget/leak/All", "reasoning traces that state the answer"),
    ("rwku/neighbor/All", "answers about its neighbours"),
)
SCIENTIFIC = 1e6  # from here on, powers of ten


@dataclass(frozen=True)
class Cell:
    """A number as text: the mean, ``± se`` and ``(n=…)`` as far as known."""

    mean: str
    error: str = ""
    count: str = ""
    measured: bool = True

    def __str__(self) -> str:
        return " ".join(part for part in (self.mean, self.error, self.count) if part)


@dataclass(frozen=True)
class Row:
    """One measure of both models. ``judgement`` is better, worse or empty."""

    id: str
    label: str
    unit: str
    better: str
    before: Cell
    after: Cell
    change: Cell | None
    judgement: str
    never_knew: Cell | None
    """The same of a model that was never taught the target, if the run made one."""

    @property
    def whole(self) -> bool:
        """Is this the average over the other rows?"""
        return self.id.endswith("/All")

    @property
    def hint(self) -> str:
        return ", ".join(part for part in (self.unit, f"{self.better} is better" if self.better else "") if part)


@dataclass(frozen=True)
class Group:
    heading: str
    rows: tuple[Row, ...]


def groups(run: RunData) -> tuple[Group, ...]:
    """All measures of either model under their headings, in the order of the file."""
    members: dict[str, list[Row]] = {heading: [] for heading, _ in GROUPS}
    for key in dict.fromkeys([*run.before, *run.after]):
        heading = next(h for h, patterns in GROUPS if any(fnmatchcase(key, p) for p in patterns))
        members[heading].append(_row(key, run.before.get(key), run.after.get(key), run.never_knew.get(key)))
    return tuple(Group(heading, tuple(rows)) for heading, rows in members.items() if rows)


def not_measured(run: RunData) -> tuple[str, ...]:
    """A line for each score that a model lacks, with the reason if the run gave one."""
    lines = []
    for key in dict.fromkeys([*run.before, *run.after]):
        sides = (("before", run.before.get(key)), ("after", run.after.get(key)))
        lacking = [(side, m.note if m else "") for side, m in sides if m is None or m.mean is None]
        if not lacking:
            continue
        label = next(m.label for _, m in sides if m)
        why = "; ".join(dict.fromkeys(note for _, note in lacking if note)) or "no reason given"
        lines.append(f"{label}, {' and '.join(side for side, _ in lacking)}: {why}")
    return tuple(lines)


def verdict(run: RunData) -> str:
    """One paragraph: what was run, which goals were met and missed, the numbers that matter most."""
    manifest = run.manifest
    model = manifest.get("model")
    source = (model.get("source") if isinstance(model, dict) else model) or "the model"
    used = f" used {manifest['method']}" if manifest.get("method") else " tried"
    lead = f"This run{used} to make {source} forget {manifest.get('target') or 'its forget texts'}."
    return " ".join(part for part in (lead, _goals_in_words(run.goals), _headlines(run)) if part)


def goal_value(goal: Goal) -> str:
    return NOT_MEASURED if goal.value is None else number(goal.value, decimals_of(goal.value, goal.limit))


def goal_limit(goal: Goal) -> str:
    return f"{goal.relation} {goal.limit:.4g}" if goal.limit is not None else NOT_MEASURED


def number(value: float, decimals: int) -> str:
    """Fixed decimals with a true minus sign; powers of ten for the huge perplexities of collapsed models."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if abs(value) >= SCIENTIFIC:
        return f"{value:.1e}".replace("e+0", "e").replace("e+", "e").replace("-", "−")
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "−")


def decimals_of(*values: float | None) -> int:
    """About three digits for the largest of the values; the same for both columns of a row."""
    largest = max((abs(v) for v in values if v is not None and abs(v) < SCIENTIFIC), default=0.0)
    return 0 if largest >= 1000 else 1 if largest >= 10 else 2 if largest >= 0.1 else 3


def _cell(measure: Measure | None, decimals: int) -> Cell:
    if measure is None or measure.mean is None:
        return Cell(NOT_MEASURED, measured=False)
    return Cell(
        number(measure.mean, decimals),
        "" if measure.se is None else f"± {number(measure.se, decimals)}",
        "" if measure.n is None else f"(n={measure.n})",
    )


def _row(key: str, before: Measure | None, after: Measure | None, never_knew: Measure | None) -> Row:
    known = before or after
    assert known is not None, "a row is made for an id of at least one side"
    means = [m.mean if m else None for m in (before, after)]
    # Percentages keep one decimal throughout, so that a column of them lines up.
    decimals = 1 if known.unit.startswith("%") else decimals_of(*means)
    change, judgement = _change(before, after, decimals, known.better)
    return Row(
        id=key,
        label=known.label,
        unit=known.unit,
        better=known.better,
        before=_cell(before, decimals),
        after=_cell(after, decimals),
        change=change,
        judgement=judgement,
        never_knew=_cell(never_knew, decimals) if never_knew else None,
    )


def _change(before: Measure | None, after: Measure | None, decimals: int, better: str) -> tuple[Cell | None, str]:
    if before is None or after is None or before.mean is None or after.mean is None:
        return None, ""
    difference = after.mean - before.mean
    if not math.isfinite(difference):
        return None, ""
    text = number(difference, decimals)
    text = text if text.startswith("−") else f"+{text}"
    if before.se is None or after.se is None:
        return Cell(text), ""
    error = math.hypot(before.se, after.se)
    judgement = ""
    if better in ("lower", "higher") and abs(difference) > 2 * error:
        judgement = "better" if (difference > 0) == (better == "higher") else "worse"
    return Cell(text, f"± {number(error, decimals)}"), judgement


def _goals_in_words(goals: tuple[Goal, ...]) -> str:
    if not goals:
        return "No goals were set, so the numbers stand without a verdict."
    told: dict[str, list[str]] = {"met": [], "missed": [], NOT_MEASURED: []}
    for goal in goals:
        limits = f" ({goal_value(goal)}, asked for {goal_limit(goal)})" if goal.result == "missed" else ""
        told[goal.result].append(goal.text + limits)
    for result, texts in told.items():
        if len(texts) == len(goals):
            subject = "Its goal was" if len(goals) == 1 else f"All {len(goals)} goals were"
            return f"{subject} {result}: {'; '.join(texts)}."
    headings = {"met": f"{len(told['met'])} of {len(goals)} goals were met", "missed": "Missed"}
    listed = ((headings.get(result, "Not measured"), texts) for result, texts in told.items() if texts)
    return " ".join(f"{heading}: {'; '.join(texts)}." for heading, texts in listed)


def _headlines(run: RunData) -> str:
    parts = []
    for key, words in HEADLINES:
        before, after = run.before.get(key), run.after.get(key)
        if before and after and before.mean is not None and after.mean is not None:
            row = _row(key, before, after, None)
            parts.append(f"{words}{' (%)' if row.unit.startswith('%') else ''}, {row.before} to {row.after}")
    return f"From before to after: {'; '.join(parts)}." if parts else ""
