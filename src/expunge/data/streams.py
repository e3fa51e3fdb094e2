"""Token streams for the representation methods: texts as ids, cut, cycled and padded into batches."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..prefix_tree import Tree


@dataclass(frozen=True)
class Text:
    """A text and what stands before it; the context is read by the model but not counted in the loss."""

    text: str
    context: str = ""


@dataclass(frozen=True)
class Row:
    """Token ids of context and text; tokens from ``first`` on count in the loss."""

    ids: tuple[int, ...]
    first: int = 0


@dataclass(frozen=True)
class Batch:
    """ids, mask, counted: (batch, tokens) int64. mask is 1 on tokens and 0 on padding; counted is 1
    where a token enters the means of the loss."""

    ids: Tensor
    mask: Tensor
    counted: Tensor

    def to(self, device: Any) -> "Batch":
        return Batch(self.ids.to(device), self.mask.to(device), self.counted.to(device))


def pad(rows: Sequence[Row], pad_token: int, side: str = "right", *, count_padding: bool = False) -> Batch:
    """Rows of different length as one batch. ``count_padding``: padding enters the means, as in released code."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad_token, dtype=torch.long)
    mask, counted = torch.zeros_like(ids), torch.full_like(ids, int(count_padding))
    for index, row in enumerate(rows):
        begin = width - len(row.ids) if side == "left" else 0
        end = begin + len(row.ids)
        ids[index, begin:end] = torch.tensor(row.ids, dtype=torch.long)
        mask[index, begin:end] = 1
        counted[index, begin:end] = 0
        counted[index, begin + row.first : end] = 1
    return Batch(ids, mask, counted)


class Stream:
    """A named corpus of token rows that never ends: reshuffled by (seed, name, pass) on every pass.

    Batch k is a function of k alone, so a resumed run sees what it would have seen."""

    def __init__(
        self,
        name: str,
        rows: Sequence[Row],
        batch_size: int,
        pad_token: int,
        seed: int,
        *,
        count_padding: bool = False,
    ):
        self.rows = [row for row in rows if row.first < len(row.ids)]
        if not self.rows:
            raise UserError(
                f"stream {name!r} is empty: no token of its texts counts. Check its sources and unlearn.max_tokens."
            )
        self.name, self.batch_size, self.pad_token, self.seed = name, batch_size, pad_token, seed
        self.count_padding = count_padding
        self._pass: tuple[int, list[int]] = (-1, [])

    def batch(self, step: int) -> Batch:
        wanted = range(step * self.batch_size, (step + 1) * self.batch_size)
        return pad([self.rows[self._index(k)] for k in wanted], self.pad_token, count_padding=self.count_padding)

    def seen(self, batches: int) -> set[tuple[int, ...]]:
        """Token ids of the rows in the first so many batches."""
        wanted = min(batches * self.batch_size, len(self.rows))
        return {self.rows[self._index(k)].ids for k in range(wanted)}

    def _index(self, k: int) -> int:
        lap, place = divmod(k, len(self.rows))
        if self._pass[0] != lap:
            order = list(range(len(self.rows)))
            random.Random(f"{self.seed}/{self.name}/{lap}").shuffle(order)
            self._pass = (lap, order)
        return self._pass[1][place]


def tokenise(tokenizer: Any, texts: Sequence[Text], max_tokens: int) -> list[Row]:
    """Texts that carry their own special tokens, as ids cut at ``max_tokens``."""
    rows = []
    for text in texts:
        context = tokenizer(text.context, add_special_tokens=False)["input_ids"] if text.context else []
        ids = context + tokenizer(text.text, add_special_tokens=False)["input_ids"]
        rows.append(Row(tuple(ids[:max_tokens]), min(len(context), max_tokens)))
    return rows


def count_tokens(
    streams: Mapping[str, Sequence[Row]], steered: Sequence[str], *, skip_first: bool, skip_shared: bool
) -> dict[str, list[Row]]:
    """Decide which tokens count in the loss.

    Held streams count whole. Steered streams count their text without its context and, with
    ``skip_shared``, without what a held row begins with in the same way: in a causal model such tokens
    (system turn, instruction) have the very same hidden state in both, so steering them can only fight
    the terms that hold them. ``skip_first`` leaves out every row's first token, an attention sink."""
    held = Tree()
    for name, rows in streams.items():
        if name not in steered:
            for row in rows:
                held.add(row.ids, len(row.ids))

    def first(name: str, row: Row) -> int:
        begin = int(skip_first)
        if name in steered:
            begin = max(begin, row.first)
            if skip_shared:
                begin = max(begin, len(row.ids) - held.new_nodes(row.ids))
        return begin

    return {name: [replace(row, first=first(name, row)) for row in rows] for name, rows in streams.items()}
