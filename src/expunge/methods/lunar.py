"""LUNAR: redirect forget texts to where the model does not know. (arXiv 2502.07218, section 4.)

    loss = mean ||h(forget) - h0(forget) - r||^2 + retain * mean ||h(retain) - h0(retain)||^2
         (+ trace and reasoning, as in R2MU)
    r    = factor * (mean h0(unknown) - mean h0(forget))

The means in r are taken at the last token of each text of the two streams, where an answer begins.
``unknown`` holds texts that the model cannot answer, such as the same questions about invented people. The
replies stay language: the model answers as it would about somebody it has never heard of.

Departs from the paper: any matrices by name, three blocks by default; the paper trains the down-projection
of one block, in closed form or by gradient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..losses import precise
from ..strict import more_than
from . import misdirection
from .misdirection import Parts, Seen
from .r2mu import R2MU

STREAMS = ("forget", "retain", "trace", "reasoning", "unknown")
REFERENCE = ("forget", "retain", "trace", "reasoning")
CONTROL = {"forget": 8, "unknown": 8}


@dataclass(frozen=True)
class LUNAR(R2MU):
    """Settings; c is not used: the length of r follows from the model and ``factor``."""

    factor: float = more_than(0, 2.0)


SETTINGS = LUNAR


def control(settings: LUNAR, seen: Mapping[str, Sequence[Seen]], generator: torch.Generator) -> Tensor:
    """r. Shape (hidden,), float32 at least."""
    return settings.factor * (mean_last(seen["unknown"]) - mean_last(seen["forget"]))


def mean_last(batches: Sequence[Seen]) -> Tensor:
    """Mean over all texts of the hidden state of the last token that counts, never of padding.

    Shape (hidden,), float32 at least."""
    found = []
    for seen in batches:
        places = torch.arange(1, seen.mask.shape[1] + 1, device=seen.mask.device)
        last = (seen.mask * seen.tokens * places).argmax(1)
        found.append(precise(seen.hidden[torch.arange(len(last), device=last.device), last]))
    return torch.cat(found).mean(0)


def loss(
    hidden: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    mask: Mapping[str, Tensor],
    control: Tensor,
    settings: LUNAR,
) -> tuple[Tensor, Parts]:
    """Steered streams go to their own original plus r; reference holds every stream."""
    targets = {s: reference[s] + control if misdirection.steers(s) else reference[s] for s in hidden}
    return misdirection.weigh(hidden, targets, mask, control, settings)
