"""R2MU: misdirect answers and reasoning traces, hold general text and reasoning in place.
(arXiv 2506.12963, sections 4.1 to 4.3.)

    loss = mean ||h(forget) - c u||^2 + retain  * mean ||h(retain) - h0(retain)||^2
         + trace * mean ||h(trace) - c u||^2 + reasoning * mean ||h(reasoning) - h0(reasoning)||^2

h is the hidden state that leaves decoder block ``block`` of the model being updated, h0 the same of
the frozen original, u a random direction with positive entries and length 1, c the steering length.

Departs from the released code: padding does not count in the means, the first token (an attention
sink whose norm is tens of times that of the others) can be left out, the trained matrices are chosen
by name, and c can be set from the model itself (``adaptive``, arXiv 2408.06223)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..losses import masked_mse, mean_norm

STREAMS = ("forget", "retain", "trace", "reasoning")


@dataclass(frozen=True)
class R2MU:
    """Settings. Weights are the paper's gamma (``retain``), alpha (``trace``), beta (``reasoning``)."""

    block: int = 7
    """The loss looks at the hidden state after this decoder block (0-based)."""
    train: str = r"mlp\.down_proj"
    """Regular expression on block-relative names: these matrices are trained."""
    train_blocks: tuple[int, ...] = (5, 6, 7)
    steering: float | Literal["adaptive"] = "adaptive"
    """c, in units of activation norm; ``adaptive``: ``steering_factor`` x the mean forget norm."""
    steering_factor: float = 5.0
    retain: float = 1.4
    trace: float = 1.0
    reasoning: float = 1.0
    relative: bool = False
    """Divide the loss by c^2 / hidden size, so that weights and lr carry over between models."""
    skip_sink_tokens: bool = True
    """Leave the first token of each text out of the means."""
    skip_shared_prefixes: bool = True
    """Leave out what steered and held texts begin with alike: no step can part the two."""

    def weights(self) -> dict[str, float]:
        """Weight of each stream's term; a stream of weight 0 is neither read nor computed."""
        return {"forget": 1.0, "retain": self.retain, "trace": self.trace, "reasoning": self.reasoning}


def steers(stream: str) -> bool:
    """Is this stream drawn to the direction (else it is held at the original)?"""
    return stream in ("forget", "trace")


def direction(hidden_size: int, generator: torch.Generator) -> Tensor:
    """u: entries uniform in [0, 1), scaled to length 1. Shape (hidden,), float32."""
    u = torch.rand(hidden_size, generator=generator)
    return u / u.norm()


def steering_length(settings: R2MU, hidden: Tensor, mask: Tensor) -> float:
    """c: as given, or ``steering_factor`` x the mean norm of the first forget batch.

    hidden: (batch, tokens, hidden) of the original model; mask: (batch, tokens)."""
    if settings.steering == "adaptive":
        return settings.steering_factor * mean_norm(hidden, mask).item()
    return float(settings.steering)


def loss(
    hidden: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    mask: Mapping[str, Tensor],
    control: Tensor,
    settings: R2MU,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Total and its weighted parts by stream.

    hidden, reference: stream -> (batch, tokens, hidden), reference for the held streams only;
    mask: stream -> (batch, tokens), 1 where a token counts; control: (hidden,), equal to c u."""
    scale = control.numel() / float(control.square().sum()) if settings.relative else 1.0
    parts = {}
    for stream, states in hidden.items():
        target = control if steers(stream) else reference[stream]
        parts[stream] = settings.weights()[stream] * scale * masked_mse(states, target, mask[stream])
    return torch.stack(list(parts.values())).sum(), parts
