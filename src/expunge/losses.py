"""Pure functions on tensors that the methods share."""

import torch
from torch import Tensor


def masked_mse(hidden: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the tokens that count and over the hidden dimension.

    hidden, target: (batch, tokens, hidden), target may broadcast; mask: (batch, tokens), 1 where a token
    counts. Computed in float32. An empty mask gives 0."""
    squared = (hidden.float() - target.float()).square().mean(-1)
    weight = mask.to(squared.dtype)
    return (squared * weight).sum() / weight.sum().clamp(min=1.0)


def masked_cosine(hidden: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Mean cosine similarity over the tokens that count; shapes as in :func:`masked_mse`."""
    cosine = torch.cosine_similarity(hidden.float(), reference.float(), dim=-1)
    weight = mask.to(cosine.dtype)
    return (cosine * weight).sum() / weight.sum().clamp(min=1.0)


def mean_norm(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean L2 norm of the hidden states that count."""
    weight = mask.to(torch.float32)
    return (hidden.float().norm(dim=-1) * weight).sum() / weight.sum().clamp(min=1.0)
