"""WGA: weighted gradient ascent. (arXiv 2502.19301, the G-effect.)

    loss = mean over the reply's tokens of w log p,    w = p ** beta, a constant for the gradient

A token that is forgotten weighs little, so that ascent does not run away on it. With beta 0 it is GA.
Departs from the paper: the mean is over each reply, then over replies."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..strict import at_least
from .replies import Replies

READS = ("forget",)
REFERENCE: tuple[str, ...] = ()
ROWS: tuple[str, ...] = ()


@dataclass(frozen=True)
class WGA:
    beta: float = at_least(0, 1.0)


SETTINGS = WGA


def loss(now: Mapping[str, Replies], before: Mapping[str, Replies], settings: WGA) -> Tensor:
    """One value an example (examples,)."""
    log_p = now["forget"].log_p
    return now["forget"].means((settings.beta * log_p.detach()).exp() * log_p)
