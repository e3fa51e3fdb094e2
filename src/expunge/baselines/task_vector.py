"""Task vector: learn what is to be forgotten better still, then walk the other way. (arXiv 2212.04089.)

loss = - mean over the reply's tokens of log p,    then    weights = start - scale (trained - start)"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..strict import at_least
from .replies import Replies

READS = ("forget",)
REFERENCE: tuple[str, ...] = ()
ROWS: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskVector:
    scale: float = at_least(0, 1.0)
    """How far to walk, in lengths of what training has changed."""


SETTINGS = TaskVector


def loss(now: Mapping[str, Replies], before: Mapping[str, Replies], settings: TaskVector) -> Tensor:
    """One value an example (examples,)."""
    return -now["forget"].means()


def finish(start: Tensor, trained: Tensor, settings: TaskVector) -> Tensor:
    """A matrix after unlearning, from before and after training; computed in float32, given in its own dtype."""
    change = trained.float() - start.float()
    return (start.float() - settings.scale * change).to(trained.dtype)
