"""A run folder: whose it is, how long its stages took, what it was made with, which base its delta fits."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from . import __version__
from .data.rwku import Target
from .errors import UserError
from .evals.goals import judge_goals
from .files import check_space, content_hash, file_hash, read_json, read_jsonl, write_json
from .models.delta import read_header
from .models.load import model_hash, resolve
from .recipe import RS, Misdirect, ReBO, Recipe, Stage, make_recipe
from .strict import first_difference, to_dict
from .teaching import taught_folder
from .train import manifest
from .train.processes import joined

TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")


def check_owner(folder: Path, recipe: Recipe) -> None:
    """Raises UserError when the folder is another recipe's, holds something else, or cannot be written."""
    check_space(folder, 50_000_000)
    path = folder / "recipe.json"
    if path.exists():
        difference = difference_from(recipe, path)
        if difference:
            raise UserError(
                f"{folder} belongs to another recipe: {difference}. Choose another folder with --out, or delete it."
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is no run folder; choose another with --out.")


def difference_from(recipe: Recipe, path: Path) -> str | None:
    """Where a recipe differs from the one kept in a file, None if nowhere; a key that the file is too old to know has
    its default there."""
    kept = read_json(path)
    with suppress(UserError):  # a key of another version, which will be told as the difference
        kept = to_dict(make_recipe(kept, str(path)))
    return first_difference(to_dict(recipe), kept)


def claim(folder: Path, recipe: Recipe) -> None:
    """Make the folder this recipe's."""
    if not (folder / "recipe.json").exists():
        write_json(folder / "recipe.json", to_dict(recipe))


def delta_name(recipe: Recipe, number: int) -> str:
    """File of what the first ``number`` stages of unlearning have changed; the last of them is the run's result."""
    if number == len(recipe.unlearn):
        return "delta.safetensors"
    return f"delta.{number}.{recipe.unlearn[number - 1].method}.safetensors"


def told_name(stage: Stage) -> str:
    """File of what a stage of unlearning has to tell, where it has: it ends up in run.json."""
    return f"{stage.method}.json"


def add_seconds(folder: Path, stage: str, seconds: float) -> None:
    """Add to the time a stage has taken so far."""
    path = folder / "seconds.json"
    known = read_json(path) if path.exists() else {}
    write_json(path, {**known, stage: round(known.get(stage, 0.0) + seconds, 1)})


def run_manifest(folder: Path, recipe: Recipe, target: Target | None, original: Path) -> dict[str, Any]:
    """What run.json holds: everything that may explain why two runs differ, and the goals."""
    return {
        "name": recipe.name,
        "expunge": __version__,
        "commit": manifest.git_commit(),
        "created": manifest.now(),
        "recipe_hash": recipe.hash(),
        "model": {"source": recipe.model, "hash": model_hash(original)},
        "target": target.name if target else None,
        "method": " + ".join(stage.method for stage in recipe.unlearn),
        "seed": recipe.seed,
        "effective_batch": effective_batches(recipe),
        "world_size": joined().count,
        "tokenizer_hash": content_hash([file_hash(path) for name in TOKENIZER if (path := original / name).exists()]),
        "data_hash": content_hash(
            [vars(p) for p in target.probes] if target else [], read_jsonl(folder / "traces.jsonl")
        ),
        "seconds": read_json(folder / "seconds.json"),
        "peak_memory_gb": manifest.peak_memory_gb(),
        "versions": manifest.versions(),
        "machine": manifest.machine(),
        "recipe": to_dict(recipe),
        "stages": {s.method: read_json(path) for s in recipe.unlearn if (path := folder / told_name(s)).exists()},
        "goals": judge_goals(recipe.goals, read_json(folder / "scores.json")),
    }


def effective_batches(recipe: Recipe) -> dict[str, int]:
    """How many texts, exchanges or samples a step of each stage sees."""
    out = {}
    for stage in recipe.unlearn:
        if isinstance(stage, Misdirect):
            out.update(dict.fromkeys(stage.streams, stage.loop.batch_size))
        elif isinstance(stage, ReBO):
            out[stage.method] = stage.rl.prompts * stage.rl.rollouts
        else:
            out[stage.method] = (stage.sft if isinstance(stage, RS) else stage.training).batch_size
    return out


def base_of_run(folder: Path) -> Path | None:
    """Folder of the model that the run's delta belongs to; None if this is no run folder, or has no delta yet.

    Raises UserError when that model is no longer in the cache."""
    delta = folder / "delta.safetensors"
    if not (folder / "recipe.json").exists() or not delta.exists():
        return None
    _, header = read_header(delta)
    if read_json(folder / "recipe.json")["teach"] is None:
        candidates = [resolve(header["base"])]
    else:
        candidates = [path for path in taught_folder().glob("*") if (path / "config.json").exists()]
    for candidate in candidates:
        if model_hash(candidate) == header["base_hash"]:
            return candidate
    raise UserError(
        f"{folder}: the model it was made from, {header['base']} (hash {header['base_hash']}), is not in the cache or "
        "has changed. Run the recipe again, or name the model with --base."
    )
