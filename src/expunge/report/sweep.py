"""What a sweep found: a table in the terminal, the same in Markdown, and a figure of what points cost and buy."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..files import write_text, writing
from .comparison import number
from .grids import Grid, in_terminal, markdown, plain
from .plots import INK, RULE, SETTINGS

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


def show_sweep(found: dict[str, Any], out: Path, console: Console) -> None:
    """Write sweep.md and pareto.png, print the tables. ``found`` is what sweep.json holds."""
    chosen = next(point for point in found["points"] if point["chosen"])
    columns, beside = _columns(chosen), _beside(chosen)
    title = f"Sweep of {found['recipe']}: scores over {VIEWS[next(iter(chosen['scores']))]}"
    met = f"{found['meet_all_goals']} of {len(found['points'])} points meet all goals."
    told = (f"{view} {sum(g['met'] for g in judged)} of {len(judged)}" for view, judged in chosen["goals"].items())
    outcome = f"{met} Chosen: point {chosen['number']}, {chosen['label']}. Goals that it meets: {', '.join(told)}."
    parts = [f"# {title}", markdown(_points(found, columns, errors=True)), found["rule"], outcome]
    parts += [f"    {found['command']}", markdown(beside), "![Forgetting against its price](pareto.png)"]
    write_text(out / "sweep.md", "\n\n".join(parts) + "\n")
    pareto_plot(found, out / "pareto.png")

    table = in_terminal(_points(found, columns, errors=False), console, "chosen")
    for name in LEAST_TELLING:  # a narrow terminal shows less; sweep.md has it all
        if console.measure(table, options=console.options.update(width=1000)).maximum > console.width:
            columns = {key: id_ for key, id_ in columns.items() if key != name}
            table = in_terminal(_points(found, columns, errors=False), console, "chosen")
    console.print(plain(title, console, "bold"), table, plain(found["rule"], console), sep="\n")
    console.print(plain(outcome, console, "bold"))
    console.print(plain(found["command"], console), soft_wrap=True)
    console.print(in_terminal(beside, console, "chosen"))
    console.print(plain(f"all columns: {out / 'sweep.md'}; figure: {out / 'pareto.png'}", console), soft_wrap=True)


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
