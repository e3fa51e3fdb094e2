"""Log-likelihoods of continuations against a plain forward of each pair alone, and Min-K% by hand."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, make_model

from expunge.data.chat import Encoded
from expunge.evals import likelihood
from expunge.evals.likelihood import log_likelihoods, lowest, standardised, whole_text

sequences = st.lists(st.integers(3, 6), min_size=1, max_size=8).map(tuple)
exchanges = st.lists(st.builds(Encoded, sequences, sequences), min_size=1, max_size=7)
PAIRS = [
    Encoded((5, 6, 7, 8, 9, 10), (11, 12, 13)),
    Encoded((5, 6, 7, 8, 9, 10), (11, 12, 14, 15)),
    Encoded((5, 6, 7), (8, 9, 10, 11, 12)),
    Encoded((30,), (31,)),
    Encoded((40, 41), ()),
    Encoded((5, 6, 7, 8, 9, 10), (11, 12, 13)),
]


@pytest.fixture(scope="module")
def exact() -> Any:
    """A tiny Llama that is float64 throughout: the library's norm drops to float32 inside."""
    model = make_model()
    decoder = model.get_decoder()
    for owner, name in [(decoder, "norm")] + [
        (layer, name) for layer in decoder.layers for name in ("input_layernorm", "post_attention_layernorm")
    ]:
        old = getattr(owner, name)
        new = torch.nn.RMSNorm(old.weight.shape, eps=old.variance_epsilon, dtype=torch.float64)
        new.weight.data.copy_(old.weight)
        setattr(owner, name, new)
    return model.requires_grad_(False)


def rows_alone(model: Any, pair: Encoded) -> torch.Tensor:
    """Log-softmax (reply tokens, vocabulary) of one pair in a forward pass of its own."""
    logits = model(torch.tensor([pair.ids[:-1]])).logits[0, len(pair.prompt) - 1 :]
    return logits.log_softmax(-1)


def alone(model: Any, pair: Encoded) -> list[float]:
    if not pair.reply:
        return []
    return rows_alone(model, pair).gather(1, torch.tensor(pair.reply)[:, None])[:, 0].tolist()


def close(found: list[list[float]], wanted: list[list[float]], tolerance: float) -> bool:
    return [len(f) for f in found] == [len(w) for w in wanted] and all(
        f == pytest.approx(w, rel=tolerance, abs=tolerance) for f, w in zip(found, wanted, strict=True)
    )


@given(exchanges, st.sampled_from((1, 8, 20, 1000)))
@settings(max_examples=25)
def test_together_they_are_what_each_is_alone_in_float64(exact, pairs, tree_tokens):
    found = log_likelihoods(exact, pairs, tree_tokens=tree_tokens)
    assert close(found, [alone(exact, pair) for pair in pairs], 1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_with_and_without_a_sliding_window(family):
    model = make_model(family)
    found = log_likelihoods(model, PAIRS)
    assert close(found, [alone(model, pair) for pair in PAIRS], 1e-5)


@pytest.mark.parametrize("setting", ["LONGEST", "LOGIT_ROWS"])
def test_neither_long_sequences_nor_pieces_of_logits_change_anything(exact, monkeypatch, setting):
    wanted = [alone(exact, pair) for pair in PAIRS]
    for value in (2, 8):
        monkeypatch.setattr(likelihood, setting, value)
        assert close(log_likelihoods(exact, PAIRS), wanted, 1e-10)


def test_what_pairs_share_is_computed_once(llama):
    seen: list[int] = []
    hook = llama.get_decoder().register_forward_pre_hook(
        lambda module, args, given: seen.append(given["input_ids"].numel()), with_kwargs=True
    )
    prompt = tuple(range(10, 60))
    log_likelihoods(llama, [Encoded(prompt, (i, i + 1)) for i in range(100, 140, 2)])
    hook.remove()
    assert sum(seen) == 50 + 20  # the last of two tokens is asked for, not read


def test_standardised_against_the_vocabulary_by_hand(exact):
    found = standardised(exact, PAIRS)
    for pair, values in zip(PAIRS, found, strict=True):
        assert [v for v, _ in values] == pytest.approx(alone(exact, pair), abs=1e-10)
        for token, (value, distance), log_p in zip(
            pair.reply, values, rows_alone(exact, pair) if pair.reply else (), strict=True
        ):
            vocabulary = log_p.tolist()
            mean = sum(math.exp(x) * x for x in vocabulary)
            variance = sum(math.exp(x) * x * x for x in vocabulary) - mean**2
            assert value == pytest.approx(vocabulary[token])
            assert distance == pytest.approx((vocabulary[token] - mean) / math.sqrt(variance))


def test_a_certain_token_is_no_surprise():
    logits = torch.tensor([[1e4, 0.0, 0.0]])
    found = likelihood._against_vocabulary(logits, torch.tensor([0]), torch.tensor([0]))
    assert found.tolist() == [[0, 0]]


def test_progress_counts_every_pair_once(llama, monkeypatch):
    monkeypatch.setattr(likelihood, "LONGEST", 8)
    done: list[int] = []
    assert log_likelihoods(llama, PAIRS, tree_tokens=4, on_done=done.append)[4] == []
    assert sum(done) == len(PAIRS)
    assert log_likelihoods(llama, [], on_done=done.append) == []


def test_a_lone_token_without_a_reply_has_nothing_to_ask(llama):
    assert log_likelihoods(llama, [Encoded((5,), ())]) == [[]]


def test_a_first_token_has_no_probability(llama):
    with pytest.raises(ValueError, match="first token"):
        log_likelihoods(llama, [Encoded((), (5,))])


def test_a_whole_text_is_cut_at_the_context(tokenizer):
    model = make_model(max_position_embeddings=6)
    ids = tuple(tokenizer("What is the first poem of Ada Stone?")["input_ids"])
    assert whole_text(model, tokenizer, "What is the first poem of Ada Stone?") == Encoded(ids[:1], ids[1:6])


@pytest.mark.parametrize(
    ("values", "percent", "wanted"),
    [
        ([-1, -4, -2, -3], 50, -3.5),
        ([-1, -4, -2, -3], 100, -2.5),
        ([-1, -4, -2, -3], 49, -4),
        ([-1, -4], 10, -4),  # one at least
        (list(range(90)), 70, 31),  # 63 of them: 90 * 0.7 is 62.99… in floating point
    ],
)
def test_lowest_by_hand(values, percent, wanted):
    assert lowest(values, percent) == wanted


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=30), st.integers(1, 99))
@settings(max_examples=30)
def test_lowest_rises_with_its_share(values, percent):
    assert lowest(values, percent) <= lowest(values, percent + 1) + 1e-9
