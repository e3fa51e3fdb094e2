"""Interrupt and resume: the state of a training loop as one safetensors file.

Masters, moments and the number of steps done are all there is: batches and random numbers are functions of
seed and step, so nothing else has to be remembered. One process or several, the file is the same."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from ..files import writing
from .optimiser import MasterAdamW
from .processes import processes

MORE = "beside."


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C and SIGTERM only raise a flag, so that a step in progress is finished and saved.

    A second Ctrl-C interrupts at once."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield pressed.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def save_state(
    path: Path, optimiser: MasterAdamW, step: int, more: Mapping[str, Tensor] | None = None, note: str = ""
) -> None:
    """``more`` and ``note`` are what a loop has to remember beside. Of several processes the first writes."""
    from safetensors.torch import save_file

    tensors = optimiser.state() | {f"{MORE}{name}": value.contiguous() for name, value in (more or {}).items()}
    if processes().first:
        with writing(path) as temporary:
            save_file(tensors, temporary, metadata={"step": str(step), "note": note})


def load_state(path: Path | None, optimiser: MasterAdamW) -> tuple[int, dict[str, Tensor], str]:
    """Put a saved state back; its number of steps and what was saved beside. 0 steps if there is none."""
    if path is None or not path.exists():
        return 0, {}, ""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    more = {name.removeprefix(MORE): tensors.pop(name) for name in list(tensors) if name.startswith(MORE)}
    optimiser.load_state(tensors)
    return int(metadata["step"]), more, metadata["note"]
