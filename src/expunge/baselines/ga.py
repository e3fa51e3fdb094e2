"""GA: gradient ascent on what is to be forgotten. (arXiv 2310.10683; in TOFU, arXiv 2401.06121.)

    loss = mean over the reply's tokens of log p

It has no lower bound: nothing but the number of steps and the learning rate ends it.
Departs from TOFU's code: the mean is over each reply, then over replies, so that a long reply counts no more."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .replies import Replies

READS = ("forget",)
REFERENCE: tuple[str, ...] = ()
ROWS: tuple[str, ...] = ()


@dataclass(frozen=True)
class GA:
    """There is nothing to set."""


SETTINGS = GA


def loss(now: Mapping[str, Replies], before: Mapping[str, Replies], settings: GA) -> Tensor:
    """One value an example (examples,)."""
    return now["forget"].means()
