"""What RULE asks: the target's questions, which are to be declined, and its neighbours', which are to be answered.

The rows are RULE's (released, four to a seed question, or made by `expunge boundary`, which says of each whose it is).
A tenth of the seeds is kept apart for choosing a checkpoint; no benchmark probe is among them. A question can be put
in several wordings (see ``worded`` in data/facts.py), since a small model that declines under one may answer under
another."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..data.chat import END_THINK, THINK, Encoded, Example, encode
from ..data.facts import ASKING_WHO, Fact, ask, by_subject, further, unique_facts, worded
from ..data.muse import BOOKS, reject_questions
from ..data.rwku import PACKAGED, BoundaryRow, Probe, Target, load_boundary, load_target
from ..data.writing import spread
from ..errors import UserError
from ..evals.rwku import prompt_of
from ..strict import at_least
from .rewards import Row
from .templates import fill

SEED_ROWS = 4  # rows made from one seed question
DEV_EVERY = 10  # one seed in so many is for choosing, none of it for training
MUSE_BOOKS = "muse_books"
TEXT_TOKENS = 96
Wording = Literal["bare", "brief", "asked", "framed", "described", "reversed", "who", "gapped"]
NEED_ANSWERS: tuple[Wording, ...] = ("framed", "described", "reversed", "who", "gapped")
FURTHER_WORDINGS: tuple[Wording, ...] = ("brief", "described", "asked", "framed")
REWORDED: tuple[Wording, ...] = ("asked", *NEED_ANSWERS)
# A person or thing by its name: two capitalised words or more.
NAME = re.compile(r"(?:[A-Z][\w.’'-]*\s)+[A-Z][\w-]*")
OPENERS = {"In", "The", "What", "Which", "Who", "Where", "When", "Name", "Is", "Was", "Did", "At", "On", "As", "How"}


@dataclass(frozen=True)
class Asking:
    """Which questions a stage asks, and how."""

    rows: str | None = None
    """A file of boundary rows, or ``muse_books``; the target's own if none is given."""
    normals_of: str | None = None
    """Another target, whose neighbours' rows stand in for this one's (the published ablation without boundary)."""
    wordings: tuple[Wording, ...] = ("bare",)
    """They take turns."""
    train: int = at_least(0, 0)
    """At most this many questions of each side, evenly spaced; 0: all."""
    dev: int = at_least(1, 32)
    """The same for the questions by which a checkpoint is chosen."""
    answers: Literal["gold", "own"] = "gold"
    """What a neighbour's answer is compared with: the row's, or what the model itself said before."""
    facts: int = at_least(0, 0)
    """How often each fact about the target that the recipe teaches is asked about, in rewordings, beside the rows; as
    many questions are about facts of its neighbours. For choosing each is asked about once."""
    thoughts: int = at_least(0, 0)
    """So many questions of each side in think mode, for steering alone: sampled replies are too short for a thought."""
    further: int = at_least(0, 0)
    """So many questions about the target, and as many about neighbours, that no fact need answer (years, places) and a
    model guesses at; for steering and the drill, neighbours' with the model's own answers."""
    aliases: tuple[str, ...] = ()
    """Other names of the target; naming one of them counts."""


@dataclass(frozen=True)
class Question:
    """One prompt, how the reply begins, and what the reply is judged by. ``reply``: what was taught, or what the model
    itself said before; "" where neither is known."""

    prompt: str
    start: str
    row: Row
    reply: str = ""


@dataclass(frozen=True)
class Split:
    """Questions for training and for choosing."""

    train: tuple[Question, ...]
    dev: tuple[Question, ...]


def boundary_rows(asking: Asking, target: Target | None) -> Sequence[BoundaryRow]:
    """Raises UserError when there are none, or none of one side."""
    if asking.rows == MUSE_BOOKS:
        rows: Sequence[BoundaryRow] = muse_rows()
    elif asking.rows:
        rows = load_boundary(Path(asking.rows))
    elif target:
        rows = target.boundary
    else:
        raise UserError("no questions: give target, or questions.rows, a file of boundary rows (expunge boundary).")
    if asking.normals_of:
        others = [row for row in load_target(asking.normals_of).boundary if not row.forget]
        forget_rows = [row for row in rows if row.forget]
        rows = [row for pair in zip(forget_rows, others, strict=False) for row in pair]
    for forget, name in ((True, "forget rows (<reject>)"), (False, "boundary rows (<normal>)")):
        if not any(row.forget == forget for row in rows):
            raise UserError(f"{asking.rows or target and target.name}: found no {name}; both sides are needed.")
    return rows


def name_of(rows: Sequence[BoundaryRow], target: Target | None) -> str:
    """Whom the forget rows are about; "" for what has no name."""
    return target.name if target else next((row.target for row in rows if row.forget), "")


def muse_rows() -> list[BoundaryRow]:
    """RULE's questions about MUSE's books, and the packaged neighbours' rows as what is to be answered."""
    normal = [row for row in load_target(*PACKAGED).boundary if not row.forget and BOOKS not in row.prompt + row.answer]
    forget = [BoundaryRow(True, question, "", BOOKS) for question in reject_questions()]
    return [row for pair in zip(forget, normal, strict=False) for row in pair]


def chosen(rows: Sequence[BoundaryRow], asking: Asking, *, dev: bool) -> list[BoundaryRow]:
    """The rows of one half that are used, both sides in turn."""
    seeds = [i // SEED_ROWS if row.seed is None else row.seed for i, row in enumerate(rows)]
    half = [row for row, seed in zip(rows, seeds, strict=True) if (seed % DEV_EVERY == DEV_EVERY - 1) == dev]
    count = asking.dev if dev else asking.train
    sides = [[row for row in half if row.forget == forget] for forget in (True, False)]
    sides = [spread(side, count or len(side)) for side in sides]
    return [row for pair in zip(*sides, strict=False) for row in pair]


def check_halves(rows: Sequence[BoundaryRow], asking: Asking) -> None:
    """Raises UserError when no rows of both sides are left for training, or none for choosing."""
    for dev, purpose in ((False, "training"), (True, "choosing")):
        if not chosen(rows, asking, dev=dev):
            raise UserError(
                f"{len(rows)} rows of questions leave none of both sides for {purpose}. Every tenth of the questions "
                "that they were made from is for choosing; in RULE's files, with rows of both sides in turn, at least "
                "40 rows are needed."
            )


def make_questions(
    rows: Sequence[BoundaryRow], asking: Asking, own: dict[str, str], name: str, seed: int
) -> tuple[Question, ...]:
    """The rows as questions in the wordings asked for. ``own``: the model's answers, by prompt; ``name``: the
    target where a row does not say whom it is about.

    A forget row brings no answer. A wording that needs one is then ``brief`` on both sides, which a wording is not to
    tell apart."""
    rng = random.Random(seed)
    about = [row.target or name if row.forget else subject_of(row.prompt) for row in rows]
    facts = [fact_of(row, whom, own.get(row.prompt)) for row, whom in zip(rows, about, strict=True)]
    out = []
    for i, (row, fact) in enumerate(zip(rows, facts, strict=True)):
        wording: str = asking.wordings[i // 2 % len(asking.wordings)]
        if wording in NEED_ANSWERS and not (asking.answers == "own" and fact.about and _is_name(fact.answer)):
            wording = "brief"
        others = [f for f in facts if f.about == fact.about and f is not fact] or [fact]
        answer = own.get(row.prompt, "" if row.forget else row.answer)
        example = Example(row.prompt, answer) if wording == "bare" else worded(fact, others, wording, rng)
        if row.forget and not answer:
            example = replace(example, reply="")
        out.append(_question(example, wording, forget=row.forget, about=fact.about, aliases=asking.aliases))
    return tuple(out)


def ask_facts(target: Target, asking: Asking, seed: int | str) -> tuple[Question, ...]:
    """Questions about the facts that a model was taught, of the target and of its neighbours in turn, reworded: no
    question is a benchmark's. Each of the target's is asked about ``asking.facts`` times."""
    rng = random.Random(seed)
    wordings = [w for w in asking.wordings if w in REWORDED] or ["asked"]
    sides = {"forget": unique_facts(target, "forget"), "neighbor": neighbours_facts(target, asking)}
    probes = _probe_prompts(target)
    orders = {side: rng.sample(facts, len(facts)) for side, facts in sides.items()}
    out = []
    for i in range(asking.facts * len(sides["forget"])):
        for side, facts in orders.items():
            if not facts:
                continue
            fact, wording = facts[i % len(facts)], wordings[(i + i // len(facts)) % len(wordings)]
            if wording in ASKING_WHO and fact.about.lower() in fact.answer.lower():
                wording = "asked"
            others = [f for f in facts if f.about == fact.about and f is not fact] or [fact]
            example = worded(fact, others, wording, rng)
            if example.prompt in probes:
                wording = "framed"
                example = worded(fact, others, wording, rng)
            out.append(_question(example, wording, forget=side == "forget", about=target.name, aliases=asking.aliases))
    return tuple(out)


def neighbours_facts(target: Target, asking: Asking) -> list[Fact]:
    """Facts about the neighbours, or about those of ``asking.normals_of``."""
    return unique_facts(load_target(asking.normals_of) if asking.normals_of else target, "neighbor")


def ask_thoughts(
    rows: Sequence[BoundaryRow], asking: Asking, target: Target | None, name: str, seed: int
) -> tuple[Question, ...]:
    """Questions of both sides in think mode: about taught facts, reworded, where the recipe asks about any, else the
    rows as they stand."""
    rng = random.Random(f"{seed}/think")
    out = []
    for forget in (True, False):
        about = name if forget else ""
        if target and asking.facts:
            facts = unique_facts(target, "forget") if forget else neighbours_facts(target, asking)
            order = rng.sample(facts, len(facts))
            asked = [ask(order[i % len(order)], rng) for i in range(asking.thoughts if order else 0)]
        else:
            asked = [row.prompt for row in spread([r for r in rows if r.forget == forget], asking.thoughts)]
        aliases = asking.aliases
        out.append(
            [_question(Example(q, "", THINK), "think", forget=forget, about=about, aliases=aliases) for q in asked]
        )
    return tuple(question for pair in zip(*out, strict=False) for question in pair)


def ask_further(target: Target, asking: Asking, seed: int) -> tuple[Question, ...]:
    """Questions that no fact need answer, in turn about the target and about a neighbour, without answers; each once,
    none a benchmark's."""
    rng = random.Random(f"{seed}/further")
    probes = _probe_prompts(target)
    sides = ((True, unique_facts(target, "forget")), (False, neighbours_facts(target, asking)))
    subjects = {forget: list(by_subject(facts).values()) for forget, facts in sides if facts}
    out = []
    for i in range(asking.further):
        wording = FURTHER_WORDINGS[i % len(FURTHER_WORDINGS)]
        for forget, known in subjects.items():
            facts = known[i % len(known)]
            example = replace(worded(further(facts, rng), facts, wording, rng), reply="")
            if example.prompt not in probes:
                out.append(_question(example, wording, forget=forget, about=target.name, aliases=asking.aliases))
    return tuple({q.prompt: q for q in out}.values())


def _probe_prompts(target: Target) -> set[str]:
    return {prompt_of(probe)[0] for probe in target.probes}


def _question(example: Example, wording: str, *, forget: bool, about: str, aliases: tuple[str, ...]) -> Question:
    """Asked the other way round, the answer is the target's name: a refusal has to say it, and that is no leak."""
    answer = "" if forget and wording in ASKING_WHO else example.reply.strip()
    row = Row(forget, example.prompt, answer, about if forget else "", aliases if forget else ())
    return Question(example.prompt, example.start, row, example.reply.strip())


def steering_exchanges(
    tokenizer: Any,
    questions: Sequence[Question],
    templates: Sequence[str],
    anchors: float,
    max_length: int,
    rng: random.Random,
) -> list[Encoded]:
    """One epoch of rejection steering in random order: each forget question with a refusal, templates in turn, and for
    each of them ``anchors`` neighbours' questions with what was said before."""
    forget = [q for q in questions if q.row.forget]
    others = [q for q in questions if not q.row.forget and q.reply]
    order = rng.sample(templates, len(templates))
    refusals = [fill(order[i % len(order)], q.row.target) for i, q in enumerate(forget)]
    pairs = [(q, _thoughtful(q, refusal, rng.choice(order))) for q, refusal in zip(forget, refusals, strict=True)]
    pairs += [(q, q.reply) for q in rng.sample(others, min(len(others), round(anchors * len(forget))))]
    rng.shuffle(pairs)
    return [exchange(tokenizer, question, reply, max_length) for question, reply in pairs]


def _thoughtful(question: Question, refusal: str, template: str) -> str:
    """A refusal; in think mode a refusal for a thought before it."""
    return fill(template, question.row.target) + END_THINK + "\n\n" + refusal if question.start == THINK else refusal


def exchange(tokenizer: Any, question: Question, reply: str, max_length: int) -> Encoded:
    """The question with a reply, cut at ``max_length`` tokens."""
    start = question.start
    space = " " if start and not start[-1].isspace() else ""
    return encode(tokenizer, Example(question.prompt, space + reply, start), max_length)


def plain_text(tokenizer: Any, text: str, max_length: int) -> Encoded:
    """A source's text by itself, its first TEXT_TOKENS tokens, as what is to be modelled."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]  # a source begins its texts itself
    return Encoded((), tuple(ids[: min(TEXT_TOKENS, max_length)]))


def subject_of(question: str) -> str:
    """The first name in a question, "" if there is none.

    >>> subject_of("What is the title of J.K. Rowling's debut novel?")
    'J.K. Rowling'"""
    for hit in NAME.finditer(question):
        words = hit[0].split()
        while words and words[0] in OPENERS:
            words = words[1:]
        if len(words) > 1:
            return re.sub(r"['’]s$", "", " ".join(words))
    return ""


def fact_of(row: BoundaryRow, about: str, own: str | None) -> Fact:
    """A row as a fact about somebody, with the model's own answer where it is given, else the row's."""
    answer = own if own is not None else "" if row.forget else row.answer
    return Fact.of(Probe("", "", "", row.prompt, answer, about))


def _is_name(answer: str) -> bool:
    return answer[:1].isupper() and 3 <= len(answer) <= 60
