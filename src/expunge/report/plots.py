"""Losses over steps and leakage before and after, as inline SVG that follows the page's theme.

matplotlib draws with stand-in colours; they are then replaced by CSS variables. Text stays text.
Figures are narrow, so that they can be read on a phone and stand side by side on a screen."""

import io
import re
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup, escape

from .load import Pair, RunData

WIDTH = 440  # SVG units; one unit is one pixel at natural size
INK, RULE, BEFORE, AFTER = "#010101", "#020202", "#030303", "#040404"
LINES = tuple(f"#0501{i:02x}" for i in range(6))
STYLES = ("-", "--", "-.", ":")  # colour is never the only difference
COLOURS = {INK: "currentColor", RULE: "var(--rule)", BEFORE: "var(--before)", AFTER: "var(--after)"} | {
    line: f"var(--line-{i})" for i, line in enumerate(LINES)
}
POINTS = 300  # a longer log is averaged over equal stretches of steps
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.hashsalt": "expunge",  # equal data, equal file
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "lines.linewidth": 1.6,
} | dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)

TITLES = {  # of stages that are no method's name
    "teach": "Teaching",
    "rs": "Rejection steering",
    "rebo": "Refusal boundary",
    "drill": "Rejection steering on what is still answered",
}
WATCHED = ("reward_forget", "reward_boundary", "refusals_forget", "refusals_boundary")
Series = dict[str, tuple[list[float], list[float]]]


def loss_plot(run: RunData) -> Markup | None:
    """A panel for each stage, the last one first: one line per part of its loss, rewards for RL.

    None without rows."""
    stages = reversed(dict.fromkeys(row["stage"] for row in run.losses))
    panels = [(stage, TITLES.get(stage, f"Unlearning by {stage}")) for stage in stages]
    if not panels:
        return None

    def draw(figure: Any) -> None:
        for place, (stage, title) in enumerate(panels, 1):
            axes = figure.add_subplot(len(panels), 1, place)
            rows = [row for row in run.losses if row["stage"] == stage]
            series = loss_series(rows) if stage != "rebo" else loss_series([{**r, "parts": rewards(r)} for r in rows])
            for i, (name, (steps, values)) in enumerate(series.items()):
                axes.plot(
                    steps,
                    values,
                    label=name,
                    color=LINES[i % len(LINES)],
                    linestyle=STYLES[i % len(STYLES)],
                    marker="o" if len(steps) == 1 else None,
                )
            positive = [v for _, values in series.values() for v in values if 0 < v < float("inf")]
            total = sum(len(values) for _, values in series.values())
            if len(positive) == total and max(positive) > 50 * min(positive):
                axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
            axes.grid(axis="y")
            axes.set(xlabel="step", ylabel="loss" if stage != "rebo" else "")
            axes.set_title(title, pad=26)
            axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=4, handlelength=1.8, columnspacing=1.2)

    names = sorted({name for row in run.losses for name in row["parts"]})
    told = f"Losses over steps: {', '.join(title.lower() for _, title in panels)}"
    return svg("losses", 250 * len(panels), draw, f"{told}; parts {', '.join(names)}" if names else told)


def rewards(row: dict[str, Any]) -> dict[str, float]:
    """What to watch of an update of RL: its loss says nothing."""
    return {name.replace("_", ", "): float(row[name]) for name in WATCHED if name in row}


def loss_series(rows: list[dict[str, Any]]) -> Series:
    """Steps and values of each loss part (of the whole loss if the rows name no parts), at most POINTS each."""
    names = list(dict.fromkeys(name for row in rows for name in row["parts"]))
    points: Series = {}
    for name in names or ["loss"]:
        values = (
            [(float(r["step"]), float(r["parts"][name])) for r in rows if name in r["parts"]]
            if names
            else [(float(r["step"]), float(r["loss"])) for r in rows]
        )
        width = -(-len(values) // POINTS)
        stretches = [values[i : i + width] for i in range(0, len(values), width)]
        steps, means = ([sum(p[k] for p in part) / len(part) for part in stretches] for k in (0, 1))
        points[name] = (steps, means)
    return points


def leak_plot(run: RunData) -> Markup | None:
    """Share of traces that state the answer, before and after: forget probes by kind, neighbours by level."""
    from ..evals.scores import score

    bars = leak_bars(run.traces)
    if not bars:
        return None

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        places = [i + (0.6 if name.startswith("neighbour") else 0.0) for i, name in enumerate(bars)]
        for side, colour, shift in (("before", BEFORE, -0.19), ("after", AFTER, 0.19)):
            shares = [score([100.0 * getattr(p, side)["leak"] for p in pairs]) for pairs in bars.values()]
            axes.barh(
                [y + shift for y in places],
                [s.mean for s in shares],
                0.34,
                xerr=[s.se for s in shares],
                color=colour,
                label=side,
                error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2},
            )
        axes.set_yticks(places, list(bars))
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(places[-1] + 0.6, -0.6)
        axes.set_xlim(0, 100)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        for y, pairs in zip(places, bars.values(), strict=True):
            axes.text(103, y, f"{len(pairs)}", va="center", size=10, clip_on=False)
        axes.text(103, -0.85, "n", va="bottom", size=10)
        axes.set_xlabel("traces that state the answer, %")
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=2, handlelength=1.2)

    return svg(
        "leakage",
        90 + 30 * len(bars),
        draw,
        f"Share of reasoning traces that state the answer, before and after, for {len(bars)} probe types",
    )


def leak_bars(traces: Iterable[Pair]) -> dict[str, list[Pair]]:
    """Traces under the name of their bar: forget kinds by level first, then the neighbours' levels."""
    levels = ("FB", "QA", "AA")
    bars: dict[str, list[Pair]] = {}
    ranked = sorted(traces, key=lambda p: (p.side != "forget", levels.index(p.level) if p.level in levels else 3))
    for pair in ranked:
        level = "" if pair.level == "AA" else f" ({pair.level})"
        bars.setdefault(f"{pair.kind}{level}" if pair.side == "forget" else f"neighbour {pair.level}", []).append(pair)
    return bars


def svg(name: str, height: int, draw: Any, label: str) -> Markup:
    """An ``<svg>`` element for use inside HTML: no prologue, no metadata, ids that begin with ``name``."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        draw(figure)
        out = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg, count=2)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, variable)
    head = f'<svg role="img" aria-label="{escape(label)}"'
    return Markup(re.sub(r"<svg([^>]*)>", lambda m: f"{head}{m[1]}><title>{escape(label)}</title>", svg, count=1))
