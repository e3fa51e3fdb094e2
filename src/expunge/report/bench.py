"""What a benchmark found: tables in the terminal, README.md with a figure, and one self-contained page.

All three are made of ``bench.json``, ``results.jsonl`` and ``samples.jsonl`` alone, so they can be made again without
the cells' folders. Numbers of the page sort by a click on their heading, and say more when they are pointed at."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.console import Console

from ..bench_rows import TAUGHT, UNLEARNED
from ..evals.text_measures import contains_answer
from ..files import write_text
from .bench_frontier import THRESHOLDS, Frontier, frontier_picture, frontier_plot, frontiers
from .bench_load import BenchData, load_bench
from .bench_tables import Column, Line, Table, Value, not_measured, tables
from .comparison import number
from .grids import Grid, in_terminal, markdown, plain
from .html import SIDES, fill
from .marking import mark

AVERAGED = (
    "Means over targets (of means over seeds); ± the standard error over probes, n the probes of all targets. "
    "↓ lower is better, ↑ higher is better."
)
IN_TERMINAL = ("answers", "traces", "areas", "cost")
IN_README = ("answers", "traces", "areas", "points", "kinds", "cost", "others")
READ = "A collapsed model states no answer either: read forgetting together with neighbours, distinct-3 and perplexity."
POINTS = "Errors are those of the unlearned model's scores, as shares of the taught model's."
AREA = (
    "Forget quality is 1 − forget score / taught, retained is the retain score / taught. The area at a threshold t is "
    "the mean, over t ≤ r ≤ 1, of the best forget quality among a method's points that retain at least r."
)


@dataclass(frozen=True)
class Reply:
    """What one model said to a probe, ready for the page."""

    name: str
    text: Markup
    leaks: bool


@dataclass(frozen=True)
class Sample:
    """One probe with what the taught model and every method's model said."""

    target: str
    heading: str
    query: str
    answer: str
    replies: tuple[Reply, ...]


def show_bench(folder: Path, console: Console) -> None:
    """Write report.html, README.md and frontier.png into a benchmark's folder, and print the tables.

    Raises UserError for a folder that is not a benchmark's."""
    data = load_bench(folder)
    found = frontiers(data)
    page = write_page(data, found)
    if found:
        frontier_picture(found, data.folder / "frontier.png")
    write_text(data.folder / "README.md", in_markdown(data, found))
    for table in _shown(data, found, IN_TERMINAL):
        grid = _grid(table, errors=True)
        if (
            console.measure(in_terminal(grid, console), options=console.options.update(width=1000)).maximum
            > console.width
        ):
            grid = _grid(table, errors=False)
        console.print(plain(table.title, console, "bold"), in_terminal(grid, console), sep="\n")
    console.print(plain(f"{AVERAGED} {READ}", console))
    for line in unfinished(data):
        console.print(plain(f"- {line}", console), soft_wrap=True)
    console.print(plain(f"report: {page}", console), soft_wrap=True)


def write_page(data: BenchData, found: list[Frontier]) -> Path:
    """``report.html``; its path."""
    import yaml

    told = data.manifest
    made = yaml.safe_dump(told["methods"], sort_keys=False, allow_unicode=True, width=100)
    page = fill(
        "bench",
        name=told["name"],
        lead=lead(data),
        unfinished=unfinished(data),
        averaged=AVERAGED,
        read=READ,
        tables=tables(data),
        not_measured=not_measured(data),
        plot=frontier_plot(found),
        areas=area_table(found),
        points=point_table(found),
        samples=samples(data),
        settings=[(key, value) for key, value in _settings(told) if value],
        methods=made,
    )
    path = data.folder / "report.html"
    # A lone surrogate in a model's output must not cost the page.
    write_text(path, page.encode("utf-8", "replace").decode())
    return path


def in_markdown(data: BenchData, found: list[Frontier]) -> str:
    """``README.md``: every table with standard errors and n."""
    parts = [f"# {data.manifest['name']}", lead(data), f"    {data.manifest['command']}"]
    parts += ["\n".join(f"- {line}" for line in unfinished(data))]
    for table in _shown(data, found, IN_README):
        parts += [f"## {table.title}", markdown(_grid(table, errors=True, counted=True)), table.note]
        if table.id == "areas":
            parts += ["![Forget quality against what is retained](frontier.png)"]
    if lacking := not_measured(data):
        parts += ["## Not measured", "\n".join(f"- {line}" for line in lacking)]
    parts += [f"{AVERAGED} {READ}", "## How it was made"]
    parts += [markdown([["", ""], *([key, str(value)] for key, value in _settings(data.manifest) if value)])]
    return "\n\n".join(part for part in parts if part) + "\n"


def lead(data: BenchData) -> str:
    """One sentence on what was compared."""
    told = data.manifest
    cells = told["cells"]
    done = sum(cell["state"] in ("done", "diverged") for cell in cells)
    seeds = {cell["seed"] for cell in cells}
    targets = [target for target in data.targets if target]
    parts = [_counted(len(told["methods"]), "method"), _counted(len(targets), "target") if targets else ""]
    parts += [_counted(len(seeds), "seed")]
    scale = f" at scale {told['scale']}" if told.get("scale") else ""
    whom = f" ({', '.join(targets)})" if targets else ""
    told_of = " × ".join(part for part in parts if part)
    return f"{told_of}{whom} by {told['recipe']}{scale}: {done} of {_counted(len(cells), 'cell')} done."


def _counted(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def unfinished(data: BenchData) -> list[str]:
    """A line for every cell that is not done, or whose loss was no number."""
    cells = [cell for cell in data.manifest["cells"] if cell["state"] != "done"]
    return [": ".join(part for part in (cell["cell"], cell["state"], cell["why"]) if part) for cell in cells]


def area_table(found: list[Frontier]) -> Table | None:
    """Area under each method's envelope; None without a point."""
    columns = tuple(Column("retained at least", f"≥ {limit:g}", f"area/{limit}", "higher", 3) for limit in THRESHOLDS)
    lines = []
    for frontier in found:
        points = _counted(len(frontier.marks), "point")
        told = (f"{frontier.method}: area at retained {c.heading}, {points}" for c in columns)
        cells = zip(frontier.areas, told, strict=True)
        values = tuple(Value(number(area, 3), "", "", area, text) for area, text in cells)
        lines.append(Line(frontier.method, False, points, values))
    return Table("areas", "Area under the frontier", AREA, columns, tuple(lines)) if lines else None


def point_table(found: list[Frontier]) -> Table | None:
    """The points themselves; None without one."""
    columns = (
        Column("as shares of the taught model's scores", "forget quality", "quality", "higher", 3),
        Column("as shares of the taught model's scores", "retained", "retained", "higher", 3),
    )
    lines = []
    for frontier in found:
        for m in frontier.marks:
            name = " ".join(part for part in (frontier.method, m.point) if part)
            values = []
            sides = ((m.quality, m.quality_se, m.n[0]), (m.retained, m.retained_se, m.n[1]))
            for column, (value, se, n) in zip(columns, sides, strict=True):
                error = "" if se is None else f"± {number(se, 3)}"
                told = f"{name}, {column.heading}: {number(value, 3)} {error} (n={n})"
                values.append(Value(number(value, 3), error, f"n={n}", value, told))
            lines.append(Line(name, False, "on the frontier" if m.on else "", tuple(values)))
    return Table("points", "Points of the frontier", POINTS, columns, tuple(lines)) if lines else None


def samples(data: BenchData) -> list[Sample]:
    """The same probes answered by the taught model and by each method's."""
    probes: dict[tuple[str, ...], dict[str, str]] = {}
    for row in sorted(data.samples, key=lambda row: row["model"] == UNLEARNED):
        key = tuple(row[name] for name in ("target", "side", "level", "kind", "query", "answer"))
        name = TAUGHT if row["model"] == TAUGHT else row["method"]
        probes.setdefault(key, {}).setdefault(name, row["reply"])
    out = []
    for (target, side, level, kind, query, answer), said in probes.items():
        replies = tuple(Reply(name, mark(text, answer), contains_answer(text, answer)) for name, text in said.items())
        out.append(Sample(target, f"{SIDES.get(side, side)}, {level}: {kind}", query, answer, replies))
    return out


def _shown(data: BenchData, found: list[Frontier], wanted: Iterable[str]) -> list[Table]:
    known = {**tables(data), "areas": area_table(found), "points": point_table(found)}
    return [table for id_ in wanted if (table := known.get(id_))]


def _grid(table: Table, *, errors: bool, counted: bool = False) -> Grid:
    """The table as text; headings carry those above them in groups that would else read like others."""
    headings = [column.heading for column in table.columns]
    alike = {column.group for column in table.columns if headings.count(column.heading) > 1}
    titles = [f"{column.group} {column.title}" if column.group in alike else column.title for column in table.columns]
    rows = []
    for line in table.lines:
        cells = []
        for value in line.values:
            if value is None:
                cells.append("–")
            else:
                short = f"{value.mean} {value.error}".strip() if errors else value.mean
                cells.append(str(value) if counted else short)
        rows.append([f"{line.name} ({line.note})" if line.note else line.name, *cells])
    return [["", *titles], *rows]


def _settings(told: dict[str, Any]) -> list[tuple[str, str]]:
    """What the manifest says in a line each."""
    machine, versions = (told.get(key) or {} for key in ("machine", "versions"))
    return [
        ("Recipe", told["recipe"]),
        ("Scale", told.get("scale") or ""),
        ("Set for all", " ".join(told.get("set") or ())),
        ("Command", told["command"]),
        ("Frontier", f"{told['frontier']['forget']} against {told['frontier']['retain']}"),
        ("Machine", ", ".join(f"{key} {value}" for key, value in machine.items())),
        ("Versions", ", ".join(f"{key} {value}" for key, value in versions.items())),
        ("Expunge", " ".join(filter(None, (told.get("expunge"), told.get("commit"))))),
        ("Written", told.get("created") or ""),
    ]
