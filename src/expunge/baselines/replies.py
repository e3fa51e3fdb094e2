"""What the losses of this folder look at: log-probabilities of replies, under the model that trains or under the one
that training began with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Replies:
    """Replies under one model, their tokens end to end; log-probabilities in nats.

    log_p: (tokens,), of each token given all before it; rows: (tokens, vocabulary), of all tokens that could stand
    there, (tokens, 0) where they were not kept; token: (tokens,); lengths: (replies,), at least 1 each."""

    log_p: Tensor
    rows: Tensor
    token: Tensor
    lengths: Tensor

    def sums(self, values: Tensor | None = None) -> Tensor:
        """Sum over the tokens of each reply (replies,): of ``values`` (tokens,), else of the log-probabilities."""
        values = self.log_p if values is None else values
        owner = torch.arange(len(self.lengths), device=values.device).repeat_interleave(self.lengths)
        return values.new_zeros(len(self.lengths)).index_add(0, owner, values)

    def means(self, values: Tensor | None = None) -> Tensor:
        """The same divided by the length of each reply."""
        return self.sums(values) / self.lengths

    def split(self, counts: Sequence[int]) -> "list[Replies]":
        """Consecutive groups of ``counts`` replies."""
        groups = self.lengths.split(list(counts))
        tokens = [int(group.sum()) for group in groups]
        columns = (self.log_p.split(tokens), self.rows.split(tokens), self.token.split(tokens), groups)
        return [Replies(*parts) for parts in zip(*columns, strict=True)]


def join(replies: Sequence[Replies]) -> Replies:
    """One after the other; all with rows or all without."""
    names = ("log_p", "rows", "token", "lengths")
    return Replies(*(torch.cat([getattr(part, name) for part in replies]) for name in names))
