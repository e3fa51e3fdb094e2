"""Replies under a model: log-probabilities of their tokens, many replies at once.

They are laid out as prefix trees, so that a question that has two replies, and what questions begin with in common, is
computed once; logits are computed where a reply token is predicted and nowhere else. One forward pass a call."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..baselines.replies import Replies, join
from ..data.chat import Encoded
from ..prefix_tree import Tree, collate, pack

BATCH = 32  # replies read at once where no gradient is needed


def read(model: Any, replies: Sequence[Encoded], tree_tokens: int) -> Replies:
    """The replies in their order, with rows over the whole vocabulary, in float32 or better."""
    trees: list[Tree] = []
    places: dict[int, list[tuple[int, int]]] = {}  # number of a reply -> tree and node that each token follows
    for members in pack(replies, tree_tokens):
        tree = Tree()
        for i in members:
            path = tree.add(replies[i].ids, len(replies[i].ids))
            places[i] = [(len(trees), node) for node in path[len(replies[i].prompt) - 1 : -1]]
        trees.append(tree)
    device = model.device
    inputs = {name: value.to(device) for name, value in collate(trees, 0).inputs().items()}
    states = model.get_decoder()(**inputs, use_cache=False).last_hidden_state
    tree_of, node_of = torch.tensor([place for i in range(len(replies)) for place in places[i]], device=device).T
    logits = model.get_output_embeddings()(states[tree_of, node_of])
    rows = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    token = torch.tensor([token for reply in replies for token in reply.reply], device=device)
    lengths = torch.tensor([len(reply.reply) for reply in replies], device=device)
    return Replies(rows.gather(1, token[:, None])[:, 0], rows, token, lengths)


@torch.no_grad()
def remember(
    model: Any,
    replies: Collection[Encoded],
    tree_tokens: int,
    *,
    rows: bool,
    on_done: Callable[[int], None] = lambda count: None,
) -> dict[Encoded, Replies]:
    """Distinct replies under the model before it is trained, each read once, kept in main memory.

    ``rows``: keep these too, in float16: twice the size of the vocabulary in bytes for each token. ``on_done`` is
    called with the number of replies that have just been read."""
    order = sorted(set(replies), key=lambda reply: (reply.ids, len(reply.prompt)))
    out: dict[Encoded, Replies] = {}
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        for reply, found in zip(batch, read(model, batch, tree_tokens).split([1] * len(batch)), strict=True):
            kept = replace(found, rows=found.rows.half() if rows else found.rows[:, :0])
            out[reply] = Replies(*(value.cpu().clone() for value in vars(kept).values()))
        on_done(len(batch))
    return out


def recall(memory: Mapping[Encoded, Replies], replies: Sequence[Encoded], device: Any) -> Replies:
    """Remembered replies in this order, rows in float32."""
    found = join([memory[reply] for reply in replies])
    values = {name: value.to(device) for name, value in vars(found).items()}
    rows = values["rows"].float()
    # Rounding has moved the sum of the probabilities off 1 a little.
    return Replies(**{**values, "rows": rows.log_softmax(-1) if rows.shape[-1] else rows})
