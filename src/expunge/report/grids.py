"""Tables as lists of lists of text, the headings first: in Markdown and in the terminal."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .terminal import ASCII

Grid = list[list[str]]


def markdown(grid: Grid) -> str:
    """The first column to the left, the others to the right."""
    head, *rows = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in grid]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def in_terminal(grid: Grid, console: Console, bold: str = "") -> Table:
    """Headings broken into words; rows whose name ends in ``bold`` stand out."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    for i, heading in enumerate(grid[0]):
        table.add_column(plain(heading.replace(" ", "\n"), console), justify="right" if i else "left", overflow="fold")
    for row in grid[1:]:
        style = "bold" if bold and row[0].endswith(bold) else ""
        table.add_row(*(plain(cell, console, style) for cell in row))
    return table


def plain(content: str, console: Console, style: str = "") -> Text:
    """Text rather than markup, as settings hold brackets; plain where the terminal is."""
    if console.options.ascii_only:
        content = content.translate(ASCII).encode("ascii", "replace").decode()
    return Text(content, style)
