"""DPO: prefer a refusal to the reply that is to be forgotten. (arXiv 2305.18290; in TOFU, 2401.06121.)

    loss = -log sigmoid(beta ((log p - log p0)(refusal) - (log p - log p0)(forget)))

p is the probability of a whole reply, p0 the same before training."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus

from ..strict import at_least
from .replies import Replies

READS = ("forget", "refusal")
REFERENCE = ("forget", "refusal")
ROWS: tuple[str, ...] = ()


@dataclass(frozen=True)
class DPO:
    beta: float = at_least(1e-6, 0.1)


SETTINGS = DPO


def loss(now: Mapping[str, Replies], before: Mapping[str, Replies], settings: DPO) -> Tensor:
    """One value an example (examples,)."""
    refusal, forget = (now[kind].sums() - before[kind].sums() for kind in ("refusal", "forget"))
    return softplus(-settings.beta * (refusal - forget))
