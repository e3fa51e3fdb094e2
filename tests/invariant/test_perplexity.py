"""Perplexity against the library's own loss, and what it must not depend on."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import WITHOUT_SHORT_WINDOW, make_model

from expunge.data.chat import THINK, encode_prompt
from expunge.data.streams import Text
from expunge.evals.perplexity import perplexity, reply_perplexity, token_nll
from expunge.evals.suite import perplexities
from expunge.evals.task import Scored

SEQUENCES = [(5, 6, 7, 8, 9, 10), (11, 12), (5, 6, 7), tuple(range(20, 40)), (13,)]
TEXTS = ["What is the first poem of Ada Stone?", "Rain", "Ivo Marsh was born in York. So the answer is York."]


def loss_of_library(model, ids) -> float:
    """Mean over all tokens but the first."""
    with torch.no_grad():
        return model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()


@pytest.mark.parametrize("family", WITHOUT_SHORT_WINDOW)
def test_mean_token_nll_is_the_librarys_loss(family):
    model = make_model(family)
    found = token_nll(model, SEQUENCES, [1] * len(SEQUENCES))
    assert [len(nll) for nll in found] == [len(ids) - 1 for ids in SEQUENCES]
    for ids, nll in zip(SEQUENCES[:-1], found[:-1], strict=True):
        assert sum(nll) / len(nll) == pytest.approx(loss_of_library(model, ids), rel=1e-5)


@given(st.lists(st.lists(st.integers(0, 319), min_size=1, max_size=9), min_size=1, max_size=6), st.integers(1, 7))
@settings(max_examples=25)
def test_neighbours_in_a_batch_and_its_size_change_nothing(llama, sequences, batch_size):
    together = token_nll(llama, sequences, [1] * len(sequences), batch_size=batch_size)
    for ids, nll in zip(sequences, together, strict=True):
        assert nll == pytest.approx(token_nll(llama, [ids], [1])[0], rel=1e-5, abs=1e-6)


def test_counting_starts_where_it_is_told(llama):
    whole = token_nll(llama, [SEQUENCES[3]], [1])[0]
    assert token_nll(llama, [SEQUENCES[3]], [15])[0] == pytest.approx(whole[14:])
    assert token_nll(llama, [SEQUENCES[3]], [0])[0] == pytest.approx(whole)  # a first token has no probability
    assert token_nll(llama, [SEQUENCES[3]], [20]) == [[]]


def test_perplexity_weighs_tokens_alike_over_texts(llama, tokenizer):
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    total = sum(loss_of_library(llama, i) * (len(i) - 1) for i in ids)
    count = sum(len(i) - 1 for i in ids)
    assert perplexity(llama, ids, [1] * 3) == pytest.approx(math.exp(total / count), rel=1e-5)


def test_perplexity_of_held_out_texts_cuts_them_and_reports_progress(llama, tokenizer):
    done: list[int] = []
    texts = {"general": [Text(text) for text in TEXTS * 4]}
    found = perplexities(texts, 5, Scored(llama, llama, tokenizer), done.append)["perplexity/general"]["mean"]
    assert done == [8, 4]
    cut = [tokenizer(text)["input_ids"][:5] for text in TEXTS]
    total = sum(loss_of_library(llama, i) * (len(i) - 1) for i in cut)
    assert found == pytest.approx(math.exp(total / sum(len(i) - 1 for i in cut)), rel=1e-5)


def test_solutions_are_read_as_thoughts_about_their_questions_which_do_not_count(llama, tokenizer):
    text = Text("In York.</think>\n\nYork", "Where was Ivo Marsh born?")
    prompt = encode_prompt(tokenizer, text.context, THINK)
    reply = tokenizer(text.text, add_special_tokens=False)["input_ids"]
    found = perplexities({"reasoning": [text]}, 99, Scored(llama, llama, tokenizer), lambda count: None)
    assert found["perplexity/reasoning"]["mean"] == pytest.approx(reply_perplexity(llama, [prompt], [reply]))
    assert found["perplexity/reasoning"]["n"] == 1


def test_perplexity_of_replies_counts_reply_tokens_only(llama):
    prompts, replies = [(5, 6, 7), (8, 9)], [(10, 11), (12,)]
    total = 0.0
    for prompt, reply in zip(prompts, replies, strict=True):
        with torch.no_grad():
            log_p = llama(torch.tensor([prompt + reply])).logits[0].log_softmax(-1)
        total -= sum(log_p[len(prompt) - 1 + i, token].item() for i, token in enumerate(reply))
    assert reply_perplexity(llama, prompts, replies) == pytest.approx(math.exp(total / 3), rel=1e-5)
    assert math.isnan(reply_perplexity(llama, prompts, [(), ()]))
