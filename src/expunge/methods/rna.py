"""RNA, random noise augmentation: R2MU whose held texts are held at a noisy original. (arXiv 2501.19202.)

    loss = mean ||h(forget) - c u||^2 + retain * mean ||h(retain) - h0(retain) - d||^2 (+ trace, reasoning)

d is drawn anew for every step and token from a normal distribution with standard deviation ``noise``. A
model that has been steered stumbles over a forget word inside a harmless question; learning to give the
same states under noise makes it robust against that. ``noise: 0`` is R2MU; with ``trace: 0, reasoning: 0``
it is RMU with RNA, as in the paper."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..strict import at_least
from . import misdirection
from .r2mu import R2MU, STREAMS

__all__ = ["SETTINGS", "STREAMS", "control", "loss"]


@dataclass(frozen=True)
class RNA(R2MU):
    """Settings; ``noise`` is in units of activation, as the paper's square root of nu."""

    noise: float = at_least(0, 0.1)


SETTINGS = RNA
control = misdirection.control


def loss(
    hidden: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    mask: Mapping[str, Tensor],
    control: Tensor,
    settings: RNA,
    *,
    generator: torch.Generator,
) -> tuple[Tensor, misdirection.Parts]:
    """As R2MU's, with noise on the references. ``generator`` (on the CPU) belongs to the step."""
    noisy = {
        stream: states + settings.noise * torch.randn(states.shape, generator=generator).to(states)
        for stream, states in reference.items()
    }
    return misdirection.to_control(hidden, noisy, mask, control, settings)
