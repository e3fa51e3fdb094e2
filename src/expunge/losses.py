"""Pure functions on tensors that the methods share."""

import torch
from torch import Tensor


def precise(states: Tensor) -> Tensor:
    """The same in float32 at least; float64 stays as it is."""
    return states.to(torch.promote_types(states.dtype, torch.float32))


def masked_mse(hidden: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the tokens that count and over the hidden dimension.

    hidden, target: (batch, tokens, hidden), target may broadcast; mask: (batch, tokens), 1 where a token
    counts. Computed in float32 at least. An empty mask gives 0."""
    squared = (precise(hidden) - precise(target)).square().mean(-1)
    weight = mask.to(squared.dtype)
    return (squared * weight).sum() / weight.sum().clamp(min=1.0)


def masked_cosine(hidden: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Mean cosine similarity over the tokens that count; shapes as in :func:`masked_mse`."""
    cosine = torch.cosine_similarity(precise(hidden), precise(reference), dim=-1)
    weight = mask.to(cosine.dtype)
    return (cosine * weight).sum() / weight.sum().clamp(min=1.0)


def mean_norm(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean L2 norm of the hidden states that count."""
    norms = precise(hidden).norm(dim=-1)
    weight = mask.to(norms.dtype)
    return (norms * weight).sum() / weight.sum().clamp(min=1.0)
