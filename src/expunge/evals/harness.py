"""lm-eval's own code on the model in memory: WMDP and MMLU as it scores them, or any task file of a user's own.

What it is given is local: questions from a file in WMDP's schema, ``mmlu:SUBJECT`` from EXPUNGE_DATA, or a task file
(YAML). The bare prompts of the suites ``wmdp`` and ``mmlu``, which find the same answers faster; this one is for
whoever wants the number to be lm-eval's."""

import importlib.metadata
import importlib.util
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

from ..data.choices import Choice, load_choices, load_mmlu
from ..data.sources import MMLU
from ..data.writing import spread
from ..errors import UserError
from ..files import content_hash
from .choices import LETTERS, prompt_of
from .parts import Part, Row, finite
from .probe_scores import single
from .task import Advance, Found, Options, Rows, Scored, Task

BATCH = 8
SHARES = ("acc", "acc_norm", "acc_bytes", "exact_match")  # shown times 100
ADVICE = (
    "suite lm_eval: found nothing to ask. Give --file lm_eval=SOURCE: mmlu:SUBJECT, a JSON or JSON Lines file in "
    "WMDP's schema (question, choices, answer), or a task file of lm-eval (YAML)."
)


def task(options: Options) -> Task:
    """The suite ``lm_eval``; ``options.files["lm_eval"]``: what is asked.

    Raises UserError without lm-eval, for nothing to ask, two tasks of one name, what can not be read, and for questions
    that are to be put in another manner."""
    if not options.plain:
        raise UserError(
            "suite lm_eval: found ZeroThink or ICU, but lm-eval asks by prompts of its own, which can not be put in "
            "either. Leave them out, or ask the suites wmdp and mmlu, which can."
        )
    sources = (options.files or {}).get("lm_eval", ())
    if not sources:
        raise UserError(ADVICE)
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("suite lm_eval: lm-eval is not installed; pip install 'expunge[lm-eval]'")
    tasks = _tasks(sources)
    chosen = {
        name: spread(range(len(one.eval_docs)), options.limit or len(one.eval_docs)) for name, one in tasks.items()
    }
    asked = {name: [tasks[name].eval_docs[i] for i in places] for name, places in chosen.items()}
    told = {name: one.config.to_dict() for name, one in tasks.items()}
    return Task(
        "lm_eval",
        {"version": importlib.metadata.version("lm_eval"), "limit": options.limit},
        content_hash(told, asked),
        sum(map(len, chosen.values())),
        partial(_run, tasks, chosen),
    )


def _tasks(sources: Sequence[str]) -> dict[str, Any]:
    """lm-eval's tasks by name, their data read."""
    with _quiet():
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_defaults=False)  # no scan of its own ten thousand files
    out: dict[str, Any] = {}
    for source in sources:
        if source.endswith((".yaml", ".yml")):
            spec: Any = str(Path(source).expanduser())
        elif source.startswith(MMLU):
            subject = source.removeprefix(MMLU)
            spec = task_of(f"mmlu_{subject.strip().replace(' ', '_')}", load_mmlu(subject))
        elif source.endswith((".json", ".jsonl")):
            spec = task_of(Path(source).stem, load_choices(source))
        else:
            raise UserError(f"--file lm_eval={source}: {ADVICE.partition('. ')[2]}")
        found = _load(manager, spec, source)
        if again := sorted(out.keys() & found.keys()):
            raise UserError(f"--file lm_eval={source}: there is a task named {again[0]!r} already. Rename one of them.")
        out |= found
    return out


def _load(manager: Any, spec: Any, source: str) -> dict[str, Any]:
    try:
        with _quiet():
            return dict(manager.load([spec])["tasks"])
    except Exception as error:  # a task file may ask for anything
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(f"{source}: lm-eval can not load it: {type(error).__name__}: {reason}") from None


def task_of(name: str, questions: Sequence[Choice]) -> dict[str, Any]:
    """A task in lm-eval's terms: likelihood of the four letters after the prompt, no examples."""
    rows = [{"prompt": prompt_of(question), "answer": question.answer} for question in questions]

    def data(**unused: Any) -> Any:
        from datasets import Dataset

        return {"test": Dataset.from_list(rows)}

    return {
        "task": name,
        "custom_dataset": data,
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": list(LETTERS),
        "doc_to_target": "answer",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def _run(
    tasks: Mapping[str, Any], chosen: Mapping[str, list[int]], under: Scored, advance: Advance
) -> tuple[Found, Rows]:
    with _quiet():
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        found = lm_eval.simple_evaluate(
            model=HFLM(pretrained=under.model, tokenizer=under.tokenizer, batch_size=BATCH),
            tasks=list(tasks.values()),
            task_manager=TaskManager(include_defaults=False),
            samples=dict(chosen),
            bootstrap_iters=0,
            log_samples=True,
            random_seed=None,  # the seeds of this process are not lm-eval's to set
            numpy_random_seed=None,
            torch_random_seed=None,
        )
    advance(sum(map(len, chosen.values())))
    rows = [_row(name, sample) for name, samples in found["samples"].items() for sample in samples]
    return harness_scores(rows, found["results"]), {"lm_eval": rows}


def _row(name: str, sample: Row) -> Row:
    """A sample as lm-eval logs it: what was asked, what came back, the value of each metric where it is a number."""
    replies = [reply[0] for reply in sample["resps"]]
    row: Row = {"of": name, "id": sample["doc_id"], "filter": sample["filter"], "prompt": sample["arguments"][0][0]}
    row |= {"answer": str(sample["target"]), "replies": [r if isinstance(r, str) else float(r[0]) for r in replies]}
    return row | {"values": {metric: finite(sample[metric]) for metric in sample["metrics"]}}


def harness_scores(rows: Sequence[Row], results: Mapping[str, Mapping[str, Any]]) -> Found:
    """lm-eval's numbers, with n and standard error where one is the mean of its samples; shares times 100."""
    out: Found = {}
    for name, filter_, metric in dict.fromkeys((r["of"], r["filter"], metric) for r in rows for metric in r["values"]):
        part = Part("lm_eval", {"of": name, "filter": filter_}, f"lm_eval/{name}", f"lm-eval {name}")
        id_ = metric if filter_ == "none" else f"{metric}/{filter_}"
        times, unit = (100.0, "%") if metric in SHARES else (1.0, "")
        entry = part.mean(rows, id_, f"values.{metric}", id_, unit=unit, times=times)
        mean, told = entry[f"lm_eval/{name}/{id_}"]["mean"], times * results[name][f"{metric},{filter_}"]
        if mean is None or abs(mean - told) > 1e-6 * max(1.0, abs(told)):  # not a mean of samples
            count = sum(part.holds(row) for row in rows)
            entry = {f"lm_eval/{name}/{id_}": single(told, count, f"lm-eval {name}: {id_}", unit, "")}
        out |= entry
    return out


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's own progress bars and warnings about models that are no names."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
