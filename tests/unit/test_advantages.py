"""Advantages by hand."""

import doctest
import math

import pytest
import torch

from expunge.rl import advantages
from expunge.rl.advantages import ADVANTAGES, gae, grpo, reinforce_pp, rloo, whiten, without_variance

REWARDS = torch.tensor([[1.0, 0.0, 0.5, 0.5], [1.0, 1.0, 1.0, 1.0]])
LENGTHS = torch.tensor([[2, 4, 1, 1], [3, 3, 3, 3]])


def test_examples_of_the_documentation():
    assert doctest.testmod(advantages, extraglobs={"torch": torch}).failed == 0


def test_grpo_divides_by_the_deviation_with_n_minus_one():
    std = math.sqrt((0.25 + 0.25) / 3)
    assert grpo(REWARDS, LENGTHS)[0].tolist() == pytest.approx([0.5 / std, -0.5 / std, 0, 0], rel=1e-4)


def test_rloo_takes_the_mean_of_the_others_for_a_baseline():
    assert rloo(REWARDS, LENGTHS)[0].tolist() == pytest.approx([1 - 1 / 3, -2 / 3, 0.5 - 0.5, 0.5 - 0.5])


def test_reinforce_pp_is_whitened_over_the_tokens_of_the_batch_and_knows_no_group():
    lengths = LENGTHS.flatten().tolist()
    values = [r for r, n in zip(REWARDS.flatten().tolist(), lengths, strict=True) for _ in range(n)]
    mean = sum(values) / len(values)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    expected = [(r - mean) / std for r in REWARDS.flatten().tolist()]
    assert reinforce_pp(REWARDS, LENGTHS).flatten().tolist() == pytest.approx(expected, rel=1e-4)
    assert (reinforce_pp(REWARDS, LENGTHS)[1] > 0).all()  # a group that always earns 1 is still above the batch


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_a_group_without_variance_has_no_advantage_and_is_counted(name):
    assert ADVANTAGES[name](REWARDS, LENGTHS)[1].abs().max() == 0
    assert without_variance(REWARDS) == 1


def test_gae_by_hand():
    values = torch.tensor([0.2, 0.5, 0.1])
    # delta = (0.9*0.5 - 0.2, 0.9*0.1 - 0.5, 1 - 0.1), carried with 0.9*0.8
    d = [0.25, -0.41, 0.9]
    a2 = d[2]
    a1 = d[1] + 0.72 * a2
    a0 = d[0] + 0.72 * a1
    advantages_, returns = gae(1.0, values, 0.9, 0.8)
    assert advantages_.tolist() == pytest.approx([a0, a1, a2], abs=1e-6)
    assert returns.tolist() == pytest.approx([a0 + 0.2, a1 + 0.5, a2 + 0.1], abs=1e-6)


def test_gae_without_discount_or_smoothing_is_the_reward_less_the_value():
    values = torch.tensor([0.3, -0.2, 0.9, 0.0])
    advantages_, returns = gae(0.5, values, 1.0, 1.0)
    assert advantages_.tolist() == pytest.approx((0.5 - values).tolist())
    assert returns.tolist() == pytest.approx([0.5] * 4)


def test_whitened_values_have_mean_0_and_variance_1():
    white = whiten(torch.tensor([1.0, 2.0, 6.0]))
    assert white.mean().item() == pytest.approx(0, abs=1e-6)
    assert white.var(unbiased=False).item() == pytest.approx(1, rel=1e-5)
