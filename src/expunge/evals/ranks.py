"""Two samples compared by rank alone: how well one number tells them apart (AUC), and whether they could be
draws from one distribution (Kolmogorov and Smirnov)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .scores import Score

Numbers = Sequence[float] | npt.NDArray[np.float64]


def auc(negative: Numbers, positive: Numbers) -> float:
    """Share of (negative, positive) pairs in which the positive has the larger value; equal values count half.

    >>> auc([1, 2, 3], [2, 4])
    0.75
    """
    ordered, wanted = np.sort(np.asarray(negative, np.float64)), np.asarray(positive, np.float64)
    below = np.searchsorted(ordered, wanted, "left") + np.searchsorted(ordered, wanted, "right")
    return float(below.mean() / 2 / len(ordered))


def auc_score(negative: Sequence[float], positive: Sequence[float], resamples: int = 1000, seed: int = 0) -> Score:
    """The same with its bootstrap standard error, both samples drawn anew."""
    a, b = np.asarray(negative, np.float64), np.asarray(positive, np.float64)
    rng = np.random.default_rng(seed)
    draws = [auc(rng.choice(a, len(a)), rng.choice(b, len(b))) for _ in range(resamples)]
    return Score(auc(a, b), float(np.std(draws)), len(a) + len(b))


def kolmogorov_smirnov(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Largest distance of the two empirical distributions, and its exact two-sided p-value.

    >>> distance, p = kolmogorov_smirnov([1, 2, 3], [4, 5, 6])
    >>> distance, round(p, 10)
    (1.0, 0.1)
    """
    n, m = len(a), len(b)
    points = np.concatenate([np.asarray(a, np.float64), np.asarray(b, np.float64)])
    ahead = np.searchsorted(np.sort(a), points, "right") * m - np.searchsorted(np.sort(b), points, "right") * n
    gap = int(np.abs(ahead).max())
    return gap / (n * m), _probability_of(gap, n, m)


def _probability_of(gap: int, n: int, m: int) -> float:
    """Probability that n draws and m draws, in random order, are at some place ``gap`` / (n m) apart or more.

    Orders are lattice paths from (0, 0) to (n, m); entry (i, j) is the share of those to (i, j) that leave the band.
    Only what is positive is added, so that a tiny p-value is as exact as a large one."""
    if not gap:
        return 1.0
    left = [0.0] * (m + 1)
    for i in range(n + 1):
        for j in range(m + 1):
            if abs(i * m - j * n) >= gap:
                left[j] = 1.0
            elif i or j:
                left[j] = (left[j] * i + (left[j - 1] * j if j else 0.0)) / (i + j)
    return left[m]
