"""Rollouts: greedy ones are the model's own, sampled ones are distributed as the model says."""

import pytest
import torch
from tiny import FAMILIES, WITHOUT_SHORT_WINDOW, make_model

from expunge.evals.generate import generate
from expunge.rl.rollout import draw, sample

PROMPTS = [(5, 6, 7, 8), (5, 6, 9), (30, 31, 32, 33, 34, 35, 36), (40,)]


def test_a_draw_is_the_inverse_of_the_distribution_function():
    p = torch.tensor([0.1, 0.0, 0.6, 0.3])
    points = torch.tensor([0.0, 0.05, 0.0999, 0.1001, 0.5, 0.6999, 0.7001, 0.9999])
    assert draw(p.log().expand(8, 4), points).tolist() == [0, 0, 0, 2, 2, 2, 3, 3]


@pytest.mark.parametrize("size", [3, 256, 257, 1000])
def test_a_draw_has_the_right_frequencies_at_any_size_of_the_vocabulary(size):
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(size, generator=generator)
    n = 20_000
    points = (torch.arange(n, dtype=torch.float64) + 0.5) / n  # evenly spaced: the counts are n p to within one
    counts = torch.cat([draw(logits.expand(2000, size), part) for part in points.split(2000)]).bincount(minlength=size)
    assert (counts - n * logits.double().softmax(0)).abs().max() <= 1.01


def test_tokens_without_probability_are_never_drawn():
    logits = torch.full((3, 600), -torch.inf)
    logits[:, [0, 300, 599]] = torch.tensor([0.0, 1.0, 2.0])
    found = draw(logits, torch.tensor([0.0, 0.5, 1 - 1e-16]))
    assert set(found.tolist()) <= {0, 300, 599}


@pytest.mark.parametrize("family", WITHOUT_SHORT_WINDOW)
def test_greedy_replies_are_those_of_generation_one_by_one(family, tokenizer):
    model = make_model(family)
    found = sample(model, tokenizer, PROMPTS, 2, max_new_tokens=9, temperature=0)
    for prompt, group in zip(PROMPTS, found, strict=True):
        [own] = generate(model, tokenizer, [prompt], max_new_tokens=9)
        for reply in group:
            assert reply.ids[: len(own.ids)] == own.ids
            assert reply.closed == own.closed


@pytest.mark.parametrize("family", ["mistral-sliding", "gemma3_text"])
def test_prompts_that_are_short_may_be_many(family, tokenizer):
    """Together they are longer than the window, which none of them reaches."""
    prompts = [(5, 30 + i, *range(40, 49)) for i in range(8)]
    model = make_model(family)
    model.config.sliding_window = 64
    many = sample(model, tokenizer, prompts, 2, max_new_tokens=3, temperature=0)
    alone = [sample(model, tokenizer, [prompt], 2, max_new_tokens=3, temperature=0)[0] for prompt in prompts]
    assert [[reply.ids for reply in group] for group in many] == [[reply.ids for reply in group] for group in alone]


def test_log_probabilities_are_the_models_own(llama, tokenizer):
    for prompt, group in zip(PROMPTS, sample(llama, tokenizer, PROMPTS, 3, max_new_tokens=7, seed=4), strict=True):
        for reply in group:
            logits = llama(torch.tensor([[*prompt, *reply.ids]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            own = logits.gather(1, torch.tensor(reply.ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(reply.logprobs, dtype=own.dtype), own, rtol=1e-5, atol=1e-5)
            entropy = -(logits.exp() * logits).sum(-1)
            torch.testing.assert_close(torch.tensor(reply.entropies, dtype=own.dtype), entropy, rtol=1e-5, atol=1e-5)


def test_a_finished_reply_ends_with_the_end_token_and_an_unfinished_one_is_as_long_as_allowed(llama, tokenizer):
    replies = [r for group in sample(llama, tokenizer, PROMPTS, 40, max_new_tokens=30, seed=2) for r in group]
    assert {r.closed for r in replies} == {True, False}
    for reply in replies:
        assert (reply.ids[-1] == tokenizer.eos_token_id) == reply.closed
        assert tokenizer.eos_token_id not in reply.ids[:-1]
        assert reply.closed or len(reply.ids) == 30
        assert len(reply.ids) == len(reply.logprobs) == len(reply.entropies)


def test_a_reply_depends_on_its_own_prompt_and_numbers_only(llama, tokenizer):
    """Other replies that end early, and their dropping, change nothing."""
    whole = sample(llama, tokenizer, PROMPTS, 6, max_new_tokens=30, seed=9)
    again = sample(llama, tokenizer, PROMPTS, 6, max_new_tokens=30, seed=9)
    assert whole == again
    assert sample(llama, tokenizer, PROMPTS, 6, max_new_tokens=30, seed=10) != whole


def test_progress_counts_every_reply_once(llama, tokenizer):
    done = []
    sample(llama, tokenizer, PROMPTS, 5, max_new_tokens=12, seed=3, on_done=done.append)
    assert sum(done) == len(PROMPTS) * 5


def test_frequencies_of_first_tokens_are_the_models(llama, tokenizer):
    replies = sample(llama, tokenizer, [PROMPTS[0]], 4000, max_new_tokens=1, seed=1)[0]
    counts = torch.tensor([r.ids[0] for r in replies]).bincount(minlength=llama.config.vocab_size) / 4000
    p = llama(torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(-1)
    assert (counts - p).abs().max() < 4 * (0.25 / 4000) ** 0.5


def test_families_are_known():
    assert set(WITHOUT_SHORT_WINDOW) <= set(FAMILIES)
