"""Replies read many at once are those read one by one; what is remembered comes back."""

import pytest
import torch
from tiny import VOCABULARY, make_model, relative

from expunge.baselines.retain import klr
from expunge.data.chat import Encoded
from expunge.train.reading import read, recall, remember

QUESTION = (1, 30, 31, 32, 33)
REPLIES = [
    Encoded(QUESTION, (40, 41, 2)),
    Encoded((1, 30, 50), (60, 2)),
    Encoded(QUESTION, (40, 42, 43, 2)),  # the same question, and the same first word
    Encoded((1, 70), (71,)),
    Encoded(QUESTION, (40, 41, 2)),  # the same exchange again
]


def plain(model, reply):
    """Log-probabilities over the vocabulary (tokens, vocabulary) where a reply's tokens stand."""
    logits = model(torch.tensor([reply.ids])).logits[0]
    return logits.log_softmax(-1)[len(reply.prompt) - 1 : -1]


@pytest.mark.parametrize("tree_tokens", [4, 512])
def test_many_at_once_are_one_by_one(llama, tree_tokens):
    found = read(llama, REPLIES, tree_tokens).split([1] * len(REPLIES))
    for reply, mine in zip(REPLIES, found, strict=True):
        rows = plain(llama, reply)
        assert mine.token.tolist() == list(reply.reply)
        assert mine.lengths.tolist() == [len(reply.reply)]
        assert torch.allclose(mine.rows, rows, atol=1e-9)
        assert torch.allclose(mine.log_p, rows[range(len(rows)), list(reply.reply)], atol=1e-9)


def test_the_gradient_is_that_of_one_by_one():
    ours, theirs = (make_model().requires_grad_(True) for _ in range(2))
    read(ours, REPLIES, 512).means().sum().backward()
    for reply in REPLIES:
        plain(theirs, reply)[range(len(reply.reply)), list(reply.reply)].mean().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert relative(mine.grad, other.grad) < 1e-6


def test_what_is_remembered_comes_back_in_any_order(llama):
    done = []
    known = remember(llama, REPLIES, 512, rows=True, on_done=done.append)
    assert sum(done) == len(known) == 4
    back = recall(known, REPLIES[::-1], "cpu")
    now = read(llama, REPLIES[::-1], 512)
    assert back.token.equal(now.token) and back.lengths.equal(now.lengths)
    assert torch.allclose(back.log_p, now.log_p, atol=1e-6)
    assert back.rows.dtype == torch.float32
    assert torch.allclose(back.rows.double(), now.rows, atol=2e-2)  # float16
    assert torch.allclose(back.rows.exp().sum(-1), torch.ones(len(back.rows)), atol=1e-5)
    assert recall(remember(llama, REPLIES, 512, rows=False), REPLIES, "cpu").rows.shape == (13, 0)


def test_at_the_start_nothing_has_moved(llama):
    """KL against what was remembered, float16 and all, and only where an answer stands."""
    known = remember(llama, REPLIES, 512, rows=True)
    moved = klr({"retain": read(llama, REPLIES, 512)}, {"retain": recall(known, REPLIES, "cpu")})
    assert (moved.abs() < 1e-5).all()
    other = make_model(seed=1)
    assert (klr({"retain": read(other, REPLIES, 512)}, {"retain": recall(known, REPLIES, "cpu")}) > 0.01).all()
    assert next(iter(known.values())).rows.shape[-1] == VOCABULARY
