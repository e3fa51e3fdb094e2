"""How much is forgotten against how much is kept: each method's points, their Pareto envelope, the area under it.

Forget quality is 1 - forget score / the taught model's, retained is the retain score / the taught model's, over the
same cells. Q(r) is the best forget quality of a method's points that retain at least r (0 if none does): a staircase.
The area at a threshold t is the mean of Q over t <= r <= 1, that is, its integral divided by 1 - t."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..bench_rows import TAUGHT, UNLEARNED
from ..files import writing
from .bench_load import BenchData, pooled
from .plots import INK, LINES, RULE, SETTINGS, svg

THRESHOLDS = (0.4, 0.5, 0.6, 0.7)
MARKERS = "osD^vPX<>*hp"  # colour is never the only difference
PAPER = {INK: "#222222", RULE: "#e4e4e4"} | dict(
    zip(LINES, ("#1464b4", "#b85c00", "#00805e", "#a8457f", "#6b6b6b", "#7a6a00"), strict=True)
)


@dataclass(frozen=True)
class Mark:
    """One point of a method. The errors are those of the unlearned model's scores as shares of the taught model's;
    ``on``: no other point of the method forgets and retains as much and one of the two better."""

    point: str
    quality: float
    retained: float
    quality_se: float | None
    retained_se: float | None
    n: tuple[int, int]
    """Probes to be forgotten and to be retained."""
    on: bool = False


@dataclass(frozen=True)
class Frontier:
    """One method's points in the order of the file, and the area at each threshold."""

    method: str
    marks: tuple[Mark, ...]
    areas: tuple[float, ...]

    @property
    def envelope(self) -> tuple[Mark, ...]:
        """From what retains the least to what retains the most."""
        return tuple(sorted((mark for mark in self.marks if mark.on), key=lambda mark: mark.retained))


def frontiers(data: BenchData) -> list[Frontier]:
    """Of every method with a point where both scores were measured."""
    out = []
    for method in data.manifest["methods"]:
        marks = [mark for point in data.points(method) if (mark := _mark(data, method, point))]
        places = [(mark.quality, mark.retained) for mark in marks]
        if marks:
            best = envelope(places)
            shown = [replace(mark, on=place in best) for mark, place in zip(marks, places, strict=True)]
            out.append(Frontier(method, tuple(shown), tuple(area(places, limit) for limit in THRESHOLDS)))
    return out


def _mark(data: BenchData, method: str, point: str) -> Mark | None:
    before, after = (pooled(data.of(method, model, point)) for model in (TAUGHT, UNLEARNED))
    found = []
    for side in ("forget", "retain"):
        old, new = (scores.get(data.manifest["frontier"][side]) for scores in (before, after))
        if old is None or new is None or new.mean is None or not old.mean:
            return None
        found.append((new.mean / old.mean, None if new.se is None else new.se / old.mean, new))
    (left, left_se, forget), (kept, kept_se, retain) = found
    return Mark(point, 1 - left, kept, left_se, kept_se, (forget.n, retain.n))


def envelope(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (quality, retained) that no other beats, by what they retain, least first."""
    best = {(q, r) for q, r in places if not any(p >= q and s >= r and (p, s) != (q, r) for p, s in places)}
    return sorted(best, key=lambda place: place[1])


def area(places: Sequence[tuple[float, float]], threshold: float) -> float:
    """Mean forget quality under the envelope over retain in [threshold, 1]; quality and retain count from 0 to 1.

    >>> round(area([(0.8, 0.9), (0.4, 1.0)], 0.5), 3)  # 0.8 up to 0.9, then 0.4: (0.32 + 0.04) / 0.5
    0.72
    """
    total, reached = 0.0, threshold
    for quality, retained in envelope([(min(1.0, max(0.0, q)), min(1.0, r)) for q, r in places]):
        total += quality * max(0.0, retained - reached)
        reached = max(reached, retained)
    return total / (1 - threshold)


def frontier_plot(found: Sequence[Frontier]) -> Markup | None:
    """The figure for the page; None without a point."""
    if not found:
        return None
    label = f"Forget quality of {len(found)} methods against what they retain, as shares of the taught model's scores"
    return svg("frontier", 420, lambda figure: _draw(figure, found), label)


def frontier_picture(found: Sequence[Frontier], path: Path) -> None:
    """The same as a PNG file."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({key: PAPER.get(value, value) for key, value in SETTINGS.items()}):
        figure = Figure(figsize=(8, 6.5), dpi=150, layout="constrained")
        _draw(figure, found, PAPER)
        with writing(path) as temporary:
            figure.savefig(temporary, format="png")


def _draw(figure: Any, found: Sequence[Frontier], colours: dict[str, str] | None = None) -> None:
    colours = colours or {}
    axes = figure.add_subplot()
    for i, frontier in enumerate(found):
        line = LINES[i % len(LINES)]
        turn = i // len(MARKERS)  # so that two lines never share both
        colour, marker = colours.get(line, line), MARKERS[(i + turn) % len(MARKERS)]
        top = frontier.envelope
        if len(top) > 1:  # the staircase: each quality holds up to what its point retains
            steps = {"drawstyle": "steps-post", "linewidth": 1.4, "color": colour}
            axes.plot([m.quality for m in top], [m.retained for m in top], **steps)
        for on, face in ((True, colour), (False, "none")):
            marks = [m for m in frontier.marks if m.on == on]
            if marks:
                axes.errorbar(
                    [m.quality for m in marks],
                    [m.retained for m in marks],
                    xerr=[m.quality_se or 0 for m in marks],
                    yerr=[m.retained_se or 0 for m in marks],
                    linestyle="none",
                    marker=marker,
                    markersize=7,
                    markerfacecolor=face,
                    color=colour,
                    elinewidth=0.8,
                    label=frontier.method if on else None,
                )
    axes.set(xlabel="forget quality (1 − forget score / taught)", ylabel="retained (share of taught)")
    axes.grid()
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=3, handlelength=1.2, columnspacing=1.0)
