"""IDK: learn to say that one does not know. (TOFU, arXiv 2401.06121.)

    loss = - mean over the refusal's tokens of log p

Departs from TOFU's code, which takes one mean over the tokens of refusals and retained answers together: here the mean
is over each reply, and the retain term (``retain: {term: gdr}``) stands beside it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .replies import Replies

READS = ("refusal",)
REFERENCE: tuple[str, ...] = ()
ROWS: tuple[str, ...] = ()


@dataclass(frozen=True)
class IDK:
    """There is nothing to set."""


SETTINGS = IDK


def loss(now: Mapping[str, Replies], before: Mapping[str, Replies], settings: IDK) -> Tensor:
    """One value an example (examples,)."""
    return -now["refusal"].means()
