"""All scores of one model under a recipe's protocol, with what each is called and which way is better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.chat import END_THINK, THINK, encode_prompt
from ..data.choices import Choice, load_choices, load_mmlu
from ..data.corpora import WIKITEXT, advice, held_out, star1
from ..data.reasoning import GSM8K, held_out_solutions
from ..data.rwku import Probe, Target
from ..data.sources import MMLU, packaged
from ..data.streams import Text
from ..data.writing import spread
from ..errors import UserError, nearest
from ..files import read_rows
from ..recipe import Evaluate
from ..rl.refusals import detect
from . import choices, rwku, traces
from .generate import generate
from .perplexity import perplexity, reply_perplexity
from .probe_scores import OF_PROBES, entry, probe_scores, single
from .scores import score
from .task import Advance, Found, Options, Rows, Scored, Task, not_measured
from .text_measures import distinct_n, repeated_share

OF_TARGET = (*OF_PROBES, "replies/forget/perplexity")
OWN_SUITES = {"rwku", "traces", "perplexity"}  # are always there, or by keys of their own
HELD_OUT = {  # corpus -> what its perplexity is called, the file that it is read from
    "wikitext": ("perplexity on held-out wikitext", WIKITEXT),
    "general": ("perplexity on held-out general text", Path()),
    "reasoning": ("perplexity on held-out solutions (GSM8K), as thoughts", GSM8K),
}
ASKED = ("refusals", "closed", "repeated", "distinct3")


def scores(target: Target | None, protocol: Evaluate) -> tuple[str, ...]:
    """Ids of all scores that :func:`evaluate` gives."""
    return (
        *(OF_TARGET if target else ()),
        *(f"choices/{name}" for name in protocol.choices),
        *(f"questions/{name}/{measure}" for name in protocol.questions for measure in ASKED),
        *(f"perplexity/{name}" for name in HELD_OUT),
    )


@dataclass(frozen=True)
class Data:
    """What an evaluation asks beside the target's probes, read once for all models: questions with four choices and
    open ones by source, the suites beside, held-out texts by corpus."""

    choices: Mapping[str, Sequence[Choice]] = field(default_factory=dict)
    questions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tasks: Sequence[Task] = ()
    texts: Mapping[str, Sequence[Text]] = field(default_factory=dict)


def read(target: Target | None, protocol: Evaluate, *, plain: bool = True) -> Data:
    """What is asked of all models; ``plain`` is false where one of them is asked in another manner (ZeroThink, ICU).

    Raises UserError for an unknown suite and for data that are malformed or not at hand."""
    return Data(
        {name: _choices(name, protocol) for name in protocol.choices},
        {name: _asked(name, protocol) for name in protocol.questions},
        _tasks(target, protocol, plain),
        held_out_texts(protocol.perplexity_texts),
    )


def work(target: Target | None, data: Data) -> int:
    """Units of work of one evaluation, for a progress bar."""
    parts = (*data.choices.values(), *data.questions.values(), *data.texts.values())
    probes = 2 * len(target.probes) if target else 0
    return probes + sum(map(len, parts)) + sum(task.work for task in data.tasks)


def evaluate(
    under: Scored, target: Target | None, protocol: Evaluate, data: Data, on_done: Advance
) -> tuple[Found, Rows]:
    """Scores by id, and the rows they were made of by file name."""
    out: Found = {}
    rows: Rows = {"rwku": [], "traces": []}
    if target:
        rows = _target(out, under, target, protocol, on_done)
    for name, questions in data.choices.items():
        rows.setdefault("choices", []).extend(score_choices(out, name, questions, under, on_done))
    for name, asked in data.questions.items():
        rows.setdefault("questions", []).extend(_questions(out, name, asked, under, protocol, on_done))
    for task in data.tasks:
        scores_of_suite, rows_of_suite = task.run(under, on_done)
        out |= scores_of_suite
        for kind, part in rows_of_suite.items():
            rows.setdefault(kind, []).extend(part)
    return out | perplexities(data.texts, protocol.perplexity_tokens, under, on_done), rows


def _tasks(target: Target | None, protocol: Evaluate, plain: bool) -> list[Task]:
    """The suites beside."""
    from .suites import SUITES  # which looks at this module

    for name in protocol.suites:
        if name not in SUITES or name in OWN_SUITES:
            raise UserError(f"evaluate.suites: found {name!r}; {nearest(name, sorted(SUITES.keys() - OWN_SUITES))}")
    if unread := [name for name in protocol.files if name not in protocol.suites]:
        known = ", ".join(protocol.suites) or "none"
        raise UserError(f"evaluate.files: found {unread[0]!r}, expected one of evaluate.suites ({known}).")
    options = Options(target.name if target else None, protocol.max_samples, files=protocol.files, plain=plain)
    return [SUITES[name](options) for name in protocol.suites]


def _target(out: Found, under: Scored, target: Target, protocol: Evaluate, on_done: Advance) -> Rows:
    """RWKU's probes answered, and thought about."""
    model, tokenizer, manner = under.model, under.tokenizer, under.manner
    replies = rwku.evaluate(model, tokenizer, target.probes, on_done, manner)
    thoughts = traces.evaluate(model, tokenizer, target.probes, protocol.trace_tokens, on_done, manner)
    out.update(probe_scores(replies, thoughts, target.name))
    out["replies/forget/perplexity"] = reply_naturalness(under.original, tokenizer, target.probes, replies)
    return {"rwku": replies, "traces": thoughts}


def score_choices(
    out: Found, name: str, questions: Sequence[Choice], under: Scored, on_done: Advance
) -> list[dict[str, Any]]:
    """The rows of these questions; their accuracy goes into ``out``.

    Asked by the bare prompt of lm-eval; in the manner of ZeroThink or ICU by the same words in the chat template, the
    reply begun with ``Answer:``."""

    def put(prompt: str) -> str:
        return under.text(prompt.removesuffix(choices.END), choices.END.strip())

    asked = None if under.plain else put
    found = choices.evaluate(under.model, under.tokenizer, questions, put=asked, on_done=on_done)
    out[f"choices/{name}"] = entry(choices.accuracy(found), f"{name}: right choices", "%", "")
    return [{"of": name, **row} for row in found]


def _choices(name: str, protocol: Evaluate) -> list[Choice]:
    """Questions of an MMLU subject's test split or of a file, at most ``max_choices``, evenly spaced."""
    found = load_mmlu(name.removeprefix(MMLU)) if name.startswith(MMLU) else load_choices(Path(name))
    return spread(found, protocol.max_choices)


def _asked(name: str, protocol: Evaluate) -> list[str]:
    """Questions of a source that are kept for evaluation where it keeps some, evenly spaced."""
    if name == "star1":
        return spread(star1(held_out=True), protocol.max_questions)
    return spread([row["text"] for row in read_rows(Path(name), ("text",))], protocol.max_questions)


def _questions(
    out: Found, name: str, asked: Sequence[str], under: Scored, protocol: Evaluate, on_done: Advance
) -> list[dict[str, Any]]:
    """Questions in think mode: what is declined after the thought, and whether thought and reply are language."""
    prompts = [under.prompt(question, THINK) for question in asked]
    found = generate(under.model, under.tokenizer, prompts, max_new_tokens=protocol.trace_tokens, on_done=on_done)
    rows = []
    for question, generation in zip(asked, found, strict=True):
        trace, closing, reply = generation.text.partition("</think>")
        row: dict[str, Any] = {"of": name, "query": question, "trace": trace.strip(), "reply": reply.strip()}
        verdict = detect(reply if closing else trace)
        measures = {"closed": bool(closing), "refusal": verdict.refusal, "repeated": repeated_share(generation.text)}
        rows.append({**row, **measures})
    for key, label, better in (
        ("refusal", "replies that decline", ""),
        ("closed", "traces that end", "higher"),
        ("repeated", "repeated 4-grams", "lower"),
    ):
        id_ = f"questions/{name}/{'refusals' if key == 'refusal' else key}"
        out[id_] = entry(score([100 * float(row[key]) for row in rows]), f"{name}: {label}", "%", better)
    distinct = 100 * distinct_n([f"{row['trace']} {row['reply']}" for row in rows], 3)
    out[f"questions/{name}/distinct3"] = single(distinct, len(rows), f"{name}: distinct 3-grams", "%", "higher")
    return rows


def held_out_texts(count: int) -> dict[str, list[Text]]:
    """At most ``count`` texts of each corpus, none of one that is not at hand. Of reasoning: worked solutions, the
    question as context."""
    return {
        "wikitext": [Text(text) for text in held_out(count)],
        "general": [Text(text) for text in general_held_out(count)],
        "reasoning": [Text(f"{p.solution}{END_THINK}\n\n{p.answer}", p.question) for p in held_out_solutions(count)],
    }


def perplexities(texts: Mapping[str, Sequence[Text]], tokens: int, under: Scored, on_done: Advance) -> Found:
    """Perplexity of the model on held-out texts by corpus, each cut at ``tokens``; of solutions as thoughts about
    their questions, which do not count."""
    out: Found = {}
    for name, part in texts.items():
        label, file = HELD_OUT[name]
        if part:
            contexts = [_before(under.tokenizer, text.context) for text in part]
            ids = [under.tokenizer(t.text, add_special_tokens=not t.context)["input_ids"][:tokens] for t in part]
            sequences = [(*before, *mine) for before, mine in zip(contexts, ids, strict=True)]
            value = perplexity(under.model, sequences, [max(1, len(before)) for before in contexts], on_done)
            out[f"perplexity/{name}"] = single(value, len(part), label, "", "lower")
        else:
            out[f"perplexity/{name}"] = not_measured(label, f"not at hand; {advice(file)}", better="lower")
    return out


def _before(tokenizer: Any, question: str) -> tuple[int, ...]:
    """What a thought about a question follows: the chat template in think mode, the bare question without one."""
    if question and tokenizer.chat_template:
        return encode_prompt(tokenizer, question, THINK)
    return tuple(tokenizer(f"{question}\n")["input_ids"]) if question else ()


def reply_naturalness(
    judge: Any, tokenizer: Any, probes: Sequence[Probe], replies: list[dict[str, Any]]
) -> dict[str, Any]:
    """Perplexity of the forget replies under the taught model: how natural they still read to it."""
    pairs = [(p, r["reply"]) for p, r in zip(probes, replies, strict=True) if p.side == "forget"]
    prompts = [encode_prompt(tokenizer, *rwku.prompt_of(probe)) for probe, _ in pairs]
    tokens = [tokenizer(" " + reply, add_special_tokens=False)["input_ids"] for _, reply in pairs]
    value = reply_perplexity(judge, prompts, tokens)
    return single(value, len(pairs), "forget replies: perplexity under the taught model", "", "lower")


def general_held_out(count: int) -> list[str]:
    return [row["text"] for row in packaged("general.jsonl", "text") if row["split"] == "heldout"][:count]
