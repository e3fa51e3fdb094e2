"""A recipe over a grid of settings: every point a run folder, what points have in common done once, one chosen.

The best of many points is partly the luckiest. So the choice is made on one half of the probes (dev) and the chosen
point is reported on the other (test)."""

import itertools
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from .errors import UserError
from .evals.goals import judge_goals
from .evals.probe_scores import probe_scores
from .files import content_hash, read_json, read_jsonl, write_json
from .methods import METHODS
from .methods.misdirection import Misdirection
from .progress import console
from .recipe import Goal, Misdirect, Recipe, load_recipe, read_recipe
from .report.sweep import show_sweep
from .runs import carry_out, check, is_done, slug

FORGET, RETAIN = ("rwku/forget/All", "traces/forget/leak/All"), ("rwku/neighbor/All",)
MODELS, KINDS = ("taught", "unlearned"), ("rwku", "traces")
RULE = (
    "Chosen on {}: among the points that meet all goals on the unlearned model, the lowest forget score ({}); if none "
    "does, the smallest sum of shortfalls, each as a share of its limit (1 for a goal that was not measured). "
    "Ties: forget score, then what is retained, then order."
)
CHOSEN_ON = {
    "dev": ("the dev half of the probes (split by hash; scores of no probe whole)", f"mean of {' and '.join(FORGET)}"),
    "whole": ("whole scores", "mean of what goals keep low, perplexity aside, as shares of the limits"),
}
Entries = Mapping[str, Mapping[str, Any]]
Rows = Mapping[str, Sequence[dict[str, Any]]]


@dataclass(frozen=True)
class Point:
    """One place of the grid. ``settings``: varied key -> value as it was typed; ``given``: all overrides."""

    settings: dict[str, str]
    given: tuple[str, ...]
    recipe: Recipe
    folder: Path
    label: str


def sweep(
    recipe: str, vary: tuple[str, ...], out: Path, overrides: tuple[str, ...] = (), scale: str | None = None
) -> Path:
    """Run every point of the grid that is not done, choose one, write ``sweep.json``, ``sweep.md``, ``pareto.png``.

    Raises UserError for bad input before anything is written. Returns the path of ``sweep.json``."""
    points = grid(recipe, vary, Path(out), overrides, scale)
    done = _check(points, Path(out))
    for i, point in enumerate(points, 1):
        state = " (done before)" if point in done else ""
        console.print(f"point {i} of {len(points)}: {point.label}{state}", markup=False, style="bold", soft_wrap=True)
        if point not in done:
            carry_out(point, points)
    found = {"recipe": recipe, "keys": short_names(points[0].settings), **_found(points)}
    best = next(point for point, told in zip(points, found["points"], strict=True) if told["chosen"])
    words = ["expunge", "run", recipe, *(("--scale", scale) if scale else ())]
    found["command"] = shlex.join([*words, *(word for given in best.given for word in ("--set", given))])
    write_json(Path(out) / "sweep.json", found)
    show_sweep(found, Path(out), console)
    return Path(out) / "sweep.json"


def parse_axis(text: str) -> tuple[str, list[str]]:
    """``KEY=V1,V2`` as the key and its values as typed; commas inside brackets do not split.

    >>> parse_axis("unlearn.settings.train_blocks=[5,6],[8,9]")
    ('unlearn.settings.train_blocks', ['[5,6]', '[8,9]'])
    """
    key, _, raw = text.partition("=")
    values, depth = [""], 0
    for character in raw:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            values.append("")
        else:
            values[-1] += character
    values = [value.strip() for value in values]
    if not key.strip() or not all(values) or depth:
        raise UserError(f"--vary {text!r}: expected KEY=V1,V2,…, no value empty, every bracket closed.")
    return key.strip(), values


def grid(recipe: str, vary: Sequence[str], out: Path, overrides: tuple[str, ...], scale: str | None) -> list[Point]:
    """All combinations of the values, the last axis fastest. Raises UserError for a bad value or two equal points."""
    axes = dict(map(parse_axis, vary))
    if len(axes) < len(vary):
        raise UserError(f"--vary names a key twice: {', '.join(vary)}. Give all values of a key in one.")
    short = short_names(axes)
    points: list[Point] = []
    for combination in itertools.product(*axes.values()):
        settings = dict(zip(axes, combination, strict=True))
        given = (*overrides, *(f"{key}={value}" for key, value in settings.items()))
        resolved = load_recipe(recipe, given, scale)
        if not _says_how_to_cache(recipe, scale) and not _counts_padding(resolved):
            # Points with the same cut share what lies below it. It comes first, so that what is given wins.
            given = ("unlearn.loop.prefix_cache=disk", *given)
            resolved = load_recipe(recipe, given, scale)
        label = " ".join(f"{short[key]}={value}" for key, value in settings.items())
        for twin in (point for point in points if point.recipe == resolved):
            raise UserError(f"--vary: {twin.label!r} and {label!r} are the same point; leave one of them out.")
        name = f"-{resolved.hash()[:8]}"  # of the whole recipe: a sweep that has grown finds the points that were there
        folder = next((out / "points").glob(f"*{name}"), out / "points" / f"{slug(label)}{name}")
        points.append(Point(settings, given, resolved, folder, label))
    return points


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The shortest end of each dotted key that no other key has: ``lr`` for ``unlearn.loop.lr``."""
    known, out = list(keys), {}
    for key in known:
        ends = (key.split(".", n)[-1] for n in range(key.count("."), -1, -1))
        out[key] = next((end for end in ends if sum(f".{k}".endswith(f".{end}") for k in known) == 1), key)
    return out


def _says_how_to_cache(recipe: str, scale: str | None) -> bool:
    """Does the recipe name a prefix cache itself, or has it no single stage that could use one?"""
    unlearn = read_recipe(recipe, scale).get("unlearn") or {}
    if isinstance(unlearn, list) or unlearn.get("method", Misdirect.method) not in METHODS:
        return True
    return "prefix_cache" in (unlearn.get("loop") or {})


def _counts_padding(recipe: Recipe) -> bool:
    """Padding in the means, as in the released code, is what a prefix cache does not keep."""
    stage = recipe.unlearn[0]
    return isinstance(stage, Misdirect) and any(
        isinstance(settings, Misdirection) and settings.count_padding for settings, _ in stage.by_topic().values()
    )


def _check(points: Sequence[Point], out: Path) -> list[Point]:
    """The points that are done. Raises UserError for all that can be known to be wrong; writes nothing."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "points").is_dir())):
        raise UserError(f"{out} exists and is no folder of a sweep; choose another with --out.")
    for point in points:
        if not _goals(point.recipe):  # the lowest forget score alone is that of the most broken model
            raise UserError("a sweep chooses by goals on the unlearned model, and the recipe has none: add 'goals'.")
    check(points)
    return [point for point in points if is_done(point)]


def halves(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Query -> ``dev`` or ``test``: of each side and level every other query, in the order of their hashes."""
    groups: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        groups.setdefault((row["side"], row["level"]), set()).add(row["query"])
    out: dict[str, str] = {}
    for _, queries in sorted(groups.items()):
        out |= dict(zip(sorted(queries - out.keys(), key=content_hash), itertools.cycle(("dev", "test"))))
    return out


def rescored(rows: Rows, target: str) -> dict[str, dict[str, Any]]:
    """Scores of these rows of ``rwku`` and ``traces``: mean, standard error and n by id; none where there is no row."""
    found = probe_scores(rows["rwku"], rows["traces"], target)
    return {name: {key: entry[key] for key in ("mean", "se", "n")} for name, entry in found.items()}


def of_half(entries: Entries, rows: Rows, target: str, half: str) -> dict[str, Mapping[str, Any]]:
    """One model's scores over one half of the probes; scores that are not made of probes stay as they are."""
    chosen = halves(rows["rwku"])
    kept = {kind: [row for row in part if chosen[row["query"]] == half] for kind, part in rows.items()}
    probed, fresh = rescored(rows, target), rescored(kept, target)
    return {name: {**e, **fresh.get(name, {})} for name, e in entries.items() if name in fresh or name not in probed}


def shortfall(judged: Iterable[Mapping[str, Any]]) -> float:
    """Sum over goals of how far each is missed as a share of its limit; 0 if all are met, 1 for an unmeasured one."""
    total = 0.0
    for goal in judged:
        if goal["value"] is None or goal["limit"] is None:
            total += 1.0
        elif not goal["met"]:
            gap = abs(goal["value"] - goal["limit"]) / (abs(goal["limit"]) or 1.0)
            total += math.inf if math.isnan(gap) else gap
    return total


def forget_and_retain(
    entries: Entries, goals: Sequence[Goal], judged: Sequence[Mapping[str, Any]], target: str | None
) -> tuple[float | None, float | None]:
    """What points are compared by, lower and higher is better; None for what was not measured."""
    sides: dict[str, list[float]] = {"at most": [], "at least": []}
    for name in (*FORGET, *RETAIN) if target else ():
        if (mean := entries.get(name, {}).get("mean")) is not None:
            sides["at most" if name in FORGET else "at least"].append(mean)
    for goal, found in () if target else zip(goals, judged, strict=True):
        if found["value"] is not None and found["limit"] and not goal.score.startswith("perplexity/"):
            sides[found["relation"]].append(found["value"] / found["limit"])
    forget, retain = (fmean(values) if values else None for values in sides.values())
    return forget, retain


def choose(marks: Sequence[tuple[float, float | None, float | None]]) -> int:
    """Place of the best of (shortfall, forget, retain); a point that meets all goals has no shortfall."""

    def key(place: int) -> tuple[float, float, float]:
        missed, forget, retain = marks[place]
        return missed, math.inf if forget is None else forget, math.inf if retain is None else -retain

    return min(range(len(marks)), key=key)


def pareto(marks: Sequence[tuple[float | None, float | None]]) -> set[int]:
    """Places of (forget, retain), lower and higher is better, that no other beats; one lacking either is not on it."""
    known = [(i, f, r) for i, (f, r) in enumerate(marks) if f is not None and r is not None]
    return {i for i, f, r in known if not any(g <= f and s >= r and (g, s) != (f, r) for _, g, s in known)}


def _goals(recipe: Recipe) -> list[Goal]:
    """Goals on the taught model say nothing about a point."""
    return [goal for goal in recipe.goals if goal.model == "unlearned"]


def _result(point: Point) -> dict[str, Any]:
    """What sweep.json says of one point, but for how it compares. Views: dev, test, whole, or whole alone."""
    scores, manifest = read_json(point.folder / "scores.json"), read_json(point.folder / "run.json")
    target, goals = manifest["target"], _goals(point.recipe)
    views = {"whole": {model: scores[model] for model in MODELS}}
    if target:
        rows = {model: {k: read_jsonl(point.folder / f"evals/{model}/{k}.jsonl") for k in KINDS} for model in MODELS}
        views = {h: {m: of_half(scores[m], rows[m], target, h) for m in MODELS} for h in ("dev", "test")} | views
    judged = {view: judge_goals(goals, found) for view, found in views.items()}
    basis = next(iter(views))
    forget, retain = forget_and_retain(views[basis]["unlearned"], goals, judged[basis], target)
    told = {"label": point.label, "settings": point.settings, "folder": f"points/{point.folder.name}"}
    marks = {"shortfall": shortfall(judged[basis]), "forget": forget, "retain": retain}
    return {**told, "seconds": manifest["seconds"], **marks, "goals": judged, "scores": views}


def _found(points: Sequence[Point]) -> dict[str, Any]:
    """All points, how they compare, and by which rule one is chosen."""
    results = [_result(point) for point in points]
    front = pareto([(r["forget"], r["retain"]) for r in results])
    best = choose([(r["shortfall"], r["forget"], r["retain"]) for r in results])
    marked = [{"number": i + 1, **r, "pareto": i in front, "chosen": i == best} for i, r in enumerate(results)]
    rule = RULE.format(*CHOSEN_ON[next(iter(results[0]["scores"]))])
    return {"rule": rule, "meet_all_goals": sum(r["shortfall"] == 0 for r in results), "points": marked}
