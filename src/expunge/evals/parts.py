"""Samples that are scored together, and what a score is made of: said in the entry itself (``made_of``), so that
a comparison of two evaluations (evals/statistics.py) finds the values of both sample by sample."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .probe_scores import entry
from .scores import score
from .task import Found, not_measured

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A score as the mean over rows: ``times`` the ``value`` (a field, or a path with dots) of the rows of ``file``
    that hold the fields ``where``. ``by``: mean of the means of rows that agree in this field. Rows without the
    value do not count."""

    file: str
    where: dict[str, Any]
    value: str
    times: float = 1.0
    by: str = ""


@dataclass(frozen=True)
class Part:
    """Samples that are scored together: the rows of ``file`` that hold the fields ``where``. Ids of their scores
    begin with ``prefix``, labels with ``label``."""

    file: str
    where: Mapping[str, Any]
    prefix: str
    label: str

    def holds(self, row: Row) -> bool:
        return all(row.get(field) == value for field, value in self.where.items())

    def mean(
        self,
        rows: Iterable[Row],
        name: str,
        value: str,
        label: str,
        *,
        unit: str = "%",
        better: str = "",
        times: float = 100.0,
        nothing: str = "no samples",
    ) -> Found:
        """The score ``prefix/name``: ``times`` the mean of a field over the rows of this part. ``nothing`` is the
        note of a score without a single value."""
        source = Source(self.file, dict(self.where), value, times)
        values = [times * number for row in rows if self.holds(row) and (number := number_at(row, value)) is not None]
        told = f"{self.label}: {label}"
        if not values:
            return {f"{self.prefix}/{name}": not_measured(told, nothing, unit, better)}
        return {f"{self.prefix}/{name}": {**entry(score(values), told, unit, better), "made_of": asdict(source)}}


def number_at(row: Row, path: str) -> float | None:
    """The number at a path; None where there is none. Raises ValueError for what is no finite number."""
    value: Any = row
    for field in path.split("."):
        value = value.get(field) if isinstance(value, dict) else None
    if value is None:
        return None
    number = finite(value)
    if number is None:
        raise ValueError(f"{path} is {str(value)[:60]!r}")
    return number


def finite(value: Any) -> float | None:
    """A finite number, true and false among them; None for anything else."""
    if not isinstance(value, int | float) or (isinstance(value, int) and value.bit_length() > 1000):
        return None
    return float(value) if math.isfinite(value) else None
