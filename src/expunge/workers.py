"""Commands in processes of their own, several at a time, one a device; an interrupt is passed on and everything waits.

A process of its own gives each command its own peak of memory, and takes no other with it when it dies. Those of one
group share something that the first of them makes, so the others wait until one has made it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .train.state import interruptible

LOOK = 0.1  # seconds between two looks at the processes
FAILED = "error: "  # what the last line of a failed command's log begins with


@dataclass(frozen=True)
class Job:
    """A command; ``log`` takes what it says on standard error, and on standard output if others run beside it."""

    name: str
    group: str
    command: tuple[str, ...]
    log: Path
    after: frozenset[str] = frozenset()
    """Names of jobs of the same list that it takes something over from; it waits until they have ended."""


def work_off(
    jobs: Sequence[Job],
    made: set[str],
    processes: int,
    on_start: Callable[[Job], None],
    on_end: Callable[[Job, str], None],
) -> None:
    """Carry out all jobs; ``on_end`` is told why one failed, or "". ``made``: groups whose common part is there.

    Raises KeyboardInterrupt after an interrupt, when the processes have saved their state and left."""
    waiting, running = list(jobs), dict[int, tuple[Job, subprocess.Popen[bytes]]]()
    given = devices()
    with interruptible() as interrupted:
        try:
            while (waiting or running) and not interrupted():
                for place in sorted({*range(processes)} - running.keys()):
                    job = next_job(waiting, [job for job, _ in running.values()], made)
                    if job:
                        waiting.remove(job)
                        on_start(job)
                        running[place] = job, _start(job, place, processes, given)
                time.sleep(LOOK)
                for place, (job, process) in list(running.items()):
                    if process.poll() is not None:
                        del running[place]
                        why = _conclude(job, process.returncode)
                        if not why:
                            made.add(job.group)
                        on_end(job, why)
            if interrupted():
                for _, process in running.values():
                    process.send_signal(signal.SIGINT)
                for _, process in running.values():
                    process.wait()
                raise KeyboardInterrupt
        finally:  # an error here, or a second interrupt
            for _, process in running.values():
                process.kill()
                process.wait()


def next_job(waiting: Sequence[Job], running: Sequence[Job], made: set[str]) -> Job | None:
    """The first job that need not wait for another, nor for what its group is making; None if all must."""
    busy, open_ = {job.group for job in running}, {job.name for job in (*waiting, *running)}
    ready = (job for job in waiting if not job.after & open_)
    return next((job for job in ready if job.group in made or job.group not in busy), None)


def devices() -> list[str]:
    """Numbers of the GPUs, as CUDA_VISIBLE_DEVICES names them; empty without one."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return named[: torch.cuda.device_count()] if named != [""] else [str(i) for i in range(torch.cuda.device_count())]


def environment(place: int, processes: int, given: Sequence[str]) -> dict[str, str]:
    """Of the process at one place: a device of its own, or its share of the processor."""
    found = dict(os.environ)
    if given:
        found["CUDA_VISIBLE_DEVICES"] = given[place % len(given)]
    elif processes > 1:
        found.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    return found


def _start(job: Job, place: int, processes: int, given: Sequence[str]) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("wb") as log:
        # In a session of its own it does not hear Ctrl-C twice.
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log if processes > 1 else None,
            stderr=log,
            env=environment(place, processes, given),
            start_new_session=True,
        )


def _conclude(job: Job, code: int) -> str:
    """Why the command failed, also as the last line of its log; "" if it did not."""
    if code == 0:
        return ""
    why = f"killed by signal {-code}{' (out of memory?)' if code == -signal.SIGKILL else ''}"
    if code > 0:
        why = last_line(job.log).removeprefix(FAILED) or f"exit code {code}"
    if last_line(job.log) != FAILED + why:
        with job.log.open("a", encoding="utf-8") as log:
            log.write(f"\n{FAILED}{why}\n")
    return why


def why_failed(log: Path) -> str:
    """What :func:`work_off` wrote of a failed command; "" if it did not fail."""
    line = last_line(log)
    return line.removeprefix(FAILED) if line.startswith(FAILED) else ""


def last_line(log: Path) -> str:
    """The last line that is not blank, "" if there is none."""
    if not log.exists():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
