"""Means with standard errors."""

import numpy as np
import pytest

from expunge.evals.scores import Score, mean_of_means, score


def test_mean_and_count():
    found = score([0.0, 50.0, 100.0, 100.0])
    assert (found.mean, found.n) == (62.5, 4)
    assert score([7.0]) == Score(7.0, 0.0, 1)


@pytest.mark.parametrize("n", [20, 200])
def test_bootstrap_error_is_close_to_the_analytic_one(n):
    values = np.random.default_rng(0).normal(10, 4, n)
    assert score(list(values), resamples=4000).se == pytest.approx(values.std() / n**0.5, rel=0.05)


def test_mean_of_means_weighs_groups_alike_and_counts_all_values():
    found = mean_of_means([[0.0, 0.0, 0.0, 100.0], [80.0]])
    assert found.mean == pytest.approx((25 + 80) / 2)
    assert found.n == 5


def test_error_of_a_mean_of_means_adds_up_over_independent_groups():
    rng = np.random.default_rng(1)
    groups = [rng.normal(0, 5, 30), rng.normal(50, 1, 100), rng.normal(20, 10, 60)]
    wanted = sum(g.var() / g.size for g in groups) ** 0.5 / 3
    assert mean_of_means(groups, resamples=4000).se == pytest.approx(wanted, rel=0.05)


def test_same_values_same_error_and_the_seed_matters():
    values = [1.0, 5.0, 2.0, 9.0]
    assert score(values) == score(values)
    assert score(values, seed=1).se != score(values, seed=0).se


@pytest.mark.parametrize("groups", [[], [[]], [[1.0], []]])
def test_a_missing_level_must_not_pass_for_a_zero(groups):
    with pytest.raises(ValueError, match="at least one value in every group"):
        mean_of_means(groups)


def test_a_score_is_shown_with_error_and_count():
    assert str(Score(12.345, 1.26, 47)) == "12.3 ± 1.3 (n=47)"
    assert Score(1.0, 0.5, 3).to_dict() == {"mean": 1.0, "se": 0.5, "n": 3}
