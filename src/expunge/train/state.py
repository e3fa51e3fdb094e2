"""Interrupt and resume: the state of a training loop as one safetensors file.

Masters, moments and the number of steps done are all there is: batches are a function of seed and
step, so nothing else has to be remembered."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..files import writing
from .optimiser import MasterAdamW


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


def save_state(path: Path, optimiser: MasterAdamW, step: int) -> None:
    from safetensors.torch import save_file

    with writing(path) as temporary:
        save_file(optimiser.state(), temporary, metadata={"step": str(step)})


def load_state(path: Path, optimiser: MasterAdamW) -> int:
    """Put a saved state back and return its number of steps; 0 if there is none."""
    if not path.exists():
        return 0
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        optimiser.load_state({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        return int(file.metadata()["step"])
