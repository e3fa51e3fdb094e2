"""AUC against scikit-learn, the test of Kolmogorov and Smirnov against scipy."""

import doctest

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from expunge.evals import ranks
from expunge.evals.ranks import auc, auc_score, kolmogorov_smirnov


def test_the_examples_of_the_module():
    assert doctest.testmod(ranks).failed == 0


values = st.lists(st.integers(-4, 4).map(float) | st.floats(-5, 5), min_size=1, max_size=12)


@given(values, values)
@settings(max_examples=40)
def test_auc_is_scikit_learns(negative, positive):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    labels = [0] * len(negative) + [1] * len(positive)
    assert auc(negative, positive) == pytest.approx(metrics.roc_auc_score(labels, negative + positive))


def test_the_error_of_an_auc_shrinks_with_n():
    few, many = auc_score([0, 1, 2, 3], [1, 2, 3, 4]), auc_score([0, 1, 2, 3] * 25, [1, 2, 3, 4] * 25)
    assert few.mean == many.mean
    assert few.se > 3 * many.se > 0
    assert (few.n, many.n) == (8, 200)


samples = st.lists(st.integers(0, 6).map(float) | st.floats(-3, 9), min_size=1, max_size=25)


@given(samples, samples)
@settings(max_examples=60)
def test_kolmogorov_smirnov_is_scipys(a, b):
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    assume(sorted(a) != sorted(b))  # scipy has no exact answer for a distance of zero
    wanted = stats.ks_2samp(a, b, method="exact")
    assert kolmogorov_smirnov(a, b) == pytest.approx((wanted.statistic, wanted.pvalue), rel=1e-9)


@pytest.mark.parametrize(
    ("shift", "sizes"), [(0.1, (300, 300)), (1.0, (300, 300)), (3.0, (200, 200)), (1.0, (300, 40))]
)
def test_kolmogorov_smirnov_of_the_sizes_of_tofu(shift, sizes):
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=sizes[0]).tolist(), (shift + rng.normal(size=sizes[1])).tolist()
    wanted = stats.ks_2samp(a, b)  # scipy's own choice of method, as in the official code
    distance, p = kolmogorov_smirnov(a, b)
    assert distance == pytest.approx(wanted.statistic)
    assert p == pytest.approx(wanted.pvalue, rel=1e-6)


def test_kolmogorov_smirnov_of_equal_samples():
    assert kolmogorov_smirnov([1, 2, 2], [2, 1, 2]) == (0, 1)
