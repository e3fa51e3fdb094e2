"""Many token sequences as one tree: what they begin with in common is computed once.

Chat prompts share their system turn and their instruction, rollouts of a group share their prompt,
few-shot questions share their examples. A tree is laid out as one row of tokens; each token sees
its ancestors only and keeps the position it has in its own sequence, so hidden states, loss and
gradients equal those of the sequences computed apart, up to rounding."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .data.chat import Encoded


@dataclass
class Tree:
    """Token nodes in order of insertion; ``parent`` is -1 at a root."""

    tokens: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    # (node, next token) -> summed label weight
    labels: dict[tuple[int, int], float] = field(default_factory=dict)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def new_nodes(self, ids: Sequence[int]) -> int:
        """How many nodes the sequence would add."""
        node = -1
        for position, token in enumerate(ids):
            child = self._children.get((node, token))
            if child is None:
                return len(ids) - position
            node = child
        return 0

    def add(self, ids: Sequence[int], first_label: int, weight: float = 1.0) -> list[int]:
        """Insert a sequence; tokens from ``first_label`` on become labels. Returns its path of nodes."""
        node, path = -1, []
        for position, token in enumerate(ids):
            if position >= first_label and node >= 0:
                self.labels[node, token] = self.labels.get((node, token), 0.0) + weight
            child = self._children.get((node, token))
            if child is None:
                child = len(self.tokens)
                self._children[node, token] = child
                self.tokens.append(token)
                self.parent.append(node)
                self.depth.append(position)
            node = child
            path.append(node)
        return path

    def ancestors(self) -> np.ndarray:
        """Boolean (nodes, nodes): entry (i, j) says that i may attend to j."""
        seen = np.eye(len(self), dtype=bool)
        for node, parent in enumerate(self.parent):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen


@dataclass(frozen=True)
class TreeBatch:
    """Trees padded to one length, ready for a decoder.

    input_ids, position_ids: (trees, nodes); attention_mask: bool (trees, 1, nodes, nodes), True where
    a query may look; label_index: (labels, 2) of (tree, node); label_token, label_weight: (labels,)."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    label_index: torch.Tensor
    label_token: torch.Tensor
    label_weight: torch.Tensor

    def inputs(self) -> dict[str, torch.Tensor]:
        return {name: getattr(self, name) for name in ("input_ids", "position_ids", "attention_mask")}


def pack(examples: Sequence[Encoded], max_nodes: int) -> list[list[int]]:
    """Numbers of the examples that share a tree: a few trees of about equal size, none much larger than
    ``max_nodes``. Examples that begin alike land in the same tree."""
    order = sorted(range(len(examples)), key=lambda i: examples[i].ids)
    whole = Tree()
    for example in examples:
        whole.add(example.ids, len(example.prompt))
    even_share = len(whole) / max(1, round(len(whole) / max_nodes))
    tree, groups = Tree(), [list[int]()]
    for index in order:
        example = examples[index]
        if tree.tokens and len(tree) + tree.new_nodes(example.ids) / 2 > even_share:
            tree = Tree()
            groups.append([])
        tree.add(example.ids, len(example.prompt))
        groups[-1].append(index)
    return groups


def grow(examples: Sequence[Encoded], max_nodes: int, weights: Sequence[float] | None = None) -> list[Tree]:
    """The examples as trees: see :func:`pack`."""
    trees = []
    for members in pack(examples, max_nodes):
        trees.append(Tree())
        for index in members:
            example = examples[index]
            trees[-1].add(example.ids, len(example.prompt), weights[index] if weights else 1.0)
    return trees


def collate(trees: Sequence[Tree], pad_token: int) -> TreeBatch:
    """Trees as tensors; a padding node sees itself only."""
    nodes = max(len(tree) for tree in trees)
    ids = np.full((len(trees), nodes), pad_token, dtype=np.int64)
    positions = np.zeros((len(trees), nodes), dtype=np.int64)
    mask = np.repeat(np.eye(nodes, dtype=bool)[None], len(trees), axis=0)
    index, token, weight = [], [], []
    for row, tree in enumerate(trees):
        size = len(tree)
        ids[row, :size], positions[row, :size] = tree.tokens, tree.depth
        mask[row, :size, :size] = tree.ancestors()
        for (node, label), value in tree.labels.items():
            index.append((row, node))
            token.append(label)
            weight.append(value)
    return TreeBatch(
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        torch.from_numpy(mask)[:, None],
        torch.tensor(index, dtype=torch.long).reshape(-1, 2),
        torch.tensor(token, dtype=torch.long),
        torch.tensor(weight, dtype=torch.float32),
    )
