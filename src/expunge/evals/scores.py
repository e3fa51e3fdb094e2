"""A number that a person is shown: mean, standard error, n; and how several are averaged."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Score:
    """Mean of n per-probe values with its bootstrap standard error, in the unit of the values."""

    mean: float
    se: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.se:.1f} (n={self.n})"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def score(values: Sequence[float], resamples: int = 1000, seed: int = 0) -> Score:
    """Mean with the standard deviation of the means of ``resamples`` bootstrap samples."""
    return mean_of_means([values], resamples, seed)


def mean_of_means(groups: Sequence[Sequence[float]], resamples: int = 1000, seed: int = 0) -> Score:
    """Plain mean of the groups' means (RWKU's "All" over levels); probes are resampled within groups.

    Empty groups raise ValueError: a missing level must not pass for a zero."""
    arrays = [np.asarray(group, dtype=np.float64) for group in groups]
    if not arrays or any(a.size == 0 for a in arrays):
        raise ValueError("a score needs at least one value in every group")
    rng = np.random.default_rng(seed)
    draws = np.mean([a[rng.integers(0, a.size, (resamples, a.size))].mean(1) for a in arrays], axis=0)
    mean = float(np.mean([a.mean() for a in arrays]))
    return Score(mean, float(draws.std()), sum(a.size for a in arrays))
