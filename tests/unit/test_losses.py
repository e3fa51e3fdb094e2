"""The shared losses: hand values, and what they must not depend on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expunge.losses import masked_cosine, masked_mse, mean_norm

HIDDEN = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 5.0], [6.0, 8.0]]])
MASK = torch.tensor([[1, 1], [0, 1]])


def test_masked_mse_is_the_mean_over_counted_tokens_and_hidden_dimension():
    # per token: (1 + 4) / 2, (9 + 16) / 2, not counted, (36 + 64) / 2
    assert masked_mse(HIDDEN, torch.zeros(2), MASK).item() == pytest.approx((2.5 + 12.5 + 50.0) / 3)


def test_masked_mse_takes_a_target_per_token_or_one_for_all():
    same_for_all = torch.tensor([1.0, 2.0])
    # per token: 0, (4 + 4) / 2, -, (25 + 36) / 2
    expected = pytest.approx((0 + 4 + 30.5) / 3)
    assert masked_mse(HIDDEN, same_for_all, MASK).item() == expected
    assert masked_mse(HIDDEN, same_for_all.expand(2, 2, 2), MASK).item() == expected


def test_masked_cosine_by_hand():
    other = torch.tensor([[[2.0, 4.0], [4.0, -3.0]], [[1.0, 1.0], [-6.0, -8.0]]])
    # cosines: 1, 0, not counted, -1
    assert masked_cosine(HIDDEN, other, MASK).item() == pytest.approx(0.0, abs=1e-6)
    assert masked_cosine(HIDDEN, other, torch.tensor([[1, 1], [0, 0]])).item() == pytest.approx(0.5)


def test_mean_norm_by_hand():
    # norms: sqrt 5, 5, not counted, 10
    assert mean_norm(HIDDEN, MASK).item() == pytest.approx((5**0.5 + 5 + 10) / 3)


def test_an_empty_mask_gives_zero_and_no_gradient():
    hidden, nothing = HIDDEN.clone().requires_grad_(True), torch.zeros_like(MASK)
    total = masked_mse(hidden, torch.ones(2), nothing) + masked_cosine(hidden, HIDDEN, nothing)
    total = total + mean_norm(hidden, nothing)
    total.backward()
    assert total.item() == 0
    assert torch.equal(hidden.grad, torch.zeros_like(HIDDEN))


def test_losses_are_computed_in_float32_for_lower_precisions():
    hidden = torch.full((1, 2000, 1), 3.0, dtype=torch.bfloat16)
    # a running sum in bfloat16 would stall long before 2000 x 9
    assert masked_mse(hidden, torch.zeros(1, dtype=torch.bfloat16), torch.ones(1, 2000)).item() == pytest.approx(9.0)


def test_float64_is_not_rounded():
    fine = torch.tensor([[[1.0 + 2**-40, 0.0]]], dtype=torch.float64)  # 1 in float32
    one = torch.ones(1, 1)
    assert masked_mse(fine, torch.tensor([1.0, 0.0]), one).item() == 2**-81
    assert mean_norm(fine, one).item() == 1 + 2**-40
    assert masked_cosine(fine, fine, one).dtype == torch.float64


@st.composite
def padded(draw):
    """A batch of texts, and the same batch with more padding of arbitrary content on either side."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    left, right = draw(st.integers(0, 7)), draw(st.integers(0, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    width = max(lengths)
    hidden, target = (torch.randn(len(lengths), width, 3, generator=generator) for _ in range(2))
    mask = torch.tensor([[int(i < n) for i in range(width)] for n in lengths])
    garbage = draw(st.sampled_from((0.0, 1.0, -30.0, 1000.0)))

    def wider(states):
        out = torch.full((len(lengths), left + width + right, 3), garbage)
        out[:, left : left + width] = states
        return out

    more = torch.zeros(len(lengths), left + width + right, dtype=torch.long)
    more[:, left : left + width] = mask
    return (hidden, target, mask), (wider(hidden), wider(target), more)


@given(padded())
def test_padding_changes_nothing(case):
    (hidden, target, mask), (wide_hidden, wide_target, wide_mask) = case
    for measure in (masked_mse, masked_cosine):
        assert measure(wide_hidden, wide_target, wide_mask).item() == pytest.approx(
            measure(hidden, target, mask).item(), rel=1e-6, abs=1e-6
        )
    assert mean_norm(wide_hidden, wide_mask).item() == pytest.approx(mean_norm(hidden, mask).item(), rel=1e-6)


@given(padded(), st.integers(0, 4))
def test_parts_of_a_batch_weighted_by_their_tokens_give_the_whole(case, cut):
    (hidden, target, mask), _ = case
    parts = [slice(0, cut), slice(cut, None)]
    for measure in (masked_mse, masked_cosine):
        total = sum(measure(hidden[p], target[p], mask[p]).item() * mask[p].sum().item() for p in parts)
        assert total / mask.sum().item() == pytest.approx(measure(hidden, target, mask).item(), rel=1e-5, abs=1e-6)
