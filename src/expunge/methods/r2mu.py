"""R2MU: misdirect answers and reasoning traces, hold general text and reasoning in place.
(arXiv 2506.12963, sections 4.1 to 4.3.)

    loss = mean ||h(forget) - c u||^2 + retain  * mean ||h(retain) - h0(retain)||^2
         + trace * mean ||h(trace) - c u||^2 + reasoning * mean ||h(reasoning) - h0(reasoning)||^2

h is the hidden state that leaves decoder block ``block`` of the model being updated, h0 the same of
the model that the stage begins with, u a random direction with positive entries and length 1, c the steering length."""

from dataclasses import dataclass

from ..strict import at_least
from . import misdirection

STREAMS = ("forget", "retain", "trace", "reasoning")


@dataclass(frozen=True)
class R2MU(misdirection.Misdirection):
    """Settings. Weights are the paper's gamma (``retain``), alpha (``trace``), beta (``reasoning``)."""

    trace: float = at_least(0, 1.0)
    reasoning: float = at_least(0, 1.0)

    def weights(self) -> dict[str, float]:
        return {**super().weights(), "trace": self.trace, "reasoning": self.reasoning}


SETTINGS = R2MU
control = misdirection.control
loss = misdirection.to_control
