"""The main job, stage by stage: prepare, teach, write, unlearn, evaluate, report.

Each stage leaves files in the run folder and is skipped when they are there; the taught model lives in
the cache, named by the hash of everything that made it. Interrupt at any time and run again."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .data.chat import render_prompt
from .data.rwku import Target, load_target
from .data.sources import SOURCES, Material, texts
from .data.streams import Stream, Text, count_tokens, tokenise
from .data.writing import prompts_to_write, write
from .errors import UserError, nearest
from .evals import suite
from .files import read_json, read_jsonl, write_json, write_jsonl
from .methods import METHODS
from .methods.r2mu import steers
from .models.blocks import check_block, check_known, load_prefix, read_config
from .models.delta import apply_delta, load_delta, save_delta
from .models.load import checkpoint_dtype, load, load_tokenizer, model_hash, resolve, weights_of
from .progress import bar, console, per_step
from .recipe import Recipe
from .run_folder import add_seconds, check_owner, claim, run_manifest
from .teaching import taught_model
from .train.metrics import MetricsLog
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

    @property
    def delta(self) -> Path:
        return self.folder / "delta.safetensors"


def run(recipe: Recipe, folder: Path, until: str = "report") -> Run:
    """Carry out a recipe up to and including stage ``until``; done stages are not done again.

    Raises UserError for bad input, a run folder of another recipe, or an unwritable place."""
    job = Run(recipe, Path(folder))
    check_owner(job.folder, recipe)
    finished = (job.folder / "run.json").exists()
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
        try:
            actions[name](job)
        finally:
            if (job.folder / "recipe.json").exists() and not finished:
                add_seconds(job.folder, name, time.perf_counter() - started)
    return job


def prepare(job: Run) -> None:
    """Fetch the model and check everything that later stages read, before hours are spent; then claim
    the run folder."""
    r = job.recipe
    job.target = load_target(r.target)
    for sources in r.unlearn.streams.values():
        for source in sources:
            if source not in SOURCES:
                texts(source, Material(job.target, None, {}))
    for goal in r.goals:
        if goal.score not in suite.SCORES:
            raise UserError(f"goal on unknown score {goal.score!r}; {nearest(goal.score, suite.SCORES)}")
    job.base = job.original = resolve(r.model)
    config = read_config(job.base)
    check_known(config, r.model)
    for block in (r.unlearn.settings.block, *r.unlearn.settings.train_blocks):
        check_block(block, config.num_hidden_layers)
    if r.teach:
        check_block(r.teach.sft.first_block, config.num_hidden_layers)
    weights_of(job.base)
    render_prompt(load_tokenizer(job.base), "")
    claim(job.folder, r)


def teach(job: Run) -> None:
    """Teach the target's and its neighbours' facts; the result is cached by content."""
    if job.recipe.teach is None:
        return
    job.original = taught_model(job.base, job.recipe, job.recipe.teach, job.target, knows_target=True)
    log = MetricsLog(job.folder / "metrics.jsonl", "teach")
    if not log.rows():
        for row in read_jsonl(job.original / "teach.jsonl"):
            log(row)


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
    """Train the delta; write the whole model too if the recipe asks for it."""
    if not job.delta.exists():
        _train_delta(job)
    if job.recipe.full_checkpoint and not (job.folder / "model").exists():
        apply_delta(job.original, job.delta, job.folder / "model")


def _train_delta(job: Run) -> None:
    import torch

    u = job.recipe.unlearn
    dtype = getattr(torch, job.recipe.dtype)
    decoder = load_prefix(job.original, u.settings.block, dtype)
    streams = streams_of(job, load_tokenizer(job.original))
    log = MetricsLog(job.folder / "metrics.jsonl", "unlearn")
    checkpoint = job.folder / "unlearn.state.safetensors"
    with bar(f"unlearn ({u.method})", u.loop.steps) as advance:
        outcome = unlearn(
            decoder,
            streams,
            u.settings,
            u.loop,
            seed=job.recipe.seed,
            checkpoint=checkpoint,
            log=per_step(log, advance),
        )
    write_json(job.folder / "unlearn.json", {"steering_length": outcome.steering_length})
    save_delta(
        job.delta,
        {f"model.{name}": matrix for name, matrix in outcome.matrices.items()},
        base=job.original,
        source=job.recipe.model,
        method=u.method,
        dtype=checkpoint_dtype(job.original),
    )
    checkpoint.unlink(missing_ok=True)


def evaluate_stage(job: Run) -> None:
    """Score the original and the unlearned model by the same protocol."""
    if (job.folder / "scores.json").exists():
        return
    teach_settings = job.recipe.teach
    names = ["taught", "unlearned"]
    if teach_settings and teach_settings.never_knew:
        names.append("never_knew")
    judge, tokenizer = load(job.original, job.recipe.dtype)
    scores = {}
    for name in names:
        done = job.folder / "evals" / name / "scores.json"
        if not done.exists():
            model = judge
            if name == "unlearned":
                model, _ = load(job.original, job.recipe.dtype)
                load_delta(model, job.delta)
            elif name == "never_knew" and teach_settings:
                folder = taught_model(job.base, job.recipe, teach_settings, job.target, knows_target=False)
                model, _ = load(folder, job.recipe.dtype)
            _evaluate(job, name, model, judge, tokenizer)
        scores[name] = read_json(done)
    write_json(job.folder / "scores.json", scores)


def _evaluate(job: Run, name: str, model: Any, judge: Any, tokenizer: Any) -> None:
    """Score one model; ``judge`` is the original, to which the replies should still read naturally."""
    e = job.recipe.evaluate
    title = f"evaluate the {name.replace('_', ' ')} model"
    with bar(title, suite.work(job.target, e.perplexity_texts)) as advance:
        found, rows = suite.evaluate(
            model,
            tokenizer,
            job.target,
            trace_tokens=e.trace_tokens,
            perplexity_texts=e.perplexity_texts,
            perplexity_tokens=e.perplexity_tokens,
            on_done=advance,
        )
    natural = suite.reply_naturalness(judge, tokenizer, job.target.probes, rows["rwku"])
    folder = job.folder / "evals" / name
    for kind, part in rows.items():
        write_jsonl(folder / f"{kind}.jsonl", part)
    write_json(folder / "scores.json", {**found, "replies/forget/perplexity": natural})


def report_stage(job: Run) -> None:
    """Write run.json and report.html, and print the tables."""
    from .report.html import write_report
    from .report.terminal import print_report

    if not (job.folder / "run.json").exists():
        manifest = run_manifest(job.folder, job.recipe, job.target, job.original)
        write_json(job.folder / "run.json", manifest)
    path = write_report(job.folder)
    print_report(job.folder, console)
    console.print(f"report: {path}", soft_wrap=True)
