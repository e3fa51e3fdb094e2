"""The files of a benchmark's folder, read strictly, and scores of cells averaged over targets and seeds.

Mean: of the targets' means, each the mean over its seeds. Standard error: over probes; those of the targets are taken
as independent, sqrt(sum of se^2) / targets, and those of a target's seeds, which ask the same probes, as one sample.
n: the probes of all targets; of a cost, the cells."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..errors import UserError
from ..files import read_json, read_jsonl

STATES = ("done", "diverged", "failed", "to do")
TEXTS = ("method", "target", "point", "model", "score", "label", "unit", "better", "note")
SAID = ("method", "target", "model", "side", "level", "kind", "query", "answer", "reply")
OF_CELL = ("cell", "method", "target", "point", "recipe_hash", "state", "why")
COST = "cost/"
Row = dict[str, Any]


@dataclass(frozen=True)
class Pooled:
    """One score of one method: mean, standard error and n as above; ``targets``: target -> its mean. ``mean`` is None
    for what was measured in no cell; ``note`` then says why."""

    mean: float | None
    se: float | None
    n: int
    label: str
    unit: str
    better: str
    targets: dict[str, float]
    note: str = ""


@dataclass(frozen=True)
class BenchData:
    """All that the report of a benchmark shows. ``manifest`` is ``bench.json`` as it stands."""

    folder: Path
    manifest: dict[str, Any]
    rows: tuple[Row, ...]
    samples: tuple[Row, ...]

    @property
    def methods(self) -> list[str]:
        """Those with a cell in the tables that is done, in the order of the file."""
        there = {row["method"] for row in self.rows if row["used"]}
        return [name for name in self.manifest["methods"] if name in there]

    @property
    def targets(self) -> list[str]:
        """In the order of the cells."""
        return list(dict.fromkeys(cell["target"] for cell in self.manifest["cells"]))

    def points(self, method: str) -> list[str]:
        """The points of its frontier that have a cell, in the order of the file."""
        return list(dict.fromkeys(cell["point"] for cell in self.manifest["cells"] if cell["method"] == method))

    def of(self, method: str, model: str, point: str | None = None) -> list[Row]:
        """Rows of one model of a method: at one point of the frontier, or of the cells that stand in the tables."""
        mine = (row for row in self.rows if row["method"] == method and row["model"] == model)
        return [row for row in mine if (row["used"] if point is None else row["point"] == point)]


def load_bench(folder: Path) -> BenchData:
    """A benchmark's folder as frozen data. Raises UserError that names the missing or malformed file and row."""
    folder = Path(folder)
    path = folder / "bench.json"
    if not path.exists():
        raise UserError(f"{folder}: no bench.json in it. Expected the folder that expunge bench wrote.")
    told = read_json(path)
    kinds = {"name": str, "methods": dict, "cells": list, "recipe": str, "command": str, "frontier": dict}
    for key, kind in kinds.items():
        if not isinstance(told, dict) or not isinstance(told.get(key), kind):
            raise _malformed(path, f"without {key}", f"an object with {key} ({kind.__name__})")
    for side in ("forget", "retain"):
        _text(told["frontier"], side, f"{path}: frontier")
    for i, cell in enumerate(told["cells"], 1):
        where = f"{path}: cell {i}"
        for key in OF_CELL:
            _text(cell, key, where)
        if cell["state"] not in STATES:
            raise _malformed(f"{where}: state", cell["state"], f"one of {', '.join(STATES)}")
    rows, samples = (_rows(folder / f"{name}.jsonl", fields) for name, fields in _FILES.items())
    for i, row in enumerate(rows, 1):
        _check_numbers(row, f"{folder / 'results.jsonl'}: row {i}")
    return BenchData(folder, told, tuple(rows), tuple(samples))


_FILES = {"results": TEXTS, "samples": SAID}


def _rows(path: Path, texts: Iterable[str]) -> list[Row]:
    rows = read_jsonl(path)
    for i, row in enumerate(rows, 1):
        for key in texts:
            _text(row, key, f"{path}: row {i}")
    return rows


def _text(row: Any, key: str, where: str) -> None:
    if not isinstance(row, dict) or not isinstance(row.get(key), str):
        raise _malformed(f"{where}: {key}", row.get(key) if isinstance(row, dict) else row, "text")


def _check_numbers(row: Row, where: str) -> None:
    if not isinstance(row.get("used"), bool) or not isinstance(row.get("seed"), int):
        raise _malformed(where, row, "used (true or false) and seed (a whole number)")
    for key in ("mean", "se", "n"):
        value = row.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise _malformed(f"{where}: {key}", value, "a number or null")


def _malformed(where: str | Path, found: Any, expected: str) -> UserError:
    return UserError(f"{where}: found {str(found)[:60]!r}, expected {expected}. Run expunge bench again.")


def pooled(rows: Iterable[Row]) -> dict[str, Pooled]:
    """Score -> what the rows of one model of one method amount to."""
    by_score: dict[str, list[Row]] = {}
    for row in rows:
        by_score.setdefault(row["score"], []).append(row)
    return {id_: _pool(id_, part) for id_, part in by_score.items()}


def _pool(id_: str, rows: list[Row]) -> Pooled:
    about = {key: rows[0][key] for key in ("label", "unit", "better")}
    by_target: dict[str, list[Row]] = {}
    for row in rows:
        if row["mean"] is not None:
            by_target.setdefault(row["target"], []).append(row)
    if not by_target:
        return Pooled(None, None, 0, **about, targets={}, note=rows[0]["note"] or "no reason given")
    parts = list(by_target.values())
    means = {name: fmean(row["mean"] for row in part) for name, part in by_target.items()}
    known = all(row["se"] is not None for part in parts for row in part)
    errors = [fmean(row["se"] for row in part) for part in parts] if known else []
    return Pooled(
        mean=fmean(means.values()),
        se=math.sqrt(sum(error**2 for error in errors)) / len(parts) if known else None,
        n=sum(map(len, parts)) if id_.startswith(COST) else sum(max(row["n"] or 0 for row in part) for part in parts),
        **about,
        targets=means,
    )
