"""The tree of token sequences by itself: nodes, ancestors, labels, layout."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expunge.data.chat import Encoded
from expunge.prefix_tree import Tree, collate, grow

sequences = st.lists(st.integers(0, 3), min_size=1, max_size=7).map(tuple)
exchanges = st.lists(st.builds(Encoded, sequences, sequences), min_size=1, max_size=8)


def example_tree() -> Tree:
    #   5 - 6 - 7        nodes 0 1 2
    #        \- 8        node  3
    #   9 - 6            nodes 4 5
    tree = Tree()
    for ids in ((5, 6, 7), (5, 6, 8), (9, 6)):
        tree.add(ids, 1)
    return tree


def test_common_beginnings_become_one_node():
    tree = example_tree()
    assert tree.tokens == [5, 6, 7, 8, 9, 6]
    assert tree.parent == [-1, 0, 1, 1, -1, 4]
    assert tree.depth == [0, 1, 2, 2, 0, 1]


def test_ancestors_by_hand():
    assert example_tree().ancestors().astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize(
    ("ids", "new"), [((5, 6, 7), 0), ((5, 6), 0), ((5, 6, 7, 1), 1), ((5, 7), 1), ((9, 6, 6), 1), ((6,), 1), ((), 0)]
)
def test_new_nodes_says_what_add_would_do(ids, new):
    tree = example_tree()
    before = len(tree)
    assert tree.new_nodes(ids) == new
    tree.add(ids, 0)
    assert len(tree) == before + new


@given(st.lists(sequences, min_size=1, max_size=10))
def test_a_path_spells_its_sequence_and_a_tree_has_one_node_for_each_distinct_prefix(rows):
    tree = Tree()
    for ids in rows:
        path = tree.add(ids, 0)
        assert [tree.tokens[node] for node in path] == list(ids)
        assert [tree.depth[node] for node in path] == list(range(len(ids)))
        assert [tree.parent[node] for node in path] == [-1, *path[:-1]]
    assert len(tree) == len({ids[:n] for ids in rows for n in range(1, len(ids) + 1)})


def test_labels_sit_on_the_node_before_and_add_up_over_sequences():
    tree = Tree()
    tree.add((1, 2, 3), 1, weight=0.5)  # labels 2 after node 0, 3 after node 1
    tree.add((1, 2, 4), 2, weight=2.0)  # label 4 after node 1
    tree.add((1, 2, 3), 2, weight=1.0)  # label 3 after node 1 again
    assert tree.labels == {(0, 2): 0.5, (1, 3): 1.5, (1, 4): 2.0}


def test_a_first_token_cannot_be_a_label():
    tree = Tree()
    tree.add((1, 2), 0)
    assert tree.labels == {(0, 2): 1.0}


@given(exchanges, st.integers(1, 40))
def test_growing_keeps_every_label_with_its_weight(examples, max_nodes):
    weights = [2.0 ** (i % 3) for i in range(len(examples))]
    trees = grow(examples, max_nodes, weights)
    wanted = sum(weight * len(example.reply) for weight, example in zip(weights, examples, strict=True))
    assert sum(sum(tree.labels.values()) for tree in trees) == wanted
    batch = collate(trees, 0)
    assert batch.label_weight.sum().item() == wanted


def test_growing_splits_into_trees_of_about_equal_size():
    examples = [Encoded((i,), tuple(range(100 * i, 100 * i + 9))) for i in range(1, 9)]  # 8 x 10 nodes of their own
    assert [len(tree) for tree in grow(examples, 1000)] == [80]
    assert [len(tree) for tree in grow(examples, 40)] == [40, 40]
    assert [len(tree) for tree in grow(examples, 20)] == [20, 20, 20, 20]
    assert [len(tree) for tree in grow(examples, 1)] == [10] * 8


def test_examples_that_begin_alike_land_in_the_same_tree():
    examples = [Encoded((p, 50, 51, 52, 53, 54), (r,)) for r in (1, 2, 3) for p in (7, 8)]
    trees = grow(examples, 9)
    assert sorted(tree.tokens[0] for tree in trees) == [7, 8]


def test_collate_pads_with_nodes_that_see_only_themselves():
    short = Tree()
    short.add((3, 4), 1)
    batch = collate([example_tree(), short], pad_token=99)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 6], [3, 4, 99, 99, 99, 99]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 2, 0, 1], [0, 1, 0, 0, 0, 0]]
    assert batch.attention_mask.dtype == torch.bool
    assert batch.attention_mask.shape == (2, 1, 6, 6)
    padding = batch.attention_mask[1, 0]
    assert padding[2:].int().tolist() == torch.eye(6, dtype=torch.int)[2:].tolist()
    assert padding[:2, 2:].sum() == 0
    assert batch.label_index.tolist()[-1] == [1, 0]
    assert batch.label_token.tolist()[-1] == 4
