"""The files of a finished run folder, read strictly where the report depends on them.

``run.json`` may lack optional keys; scores, losses and completions must be there and well-formed.
"Before" is the taught model, "after" the unlearned one. Nothing here looks outside the folder."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json, read_jsonl

ANSWER_FIELDS = ("side", "level", "kind", "query", "answer", "reply")
TRACE_FIELDS = (*ANSWER_FIELDS, "trace")
RELATIONS = ("at most", "at least")
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Measure:
    """One score of one model. ``mean`` is None for what was not measured; ``note`` then says why."""

    mean: float | None
    se: float | None
    n: int | None
    label: str
    unit: str
    better: str
    note: str


@dataclass(frozen=True)
class Goal:
    """What the recipe asked for. ``value`` (and a relative ``limit``) is None if it could not be measured."""

    text: str
    value: float | None
    limit: float | None
    met: bool
    relation: str

    @property
    def result(self) -> str:
        """``met``, ``missed`` or ``not measured``, which is not met either."""
        if self.value is None or self.limit is None:
            return NOT_MEASURED
        return "met" if self.met else "missed"


@dataclass(frozen=True)
class Pair:
    """One probe with the rows of both models; rows hold ``reply`` and, for traces, ``trace`` and ``leak``."""

    side: str
    level: str
    kind: str
    query: str
    answer: str
    before: dict[str, Any]
    after: dict[str, Any]


@dataclass(frozen=True)
class RunData:
    """All that a report shows. ``manifest`` is ``run.json`` as it stands; ``losses`` the rows of the log."""

    folder: Path
    name: str
    manifest: dict[str, Any]
    goals: tuple[Goal, ...]
    before: dict[str, Measure]
    after: dict[str, Measure]
    never_knew: dict[str, Measure]
    """Scores of a model that was never taught the target; empty if the run made none."""
    losses: tuple[dict[str, Any], ...]
    answers: tuple[Pair, ...]
    traces: tuple[Pair, ...]


def load_run(run: Path) -> RunData:
    """A run folder as frozen data. Raises UserError that names the missing or malformed file and row."""
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"{run}: no such folder. Expected the folder of a finished run, with run.json in it.")
    if not (run / "run.json").exists():
        raise UserError(f"{run}: no run.json in it. Only a finished run can be reported; finish it or name another.")
    manifest = _mapping(read_json(run / "run.json"), str(run / "run.json"))
    scores = _mapping(read_json(run / "scores.json"), str(run / "scores.json"))
    sides: dict[str, dict[str, Measure]] = {}
    for side in ("taught", "unlearned", "never_knew"):
        if side == "never_knew" and side not in scores:
            sides[side] = {}
            continue
        where = f"{run / 'scores.json'}: {side}"
        sides[side] = {
            str(key): _measure(key, value, f"{where}: {key}")
            for key, value in _mapping(scores.get(side), where).items()
        }
    goals = manifest.get("goals") or []
    if not isinstance(goals, list):
        raise _malformed(f"{run / 'run.json'}: goals", goals, "a list")
    for key in ("seconds", "machine", "versions"):
        _mapping(manifest.get(key) or {}, f"{run / 'run.json'}: {key}")
    for stage, spent in (manifest.get("seconds") or {}).items():
        _number(spent, f"{run / 'run.json'}: seconds: {stage}")
    return RunData(
        folder=run,
        name=str(manifest.get("name") or run.resolve().name),
        manifest=manifest,
        goals=tuple(_goal(goal, f"{run / 'run.json'}: goal {i}") for i, goal in enumerate(goals, 1)),
        before=sides["taught"],
        after=sides["unlearned"],
        never_knew=sides["never_knew"],
        losses=_losses(run / "metrics.jsonl"),
        answers=_pairs(run, "rwku.jsonl", ANSWER_FIELDS),
        traces=_pairs(run, "traces.jsonl", TRACE_FIELDS),
    )


def _malformed(where: str | Path, found: Any, expected: str) -> UserError:
    return UserError(f"{where}: found {str(found)[:60]!r}, expected {expected}. Run it again, or repair the file.")


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _malformed(where, value, "a JSON object")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _malformed(where, value, "a number")
    return float(value)


def _optional(value: Any, where: str) -> float | None:
    """A number; None for null and for NaN, which is what an average over nothing gives."""
    if value is None or math.isnan(number := _number(value, where)):
        return None
    return number


def _measure(key: str, value: Any, where: str) -> Measure:
    entry = _mapping({"mean": None} if value is None else value, where)
    if "mean" not in entry:
        raise _malformed(where, entry, "an object with a mean (null if not measured)")
    n = _optional(entry.get("n"), f"{where}: n")
    return Measure(
        mean=_optional(entry["mean"], f"{where}: mean"),
        se=_optional(entry.get("se"), f"{where}: se"),
        n=None if n is None else int(n),
        label=str(entry.get("label") or key),
        unit=str(entry.get("unit") or ""),
        better=str(entry.get("better") or ""),
        note=str(entry.get("note") or ""),
    )


def _goal(value: Any, where: str) -> Goal:
    goal = _mapping(value, where)
    relation = goal.get("relation", "at most")
    if not isinstance(goal.get("met"), bool):
        raise _malformed(f"{where}: met", goal.get("met"), "true or false")
    if relation not in RELATIONS:
        raise _malformed(f"{where}: relation", relation, " or ".join(RELATIONS))
    return Goal(
        text=str(goal.get("text") or "unnamed goal"),
        value=_optional(goal.get("value"), f"{where}: value"),
        limit=_optional(goal.get("limit"), f"{where}: limit"),
        met=goal["met"],
        relation=relation,
    )


def _losses(path: Path) -> tuple[dict[str, Any], ...]:
    rows = read_jsonl(path)
    for i, row in enumerate(rows, 1):
        where = f"{path}: row {i}"
        if not isinstance(row.get("stage"), str):
            raise _malformed(f"{where}: stage", row.get("stage"), "the name of a stage")
        _number(row.get("step"), f"{where}: step")
        _number(row.get("loss"), f"{where}: loss")
        for name, value in _mapping(row.setdefault("parts", {}), f"{where}: parts").items():
            _number(value, f"{where}: parts: {name}")
    return tuple(rows)


def _pairs(run: Path, name: str, fields: tuple[str, ...]) -> tuple[Pair, ...]:
    """Rows of both models side by side; they must be about the same probes in the same order."""
    before, after = (_rows(run / "evals" / side / name, fields) for side in ("taught", "unlearned"))
    path = run / "evals" / "unlearned" / name
    if len(before) != len(after):
        raise _malformed(path, f"{len(after)} rows", f"{len(before)}, as in evals/taught/{name}")
    pairs = []
    for i, (old, new) in enumerate(zip(before, after, strict=True), 1):
        if any(old[key] != new[key] for key in ("side", "level", "query")):
            raise _malformed(f"{path}: row {i}", new["query"], f"the probe of that row in evals/taught/{name}")
        side, level, kind, query, answer = (old[key] for key in ANSWER_FIELDS[:5])
        pairs.append(Pair(side, level, kind, query, answer, old, new))
    return tuple(pairs)


def _rows(path: Path, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = read_jsonl(path)
    for i, row in enumerate(rows, 1):
        for field in fields:
            if not isinstance(row.get(field), str):
                raise _malformed(f"{path}: row {i}: {field}", row.get(field), "text")
        if row["side"] not in ("forget", "neighbor"):
            raise _malformed(f"{path}: row {i}: side", row["side"], "forget or neighbor")
        if "trace" in fields and not isinstance(row.get("leak"), bool):
            raise _malformed(f"{path}: row {i}: leak", row.get("leak"), "true or false")
    return rows
