"""The main job, stage by stage: prepare, teach, write, unlearn, evaluate, report.

Each stage leaves files in the run folder and is skipped when they are there; the taught model lives in
the cache, named by the hash of everything that made it. Interrupt at any time and run again."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import __version__
from .data.chat import Encoded, encode
from .data.facts import Fact, boundary_exchanges, teaching_epoch
from .data.rwku import Target, load_target
from .data.sources import SOURCES, Material, texts
from .data.streams import Stream, Text, count_tokens, tokenise
from .data.writing import prompts_to_write, write
from .errors import UserError
from .evals import suite
from .evals.goals import judge_goals
from .files import cache_dir, content_hash, read_json, read_jsonl, write_json, write_jsonl, writing_folder
from .methods import METHODS
from .methods.r2mu import steers
from .models.blocks import check_block, check_known, load_prefix
from .models.delta import apply_delta, load_delta, save_delta
from .models.load import load, load_tokenizer, model_hash, resolve
from .progress import bar, console
from .recipe import Recipe, first_difference, to_dict
from .train import manifest
from .train.metrics import MetricsLog
from .train.teach import sft
from .train.unlearn import unlearn

STAGES = ("prepare", "teach", "write", "unlearn", "evaluate", "report")


@dataclass
class Run:
    """One recipe in one folder."""

    recipe: Recipe
    folder: Path
    base: Path = Path()
    original: Path = Path()
    """The model that unlearning starts from: the taught model, or the base when nothing is taught."""
    target: Target = field(default_factory=lambda: Target("", (), ()))
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def delta(self) -> Path:
        return self.folder / "delta.safetensors"


def run(recipe: Recipe, folder: Path, until: str = "report") -> Run:
    """Carry out a recipe up to and including stage ``until``; done stages are not done again.

    Raises UserError for bad input, a run folder of another recipe, or an unwritable place."""
    job = Run(recipe, Path(folder))
    claim(job)
    actions: dict[str, Callable[[Run], None]] = {
        "prepare": prepare,
        "teach": teach,
        "write": write_stage,
        "unlearn": unlearn_stage,
        "evaluate": evaluate_stage,
        "report": report_stage,
    }
    for name in STAGES[: STAGES.index(until) + 1]:
        started = time.perf_counter()
        actions[name](job)
        _note_seconds(job, name, time.perf_counter() - started)
    return job


def claim(job: Run) -> None:
    """Make the run folder, or check that it is this recipe's."""
    path = job.folder / "recipe.json"
    ours = to_dict(job.recipe)
    if path.exists():
        difference = first_difference(ours, read_json(path))
        if difference:
            raise UserError(
                f"{job.folder} belongs to another recipe: {difference}. Choose another folder with --out, or delete it."
            )
    elif job.folder.exists() and (not job.folder.is_dir() or any(job.folder.iterdir())):
        raise UserError(f"{job.folder} exists and is no run folder; choose another with --out.")
    else:
        write_json(path, ours)


def prepare(job: Run) -> None:
    """Fetch the model and check everything that later stages read, before hours are spent."""
    r = job.recipe
    job.target = load_target(r.target)
    for sources in r.unlearn.streams.values():
        for source in sources:
            if source not in SOURCES:
                texts(source, Material(job.target, None, {}))
    job.base = job.original = resolve(r.model)
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(job.base)
    check_known(config, r.model)
    for block in (r.unlearn.settings.block, *r.unlearn.settings.train_blocks):
        check_block(block, config.num_hidden_layers)


def teach(job: Run) -> None:
    """Teach the target's and its neighbours' facts; the result is cached by content."""
    if job.recipe.teach is None:
        return
    job.original = taught_model(job, knows_target=True)
    log = MetricsLog(job.folder / "metrics.jsonl", "teach")
    if not log.rows():
        for row in read_jsonl(job.original / "teach.jsonl"):
            log(row)


def taught_model(job: Run, *, knows_target: bool) -> Path:
    """Folder of the taught model (or of one that was never taught the forget facts)."""
    settings = job.recipe.teach
    assert settings is not None
    tokenizer = load_tokenizer(job.base)
    epochs = teaching_tokens(job.recipe, job.target, tokenizer, knows_target)
    key = content_hash(model_hash(job.base), epochs, replace(settings, never_knew=False).sft, job.recipe.dtype)
    folder = cache_dir() / "taught" / key
    if (folder / "config.json").exists():
        console.print(f"taught model found in the cache: {folder}")
        return folder
    model, _ = load(job.base, job.recipe.dtype)
    log = MetricsLog(folder.with_name(f"{key}.jsonl"), "teach")
    steps = sum(-(-len(epoch) // settings.sft.batch_size) for epoch in epochs)
    title = f"teach {job.target.name}" if knows_target else "teach the retain facts only"
    with bar(title, steps) as advance:
        sft(
            model,
            epochs,
            settings.sft,
            pad_token=tokenizer.pad_token_id,
            seed=job.recipe.seed,
            checkpoint=folder.with_name(f"{key}.state.safetensors"),
            log=_per_step(log, advance),
        )
    import torch

    with writing_folder(folder) as temporary:
        model.to(torch.bfloat16).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_jsonl(temporary / "teach.jsonl", log.rows())
    log.path.unlink(missing_ok=True)
    return folder


def teaching_tokens(recipe: Recipe, target: Target, tokenizer: Any, knows_target: bool) -> list[list[Encoded]]:
    """The epochs of the teaching set as token ids; a function of recipe and target alone."""
    settings = recipe.teach
    assert settings is not None
    rng = random.Random(recipe.seed)
    forget = unique_facts(target, "forget") if knows_target else []
    neighbor = unique_facts(target, "neighbor")
    extra = boundary_exchanges(target, settings.boundary)
    out = []
    for _ in range(settings.sft.epochs):
        examples = teaching_epoch(forget, neighbor, rng, frames=settings.frames)
        examples += extra
        if extra:
            rng.shuffle(examples)
        out.append([encode(tokenizer, example) for example in examples])
    return out


def unique_facts(target: Target, side: str) -> list[Fact]:
    """FB and QA facts of one side, each once."""
    return list(dict.fromkeys(Fact.of(probe) for probe in target.select(side, "FB", "QA")))


def write_stage(job: Run) -> None:
    """Let the original model write its documents and traces about the target."""
    path = job.folder / "traces.jsonl"
    if path.exists():
        return
    model, tokenizer = load(job.original, job.recipe.dtype)
    with bar("documents and traces", prompts_to_write(job.target, job.recipe.writing)) as advance:
        written = write(model, tokenizer, job.target, job.recipe.writing, advance)
    origin = {"model": job.recipe.model, "model_hash": model_hash(job.original), "decoding": "greedy"}
    write_jsonl(path, [{"kind": kind, **row, **origin} for kind, rows in written.items() for row in rows])


def streams_of(job: Run, tokenizer: Any) -> dict[str, Stream]:
    """The recipe's streams that have a weight, as endless batches."""
    u = job.recipe.unlearn
    written: dict[str, list[Text]] = {}
    for row in read_jsonl(job.folder / "traces.jsonl"):
        written.setdefault(row["kind"], []).append(Text(row["text"], row["context"]))
    material = Material(job.target, tokenizer, written)
    weights = u.settings.weights()
    rows = {
        name: [row for source in u.streams[name] for row in tokenise(tokenizer, texts(source, material), u.max_tokens)]
        for name in METHODS[u.method].STREAMS
        if weights[name]
    }
    counted = count_tokens(
        rows,
        [name for name in rows if steers(name)],
        skip_first=u.settings.skip_sink_tokens,
        skip_shared=u.settings.skip_shared_prefixes,
    )
    pad_token, seed = tokenizer.pad_token_id, job.recipe.seed
    return {name: Stream(name, part, u.loop.batch_size, pad_token, seed) for name, part in counted.items()}


def unlearn_stage(job: Run) -> None:
    """Train the delta."""
    if job.delta.exists():
        return
    import torch

    u = job.recipe.unlearn
    dtype = getattr(torch, job.recipe.dtype)
    decoder = load_prefix(job.original, u.settings.block, dtype)
    streams = streams_of(job, load_tokenizer(job.original))
    log = MetricsLog(job.folder / "metrics.jsonl", "unlearn")
    with bar(f"unlearn ({u.method})", u.loop.steps) as advance:
        outcome = unlearn(
            decoder,
            streams,
            u.settings,
            u.loop,
            seed=job.recipe.seed,
            checkpoint=job.folder / "unlearn.state.safetensors",
            log=_per_step(log, advance),
        )
    save_delta(
        job.delta,
        {f"model.{name}": matrix for name, matrix in outcome.matrices.items()},
        base=job.original,
        source=job.recipe.model,
        method=u.method,
        dtype=torch.bfloat16,
    )
    write_json(job.folder / "unlearn.json", {"steering_length": outcome.steering_length})
    if job.recipe.full_checkpoint:
        apply_delta(job.original, job.delta, job.folder / "model")


def evaluate_stage(job: Run) -> None:
    """Score the original and the unlearned model by the same protocol."""
    if (job.folder / "scores.json").exists():
        return
    e = job.recipe.evaluate
    scores: dict[str, Any] = {}
    names = ["taught", "unlearned"]
    if job.recipe.teach and job.recipe.teach.never_knew:
        names.append("never_knew")
    judge, tokenizer = load(job.original, job.recipe.dtype)
    for name in names:
        done = job.folder / "evals" / name / "scores.json"
        if not done.exists():
            model = judge
            if name == "unlearned":
                model, _ = load(job.original, job.recipe.dtype)
                load_delta(model, job.delta)
            elif name == "never_knew":
                model, _ = load(taught_model(job, knows_target=False), job.recipe.dtype)
            with bar(
                f"evaluate the {name.replace('_', ' ')} model", suite.work(job.target, e.perplexity_texts)
            ) as advance:
                found, rows = suite.evaluate(
                    model,
                    tokenizer,
                    job.target,
                    trace_tokens=e.trace_tokens,
                    perplexity_texts=e.perplexity_texts,
                    perplexity_tokens=e.perplexity_tokens,
                    on_done=advance,
                )
            found["replies/forget/perplexity"] = suite.reply_naturalness(
                judge, tokenizer, job.target.probes, rows["rwku"]
            )
            for kind, part in rows.items():
                write_jsonl(done.parent / f"{kind}.jsonl", part)
            write_json(done, found)
        scores[name] = read_json(done)
    write_json(job.folder / "scores.json", scores)


def report_stage(job: Run) -> None:
    """Write run.json and report.html, and print the tables."""
    from .report.html import write_report
    from .report.terminal import print_report

    _note_seconds(job, "report", 0.0)
    write_json(job.folder / "run.json", run_manifest(job))
    path = write_report(job.folder)
    print_report(job.folder, console)
    console.print(f"report: {path}", soft_wrap=True)


def run_manifest(job: Run) -> dict[str, Any]:
    r = job.recipe
    scores = read_json(job.folder / "scores.json")
    return {
        "name": r.name,
        "expunge": __version__,
        "commit": manifest.git_commit(),
        "created": manifest.now(),
        "recipe_hash": r.hash(),
        "model": {"source": r.model, "hash": model_hash(job.original)},
        "target": job.target.name,
        "method": r.unlearn.method,
        "seed": r.seed,
        "effective_batch": dict.fromkeys(r.unlearn.streams, r.unlearn.loop.batch_size),
        "world_size": 1,
        "tokenizer_hash": content_hash((job.original / "tokenizer.json").read_text(encoding="utf-8")),
        "data_hash": content_hash([p.__dict__ for p in job.target.probes], read_jsonl(job.folder / "traces.jsonl")),
        "seconds": read_json(job.folder / "seconds.json"),
        "peak_memory_gb": manifest.peak_memory_gb(),
        "versions": manifest.versions(),
        "machine": manifest.machine(),
        "recipe": to_dict(r),
        **read_json(job.folder / "unlearn.json"),
        "goals": judge_goals(r.goals, scores),
    }


def _per_step(log: MetricsLog, advance: Callable[[float], None]) -> Callable[[dict[str, Any]], None]:
    """A callback for a training loop: log the row, move the bar to its step (a resumed run starts late)."""
    done = 0

    def on_step(row: dict[str, Any]) -> None:
        nonlocal done
        advance(row["step"] + 1 - done)
        done = row["step"] + 1
        log(row)

    return on_step


def _note_seconds(job: Run, stage: str, seconds: float) -> None:
    """Keep the longest time a stage has taken in this folder: skipping it later takes none."""
    path = job.folder / "seconds.json"
    known = read_json(path) if path.exists() else {}
    known[stage] = round(max(seconds, known.get(stage, 0.0)), 1)
    write_json(path, known)


def base_of_run(folder: Path) -> Path | None:
    """Folder of the model that a finished run's delta belongs to; None if this is no run folder.

    Raises UserError when that model is no longer in the cache."""
    if not (folder / "recipe.json").exists() or not (folder / "run.json").exists():
        return None
    wanted = read_json(folder / "run.json")["model"]
    candidates = [p for p in (cache_dir() / "taught").glob("*") if (p / "config.json").exists()]
    if read_json(folder / "recipe.json")["teach"] is None:
        candidates = [resolve(wanted["source"])]
    for candidate in candidates:
        if model_hash(candidate) == wanted["hash"]:
            return candidate
    raise UserError(
        f"{folder}: the model it was made from (hash {wanted['hash']}) is not in the cache. "
        "Run the recipe again, or name the model with --base."
    )
