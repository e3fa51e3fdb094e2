"""What the representation methods share: settings, the random direction, one masked loss per stream.

Every method of the family draws the hidden states of some streams ("steered") to a target and holds those
of others at the original; they differ in the target and in which streams they read. h is the hidden state
that leaves decoder block ``block`` of the model being updated, h0 the same of the original. The original is
the model that the stage begins with, frozen: what the stages before have left, if there are any.

Departs from the released code of RMU and R2MU: padding does not count in the means, the first token (an
attention sink whose norm is many times that of the others) can be left out, the trained matrices are
chosen by name, and c can be set from the model itself (``adaptive``, arXiv 2408.06223)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..losses import masked_mse, mean_norm
from ..strict import at_least, more_than

STEERED = ("forget", "trace")
Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Misdirection:
    """Settings of every method of the family; each method adds the weights of its streams."""

    block: int = 7
    """The loss looks at the hidden state after this decoder block (0-based)."""
    train: str = r"mlp\.down_proj"
    """Regular expression on block-relative names: these matrices are trained."""
    train_blocks: tuple[int, ...] = (5, 6, 7)
    legacy_param_index: int | None = None
    """Train the matrix at this place of a block's parameter list instead, as old scripts did (``--param_ids``).
    Place 6 is mlp.down_proj on Llama, but self_attn.o_proj on Qwen2 and mlp.gate_proj on Qwen3."""
    steering: float | Literal["adaptive"] = more_than(0, "adaptive")
    """c, in units of activation norm; ``adaptive``: ``steering_factor`` x the mean forget norm."""
    steering_factor: float = more_than(0, 5.0)
    retain: float = at_least(0, 1.4)
    relative: bool = False
    """Divide the loss by c^2 / hidden size, so that weights and lr carry over between models."""
    skip_sink_tokens: bool = True
    """Leave the first token of each text out of the means."""
    skip_shared_prefixes: bool = True
    """Leave out what steered and held texts begin with alike: no step can part the two."""
    count_padding: bool = False
    """Let padding enter the means, as the released code does."""

    def weights(self) -> dict[str, float]:
        """Weight of each stream's term; a stream of weight 0 is neither read nor computed."""
        return {"forget": 1.0, "retain": self.retain}


@dataclass(frozen=True)
class Seen:
    """What the original model gives for a batch: hidden (batch, tokens, hidden); mask (batch, tokens), 1 where
    a token counts; tokens (batch, tokens), 0 on padding, which may count as well."""

    hidden: Tensor
    mask: Tensor
    tokens: Tensor


def steers(stream: str) -> bool:
    """Is this stream drawn away (else it is held at the original)?"""
    return stream in STEERED


def direction(hidden_size: int, generator: torch.Generator) -> Tensor:
    """u: entries uniform in [0, 1), scaled to length 1. Shape (hidden,), float32."""
    u = torch.rand(hidden_size, generator=generator)
    return u / u.norm()


def steering_length(settings: Misdirection, seen: Seen) -> float:
    """c: as given, or ``steering_factor`` x the mean norm of the first forget batch."""
    if settings.steering == "adaptive":
        return settings.steering_factor * mean_norm(seen.hidden, seen.mask).item()
    return float(settings.steering)


def control(settings: Misdirection, seen: Mapping[str, Sequence[Seen]], generator: torch.Generator) -> Tensor:
    """c u: where steered streams are drawn; c is measured on the first forget batch. Shape (hidden,), float32."""
    first = seen["forget"][0]
    return steering_length(settings, first) * direction(first.hidden.shape[-1], generator).to(first.hidden.device)


def to_control(
    hidden: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    mask: Mapping[str, Tensor],
    control: Tensor,
    settings: Misdirection,
) -> tuple[Tensor, Parts]:
    """The loss of RMU and its kin: steered streams go to ``control``, the others stay at their reference."""
    targets = {stream: control if steers(stream) else reference[stream] for stream in hidden}
    return weigh(hidden, targets, mask, control, settings)


def weigh(
    hidden: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    mask: Mapping[str, Tensor],
    control: Tensor,
    settings: Misdirection,
) -> tuple[Tensor, Parts]:
    """Total and its weighted parts by stream: weight x mean ||h - target||^2.

    hidden: stream -> (batch, tokens, hidden); targets: the same or (hidden,); mask: (batch, tokens), 1 where
    a token counts; control: (hidden,), whose length sets the relative scale."""
    scale = control.numel() / control.double().square().sum().item() if settings.relative else 1.0
    weights = settings.weights()
    parts = {
        stream: weights[stream] * scale * masked_mse(states, targets[stream], mask[stream])
        for stream, states in hidden.items()
    }
    return torch.stack(list(parts.values())).sum(), parts
