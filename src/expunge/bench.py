"""`expunge bench`: methods x targets x seeds by one protocol; every cell is a run folder, the sum is one report.

The file of a benchmark names a recipe and, for each method, what is laid over it. All cells are checked before the
first begins; those that are done are skipped; one that fails is told in the report, and the others go on."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from . import __version__
from .bench_rows import diverged, rows_of, samples_of
from .data.rwku import load_target
from .errors import UserError, nearest
from .files import read_json, write_json, write_jsonl
from .pipeline import check_score
from .progress import console
from .recipe import Recipe, load_recipe, make_recipe, merge, read_recipe, read_yaml
from .report.bench import show_bench
from .runs import carry_out, check, goes_on, is_done, original, slug
from .strict import build
from .train import manifest
from .workers import Job, devices, why_failed, work_off

OWN = ("points", "use")  # keys of a method that are not a recipe's
FIXED = ("name", "target", "seed")  # keys that are the matrix's, not a method's


@dataclass(frozen=True)
class Frontier:
    """Scores that say how much is forgotten (lower is better) and how much is kept (higher is better)."""

    forget: str = "rwku/forget/All"
    retain: str = "rwku/neighbor/All"


@dataclass(frozen=True)
class Bench:
    """The file of a benchmark."""

    name: str
    recipe: str
    """Relative to the file."""
    methods: dict[str, Any]
    """Row name -> recipe keys laid over the base recipe (``unlearn`` replaced whole), and perhaps ``points``, a recipe
    key with values for the frontier, of which ``use`` (by default the last) stands in the tables."""
    scale: str | None = None
    set: tuple[str, ...] = ()
    """``key.path=value`` for every cell."""
    targets: tuple[str, ...] = ()
    """None: the recipe's own."""
    seeds: tuple[int, ...] = ()
    """None: the recipe's own."""
    frontier: Frontier = Frontier()


@dataclass(frozen=True)
class Cell:
    """One method on one target with one seed, at one ``point`` of its frontier ("" if it has but one)."""

    method: str
    target: str
    seed: int
    point: str
    used: bool
    """Does it stand in the tables? All cells stand in the frontier."""
    recipe: Recipe
    folder: Path

    @property
    def name(self) -> str:
        """Its folder below ``cells``."""
        return "/".join(self.folder.parts[-3:])

    @property
    def label(self) -> str:
        told = (self.method, self.point, self.target, f"seed {self.seed}")
        return ", ".join(part for part in told if part)


def bench(
    file: str,
    out: Path | None = None,
    overrides: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    processes: int | None = None,
    cell: str | None = None,
    targets: tuple[str, ...] = (),
) -> Path:
    """Carry out the cells (of the methods ``only``) that are not done, then write tables and report; the folder.

    ``cell``: carry out this one here and now, and nothing else. ``targets``: compare on these of the file's alone.
    Raises UserError for bad input before anything is written, and at the end if cells have failed."""
    plan = read_bench(Path(file))
    if unknown := [name for name in targets if name not in plan.targets]:
        raise UserError(f"--targets {unknown[0]}: not one of the file's; {nearest(unknown[0], plan.targets)}")
    plan = replace(plan, targets=targets or plan.targets)
    out = out or Path("runs") / plan.name
    cells = matrix(plan, Path(file), out, overrides)
    if unknown := [name for name in only if name not in plan.methods]:
        raise UserError(f"--only {unknown[0]}: no such method; {nearest(unknown[0], plan.methods)}")
    if processes is not None and processes < 1:
        raise UserError(f"--processes {processes}: expected at least 1.")
    _check_folder(out, plan)
    if cell is not None:
        return _carry_out_alone(cell, cells)
    chosen = [one for one in cells if not only or one.method in only]
    check(chosen)
    for axis in asdict(plan.frontier).values():
        recipe = chosen[0].recipe
        check_score(axis, f"{file}: frontier", recipe, load_target(recipe.target) if recipe.target else None)
    words = ["expunge", "bench", file, "--out", str(out)]
    words += ["--targets", ",".join(targets)] if targets else []
    words += [word for given in overrides for word in ("--set", given)]
    write_manifest(plan, cells, out, shlex.join(words))
    try:
        _work_off([one for one in chosen if not is_done(one)], cells, out, words[1:], processes)
    finally:  # so that `expunge report` can show what is done
        write_manifest(plan, cells, out, shlex.join(words))
        collect(cells, out)
    show_bench(out, console)
    if failed := [one for one in chosen if not is_done(one)]:
        why = f"{failed[0].name}: {why_failed(log_of(out, failed[0]))}"
        raise UserError(
            f"{len(failed)} of {len(chosen)} cells failed, the first of them {why} "
            "The others are in the report; run again to try these again."
        )
    return out


def read_bench(path: Path) -> Bench:
    """The file of a benchmark. Raises UserError for an unknown key, a wrong type, or nothing to compare."""
    plan: Bench = build(Bench, read_yaml(path), str(path))
    if not plan.methods:
        raise UserError(f"{path}: methods: found none, expected at least one row name with its recipe keys.")
    for name, given in plan.methods.items():
        at = f"{path}: methods.{name}"
        if not isinstance(given, dict):
            raise UserError(f"{at}: found {given!r} ({type(given).__name__}), expected a mapping of recipe keys.")
        if fixed := [key for key in FIXED if key in given]:
            raise UserError(f"{at}.{fixed[0]}: this is the same for all methods; give targets and seeds for all.")
        _points(given, at)
    return plan


def _points(given: dict[str, Any], where: str) -> tuple[str, list[Any], Any]:
    """The key that points of a frontier differ in, its values, and the one in use; "" and one None without points."""
    points = given.get("points", {})
    if "points" not in given:
        if "use" in given:
            raise UserError(f"{where}.use: there are no points to choose from.")
        return "", [None], None
    values = next(iter(points.values()), None) if isinstance(points, dict) and len(points) == 1 else None
    if not isinstance(values, list) or not values:
        raise UserError(f"{where}.points: found {points!r}, expected one recipe key with a list of values.")
    use = given.get("use", values[-1])
    if use not in values:
        raise UserError(f"{where}.use: found {use!r}, expected one of {', '.join(map(repr, values))}.")
    return str(next(iter(points))), values, use


def matrix(plan: Bench, path: Path, out: Path, overrides: tuple[str, ...] = ()) -> list[Cell]:
    """All cells, targets outermost, so that a whole target can be looked at early. Raises UserError for a recipe that
    cannot be, and for two cells of one folder."""
    source = str(path.parent / plan.recipe)
    base = load_recipe(source, (), plan.scale)  # what is wrong with it alone is told with its own name
    cells: list[Cell] = []
    for target in plan.targets or (base.target,):
        for seed in plan.seeds or (base.seed,):
            for method, given in plan.methods.items():
                key, values, use = _points(given, "")
                for value in values:
                    point = f"{key.rpartition('.')[2]}={value}" if key else ""
                    told = (*plan.set, *overrides, *((f"{key}={json.dumps(value, default=str)}",) if key else ()))
                    keys = laid_over(read_recipe(source, plan.scale), given) | {"target": target, "seed": seed}
                    recipe = make_recipe(keys, f"{path}: methods.{method}", told)
                    if (recipe.target, recipe.seed) != (target, seed):
                        raise UserError(f"{path}: target and seed cannot be overridden: give targets and seeds.")
                    shown = Path(target).name if target else ""
                    places = (slug(method), slug(shown) or "corpora", slug(f"{seed} {point}"))
                    cell = Cell(method, shown, seed, point, value == use, recipe, out.joinpath("cells", *places))
                    cells.append(replace(cell, recipe=replace(recipe, name=f"{plan.name}: {cell.label}")))
    folders = [cell.folder for cell in cells]
    if twice := [cell for cell in cells if folders.count(cell.folder) > 1]:
        told_of = " and ".join(repr(cell.label) for cell in twice[:2])
        raise UserError(f"{path}: {told_of} would share the folder {twice[0].folder}; give them other names.")
    return cells


def laid_over(base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Recipe keys of a method over the base recipe's, key by key, but its stages of unlearning are its own."""
    over = {key: _apart(value) for key, value in given.items() if key not in OWN}
    whole = {"unlearn": over.pop("unlearn")} if "unlearn" in over else {}
    found: dict[str, Any] = merge(base, over)
    return found | whole


def _apart(value: Any) -> Any:
    """A copy in which nothing is the same object twice, as YAML's anchors make it: an override changes one place."""
    if isinstance(value, dict):
        return {key: _apart(item) for key, item in value.items()}
    return [_apart(item) for item in value] if isinstance(value, list) else value


def log_of(out: Path, cell: Cell) -> Path:
    return out / "logs" / f"{cell.name.replace('/', '_')}.log"


def _check_folder(out: Path, plan: Bench) -> None:
    if (out / "bench.json").exists():
        other = read_json(out / "bench.json").get("name")
        if other != plan.name:
            raise UserError(f"{out} belongs to the benchmark {other!r}; choose another folder with --out.")
    elif out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "cells").is_dir())):
        raise UserError(f"{out} exists and is no folder of a benchmark; choose another with --out.")


def _carry_out_alone(name: str, cells: Sequence[Cell]) -> Path:
    cell = next((one for one in cells if one.name == name), None)
    if cell is None:
        raise UserError(f"--cell {name}: there is no such cell; {nearest(name, [one.name for one in cells])}")
    if not is_done(cell):
        check([cell])
        carry_out(cell, cells)
    return cell.folder


def _work_off(todo: Sequence[Cell], cells: Sequence[Cell], out: Path, words: list[str], processes: int | None) -> None:
    """Carry out cells, each in a process of its own."""
    by_name = {cell.name: cell for cell in todo}
    numbers = {name: i for i, name in enumerate(by_name, 1)}
    jobs = []
    for name, cell in by_name.items():
        command = (sys.executable, "-m", "expunge", *words, "--cell", name)
        after = frozenset(other.name for other in todo if goes_on(cell.recipe, other.recipe))
        jobs.append(Job(name, original(cell.recipe), command, log_of(out, cell), after))

    def say(text: str, style: str = "") -> None:
        console.print(text, markup=False, style=style, soft_wrap=True)

    def on_start(job: Job) -> None:
        say(f"cell {numbers[job.name]} of {len(jobs)}: {by_name[job.name].label}", "bold")

    def on_end(job: Job, why: str) -> None:
        say(f"{by_name[job.name].label}: {f'failed: {why}' if why else 'done'}", "red" if why else "")

    made = {original(cell.recipe) for cell in cells if is_done(cell)}
    work_off(jobs, made, processes or len(devices()) or 1, on_start, on_end)


def write_manifest(plan: Bench, cells: Sequence[Cell], out: Path, command: str) -> None:
    """``bench.json``: what is compared, with what and on what, and how each cell stands."""
    told = asdict(plan) | {
        "command": command,
        "expunge": __version__,
        "commit": manifest.git_commit(),
        "created": manifest.now(),
        "versions": manifest.versions(),
        "machine": manifest.machine(),
        "cells": [_state(cell, out) for cell in cells],
    }
    write_json(out / "bench.json", told)


def _state(cell: Cell, out: Path) -> dict[str, Any]:
    lost = diverged(cell.folder)
    why = why_failed(log_of(out, cell))
    state, said = ("diverged", lost) if lost else ("done", "")
    if not is_done(cell):
        state, said = ("failed", "; ".join(part for part in (lost, why) if part)) if why else ("to do", "")
    told = {key: getattr(cell, key) for key in ("method", "target", "seed", "point", "used")}
    return {"cell": cell.name, **told, "recipe_hash": cell.recipe.hash(), "state": state, "why": said}


def collect(cells: Sequence[Cell], out: Path) -> None:
    """``results.jsonl``, one row per cell, model and score, and ``samples.jsonl``, some of what the models said."""
    done = [cell for cell in cells if is_done(cell)]
    of = {cell.name: {k: getattr(cell, k) for k in ("method", "target", "seed", "point", "used")} for cell in done}
    write_jsonl(out / "results.jsonl", [of[cell.name] | row for cell in done for row in rows_of(cell.folder)])
    first = [cell for cell in done if cell.used and cell.seed == cells[0].seed]
    write_jsonl(out / "samples.jsonl", [of[cell.name] | row for cell in first for row in samples_of(cell.folder)])
