"""SimNPO: NPO without a reference, by the mean over tokens. (arXiv 2410.07163.)

    loss = -(2 / beta) log sigmoid(-(beta / |y|) log p - gamma)

p is the probability of the whole reply y, |y| its tokens. The default of beta is what the authors took for TOFU's
forget10."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus

from ..strict import at_least
from .replies import Replies

READS = ("forget",)
REFERENCE: tuple[str, ...] = ()
ROWS: tuple[str, ...] = ()


@dataclass(frozen=True)
class SimNPO:
    beta: float = at_least(1e-6, 4.5)
    gamma: float = 0.0
    """Margin: more of it keeps pushing replies that are unlikely already."""


SETTINGS = SimNPO


def loss(now: Mapping[str, Replies], before: Mapping[str, Replies], settings: SimNPO) -> Tensor:
    """One value an example (examples,)."""
    return 2 / settings.beta * softplus(settings.beta * now["forget"].means() + settings.gamma)
