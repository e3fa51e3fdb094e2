"""The suites of `expunge eval` by name, and one model scored by several of them, each result cached.

A result is named by the hashes of model, data and protocol: what has been scored before is not scored again, and an
interrupted evaluation goes on with the next suite."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..data.choices import load_choices, load_mmlu
from ..data.writing import spread
from ..errors import UserError, nearest
from ..files import cache_dir, content_hash, file_hash, read_json, write_json, write_jsonl, writing_folder
from ..models.delta import load_delta, read_delta
from ..models.load import load, model_hash, resolve
from ..progress import bar, console
from ..rl import answer_beside, refusal_rules, refusal_words, refusals, rewards, speech
from . import harness, leakage, muse, naturalness, privacy, reasoning, rtofu, rwku, safety, tofu, utility
from .probe_scores import probe_scores
from .suite import held_out_texts, perplexities, score_choices
from .task import Advance, Found, Options, Rows, Scored, Task, manner_of

MMLU_SUBJECTS = ("all",)
VERDICTS: tuple[Any, ...] = (answer_beside, refusal_rules, refusal_words, refusals, rewards, speech)
"""The refusals, leaks and rewards in what is kept rest on these modules as they are."""
TEXTS, TEXT_TOKENS = 40, 256


def _rwku(options: Options) -> Task:
    target = naturalness.target_of(options, "rwku")

    def run(under: Scored, advance: Advance) -> tuple[Found, Rows]:
        rows = rwku.evaluate(under.model, under.tokenizer, target.probes, advance, under.manner)
        return probe_scores(rows, (), target.name), {"rwku": rows}

    protocol = {"new_tokens": rwku.NEW_TOKENS, "target": target.name}
    return Task("rwku", protocol, content_hash([vars(p) for p in target.probes]), len(target.probes), run)


def _choices(name: str, sources: Callable[[Options], Sequence[str]], missing: str) -> Callable[[Options], Task]:
    """Multiple choice over MMLU subjects or files in WMDP's schema."""

    def task(options: Options) -> Task:
        given = sources(options)
        if not given:
            raise UserError(missing)
        asked = {s: load_choices(Path(s)) if s.endswith((".json", ".jsonl")) else load_mmlu(s) for s in given}
        if options.limit:
            asked = {s: spread(rows, options.limit) for s, rows in asked.items()}

        def run(under: Scored, advance: Advance) -> tuple[Found, Rows]:
            out: Found = {}
            found: list[dict[str, Any]] = []
            for source, questions in asked.items():
                found += score_choices(out, source, questions, under, advance)
            return out, {"choices": found}

        data = content_hash({s: [vars(row) for row in rows] for s, rows in asked.items()})
        return Task(name, {"shots": 0, "in_a_manner": "chat template"}, data, sum(map(len, asked.values())), run)

    return task


def _perplexity(options: Options) -> Task:
    texts = held_out_texts(TEXTS)

    def run(under: Scored, advance: Advance) -> tuple[Found, Rows]:
        return perplexities(texts, TEXT_TOKENS, under, advance), {}

    return Task("perplexity", {"tokens": TEXT_TOKENS}, content_hash(texts), sum(map(len, texts.values())), run)


WMDP_ADVICE = (
    "suite wmdp: no questions. Give a JSON Lines file in WMDP's schema (question, choices, answer) with "
    "--file wmdp=FILE; the questions are cais/wmdp on the hub."
)
SUITES: dict[str, Callable[[Options], Task]] = {
    "rwku": _rwku,
    "muse": muse.task,
    "muse_news": muse.news,
    "tofu": tofu.task,
    "rtofu": rtofu.task,
    "wmdp": _choices("wmdp", lambda options: (options.files or {}).get("wmdp", ()), WMDP_ADVICE),
    "mmlu": _choices("mmlu", lambda options: (options.files or {}).get("mmlu", MMLU_SUBJECTS), ""),
    "traces": leakage.task,
    "safety": safety.task,
    "reasoning": reasoning.task,
    "naturalness": naturalness.task,
    "privacy": privacy.task,
    "perplexity": _perplexity,
    "utility": utility.task,
    "lm_eval": harness.task,
}


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a model, perhaps with a delta on top, perhaps with empty thoughts. ``original`` is the model
    that replies are read by (by default the model without its delta)."""

    model: str
    delta: Path | None = None
    zero_think: bool = False
    icu: str | None = None
    """Tell it before every question that it has forgotten this target."""
    original: str | None = None
    dtype: str = "float32"


def evaluate(subject: Subject, names: Sequence[str], out: Path, options: Options) -> Path:
    """Score a model by several suites, loaded once; writes ``scores.json`` and one JSONL file a kind of row to ``out``.

    Raises UserError for unknown suites, bad data, a delta of another model, or a folder that holds something else."""
    for name in names:
        if name not in SUITES:
            raise UserError(f"unknown suite {name!r}; {nearest(name, SUITES)}")
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "scores.json").exists())):
        raise UserError(f"{out} exists and holds no evaluation; choose another with --out.")
    options = replace(options, plain=not (subject.zero_think or subject.icu))
    tasks = [SUITES[name](options) for name in names]
    base = resolve(subject.model)
    original = resolve(subject.original) if subject.original else base
    if subject.delta and read_delta(subject.delta)[1]["base_hash"] != model_hash(base):
        raise UserError(
            f"{subject.delta} does not belong to {subject.model}. Give the model that the run started from."
        )
    loaded: list[Scored] = []
    scores: Found = {}
    with writing_folder(out) as folder:
        for task in tasks:
            result = _cached(subject, task, base, original, options, loaded)
            scores |= read_json(result / "scores.json")
            for path in result.glob("*.jsonl"):  # two suites may have rows of one kind
                with path.open("rb") as source, (folder / path.name).open("ab") as goal:
                    shutil.copyfileobj(source, goal)
        write_json(folder / "scores.json", scores)
    _show(scores)
    return out


def _show(scores: Found) -> None:
    """One line a score; what was not measured with its reason."""
    for name, found in scores.items():
        if found["mean"] is None:
            value = f"not measured: {found['note']}"
        else:
            error = "" if found["se"] is None else f" ± {found['se']:.2f}"
            value = f"{found['mean']:.2f}{error} (n={found['n']})"
        note = f"  {found['note']}" if found["mean"] is not None and found.get("note") else ""
        console.print(f"{name}: {value}{note}", soft_wrap=True, markup=False, highlight=False)


def _cached(subject: Subject, task: Task, base: Path, original: Path, options: Options, loaded: list[Scored]) -> Path:
    """The folder of one suite's result, made if it is not there yet."""
    who = [model_hash(base), subject.delta and file_hash(subject.delta), model_hash(original)]
    judge = options.judge and (options.judge.base_url, options.judge.model)
    how = [subject.zero_think, subject.icu, subject.dtype, judge]
    folder = cache_dir() / "evals" / content_hash(who, how, task.name, task.protocol, task.data_hash, _rules())
    if (folder / "scores.json").exists():
        console.print(f"{task.name}: found in the cache, {folder}", soft_wrap=True)
        return folder
    if not loaded:
        loaded.append(_load(subject, base, original))
    with bar(f"evaluate: {task.name}", task.work) as advance:
        found, rows = task.run(loaded[0], advance)
    with writing_folder(folder) as temporary:
        for kind, part in rows.items():
            write_jsonl(temporary / f"{kind}.jsonl", part)
        write_json(temporary / "scores.json", found)
    return folder


@cache
def _rules() -> list[str]:
    """What the modules of verdicts are, once for all suites."""
    return [file_hash(Path(module.__file__)) for module in VERDICTS]


def _load(subject: Subject, base: Path, original: Path) -> Scored:
    model, tokenizer = load(base, subject.dtype)
    judge = model
    if subject.delta or original != base:
        judge, _ = load(original, subject.dtype)
    if subject.delta:
        load_delta(model, subject.delta)
    return Scored(model, judge, tokenizer, manner_of(subject.zero_think, subject.icu))
