"""Weights to sample by, packed or rounded: the same products or those of the rounded model, and nothing left of it."""

import contextlib
import copy

import pytest
import torch
from tiny import make_model

from expunge.rl import sampling_weights as module
from expunge.rl.rollout import sample
from expunge.rl.sampling_weights import WORTH, available, compute_dtype, packed, rounded

PROMPTS = [(5, 6, 7, 8), (5, 6, 9)]
needs_mkl = pytest.mark.skipif(not available(), reason="this PyTorch has no packed products of MKL")


@pytest.fixture
def model():
    return make_model("llama").float()


def own_logprobs(model, prompt, ids):
    logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    return logits.gather(1, torch.tensor(ids)[:, None])[:, 0]


def linear(model):
    return [layer for layer in model.modules() if type(layer) is torch.nn.Linear]


@needs_mkl
def test_products_are_those_of_the_layers_for_any_number_of_rows(model):
    inputs = [[torch.randn(rows, layer.in_features) for rows in (6, 4)] for layer in linear(model)]
    with torch.no_grad():
        plain = [[layer(x) for x in pair] for layer, pair in zip(linear(model), inputs, strict=True)]
        with packed(model, 6, WORTH):
            assert all("forward" in vars(layer) for layer in linear(model))
            fast = [[layer(x) for x in pair] for layer, pair in zip(linear(model), inputs, strict=True)]
    for a, b in zip(plain, fast, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)


@needs_mkl
def test_long_replies_are_sampled_by_packed_weights_with_the_models_own_log_probabilities(
    model, tokenizer, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        module, "_product", lambda layer, rows, real=module._product: asked.append(rows) or real(layer, rows)
    )
    groups = sample(model, tokenizer, PROMPTS, 3, max_new_tokens=WORTH, seed=4)
    assert asked == [6] * len(linear(model))
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for reply in group:
            own = own_logprobs(model, prompt, reply.ids)
            torch.testing.assert_close(torch.tensor(reply.logprobs), own, rtol=1e-5, atol=1e-5)


def test_changed_weights_count_the_next_time(model, tokenizer):
    before = sample(model, tokenizer, PROMPTS, 3, max_new_tokens=WORTH, seed=4)
    with torch.no_grad():
        for layer in linear(model):
            layer.weight.mul_(1.5)
    assert sample(model, tokenizer, PROMPTS, 3, max_new_tokens=WORTH, seed=4) != before


def test_nothing_is_left_even_after_an_error(model):
    with pytest.raises(RuntimeError, match="midway"), packed(model, 6, WORTH):
        raise RuntimeError("midway")
    assert not any("forward" in vars(layer) for layer in linear(model))


@pytest.mark.parametrize(("dtype", "products"), [(torch.float32, WORTH - 1), (torch.bfloat16, WORTH)])
def test_few_products_or_another_precision_change_nothing(model, dtype, products):
    with packed(model.to(dtype), 6, products):
        assert not any("forward" in vars(layer) for layer in linear(model))


def test_rounded_replies_are_those_of_the_rounded_model_with_its_log_probabilities(model, tokenizer):
    lower = copy.deepcopy(model)
    for parameter in lower.parameters():  # not the buffers, of which float32 angles of positions are one
        parameter.data = parameter.data.bfloat16()
    options = {"max_new_tokens": WORTH, "seed": 4}
    groups = sample(model, tokenizer, PROMPTS, 3, dtype=torch.bfloat16, **options)
    assert groups == sample(lower, tokenizer, PROMPTS, 3, **options)
    assert groups != sample(model, tokenizer, PROMPTS, 3, **options)
    own = [own_logprobs(model, p, r.ids) for p, group in zip(PROMPTS, groups, strict=True) for r in group]
    told = [torch.tensor(r.logprobs) for group in groups for r in group]
    assert 0 < (torch.cat(told) - torch.cat(own)).abs().mean() < 0.1


@pytest.mark.parametrize("fails", [False, True])
def test_rounded_weights_are_what_they_were_afterwards_and_where_they_were(model, fails):
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}
    with contextlib.suppress(RuntimeError), rounded(model, torch.bfloat16):
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        if fails:
            raise RuntimeError("midway")
    for name, parameter in model.named_parameters():
        place, value = before[name]
        assert parameter.data_ptr() == place and torch.equal(parameter, value)


@pytest.mark.parametrize(
    ("own", "wish", "units", "expected"),
    [
        (torch.float32, "auto", True, torch.bfloat16),
        (torch.float32, "auto", False, None),
        (torch.float32, "model", True, None),
        (torch.float32, "bfloat16", False, torch.bfloat16),
        (torch.float64, "auto", True, None),
        (torch.bfloat16, "bfloat16", False, None),
    ],
)
def test_replies_are_sampled_in_bfloat16_where_asked_for_or_where_it_pays(
    model, monkeypatch, own, wish, units, expected
):
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda device: units)
    assert compute_dtype(model.to(own), wish) == expected


def test_a_large_model_gets_no_second_copy_unasked(model, monkeypatch):
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda device: True)
    monkeypatch.setattr(module, "SMALL", 10)
    assert compute_dtype(model, "auto") is None


def test_nothing_is_rounded_unasked(model, tokenizer, monkeypatch):
    monkeypatch.setattr("expunge.rl.rollout.rounded", lambda *a: pytest.fail("rounded"))
    assert sample(model, tokenizer, PROMPTS, 2, max_new_tokens=2)
