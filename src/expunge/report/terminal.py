"""A run's verdict, goals and scores as tables in the terminal; made to fit 80 columns."""

from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .comparison import Cell, goal_limit, goal_value, groups, not_measured, verdict
from .load import RunData, load_run

ASCII = str.maketrans({"±": "+/-", "−": "-", "∞": "inf", "–": "-", "’": "'", "²": "2"})
Words = Callable[..., Text]
RESULTS = {"met": ("met", "green"), "missed": ("MISSED", "bold red")}  # else as it stands


def print_report(run: Path, console: Console) -> None:
    """Print the report of a run folder. Raises UserError for a folder that is not a finished run's."""
    data = load_run(run)

    def words(content: str, style: str = "") -> Text:
        """Text rather than markup, as names and notes may hold brackets; plain where the terminal is."""
        if console.options.ascii_only:
            content = content.translate(ASCII).encode("ascii", "replace").decode()
        return Text(content, style)

    console.print(words(data.name, "bold"))
    console.print(words(verdict(data)))
    console.print()
    if data.goals:
        console.print(_goals(data, words))
    console.print(_scores(data, words))
    if lines := not_measured(data):
        console.print(words("Not measured", "bold"))
        for line in lines:
            console.print(words(f"- {line}"))


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left")
    return table


def _goals(data: RunData, words: Words) -> Table:
    table = _table("Goal", "Value", "Limit", "Result")
    for goal in data.goals:
        shown, style = RESULTS.get(goal.result, (goal.result, "yellow"))
        table.add_row(words(goal.text), words(goal_value(goal)), words(goal_limit(goal)), words(shown, style))
    return table


def _scores(data: RunData, words: Words) -> Table:
    gold = ("Never knew",) if data.never_knew else ()
    table = _table("Measure", "Before", "After", "Change", *gold)

    def cell(content: Cell, style: str) -> Text:
        return words(str(content), style if content.measured else "dim")

    for group in groups(data):
        if table.row_count:
            table.add_section()
        table.add_row(words(group.heading, "bold"))
        for row in group.rows:
            style = "bold" if row.whole else ""
            label = words(row.label, style)
            if row.unit:
                label.append_text(words(f", {row.unit}", "dim"))
            table.add_row(
                label,
                cell(row.before, style),
                cell(row.after, style),
                words(str(row.change or ""), style),
                *(words(str(row.never_knew or ""), style) for _ in gold),
            )
    return table
