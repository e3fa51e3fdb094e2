"""Runs that belong together, the points of a sweep or the cells of a benchmark: each has a folder of its own, and what
they have in common is done once."""

import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from . import pipeline
from .files import content_hash, read_json, read_log, writing, writing_folder
from .progress import console
from .recipe import ReBO, Recipe
from .run_folder import add_seconds, check_owner, claim, delta_name, difference_from, told_name
from .strict import to_dict
from .train.metrics import MetricsLog

ORIGINAL = ("model", "target", "seed", "dtype", "teach")  # recipe keys that make the model unlearning starts from
STAGES_READ = (*ORIGINAL, "writing", "questions")  # what stages of unlearning depend on beside their own keys
SHARED = {  # what a run may take over from another, and the recipe keys that must then be the same in both
    "traces.jsonl": (*ORIGINAL, "writing"),
    "answers.json": (*ORIGINAL, "questions"),
    "thoughts.json": (*ORIGINAL, "questions"),
    "further.json": (*ORIGINAL, "questions"),
    "evals/taught": (*ORIGINAL, "evaluate"),
    "evals/never_knew": (*ORIGINAL, "evaluate"),
}


class Planned(Protocol):
    """A recipe and the folder that it is carried out in."""

    @property
    def recipe(self) -> Recipe: ...

    @property
    def folder(self) -> Path: ...


def is_ours(run: Planned) -> bool:
    """Was what lies in the folder made by this very recipe?"""
    path = run.folder / "recipe.json"
    return path.exists() and not difference_from(run.recipe, path)


def is_done(run: Planned) -> bool:
    return (run.folder / "report.html").exists() and is_ours(run)


def check(runs: Iterable[Planned]) -> None:
    """Raises UserError for a folder of another recipe, and for all that the stage of preparing finds wrong in a run
    that is not done; writes nothing."""
    for run in runs:
        check_owner(run.folder, run.recipe)
        if not is_done(run):
            with tempfile.TemporaryDirectory() as elsewhere:  # the prepare stage ends by claiming its folder
                pipeline.prepare(pipeline.Run(run.recipe, Path(elsewhere)))


def carry_out(run: Planned, others: Sequence[Planned]) -> None:
    """One run from beginning to end, with what others have already made."""
    claim(run.folder, run.recipe)
    take_over(run, others)
    job = pipeline.run(run.recipe, run.folder, "evaluate", accept_ruined=True)
    with console.capture():  # a page of tables for every run would bury what is said of all of them
        pipeline.report_stage(job)


def take_over(run: Planned, others: Sequence[Planned]) -> None:
    """Copy what another run has already made from the very same settings."""
    ours = to_dict(run.recipe)
    others = [other for other in others if is_ours(other)]
    for name, keys in SHARED.items():
        whole = "" if name.endswith((".json", ".jsonl")) else "scores.json"  # an evaluation's last file
        alike = (o.folder / name for o in others if all(to_dict(o.recipe)[key] == ours[key] for key in keys))
        source = next((path for path in alike if (path / whole).exists()), None)
        mine = run.folder / name
        if source is None or (mine / whole).exists():
            continue
        if source.is_dir():
            with writing_folder(mine) as folder:
                shutil.copytree(source, folder, dirs_exist_ok=True)
        else:
            _copy(source, mine)
    for other in others:
        take_stages(run, other)


def take_stages(run: Planned, other: Planned) -> None:
    """The first stages of unlearning that both have and the other has carried out, with what they logged and took;
    never the last, which leaves the run's result."""
    ours, theirs = to_dict(run.recipe), to_dict(other.recipe)
    if any(ours[key] != theirs[key] for key in STAGES_READ):
        return
    pairs = zip(ours["unlearn"][:-1], theirs["unlearn"], strict=False)
    for number, (mine, its) in enumerate(pairs, 1):
        source = other.folder / delta_name(other.recipe, number)
        goal = run.folder / delta_name(run.recipe, number)
        if mine != its or not source.exists():
            return
        if goal.exists():
            continue
        stage = run.recipe.unlearn[number - 1]
        for name in (told_name(stage), *(("looks.jsonl",) if isinstance(stage, ReBO) else ())):
            if (other.folder / name).exists():
                _copy(other.folder / name, run.folder / name)
        log = MetricsLog(run.folder / "metrics.jsonl", stage.method)
        for row in read_log(other.folder / "metrics.jsonl"):
            if row["stage"] == log.stage:
                log(row)
        add_seconds(run.folder, stage.method, read_json(other.folder / "seconds.json").get(stage.method, 0.0))
        _copy(source, goal)


def goes_on(recipe: Recipe, first: Recipe) -> bool:
    """Does the unlearning of one recipe begin with the whole unlearning of another?"""
    ours, theirs = to_dict(recipe), to_dict(first)
    done = len(theirs["unlearn"])
    alike = all(ours[key] == theirs[key] for key in STAGES_READ)
    return alike and done < len(ours["unlearn"]) and ours["unlearn"][:done] == theirs["unlearn"]


def _copy(source: Path, goal: Path) -> None:
    with writing(goal) as file:
        shutil.copyfile(source, file)


def original(recipe: Recipe) -> str:
    """Recipes of one original say the same here; runs of one original had better not make it at the same time."""
    given = to_dict(recipe)
    return content_hash([given[key] for key in ORIGINAL])


def slug(text: str) -> str:
    """A name as part of a path: letters of any script, digits, and a few signs; at most 60 bytes.

    >>> slug("Stephen King"), slug("NPO+GDR, β=0.1")
    ('Stephen-King', 'NPO+GDR-β-0.1')
    """
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.").encode()[:60].decode(errors="ignore")
