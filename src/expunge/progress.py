"""Progress bars with the time left, and the one console that everything prints to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=False, highlight=False)


@contextmanager
def bar(title: str, total: float | None) -> Iterator[Callable[[float], None]]:
    """A bar for one stage; call the yielded function with the amount done since the last call.

    ``total`` None shows a moving bar and the time elapsed. Off a terminal one line is printed."""
    if not console.is_terminal:
        console.print(f"{title} …")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(title, total=total)
        yield lambda amount: progress.advance(task, amount)


def per_step(
    log: Callable[[dict[str, Any]], None], advance: Callable[[float], None]
) -> Callable[[dict[str, Any]], None]:
    """A callback for a training loop: log the row, move the bar to its step (a resumed run starts late)."""
    done = 0

    def on_step(row: dict[str, Any]) -> None:
        nonlocal done
        advance(row["step"] + 1 - done)
        done = row["step"] + 1
        log(row)

    return on_step
