"""Packed weights: the same products, and nothing left of it afterwards."""

import pytest
import torch
from tiny import make_model

from expunge.rl import packed as module
from expunge.rl.packed import WORTH, available, packed
from expunge.rl.rollout import sample

PROMPTS = [(5, 6, 7, 8), (5, 6, 9)]
needs_mkl = pytest.mark.skipif(not available(), reason="this PyTorch has no packed products of MKL")


@pytest.fixture
def model():
    return make_model("llama").float()


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
            logits = model(torch.tensor([[*prompt, *reply.ids]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            own = logits.gather(1, torch.tensor(reply.ids)[:, None])[:, 0]
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
