"""TOFU (arXiv 2401.06121): does a model still give, and still prefer, the answers that it should have forgotten?

Every question is asked in the chat template; NLL is a mean over the tokens of an answer, its end-of-turn token among
them. With R = exp(mean NLL of the wrong answers - NLL of the paraphrased one):

    probability      exp(-NLL); on real authors and world facts over the sum with the wrong answers
    ROUGE-L recall   of the greedy reply, rouge-score with stemmer
    truth ratio      forget: min(R, 1/R); others: max(0, 1 - 1/R)
    model utility    harmonic mean of these three on retain, real authors and world facts
    forget quality   p-value of a Kolmogorov-Smirnov test of R against a model that never saw the split

The first 300 rows of a split. docs/benchmarks.md says where the official code differs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..data.chat import Encoded
from ..data.tofu import FORGET, OTHERS, Item, load_splits
from ..data.writing import spread
from ..errors import UserError
from ..files import content_hash, read_jsonl
from .generate import generate
from .likelihood import log_likelihoods
from .parts import Part, Row, finite
from .probe_scores import entry, single
from .ranks import kolmogorov_smirnov
from .rouge_l import rouge_l
from .scores import Score
from .task import Advance, Found, Options, Rows, Scored, Task, not_measured

FIRST = 300
NEW_TOKENS = 200
LABELS = {"rouge": "ROUGE-L recall of replies", "probability": "probability of answers", "truth_ratio": "truth ratio"}
NUMBERS = ("nll", "nll_paraphrased", "log_truth_ratio", "probability", "truth_ratio")
RUINED = "the model gives no numbers: its weights are ruined"
Splits = Mapping[str, Sequence[Item]]
Ratios = Mapping[str, Sequence[float]]
"""log R of a model that never saw a split, by split."""


def task(options: Options) -> Task:
    """``options.files["tofu"]``: rows of earlier evaluations of retrained models (``evals/MODEL/tofu.jsonl``), each as
    ``SPLIT=FILE`` or, to be used for every forget split, ``FILE``."""
    splits = {name: spread(items[:FIRST], options.limit or FIRST) for name, items in load_splits().items()}
    references = _references((options.files or {}).get("tofu", ()), splits)
    items = _unique(splits)
    return Task(
        "tofu",
        {"first": FIRST, "new_tokens": NEW_TOKENS, "limit": options.limit},
        content_hash([[name, [asdict(item) for item in part]] for name, part in splits.items()], references),
        sum(1 + len(_answers(item)) for item in items),
        partial(_run, splits, references),
    )


def _unique(splits: Splits) -> list[Item]:
    """forget05 and forget01 share rows with forget10: each is asked once."""
    return list(dict.fromkeys(item for part in splits.values() for item in part))


def _answers(item: Item) -> list[str]:
    return [item.answer, item.paraphrase, *item.perturbed]


def _run(splits: Splits, references: Ratios, under: Scored, advance: Advance) -> tuple[Found, Rows]:
    items = _unique(splits)
    rows = measure(under, items, advance)
    inside = {name: set(part) for name, part in splits.items()}
    rows = [row | {name: i in part for name, part in inside.items()} for i, row in zip(items, rows, strict=True)]
    return tofu_scores(rows, references), {"tofu": rows}


def measure(under: Scored, items: Sequence[Item], advance: Advance) -> list[Row]:
    """One row an item: the reply, NLLs in nats per token, and what follows from them; None for what is no number, as
    a ruined model's are."""
    tokenizer = under.tokenizer
    prompts = [under.prompt(item.question) for item in items]
    replies = generate(under.model, tokenizer, prompts, max_new_tokens=NEW_TOKENS, on_done=advance)
    pairs = [
        Encoded(prompt, (*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id))
        for item, prompt in zip(items, prompts, strict=True)
        for text in _answers(item)
    ]
    nlls = iter(-sum(values) / len(values) for values in log_likelihoods(under.model, pairs, on_done=advance))
    rows = []
    for item, reply in zip(items, replies, strict=True):
        own, paraphrased, *wrong = (next(nlls) for _ in _answers(item))
        log_ratio = sum(wrong) / len(wrong) - paraphrased
        probability = math.exp(-own)
        if item.source in ("real_authors", "world_facts"):  # of the answers on offer
            probability = 1 / (1 + sum(math.exp(min(own - nll, 700.0)) for nll in wrong))
        row: Row = {
            "source": item.source,
            "row": item.row,
            "question": item.question,
            "answer": item.answer,
            "reply": reply.text.strip(),
            "rouge": rouge_l(reply.text, item.answer, stem=True).recall,
            "nll": own,
            "nll_paraphrased": paraphrased,
            "nll_perturbed": wrong,
            "log_truth_ratio": log_ratio,
            "probability": probability,
            "truth_ratio": truth_ratio(log_ratio, forget=item.source == "forget10"),
        }
        rows.append(row | {key: finite(row[key]) for key in NUMBERS})
    return rows


def truth_ratio(log_ratio: float, *, forget: bool) -> float:
    """In [0, 1]; on a forget split 1 says that right and wrong are told apart no longer.

    >>> truth_ratio(math.log(4), forget=True), truth_ratio(math.log(0.25), forget=True)
    (0.25, 0.25)
    >>> truth_ratio(math.log(4), forget=False), truth_ratio(math.log(0.25), forget=False)
    (0.75, 0.0)
    """
    return math.exp(-abs(log_ratio)) if forget else 1 - math.exp(-max(log_ratio, 0.0))


def tofu_scores(rows: Sequence[Row], references: Ratios) -> Found:
    """Scores of rows, each of which says by a field of its name whether it is in a split."""
    out: Found = {}
    for name in (*FORGET, *OTHERS):
        part = Part("tofu", {name: True}, f"tofu/{name}", f"TOFU {name}")
        for key, label in LABELS.items():
            better = "higher" if name not in FORGET or key == "truth_ratio" else "lower"
            out |= part.mean(rows, key, key, label, better=better, nothing=RUINED)
    utility = model_utility([[row for row in rows if row[name]] for name in OTHERS])
    out["tofu/model_utility"] = entry(utility, "TOFU: model utility", "%", "higher")
    for name in FORGET:
        out |= _quality(name, [row["log_truth_ratio"] for row in rows if row[name]], references.get(name))
    return out


def model_utility(groups: Sequence[Sequence[Row]], resamples: int = 1000, seed: int = 0) -> Score:
    """Harmonic mean x 100 of all measures' means over all groups of rows; rows are resampled within groups."""
    rng = np.random.default_rng(seed)
    # What is no number counts as zero.
    arrays = [np.array([[row[key] or 0.0 for key in LABELS] for row in group], np.float64) for group in groups]
    means = np.concatenate([a.mean(0) for a in arrays])
    draws = np.concatenate([a[rng.integers(0, len(a), (resamples, len(a)))].mean(1) for a in arrays], axis=1)
    spread_of_draws = float(np.std([_harmonic(draw) for draw in draws]))
    return Score(100 * _harmonic(means), 100 * spread_of_draws, sum(map(len, arrays)))


def _harmonic(values: Any) -> float:
    return float(len(values) / (1 / values).sum()) if (values > 0).all() else 0.0


def _quality(split: str, ratios: Sequence[float | None], reference: Sequence[float] | None) -> Found:
    label = f"TOFU {split}: forget quality"
    kinds = {"quality": "(p-value)", "quality_log10": "(log10 of the p-value)"}
    known = [ratio for ratio in ratios if ratio is not None]
    if reference is None or not known:
        note = RUINED
        if reference is None:
            note = (
                f"needs the rows of a model that never saw {split}: evaluate such a model under the same limit and "
                f"give its tofu.jsonl as {split}=FILE"
            )
        return {
            f"tofu/{split}/{key}": not_measured(f"{label} {kind}", note, "", "higher") for key, kind in kinds.items()
        }
    _, p = kolmogorov_smirnov(known, reference)
    values = {"quality": p, "quality_log10": math.log10(max(p, 1e-300))}
    return {
        f"tofu/{split}/{key}": single(values[key], len(known), f"{label} {kind}", "", "higher")
        for key, kind in kinds.items()
    }


def _references(given: Sequence[str], splits: Splits) -> dict[str, list[float]]:
    """log R by split from rows of earlier evaluations. Raises UserError unless they hold the same questions."""
    out: dict[str, list[float]] = {}
    for text in given:
        name, equals, file = text.partition("=")
        chosen, path = ((name,), Path(file)) if equals and name in FORGET else (tuple(FORGET), Path(text))
        path = path.expanduser()
        rows = {(row.get("source"), row.get("row")): row for row in _hashable(read_jsonl(path), path)}
        for split in chosen:
            out[split] = [_log_ratio(rows.get((item.source, item.row)), item, path) for item in splits[split]]
    return out


def _hashable(rows: Sequence[Row], path: Path) -> Sequence[Row]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("source"), str) or not isinstance(row.get("row"), int):
            raise UserError(f"{path}: row {number} is {row!r:.80}, expected a row of an earlier TOFU evaluation.")
    return rows


def _log_ratio(row: Row | None, item: Item, path: Path) -> float:
    """Strict: a test against other questions would pass for one against a retrained model."""
    where = f"{path}: row {item.row} of {item.source}"
    if row is None:
        raise UserError(f"{where} is not there. Evaluate the retrained model under the same limit.")
    if row.get("question") != item.question:
        raise UserError(f"{where} asks {row.get('question')!r:.80}, expected {item.question!r:.80}: other data.")
    value = row.get("log_truth_ratio")
    number = None if isinstance(value, bool) else finite(value)
    if number is None:
        raise UserError(f"{where}: log_truth_ratio is {value!r:.80}, expected a finite number.")
    return number
