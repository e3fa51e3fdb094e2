"""The main job, stage by stage: prepare, teach, write, unlearn, evaluate, report.

Each stage leaves files in the run folder and is skipped when they are there; the taught model lives in
the cache, named by the hash of everything that made it. Interrupt at any time and run again."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .data.chat import render_prompt
from .data.rwku import Target, load_target
from .data.sources import Material, texts, written_here
from .data.streams import Stream, Text, count_tokens, tokenise
from .data.writing import jobs, write
from .errors import UserError, nearest
from .evals import suite
from .files import cache_dir, content_hash, read_json, read_jsonl, write_json, write_jsonl
from .methods import METHODS, control_batches
from .methods.misdirection import steers
from .methods.rtp import token_ids
from .methods.zerothink import opening
from .models.blocks import check_block, check_known, read_config
from .models.cache import PrefixCache
from .models.delta import apply_delta, load_delta, save_delta
from .models.load import checkpoint_dtype, load, load_tokenizer, model_hash, resolve, weights_of
from .models.prefix import Upper, load_prefix, lower_part
from .progress import bar, console, per_step
from .recipe import Recipe
from .run_folder import add_seconds, check_owner, claim, run_manifest
from .teaching import taught_model
from .train.metrics import MetricsLog
from .train.unlearn import Topic, unlearn

STAGES = ("prepare", "teach", "write", "unlearn", "evaluate", "report")


@dataclass
class Run:
    """One recipe in one folder."""

    recipe: Recipe
    folder: Path
    base: Path = Path()
    original: Path = Path()
    """The model that unlearning starts from: the taught model, or the base when nothing is taught."""
    target: Target | None = None

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
    job.target = load_target(r.target) if r.target else None
    job.base = job.original = resolve(r.model)
    config = read_config(job.base)
    check_known(config, r.model)
    if r.teach:
        check_block(r.teach.sft.first_block, config.num_hidden_layers)
    weights_of(job.base)
    tokenizer = load_tokenizer(job.base)
    if job.target or r.evaluate.questions:
        render_prompt(tokenizer, "")
    material = Material(job.target, tokenizer, {})
    sources = {source for _, streams in r.unlearn.by_topic().values() for given in streams.values() for source in given}
    for source in sorted(sources | set(r.writing.about)):
        if not written_here(source):
            texts(source, material)
    for settings, _ in r.unlearn.by_topic().values():
        if METHODS[r.unlearn.method].STREAMS:
            for block in (settings.block, *settings.train_blocks):
                check_block(block, config.num_hidden_layers)
    suite.work(job.target, r.evaluate)  # reads every file of the evaluation
    known = suite.scores(job.target, r.evaluate)
    for goal in r.goals:
        if goal.score not in known:
            raise UserError(f"goal on unknown score {goal.score!r}; {nearest(goal.score, known)}")
    claim(job.folder, r)


def teach(job: Run) -> None:
    """Teach the target's and its neighbours' facts; the result is cached by content."""
    if job.recipe.teach is None or job.target is None:
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
    r = job.recipe
    tokenizer = load_tokenizer(job.original)
    about = [text for source in r.writing.about for text in texts(source, Material(job.target, tokenizer, {}))]
    todo = jobs(tokenizer, job.target, r.writing, about)
    rows = []
    if todo:
        model, _ = load(job.original, r.dtype)
        origin = {"model": r.model, "model_hash": model_hash(job.original), "decoding": "greedy"}
        with bar("documents and traces", sum(len(part.prompts) for part in todo)) as advance:
            for part in todo:
                written = write(model, tokenizer, part, r.writing, advance)
                rows += [{"kind": part.kind, **row, **origin} for row in written]
    write_jsonl(path, rows)


def topics_of(job: Run, tokenizer: Any) -> list[Topic]:
    """The recipe's forget corpora, each with its streams that have a weight, as endless batches."""
    u = job.recipe.unlearn
    written: dict[str, list[Text]] = {}
    for row in read_jsonl(job.folder / "traces.jsonl"):
        written.setdefault(row["kind"], []).append(Text(row["text"], row["context"]))
    material = Material(job.target, tokenizer, written)
    return [
        Topic(name, _streams(job, settings, given, material, f"{name}/" if name else ""), settings)
        for name, (settings, given) in u.by_topic().items()
    ]


def _streams(job: Run, settings: Any, given: Any, material: Material, prefix: str) -> dict[str, Stream]:
    u, tokenizer = job.recipe.unlearn, material.tokenizer
    read = {name for name, weight in settings.weights().items() if weight} | set(control_batches(u.method))
    rows = {
        name: [
            row
            for source in given[name]
            for row in tokenise(tokenizer, texts(source, material), u.stream_tokens.get(name, u.max_tokens))
        ]
        for name in METHODS[u.method].STREAMS
        if name in read
    }
    counted = count_tokens(
        rows,
        [name for name in rows if steers(name)],
        skip_first=settings.skip_sink_tokens,
        skip_shared=settings.skip_shared_prefixes,
    )
    pad_token, seed = tokenizer.pad_token_id, job.recipe.seed
    return {name: Stream(f"{prefix}{name}", part, u.loop.batch_size, pad_token, seed) for name, part in counted.items()}


def unlearn_stage(job: Run) -> None:
    """Train the delta; write the whole model too if the recipe asks for it."""
    if not job.delta.exists():
        _train_delta(job)
    if job.recipe.full_checkpoint and not (job.folder / "model").exists():
        apply_delta(job.original, job.delta, job.folder / "model")


def _train_delta(job: Run) -> None:

    u = job.recipe.unlearn
    save = partial(
        save_delta,
        job.delta,
        base=job.original,
        source=job.recipe.model,
        method=u.method,
        dtype=checkpoint_dtype(job.original),
    )
    if not METHODS[u.method].STREAMS:
        if not (job.folder / "metrics.jsonl").exists():
            write_jsonl(job.folder / "metrics.jsonl", [])
        write_json(job.folder / "unlearn.json", {})
        save({})
        return
    decoder, reflect = _decoder(job)
    topics = topics_of(job, load_tokenizer(job.original))
    log = MetricsLog(job.folder / "metrics.jsonl", "unlearn")
    checkpoint = job.folder / "unlearn.state.safetensors"
    with bar(f"unlearn ({u.method})", u.loop.steps) as advance:
        outcome = unlearn(
            decoder,
            topics,
            u.loop,
            method=u.method,
            seed=job.recipe.seed,
            checkpoint=checkpoint,
            cache=_prefix_cache(job),
            reflect=reflect,
            log=per_step(log, advance),
        )
    lengths = outcome.steering_length
    write_json(job.folder / "unlearn.json", {"steering_length": lengths if len(lengths) > 1 else max(lengths.values())})
    save({f"model.{name}": matrix for name, matrix in outcome.matrices.items()})
    checkpoint.unlink(missing_ok=True)


def _decoder(job: Run) -> tuple[Any, Upper | None]:
    """The lower part of the original model; for RTP, which needs logits, also what lies above it."""
    import torch

    r = job.recipe
    block, dtype = r.unlearn.settings.block, getattr(torch, r.dtype)
    if r.unlearn.method == "rtp":
        model, tokenizer = load(job.original, r.dtype)
        return lower_part(model, block), Upper(model, block, token_ids(tokenizer, r.unlearn.settings.words))
    return load_prefix(job.original, block, dtype, "cuda" if torch.cuda.is_available() else "cpu"), None


def _prefix_cache(job: Run) -> PrefixCache | None:
    u = job.recipe.unlearn
    if u.loop.prefix_cache == "off":
        return None
    if u.loop.prefix_cache == "memory":
        return PrefixCache()
    s = u.settings
    cut = content_hash(
        model_hash(job.original), s.block, s.train, s.train_blocks, s.legacy_param_index, job.recipe.dtype
    )
    return PrefixCache(cache_dir() / "prefix" / cut)


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
            elif name == "never_knew" and teach_settings and job.target:
                folder = taught_model(job.base, job.recipe, teach_settings, job.target, knows_target=False)
                model, _ = load(folder, job.recipe.dtype)
            _evaluate(job, name, model, judge, tokenizer)
        scores[name] = read_json(done)
    write_json(job.folder / "scores.json", scores)


def _evaluate(job: Run, name: str, model: Any, judge: Any, tokenizer: Any) -> None:
    """Score one model; ``judge`` is the original, to which the replies should still read naturally."""
    e = job.recipe.evaluate
    silent = name == "unlearned" and (e.zero_think or job.recipe.unlearn.method == "zerothink")
    under = suite.Scored(model, judge, tokenizer, opening if silent else str)
    with bar(f"evaluate the {name.replace('_', ' ')} model", suite.work(job.target, e)) as advance:
        found, rows = suite.evaluate(under, job.target, e, advance)
    folder = job.folder / "evals" / name
    for kind, part in rows.items():
        write_jsonl(folder / f"{kind}.jsonl", part)
    write_json(folder / "scores.json", found)


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
