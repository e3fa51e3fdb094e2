"""Several processes on one model, as `accelerate launch` or torchrun start them; one where neither did.

The first process (rank 0) alone prints and writes files; training steps are shared by all."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

from ..errors import UserError
from ..progress import console

PATIENCE = timedelta(days=30)
"""How long the others wait while the first process writes or evaluates alone."""


@dataclass(frozen=True)
class Processes:
    """Who takes part. ``sharded``: every parameter is split over the processes (FSDP2), else each holds a copy;
    ``reshard``: shards are gathered once more on the way back instead of being kept (FSDP2's own setting)."""

    rank: int = 0
    count: int = 1
    sharded: bool = False
    reshard: bool = True

    @property
    def first(self) -> bool:
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum over all processes of each of these values."""
        if self.count == 1:
            return list(values)
        import torch

        sums = torch.tensor(values, dtype=torch.float64, device=_device())
        torch.distributed.all_reduce(sums)
        return sums.tolist()

    def any(self, here: bool) -> bool:
        """Does it hold in any process?"""
        return self.total([here])[0] > 0

    def wait(self) -> None:
        """Until all have come this far, however long one of them works alone."""
        if self.count > 1:
            import torch

            torch.distributed.barrier(group=_patient_group())

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Inside, the first process goes before the others, so that they find what it has made."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


def processes() -> Processes:
    """Those that share the work in hand: all that a launcher has started, or one within :func:`alone`.

    Raises UserError for a launcher's setting that is not known here."""
    return Processes() if _working_alone.get() else joined()


def alone(work: Callable[[], None]) -> None:
    """The first process does it as if there were no others; they wait for the end."""
    if joined().first:
        token = _working_alone.set(True)
        try:
            work()
        finally:
            _working_alone.reset(token)
    joined().wait()


_working_alone: ContextVar[bool] = ContextVar("working alone", default=False)


@cache
def joined() -> Processes:
    """Join the others where a launcher has started several processes; in all but the first, print nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    reshard = _sharding()
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    _patient_group()
    console.quiet = state.process_index > 0
    return Processes(state.process_index, state.num_processes, reshard is not None, bool(reshard))


def _sharding() -> bool | None:
    """Accelerate's choice: None for a copy of the model in each process, else whether to gather shards twice."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise UserError(f"accelerate is set to DeepSpeed; {_EXPECTED}")
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    from accelerate.utils import FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise UserError(f"accelerate is set to FSDP version {plugin.fsdp_version}; {_EXPECTED}")
    if os.environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true":
        raise UserError("accelerate is set to keep parameters off the GPU (fsdp_offload_params); set it to false.")
    return bool(plugin.reshard_after_forward)


_EXPECTED = "expected plain data parallelism or FSDP 2: accelerate launch --use_fsdp --fsdp_version 2 …"


def _device() -> Any:
    from accelerate import PartialState

    return PartialState().device


@cache
def _patient_group() -> Any:
    """A group of its own for waiting: that of the training steps should notice soon when a process hangs."""
    import torch

    return torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
