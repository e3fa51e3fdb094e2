"""The main job, stage by stage: prepare, teach, write, unlearn, evaluate, report.

Each stage leaves files in the run folder and is skipped when they are there; the taught model lives in
the cache, named by the hash of everything that made it. Interrupt at any time and run again.

Of several processes (train/processes.py) all prepare, teach and train; everything else the first does alone."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .data.chat import render_prompt
from .data.rwku import Target, load_target
from .data.sources import texts
from .data.writing import OPENER, jobs, spread, write
from .errors import UserError, nearest
from .evals import suite
from .evals.task import Manner, Scored, manner_of, plainly
from .files import read_json, read_jsonl, write_json, write_jsonl
from .models.blocks import check_block, check_known, read_config
from .models.delta import apply_delta, load_delta, read_delta, save_delta
from .models.load import checkpoint_dtype, load, load_tokenizer, model_hash, resolve, weights_of
from .progress import bar, console
from .recipe import RS, Misdirect, Recipe, Stage
from .report.card import write_card
from .run_folder import add_seconds, check_owner, claim, delta_name, run_manifest
from .stages import misdirect, rule, tune
from .stages.work import Work
from .teaching import taught_model
from .tracing import Tracing, partial_of, traces_of
from .train.lora import check_lora
from .train.metrics import MetricsLog
from .train.processes import alone, joined, processes
from .train.tuning import Tune

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
    data: suite.Data = suite.Data()
    """What the evaluation asks."""
    accept_ruined: bool = False
    """Go on with a model whose loss or weights are no numbers, as benchmarks and sweeps do: its scores tell."""

    @property
    def delta(self) -> Path:
        return self.folder / "delta.safetensors"


def run(recipe: Recipe, folder: Path, until: str = "report", *, accept_ruined: bool = False) -> Run:
    """Carry out a recipe up to and including stage ``until``; done stages are not done again.

    Raises UserError for bad input, a run folder of another recipe, an unwritable place, and for unlearning that
    ends in no numbers unless ``accept_ruined``."""
    job = Run(recipe, Path(folder), accept_ruined=accept_ruined)
    alone(partial(check_owner, job.folder, recipe))
    finished = (job.folder / "run.json").exists()
    actions: dict[str, Callable[[Run], None]] = {
        "prepare": _prepare_in_turn,
        "teach": teach,
        "write": lambda job: alone(partial(write_stage, job)),
        "unlearn": unlearn_stage,
        "evaluate": lambda job: alone(partial(evaluate_stage, job)),
        "report": lambda job: alone(partial(report_stage, job)),
    }
    for name in STAGES[: STAGES.index(until) + 1]:
        started = time.perf_counter()
        try:
            actions[name](job)
        finally:
            if name != "unlearn" and not finished:  # each of its stages has a time of its own
                _add_seconds(job, name, started)
    return job


def _add_seconds(job: Run, name: str, started: float) -> None:
    if joined().first and (job.folder / "recipe.json").exists():
        add_seconds(job.folder, name, time.perf_counter() - started)


def _prepare_in_turn(job: Run) -> None:
    with joined().in_turn():
        prepare(job)


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
    plain = _manner(job) is plainly
    if job.target or r.evaluate.questions or not plain or not all(isinstance(stage, Misdirect) for stage in r.unlearn):
        render_prompt(tokenizer, "")
    work = Work(r, job.target, job.folder, job.original)
    for source in r.writing.about:
        texts(source, work.material(tokenizer))
    for stage in r.unlearn:
        check_lora(None if isinstance(stage, Misdirect) else stage.lora, config)
        kind_of(stage).check(work, stage, tokenizer, config.num_hidden_layers)
    job.data = suite.read(job.target, r.evaluate, plain=plain)
    for goal in r.goals:
        check_score(goal.score, "goal", r, job.target)
    claim(job.folder, r)


def check_score(name: str, what: str, recipe: Recipe, target: Target | None) -> None:
    """Raises UserError when the recipe's evaluation has no score of this id; ids of suites are not known before."""
    known = suite.scores(target, recipe.evaluate)
    if name not in known and name.partition("/")[0] not in recipe.evaluate.suites:
        raise UserError(f"{what} on unknown score {name!r}; {nearest(name, known)}")


def teach(job: Run) -> None:
    """Teach the target's and its neighbours' facts; the result is cached by content."""
    if job.recipe.teach is None or job.target is None:
        return
    job.original = taught_model(job.base, job.recipe, job.recipe.teach, job.target, knows_target=True)
    log = MetricsLog(job.folder / "metrics.jsonl", "teach")
    if processes().first and not log.rows():
        for row in read_jsonl(job.original / "teach.jsonl"):
            log(row)


def write_stage(job: Run) -> None:
    """Let the original model write its documents and traces about the target, and its traces about documents."""
    path = job.folder / "traces.jsonl"
    if path.exists():
        return
    r = job.recipe
    tokenizer = load_tokenizer(job.original)
    about = _about_documents(job, tokenizer, path)  # first, as these alone are kept when interrupted
    rows = []
    if todo := jobs(tokenizer, job.target, r.writing):
        model, _ = load(job.original, r.dtype)
        with bar("documents and traces", sum(len(part.prompts) for part in todo)) as advance:
            for part in todo:
                rows += [{"kind": part.kind, **row} for row in write(model, tokenizer, part, advance)]
    origin = {"model": r.model, "model_hash": model_hash(job.original), "decoding": "greedy"}
    write_jsonl(path, [{**row, **origin} for row in rows + about])
    partial_of(path).unlink(missing_ok=True)


def _about_documents(job: Run, tokenizer: Any, path: Path) -> list[dict[str, Any]]:
    """Rows of the traces about the texts of ``writing.about``; those in the partial file of ``path`` are done."""
    w = job.recipe.writing
    material = Work(job.recipe, job.target, job.folder, job.original).material(tokenizer)
    given = spread([text.context + text.text for source in w.about for text in texts(source, material)], w.traces)
    settings = Tracing(w.trace_tokens, w.segments, w.read_tokens, w.batch_size, dtype=job.recipe.dtype)
    if not given:
        return []
    found = traces_of(given, ", ".join(w.about), job.recipe.model, job.original, path, settings)
    return [
        {"kind": "document_traces", "prompt": document, "start": OPENER, "context": ""}
        | {"text": row["text"], "segment": row["segment"]}
        for document, rows in zip(given, found, strict=True)
        for row in rows
    ]


def unlearn_stage(job: Run) -> None:
    """Train the delta; write the whole model too if the recipe asks for it."""
    if not job.delta.exists():
        _train_delta(job)
    alone(partial(_write_whole_model, job))


def _write_whole_model(job: Run) -> None:
    if job.recipe.full_checkpoint and not (job.folder / "model").exists():
        apply_delta(job.original, job.delta, job.folder / "model")
        write_card(job.folder / "model", job.base, job.delta, job.folder)


def _train_delta(job: Run) -> None:
    """Each stage on what the one before left; the deltas of all but the last are kept beside, for resuming."""
    changed: dict[str, Any] = {}
    before: Path | None = None
    stages = job.recipe.unlearn
    for number, stage in enumerate(stages, 1):
        path = job.folder / delta_name(job.recipe, number)
        missing = not path.exists()
        joined().wait()  # until all have looked
        if missing:
            work = Work(job.recipe, job.target, job.folder, job.original, before, job.accept_ruined)
            methods = "+".join(s.method for s in stages[:number])
            action = partial(_carry_out, work, stage, changed, path, methods)
            started = time.perf_counter()
            try:
                if isinstance(stage, RS | Tune):
                    action()
                else:
                    alone(action)
            finally:
                _add_seconds(job, stage.method, started)
        if path != job.delta:
            changed, before = dict(read_delta(path)[0]), path


def _carry_out(work: Work, stage: Stage, changed: dict[str, Any], path: Path, methods: str) -> None:
    """Train one stage and save what it and those before have changed."""
    changed = changed | kind_of(stage).carry_out(work, stage)
    if processes().first:
        dtype = checkpoint_dtype(work.original)
        ruined = [name for name, matrix in changed.items() if not matrix.to(dtype).isfinite().all()]
        if ruined and not work.accept_ruined:
            raise UserError(
                f"{methods}: {len(ruined)} of {len(changed)} trained matrices hold no finite numbers, the first "
                f"{ruined[0]}: no delta is written. Try a smaller learning rate, with another --out."
            )
        save_delta(path, changed, base=work.original, source=work.recipe.model, method=methods, dtype=dtype)
        for state in work.folder.glob("*.state.safetensors"):
            state.unlink()
    processes().wait()


def kind_of(stage: Stage) -> Any:
    """The module that carries out a stage of this kind."""
    return {Misdirect: misdirect, Tune: tune}.get(type(stage), rule)


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
    under = Scored(model, judge, tokenizer, _manner(job) if name == "unlearned" else plainly)
    with bar(f"evaluate the {name.replace('_', ' ')} model", suite.work(job.target, job.data)) as advance:
        found, rows = suite.evaluate(under, job.target, e, job.data, advance)
    folder = job.folder / "evals" / name
    for kind, part in rows.items():
        write_jsonl(folder / f"{kind}.jsonl", part)
    write_json(folder / "scores.json", found)


def _manner(job: Run) -> Manner:
    """How the unlearned model is asked: methods that train nothing live here alone."""
    methods = {stage.method for stage in job.recipe.unlearn}
    icu = job.target.name if job.target and "icu" in methods else None
    return manner_of(job.recipe.evaluate.zero_think or "zerothink" in methods, icu)


def report_stage(job: Run) -> None:
    """Write run.json and report.html, and print the tables."""
    from .report.html import write_report
    from .report.terminal import print_report

    if not (job.folder / "run.json").exists():
        manifest = run_manifest(job.folder, job.recipe, job.target, job.original)
        write_json(job.folder / "run.json", manifest)
        if (job.folder / "model").exists():  # its card now has scores to tell
            write_card(job.folder / "model", job.base, job.delta, job.folder)
    path = write_report(job.folder)
    print_report(job.folder, console)
    console.print(f"report: {path}", soft_wrap=True)
