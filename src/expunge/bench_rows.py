"""A finished run folder as tidy rows: its scores, its probes by kind, what it cost; and some of what was said."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .evals.probe_scores import NAMES, entry, single
from .evals.scores import score
from .evals.task import not_measured
from .files import read_json, read_jsonl, read_log

TAUGHT, UNLEARNED = "taught", "unlearned"
FIELDS = ("mean", "se", "n", "label", "unit", "better")
SAMPLED = 2  # probes of each side and level that are shown
Row = dict[str, Any]


def rows_of(run: Path) -> list[Row]:
    """One row per model and score: ``model``, ``score``, mean, se, n, label, unit, better, ``note``.

    A mean that is no finite number is null, and the note says what it was."""
    out = []
    for model, entries in read_json(run / "scores.json").items():
        found = entries | by_kind(run / "evals" / model / "rwku.jsonl")
        if model == UNLEARNED:
            found |= costs(run) | changed(run)
        out += [{"model": model, "score": id_} | _tidy(told) for id_, told in found.items()]
    return out


def _tidy(told: Row) -> Row:
    row: Row = {key: told.get(key) for key in FIELDS} | {"note": told.get("note") or ""}
    for key in ("mean", "se"):
        if row[key] is not None and not math.isfinite(row[key]):
            row |= {key: None, "note": row["note"] or f"{key} is {row[key]}"}
    return row


def by_kind(path: Path) -> dict[str, Row]:
    """``kinds/SIDE/LEVEL/KIND`` -> the mean score of RWKU's probes of one kind; none without such rows."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in read_jsonl(path) if path.exists() else ():
        groups.setdefault((row["side"], row["level"], row["kind"]), []).append(row["score"])
    out = {}
    for (side, level, kind), values in groups.items():
        label, better = f"{NAMES[side]} answers, {level}: {kind}", "lower" if side == "forget" else "higher"
        out[f"kinds/{side}/{level}/{kind}"] = entry(score(values), label, "ROUGE-L recall", better)
    return out


def costs(run: Path) -> dict[str, Row]:
    """What unlearning cost: the seconds of its stages and of its steps alone, the process's memory, tokens seen."""
    told = read_json(run / "run.json")
    steps = [row for row in read_log(run / "metrics.jsonl") if row["stage"] != "teach"]
    spent = [told["seconds"].get(stage["method"], 0.0) for stage in told["recipe"]["unlearn"]]
    logged = bool(steps) and all("tokens" in row for row in steps)
    values = {
        "seconds": ("unlearning, its stages whole", "s", sum(spent)),
        "steps": ("unlearning, its steps alone", "s", sum(row.get("seconds", 0.0) for row in steps)),
        "memory": ("peak memory of the run", "GB", told["peak_memory_gb"]),
        "tokens": ("tokens seen in unlearning", "tokens", sum(row["tokens"] for row in steps) if logged else None),
    }
    out = {}
    for key, (label, unit, value) in values.items():
        lacking = not_measured(label, "not logged", unit, "lower")
        out[f"cost/{key}"] = lacking if value is None else single(float(value), 1, label, unit, "lower")
    return out


def changed(run: Path) -> dict[str, Row]:
    """``changed/METHOD`` -> share of the entries of the matrices that train which have changed, where it is told."""
    stages = read_json(run / "run.json").get("stages", {}).items()
    shares = {method: told["changed"] for method, told in stages if isinstance(told, dict) and "changed" in told}
    return {
        f"changed/{method}": single(100 * share, 1, f"{method}: trained entries that changed", "%", "")
        for method, share in shares.items()
    }


def diverged(run: Path) -> str:
    """Where the loss of unlearning first was no number; "" if nowhere."""
    for row in read_log(run / "metrics.jsonl"):
        if row["stage"] != "teach" and not math.isfinite(row["loss"]):
            return f"the loss is {row['loss']} at step {row['step']} of {row['stage']}"
    return ""


def samples_of(run: Path) -> Iterator[Row]:
    """What both models said to the first probes of each side and level."""
    for model in (TAUGHT, UNLEARNED):
        path = run / "evals" / model / "rwku.jsonl"
        seen: dict[tuple[str, str], int] = {}
        for row in read_jsonl(path) if path.exists() else ():
            place = row["side"], row["level"]
            seen[place] = seen.get(place, 0) + 1
            if seen[place] <= SAMPLED:
                kept = ("side", "level", "kind", "query", "answer", "reply", "score")
                yield {"model": model} | {key: row[key] for key in kept}
