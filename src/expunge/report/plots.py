"""Losses over steps and leakage before and after, as inline SVG that follows the page's theme; what a sweep found,
as a figure and tables.

matplotlib draws with stand-in colours; they are then replaced by CSS variables. Text stays text.
Figures are narrow, so that they can be read on a phone and stand side by side on a screen."""

import io
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..files import write_text, writing
from .comparison import number
from .load import Pair, RunData
from .terminal import ASCII

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

# Columns of a sweep's table.
COLUMNS = {
    "forget": "rwku/forget/All",
    "AA": "rwku/forget/AA",
    "trace leak": "traces/forget/leak/All",
    "neighbours": "rwku/neighbor/All",
    "… not naming the target": "rwku/neighbor/apart",
    "neighbour traces": "traces/neighbor/leak/All",
    "wikitext ppl": "perplexity/wikitext",
    "distinct-3": "replies/forget/distinct3",
    "reply ppl": "replies/forget/perplexity",
}
LEAST_TELLING = ("reply ppl", "distinct-3", "… not naming the target", "neighbour traces", "AA")
VIEWS = {"dev": "the dev half of the probes", "whole": "all texts"}
LISTED = 32  # settings of so many points stand beside the figure
Grid = list[list[str]]
Series = dict[str, tuple[list[float], list[float]]]


def loss_plot(run: RunData) -> Markup | None:
    """One line per part of the unlearning loss; below it the teaching loss if the run taught. None without rows."""
    panels = [
        (stage, title)
        for stage, title in (("unlearn", "Unlearning"), ("teach", "Teaching"))
        if any(row["stage"] == stage for row in run.losses)
    ]
    if not panels:
        return None

    def draw(figure: Any) -> None:
        for place, (stage, title) in enumerate(panels, 1):
            axes = figure.add_subplot(len(panels), 1, place)
            series = loss_series([row for row in run.losses if row["stage"] == stage])
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
            axes.set(xlabel="step", ylabel="loss")
            axes.set_title(title, pad=26)
            axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=4, handlelength=1.8, columnspacing=1.2)

    names = sorted({name for row in run.losses if row["stage"] == "unlearn" for name in row["parts"]})
    told = f"Losses over steps: {', '.join(title.lower() for _, title in panels)}"
    return _svg("losses", 250 * len(panels), draw, f"{told}; parts {', '.join(names)}" if names else told)


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

    return _svg(
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


def _svg(name: str, height: int, draw: Any, label: str) -> Markup:
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


def show_sweep(found: dict[str, Any], out: Path, console: Console) -> None:
    """Write sweep.md and pareto.png, print the tables. ``found`` is what sweep.json holds."""
    chosen = next(point for point in found["points"] if point["chosen"])
    columns, beside = _columns(chosen), _beside(chosen)
    title = f"Sweep of {found['recipe']}: scores over {VIEWS[next(iter(chosen['scores']))]}"
    met = f"{found['meet_all_goals']} of {len(found['points'])} points meet all goals."
    told = (f"{view} {sum(g['met'] for g in judged)} of {len(judged)}" for view, judged in chosen["goals"].items())
    outcome = f"{met} Chosen: point {chosen['number']}, {chosen['label']}. Goals that it meets: {', '.join(told)}."
    parts = [f"# {title}", _markdown(_points(found, columns, errors=True)), found["rule"], outcome]
    parts += [f"    {found['command']}", _markdown(beside), "![Forgetting against its price](pareto.png)"]
    write_text(out / "sweep.md", "\n\n".join(parts) + "\n")
    pareto_plot(found, out / "pareto.png")

    table = _rich(_points(found, columns, errors=False), console)
    for name in LEAST_TELLING:  # a narrow terminal shows less; sweep.md has it all
        if console.measure(table, options=console.options.update(width=1000)).maximum > console.width:
            columns = {key: id_ for key, id_ in columns.items() if key != name}
            table = _rich(_points(found, columns, errors=False), console)
    console.print(_plain(title, console, "bold"), table, _plain(found["rule"], console), sep="\n")
    console.print(_plain(outcome, console, "bold"))
    console.print(_plain(found["command"], console), soft_wrap=True)
    console.print(_rich(beside, console))
    console.print(_plain(f"all columns: {out / 'sweep.md'}; figure: {out / 'pareto.png'}", console), soft_wrap=True)


def _points(found: dict[str, Any], columns: dict[str, str], *, errors: bool) -> Grid:
    """A row for each original and each point, over the view that the choice was made on."""
    points = found["points"]
    view = next(iter(points[0]["scores"]))
    seen: list[Any] = []
    rows = []
    for point in points:
        scores, goals = point["scores"][view], point["goals"][view]
        if scores["taught"] not in seen:
            seen.append(scores["taught"])
            made_by = ["" if key.startswith(("unlearn.", "writing.")) else v for key, v in point["settings"].items()]
            rows.append(["taught", *made_by, *_cells(scores["taught"], columns, errors), "", ""])
        name = f"{point['number']}{' chosen' if point['chosen'] else ''}"
        met = f"{sum(goal['met'] for goal in goals)}/{len(goals)}"
        cells = _cells(scores["unlearned"], columns, errors)
        rows.append([name, *point["settings"].values(), *cells, met, "yes" if point["pareto"] else ""])
    rows.sort(key=lambda row: row[0] != "taught")
    return [["", *found["keys"].values(), *columns, "goals met", "front"], *rows]


def _beside(chosen: dict[str, Any]) -> Grid:
    """The chosen point on the half that chose it and on the half that did not, and what it started from there."""
    scores, columns = chosen["scores"], _columns(chosen)
    told = {
        "dev, chosen": ("dev", "unlearned"),
        "test, chosen": ("test", "unlearned"),
        "test, taught": ("test", "taught"),
    }
    if "test" not in scores:
        told = {"chosen": ("whole", "unlearned"), "taught": ("whole", "taught")}
    sides = [_cells(scores[view][model], columns, errors=True, counted=True) for view, model in told.values()]
    return [["", *told], *([*row] for row in zip(columns, *sides, strict=True))]


def _columns(point: dict[str, Any]) -> dict[str, str]:
    """Heading -> id of the scores that a table shows: those of COLUMNS that are there, choices and questions."""
    ids = point["scores"]["whole"]["unlearned"]
    known = {name: id_ for name, id_ in COLUMNS.items() if id_ in ids}
    return known | {id_.partition("/")[2]: id_ for id_ in ids if id_.startswith(("choices/", "questions/"))}


def _cells(entries: dict[str, Any], columns: dict[str, str], errors: bool, counted: bool = False) -> list[str]:
    out = []
    for entry in (entries.get(id_) or {} for id_ in columns.values()):
        mean, error = entry.get("mean"), entry.get("se") if errors else None
        parts = ["–" if mean is None else number(mean, 1), "" if error is None else f"± {number(error, 1)}"]
        parts.append(f"(n={entry['n']})" if counted and mean is not None else "")
        out.append(" ".join(part for part in parts if part))
    return out


def _markdown(grid: Grid) -> str:
    head, *rows = [[cell.replace("|", "\\|") for cell in row] for row in grid]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rich(grid: Grid, console: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    for i, heading in enumerate(grid[0]):
        table.add_column(_plain(heading.replace(" ", "\n"), console), justify="right" if i else "left", overflow="fold")
    for row in grid[1:]:
        table.add_row(*(_plain(cell, console, "bold" if row[0].endswith("chosen") else "") for cell in row))
    return table


def _plain(content: str, console: Console, style: str = "") -> Text:
    """Text rather than markup, as settings hold brackets; plain where the terminal is."""
    if console.options.ascii_only:
        content = content.translate(ASCII).encode("ascii", "replace").decode()
    return Text(content, style)


def pareto_plot(found: dict[str, Any], path: Path) -> None:
    """Every point by what it forgot and what it kept, in the colour of what it cost; its settings beside."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    points = [point for point in found["points"] if None not in (point["forget"], point["retain"])]
    ratios = [_ratio(point) for point in points]
    colours = matplotlib.colormaps["viridis_r"]
    shade = Normalize(1, min(max([1.1, *(r for r in ratios if r is not None)]), 2))  # beyond twice it has collapsed
    probes = "dev" in found["points"][0]["scores"]
    paper = {INK: "#222222", RULE: "#e4e4e4"}
    with matplotlib.rc_context({key: paper.get(value, value) for key, value in SETTINGS.items()}):
        figure = Figure(figsize=(10, 5.5), dpi=150, layout="constrained")
        axes, beside = figure.subplots(1, 2, width_ratios=(5, 2))
        front = sorted((p["forget"], p["retain"]) for p in points if p["pareto"])
        axes.plot([x for x, _ in front], [y for _, y in front], color="#888888", linestyle="--", label="Pareto front")
        for point, ratio in zip(points, ratios, strict=True):
            colour = "#bbbbbb" if ratio is None else colours(shade(ratio))
            axes.scatter(point["forget"], point["retain"], s=70, color=colour, edgecolor=paper[INK], zorder=3)
            if point["chosen"]:
                ring = {"facecolor": "none", "edgecolor": "#d03030", "linewidth": 2, "zorder": 4}
                axes.scatter(point["forget"], point["retain"], s=260, label="chosen", **ring)
        axes.margins(0.1)
        for (x, y), numbers in _near(points).items():
            axes.annotate(numbers, (x, y), (9, 7), textcoords="offset points", size=10)
        names = ("forget score", "neighbour answers") if probes else ("forgetting goals", "other goals")
        unit = "%, dev half" if probes else "share of the limit"
        axes.set(xlabel=f"{names[0]}, {unit} (lower is better)", ylabel=f"{names[1]}, {unit} (higher is better)")
        axes.grid()
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=2)
        scale = ScalarMappable(shade, colours)
        figure.colorbar(scale, ax=axes, label="perplexity, × taught", extend="max", aspect=40, pad=0.01)
        beside.axis("off")
        for place, point in enumerate(found["points"][:LISTED]):
            told = {"weight": "bold"} if point["chosen"] else {}
            words = textwrap.shorten(f"{point['number']}  {point['label']}", 44, placeholder=" …")
            beside.text(0, 1 - place / LISTED, words, size=8.5, va="top", transform=beside.transAxes, **told)
        with writing(path) as temporary:
            figure.savefig(temporary, format="png")


def _ratio(point: dict[str, Any]) -> float | None:
    """Perplexity of the point by that of the original: on WikiText-2 where it is at hand, else on general text."""
    for name in ("perplexity/wikitext", "perplexity/general"):
        after, before = (point["scores"]["whole"][model].get(name, {}).get("mean") for model in ("unlearned", "taught"))
        if after and before:
            return float(after / before)
    return None


def _near(points: Sequence[dict[str, Any]]) -> dict[tuple[float, float], str]:
    """Numbers of the points by place; points that would write over each other share a label."""
    spans = [max(v) - min(v) or 1.0 for v in ([p[key] for p in points] for key in ("forget", "retain")) if v]
    labels: dict[tuple[float, float], str] = {}
    for p in points:
        x, y = p["forget"], p["retain"]
        close = (at for at in labels if abs(at[0] - x) < 0.05 * spans[0] and abs(at[1] - y) < 0.04 * spans[1])
        at = next(close, (x, y))
        labels[at] = f"{labels[at]}, {p['number']}" if at in labels else str(p["number"])
    return labels
