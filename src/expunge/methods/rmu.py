"""RMU: misdirect forget texts, hold general text. (arXiv 2403.03218, section 4.)

    loss = mean ||h(forget) - c u||^2 + retain * mean ||h(retain) - h0(retain)||^2

u is a random direction with positive entries and length 1, c the steering length. Adaptive RMU (arXiv
2408.06223) is ``steering: adaptive``, which every method of the family knows."""

from dataclasses import dataclass

from . import misdirection

STREAMS = ("forget", "retain")


@dataclass(frozen=True)
class RMU(misdirection.Misdirection):
    """Settings; ``retain`` is the weight that RMU's authors call alpha."""


SETTINGS = RMU
control = misdirection.control
loss = misdirection.to_control
