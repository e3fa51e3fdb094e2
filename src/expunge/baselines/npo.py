"""NPO: negative preference optimization. (arXiv 2404.05868.)

    loss = -(2 / beta) log sigmoid(-beta (log p - log p0)) = (2 / beta) softplus(beta (log p - log p0))

p is the probability of the whole reply, p0 the same before training. As beta goes to 0 its gradient becomes that of
log p (gradient ascent); for a reply that has become unlikely it fades."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus

from ..strict import at_least
from .replies import Replies

READS = ("forget",)
REFERENCE = ("forget",)
ROWS: tuple[str, ...] = ()


@dataclass(frozen=True)
class NPO:
    beta: float = at_least(1e-6, 0.1)
    """How soon a reply that has become less likely is left alone."""


SETTINGS = NPO


def loss(now: Mapping[str, Replies], before: Mapping[str, Replies], settings: NPO) -> Tensor:
    """One value an example (examples,)."""
    log_ratio = now["forget"].sums() - before["forget"].sums()
    return 2 / settings.beta * softplus(settings.beta * log_ratio)
