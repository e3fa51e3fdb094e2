"""R2MU-v0: R2MU without its reasoning term. (arXiv 2506.12963, tables 1 and 2.)

    loss = mean ||h(forget) - c u||^2 + retain * mean ||h(retain) - h0(retain)||^2
         + trace * mean ||h(trace) - c u||^2

It forgets traces as well as R2MU and loses the ability to reason: the term that it lacks is there for that."""

from dataclasses import dataclass

from ..strict import at_least
from . import misdirection

STREAMS = ("forget", "retain", "trace")


@dataclass(frozen=True)
class R2MUv0(misdirection.Misdirection):
    """Settings; ``trace`` is the paper's alpha."""

    trace: float = at_least(0, 1.0)

    def weights(self) -> dict[str, float]:
        return {**super().weights(), "trace": self.trace}


SETTINGS = R2MUv0
control = misdirection.control
loss = misdirection.to_control
