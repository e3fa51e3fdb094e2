"""UNDIAL: distil from the model itself, with what it would have said made less likely. (arXiv 2402.10052.)

    loss = mean over the reply's tokens of cross-entropy(softmax(z0 - gamma e(y)), softmax(z))

z are the logits, z0 those before training, e(y) is 1 at the reply's own token and 0 elsewhere. It has a minimum, where
the odds of that token against every other are exp(-gamma) of what they were."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..strict import at_least
from .replies import Replies

READS = ("forget",)
REFERENCE: tuple[str, ...] = ()
ROWS = ("forget",)


@dataclass(frozen=True)
class UNDIAL:
    gamma: float = at_least(0, 10.0)
    """By how much the logit of a forget token is lowered; the authors try 3 to 30."""


SETTINGS = UNDIAL


def loss(now: Mapping[str, Replies], before: Mapping[str, Replies], settings: UNDIAL) -> Tensor:
    """One value an example (examples,)."""
    said, rows = now["forget"], before["forget"].rows
    # Log-probabilities are logits, up to a constant that the softmax does not see.
    lowered = rows.scatter_add(1, said.token[:, None], rows.new_full((len(rows), 1), -settings.gamma))
    return said.means(-(lowered.softmax(-1) * said.rows).sum(-1))
