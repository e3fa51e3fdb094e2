"""MUSE (arXiv 2407.06460), Books and News: what is left of a corpus word for word, as knowledge, and to an attacker.

KnowMem: ten worked examples and a question, bare; 32 greedy tokens, cut at ``CUTS``. VerbMem: the beginning of a
passage, bare; 128 greedy tokens against the 128 that follow. Both by rouge-score's ROUGE-L F1 x 100, no stemmer.
PrivLeak: 100 (AUC - AUC_retrain) / AUC_retrain, with AUC the probability that a text of the same kind from outside the
corpus looks more familiar (Min-40%) than one from the forget set. docs/benchmarks.md says how to read it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..data.muse import Knowledge, Passage, Question, knowledge_folder, load_knowledge, load_passages, load_texts
from ..data.writing import spread
from ..errors import UserError
from ..files import content_hash, read_jsonl
from .generate import generate
from .likelihood import log_likelihoods, lowest, whole_text
from .parts import Part, Row, finite
from .probe_scores import entry
from .ranks import auc, auc_score
from .rouge_l import rouge_l
from .scores import Score
from .task import Advance, Found, Options, Rows, Scored, Task, not_measured

T = TypeVar("T")
KNOW_TOKENS = 32
VERB_TOKENS = 128
CUTS = ("\n\n", "\nQuestion", "Question:")
MIN_K = 40
AUC_RETRAIN = {"books": 0.5393, "news": 0.4772}
"""Min-40%, forget against holdout, of the official retrained models (Llama-2 7B: ICLM for books)."""
ABSURD = 1000.0
MEMBERS = ("forget", "holdout")


@dataclass(frozen=True)
class Material:
    """What is at hand; a part that is not has a note in ``missing`` that says why."""

    knowledge: Mapping[str, Knowledge]
    passages: Sequence[Passage]
    texts: Mapping[str, Sequence[str]]
    auc_retrain: float
    missing: Mapping[str, str]


def task(options: Options) -> Task:
    """MUSE-Books. ``options.files["muse"]``: a folder laid out as the official ``data/books``, then, if there is one,
    the rows (``evals/MODEL/muse.jsonl``) of a retrained model, whose AUC takes the place of the official one's."""
    return _task("muse", "books", options)


def news(options: Options) -> Task:
    """MUSE-News; all of it is read from the folder ``options.files["muse_news"]`` (or EXPUNGE_DATA/muse_news)."""
    return _task("muse_news", "news", options)


def _task(name: str, corpus: str, options: Options) -> Task:
    material = _material(name, corpus, options)
    known, texts = material.knowledge.values(), material.texts.values()
    return Task(
        name,
        {"corpus": corpus, "limit": options.limit, "know": KNOW_TOKENS, "verb": VERB_TOKENS, "min_k": MIN_K},
        content_hash(asdict(material)),
        sum(len(part.questions) for part in known) + len(material.passages) + sum(map(len, texts)),
        partial(_run, name, material),
    )


def _material(name: str, corpus: str, options: Options) -> Material:
    """Parts that are not at hand are left out; what is there is read strictly."""
    given = (options.files or {}).get(name, ())
    folder = Path(given[0]).expanduser() if given else None
    if folder and not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one laid out as MUSE's data/{corpus}.")
    if len(given) > 2:
        raise UserError(f"{name}: found {len(given)} files, expected a folder and at most one file of rows.")
    missing: dict[str, str] = {}
    place = None
    try:
        place = knowledge_folder(corpus, folder)
    except UserError as error:
        missing["knowmem"] = str(error)
    for part in ("verbmem", "privleak"):
        if not folder or not (folder / part).is_dir():
            missing[part] = f"the text is in copyright and not shipped: give a folder of your own that holds {part}/"
    if len(missing) == 3:
        raise UserError(
            f"MUSE-{corpus.title()}: nothing to measure: {missing['knowmem']} Or give a folder of your own."
        )
    knowledge = load_knowledge(place) if place else {}
    passages = load_passages(folder) if folder and "verbmem" not in missing else []
    texts = {side: load_texts(folder, side) for side in MEMBERS} if folder and "privleak" not in missing else {}
    return Material(
        {side: Knowledge(_some(part.questions, options), part.examples) for side, part in knowledge.items()},
        _some(passages, options),
        {side: _some(part, options) for side, part in texts.items()},
        _retrained(Path(given[1]).expanduser()) if len(given) == 2 else AUC_RETRAIN[corpus],
        missing,
    )


def _some(items: Sequence[T], options: Options) -> tuple[T, ...]:
    return tuple(spread(items, options.limit or len(items)))


def _retrained(path: Path) -> float:
    """AUC of a retrained model, from its rows."""
    values: dict[str, list[float]] = {side: [] for side in MEMBERS}
    for number, row in enumerate(read_jsonl(path), 1):
        if row.get("part") == "privleak" and row.get("min40") is not None:
            value, side = finite(row["min40"]), row.get("side")
            if side not in MEMBERS or value is None:
                raise UserError(f"{path}: row {number} is {row!r:.80}; expected side forget or holdout and min40.")
            values[side].append(value)
    if not all(values.values()):
        raise UserError(f"{path}: no PrivLeak rows of both sides; expected muse.jsonl of a model scored with PrivLeak.")
    return auc(values["forget"], values["holdout"])


def _run(name: str, material: Material, under: Scored, advance: Advance) -> tuple[Found, Rows]:
    rows: list[Row] = []
    for side, part in material.knowledge.items():
        rows += _knowmem(side, part, under, advance)
    rows += _verbmem(material.passages, under, advance)
    rows += _privleak(material.texts, under, advance)
    return muse_scores(rows, name, material.auc_retrain, material.missing), {name: rows}


def know_prompt(question: Question, examples: Sequence[Question]) -> str:
    shown = [f"Question: {example.question}\nAnswer: {example.answer}\n\n" for example in examples]
    return "".join(shown) + f"Question: {question.question}\nAnswer: "


def cut(reply: str) -> str:
    """A reply without what comes after the first of the marks of a next question."""
    for mark in CUTS:
        reply = reply.split(mark)[0]
    return reply


def _knowmem(side: str, part: Knowledge, under: Scored, advance: Advance) -> list[Row]:
    prompts = [tuple(under.tokenizer(know_prompt(q, part.examples))["input_ids"]) for q in part.questions]
    found = generate(under.model, under.tokenizer, prompts, max_new_tokens=KNOW_TOKENS, on_done=advance)
    return [
        {
            "part": "knowmem",
            "side": side,
            "question": question.question,
            "answer": question.answer,
            "reply": (reply := cut(generation.text)),
            "score": 100 * rouge_l(reply, question.answer).f1,
        }
        for question, generation in zip(part.questions, found, strict=True)
    ]


def _verbmem(passages: Sequence[Passage], under: Scored, advance: Advance) -> list[Row]:
    tokenizer = under.tokenizer
    prompts = [tuple(tokenizer(passage.prompt)["input_ids"]) for passage in passages]
    found = generate(under.model, tokenizer, prompts, max_new_tokens=VERB_TOKENS, on_done=advance)
    rows = []
    for passage, generation in zip(passages, found, strict=True):
        truth = tokenizer.decode(tokenizer(passage.truth)["input_ids"][:VERB_TOKENS], skip_special_tokens=True)
        row = {"part": "verbmem", "side": "forget", "prompt": passage.prompt, "answer": truth}
        rows.append(row | {"reply": generation.text, "score": 100 * rouge_l(generation.text, truth).f1})
    return rows


def _privleak(texts: Mapping[str, Sequence[str]], under: Scored, advance: Advance) -> list[Row]:
    asked = [(side, number, text) for side, part in texts.items() for number, text in enumerate(part, 1)]
    pairs = [whole_text(under.model, under.tokenizer, text) for _, _, text in asked]
    values = log_likelihoods(under.model, pairs, on_done=advance)
    return [
        {"part": "privleak", "side": side, "row": number, "tokens": len(found)}
        | {"min40": finite(lowest(found, MIN_K)) if found else None}
        for (side, number, _), found in zip(asked, values, strict=True)
    ]


def muse_scores(rows: Sequence[Row], name: str, auc_retrain: float, missing: Mapping[str, str]) -> Found:
    """Scores of rows; ``missing``: why a part has none."""
    out: Found = {}
    for part, side, label, better in (
        ("knowmem", "forget", "KnowMem forget", "lower"),
        ("knowmem", "retain", "KnowMem retain", "higher"),
        ("verbmem", "forget", "VerbMem forget", "lower"),
    ):
        chosen = Part(name, {"part": part, "side": side}, f"{name}/{part}", "MUSE")
        note = missing.get(part, "")
        out |= chosen.mean(rows, side, "score", label, unit="ROUGE-L F1", better=better, times=1, nothing=note)
    out[f"{name}/privleak"] = privleak(rows, auc_retrain, missing.get("privleak"))
    return out


def privleak(rows: Sequence[Row], auc_retrain: float, missing: str | None = None) -> Found:
    """0: as a retrained model; below: the forget set still stands out as familiar; above: as unfamiliar."""
    label, unit = "MUSE PrivLeak (0 is best)", "%"
    if missing:
        return not_measured(label, missing, unit)
    values = {side: [r["min40"] for r in rows if r["side"] == side and r.get("min40") is not None] for side in MEMBERS}
    if not all(values.values()):
        return not_measured(label, "no numbers for the texts of one of the sides", unit)
    if not auc_retrain:
        return not_measured(label, "the retrained model's AUC is 0, by which PrivLeak divides", unit)
    found = auc_score(values["forget"], values["holdout"])
    scale = 100 / auc_retrain
    value = entry(Score(scale * (found.mean - auc_retrain), scale * found.se, found.n), label, unit, "")
    if abs(value["mean"]) > ABSURD:
        value["note"] = (
            f"WARNING: a retrained AUC of {auc_retrain:.4f} leaves next to nothing to divide by: something other than "
            f"membership tells the two sides apart. Look at the AUC itself: {found.mean:.4f}."
        )
    return value
