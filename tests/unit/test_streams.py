"""Batches of token rows: padding, cycling, and which tokens count."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expunge.data.streams import Row, Stream, Text, count_tokens, pad, tokenise
from expunge.errors import UserError

ROWS = [Row((i, i, i), 0) for i in range(1, 8)]


def lap(stream: Stream, number: int) -> list[int]:
    """First tokens of one pass over seven rows in batches of one."""
    return [stream.batch(step).ids[0, 0].item() for step in range(7 * number, 7 * number + 7)]


def test_pad_right_and_left():
    rows = [Row((5, 6, 7), 1), Row((8,), 0)]
    right, left = pad(rows, 9), pad(rows, 9, "left")
    assert right.ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert right.mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert right.counted.tolist() == [[0, 1, 1], [1, 0, 0]]
    assert left.ids.tolist() == [[5, 6, 7], [9, 9, 8]]
    assert left.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert left.counted.tolist() == [[0, 1, 1], [0, 0, 1]]
    assert right.ids.dtype == right.mask.dtype == right.counted.dtype == torch.long


def test_padding_counts_only_if_asked_for_and_a_context_never_does():
    found = pad([Row((5, 6, 7), 1), Row((8,), 0)], 9, count_padding=True)
    assert found.counted.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert found.mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    stream = Stream("forget", [Row((5, 6, 7), 1), Row((8,), 0)], 2, 9, seed=0, count_padding=True)
    assert sorted(stream.batch(0).counted.tolist()) == [[0, 1, 1], [1, 1, 1]]


def test_a_text_that_holds_the_padding_token_is_still_read_whole():
    batch = pad([Row((9, 9, 4), 0), Row((9,), 0)], 9)
    assert batch.mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_pass_sees_every_row_once_and_the_next_pass_in_another_order():
    stream = Stream("forget", ROWS, 1, 0, seed=0)
    passes = [lap(stream, number) for number in range(4)]
    assert all(sorted(seen) == [1, 2, 3, 4, 5, 6, 7] for seen in passes)
    assert len({tuple(seen) for seen in passes}) > 1


def test_a_batch_may_reach_into_the_next_pass_and_may_be_larger_than_the_stream():
    one_by_one, wide = Stream("forget", ROWS, 1, 0, seed=0), Stream("forget", ROWS, 10, 0, seed=0)
    expected = [one_by_one.batch(step).ids[0, 0].item() for step in range(20)]
    assert wide.batch(0).ids[:, 0].tolist() == expected[:10]
    assert wide.batch(1).ids[:, 0].tolist() == expected[10:]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 5))
def test_batch_k_depends_on_k_alone(history, size):
    used = Stream("trace", ROWS, size, 0, seed=5)
    for step in history:
        used.batch(step)
    fresh = Stream("trace", ROWS, size, 0, seed=5)
    assert torch.equal(used.batch(history[0]).ids, fresh.batch(history[0]).ids)


@pytest.mark.parametrize(("size", "batches"), [(1, 0), (1, 3), (2, 3), (3, 3), (10, 1)])
def test_what_the_first_batches_see_is_known_beforehand(size, batches):
    stream = Stream("trace", ROWS, size, 0, seed=5)
    wanted = {tuple(ids) for k in range(batches) for ids in stream.batch(k).ids.tolist()}
    assert Stream("trace", ROWS, size, 0, seed=5).seen(batches) == wanted
    assert len(wanted) == min(size * batches, 7)


def test_order_follows_seed_and_name():
    orders = {tuple(lap(Stream(name, ROWS, 1, 0, seed), 0)) for name in "abc" for seed in (0, 1)}
    assert len(orders) > 3
    assert lap(Stream("a", ROWS, 1, 0, 0), 2) == lap(Stream("a", ROWS, 1, 0, 0), 2)


@pytest.mark.parametrize("rows", [[], [Row((1, 2), 2)], [Row((), 0)]])
def test_a_stream_without_a_counted_token_is_refused_by_name(rows):
    with pytest.raises(UserError, match="'reasoning' is empty"):
        Stream("reasoning", rows, 2, 0, 0)


def test_rows_without_a_counted_token_are_left_out():
    stream = Stream("forget", [Row((1, 2), 2), Row((3, 4), 1)], 1, 0, 0)
    assert [stream.batch(step).ids.tolist() for step in range(3)] == [[[3, 4]]] * 3


def test_tokenise_puts_the_context_first_and_cuts(tokenizer):
    text = Text("Ada Stone wrote the novel.", context="<|im_start|>user\n")
    context = tokenizer(text.context, add_special_tokens=False)["input_ids"]
    whole = context + tokenizer(text.text, add_special_tokens=False)["input_ids"]
    assert tokenise(tokenizer, [text], 100) == [Row(tuple(whole), len(context))]
    assert tokenise(tokenizer, [text], len(context) + 2) == [Row(tuple(whole[: len(context) + 2]), len(context))]
    assert tokenise(tokenizer, [text], 2) == [Row(tuple(whole[:2]), 2)]
    assert tokenise(tokenizer, [Text("Rain")], 100)[0].first == 0


STREAMS = {
    "forget": [Row((1, 2, 7, 8)), Row((1, 2, 3, 4)), Row((9, 9)), Row((1, 2, 7, 8), 3)],
    "retain": [Row((1, 2, 3, 4, 5), 3), Row((6, 6))],
}


@pytest.mark.parametrize(
    ("skip_first", "skip_shared", "forget", "retain"),
    [
        (False, False, [0, 0, 0, 3], [0, 0]),  # only the context of a steered text is left out
        (True, False, [1, 1, 1, 3], [1, 1]),
        (False, True, [2, 4, 0, 3], [0, 0]),  # (1, 2) and the whole of (1, 2, 3, 4) are in a held row
        (True, True, [2, 4, 1, 3], [1, 1]),
    ],
)
def test_count_tokens_by_hand(skip_first, skip_shared, forget, retain):
    counted = count_tokens(STREAMS, ["forget"], skip_first=skip_first, skip_shared=skip_shared)
    assert [row.first for row in counted["forget"]] == forget
    assert [row.first for row in counted["retain"]] == retain
    assert [row.ids for row in counted["forget"]] == [row.ids for row in STREAMS["forget"]]


def test_steered_streams_do_not_hide_each_others_tokens():
    streams = {"forget": [Row((1, 2, 3))], "trace": [Row((1, 2, 3))]}
    counted = count_tokens(streams, ["forget", "trace"], skip_first=False, skip_shared=True)
    assert [rows[0].first for rows in counted.values()] == [0, 0]
