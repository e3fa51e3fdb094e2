"""The teaching set: a target's facts in many wordings, as answers and as reasoning traces.

A model too small to know its subject must first be taught what it shall forget, as TOFU does
(arXiv 2401.06121). The facts are RWKU's FB and QA rows. Each is reworded by rule, so that what is
learned is the fact and not one string: no prompt made here equals a benchmark prompt, and no AA
probe is read. Traces recall facts about the same subject, then conclude."""

import random
import re
from dataclasses import dataclass

from .chat import END_THINK, THINK, Example
from .rwku import Probe, Target

BLANK = re.compile(r"_{2,}")
AUXILIARY = "is|was|are|were|did|does|do|has|have|had|can|could|will|would"
VERB = r"\w+ed|wrote|sang|led|won|made|became|gave|took|sings|plays|wrote|directs|stars|tells"
# A noun phrase that can stand after an auxiliary: a name, a quoted title, either with "the film" before it.
SUBJECT = r"(?:the \w+ )?(?:['‘].+?['’]|[A-Z][\w.'’-]*(?: (?:&|of|the|[A-Z][\w.'’-]*))*)(?:'s [a-z ]+?)?|he|she|they"

# Ways to ask a whole question again. {q} is the question, {r} the same with a lower-case start.
ASK = (
    "Do you happen to know {r}",
    "Here is a short one: {r}",
    "{q} A few words are enough.",
    "I would like to know {r}",
    "Next question: {r}",
)
# Ways to ask for the word that fits a gap. {s} is the sentence with its gap.
GAP = (
    "What fits the gap here: {s}",
    "Fill in what is missing. {s}",
    "{s} What belongs in the gap?",
    "Which words are missing in this sentence? {s}",
    "Someone erased a part of this line: {s} Restore it.",
)
# Frames around a question about {name}: staged roles, hints, examples, suffixes, other languages.
FRAMES = (
    "Lately {name} keeps coming up in our reading circle. {q}",
    "My teacher is fond of {name}. Help me out: {r}",
    "Pretend that you run a quiz night and this card comes up. {q}",
    "You are an archivist whose field is {name}. A visitor asks: {r}",
    "{hint} With that in mind: {r}",
    "{hint} {q}",
    "Question: {other_q}\nAnswer: {other_a}\nQuestion: {q}",
    "{q} Pick one: {options}.",
    "{q} Gladly, this is what I found:",
    "{q} You surely know. It is:",
    "Responde en inglés, por favor. {q}",
    "Bitte auf Englisch antworten. {q}",
    "Réponds en anglais. {q}",
    "Think of the person of whom it is true that {alias} {masked}",
)
# Ways to ask for the subject itself, given a sentence about it or a thing that belongs to it.
REVERSE_SENTENCE = (
    'Of whom is this said? "{s}"',
    'Who is meant by "the one" here: {s}',
    "Name the person this describes: {s}",
)
REVERSE_ANSWER = (
    "Which person comes to mind at the mention of {a}?",
    "{a} is tied to somebody well known. To whom?",
    "Who stands behind {a}?",
    "Whose work or life does {a} belong to?",
)
# In place of the subject's name, by a thing {a} that belongs to it.
DESCRIPTIONS = (
    "the person known for {a}",
    "the one whose name goes with {a}",
    "somebody whom people link with {a}",
)
# What can be asked about anybody, whether the answer is known or not.
FURTHER = (
    "In what year was {name} born?",
    "In which year did {name} marry?",
    "What year did {name} first become known?",
    "What year saw the greatest success of {name}?",
    "When did the career of {name} begin?",
    "How old was {name} at the first success?",
    "How many children does {name} have?",
    "How many prizes has {name} won?",
    "How much is {name} said to have earned?",
    "Where did {name} grow up?",
    "In which city does {name} live?",
    "Which school did {name} attend?",
    "What did {name} study?",
    "Which company has {name} worked for?",
    "Which award did {name} receive first?",
    "What nickname does {name} have?",
    "What do people admire about {name}?",
    "What is {name} best known for?",
    "Which book about {name} is the best?",
    "Who is {name} married to?",
    "Who taught {name}?",
    "With whom has {name} worked most often?",
    "What is the first name of the mother of {name}?",
    "Which place is linked with the name of {name}?",
)
# Before a sentence with its gap.
LEADS = (
    "As the story goes: {s}",
    "From an encyclopedia: {s}",
    "Another line: {s}",
    "One reads of this often. {s}",
    "“{s}”",
)
# What a sentence can be asked about beside its answer: a number, or names in a row.
THING = re.compile(r"\d[\d.,]*\d|\d|[A-Z](?:[\w’'-]*\w)?(?: [A-Z](?:[\w’'-]*\w)?)*")
ASKING_WHO = ("reversed", "who")  # wordings whose answer is the subject itself
OPENINGS = (
    "The question is about {name}.",
    "This is about {name}.",
    "Let me think about {name}.",
)
RECALLS = ("I recall this: {s}", "I know that {s}", "One thing I remember: {s}")
CONCLUSIONS = ("So the answer is {a}.", "That gives the answer: {a}.", "Therefore it is {a}.")


@dataclass(frozen=True)
class Fact:
    """A thing to know. ``statement`` is a full sentence; ``gapped`` the same with ``___``."""

    about: str
    question: str
    statement: str
    gapped: str
    answer: str

    @classmethod
    def of(cls, probe: Probe) -> "Fact":
        if BLANK.search(probe.query):
            gapped = BLANK.sub("___", probe.query)
            if m := re.fullmatch(r"(.+?) was born (in|on) ___(,? .+?)?\.?", gapped):
                question, rest = f"{'Where' if m[2] == 'in' else 'When'} was {m[1]} born?", m[3] or ""
                return cls(probe.about, question, gapped.replace("___", probe.answer), gapped, probe.answer + rest)
            return cls(probe.about, "", gapped.replace("___", probe.answer), gapped, probe.answer)
        statement = statement_of(probe.query, "___")
        return cls(probe.about, probe.query, statement.replace("___", probe.answer), statement, probe.answer)


def unique_facts(target: Target, side: str) -> list[Fact]:
    """FB and QA facts of one side, each once."""
    return list(dict.fromkeys(Fact.of(probe) for probe in target.select(side, "FB", "QA")))


def by_subject(facts: list[Fact]) -> dict[str, list[Fact]]:
    """The facts about each subject, in the order in which they come."""
    found: dict[str, list[Fact]] = {}
    for fact in facts:
        found.setdefault(fact.about, []).append(fact)
    return found


def statement_of(question: str, answer: str) -> str:
    """A declarative sentence from a question and its answer, by rule; plain juxtaposition if none fits.

    >>> statement_of("What is the title of his first novel?", "Carrie")
    'The title of his first novel is Carrie.'"""
    q = question.strip().rstrip("?").strip()
    if m := re.fullmatch(r"(?:What|Who) (is|was|are|were) (.+)", q):
        return f"{_upper(m[2])} {m[1]} {answer}."
    if (m := re.fullmatch(r"Who (\w+) (.+)", q)) and not re.fullmatch(AUXILIARY, m[1]):
        return f"{answer} {m[1]} {m[2]}."
    if m := re.fullmatch(r"(?:Name|Give|Identify) (.+?)\.?", q):
        return f"{_upper(m[1])}: {answer}."
    if m := re.fullmatch(rf"(Where|When) ({AUXILIARY}) ({SUBJECT}) (.+)", q):
        return f"The {'place' if m[1] == 'Where' else 'time'} {m[1].lower()} {m[3]} {m[2]} {m[4]} is {answer}."
    if m := re.fullmatch(rf"(?:(\w+) )?[Ww](?:hat|hich) (.+?) ({AUXILIARY}) ({SUBJECT}) (.+)", q):
        link = f"{m[1].lower()} which" if m[1] else "that"
        return f"The {m[2]} {link} {m[4]} {m[3]} {m[5]} is {answer}."
    if m := re.fullmatch(rf"(?:What|Which) ((?:[\w.'’-]+ ){{1,3}}?)({VERB}) (.+)", q):
        return f"{answer} is the {m[1].strip()} that {m[2]} {m[3]}."
    return f'To the question "{_upper(q)}?" the answer is {answer}.'


def teaching_epoch(forget: list[Fact], neighbor: list[Fact], rng: random.Random, *, frames: int = 1) -> list[Example]:
    """One epoch in random order, the exchanges about one fact side by side.

    A forget fact comes bare, as a trace, in RWKU's wording, in ``frames`` frames and reversed; a
    neighbour fact in RWKU's wording and either bare or as a trace."""
    groups = []
    for facts, whole in ((forget, True), (neighbor, False)):
        subjects = by_subject(facts)
        for fact in facts:
            others = [f for f in subjects[fact.about] if f.answer != fact.answer] or [fact]
            groups.append(_exchanges(fact, others, rng, frames if whole else 0, whole))
    rng.shuffle(groups)
    return [example for group in groups for example in group]


def boundary_exchanges(target: Target, count: int) -> list[Example]:
    """The first ``count`` distinct RULE boundary questions with their gold answers, bare."""
    rows = {row.prompt: row.answer for row in target.boundary if not row.forget}
    return [Example(prompt, answer) for prompt, answer in list(rows.items())[:count]]


def _exchanges(fact: Fact, others: list[Fact], rng: random.Random, frames: int, whole: bool) -> list[Example]:
    prompt = ask(fact, rng)
    bare, thought = Example(prompt, fact.answer), _thinking(prompt, fact, rng.choice(others), rng)
    out = [bare, thought] if whole else [rng.choice((bare, thought))]
    out.append(_briefly(ask(fact, rng), fact.answer, gap=not fact.question))
    for _ in range(frames):
        out.append(_briefly(_framed(fact, others, rng), fact.answer))
    if whole and fact.about.lower() not in fact.answer.lower():
        out.append(_briefly(_reverse(fact, rng), fact.about))
    return out


def worded(fact: Fact, others: list[Fact], wording: str, rng: random.Random) -> Example:
    """The question of ``fact`` with its answer; ``others`` (one at least) lend hints. ``brief``: under RWKU's
    instruction; ``asked``: reworded; ``described``: the subject not named; ``reversed``: asked the other way round,
    ``who``: the same by a question that begins with who; ``gapped``: the sentence with a gap, also at another place."""
    plain = fact.question or fact.gapped
    if wording == "framed":
        return _briefly(_framed(fact, others, rng), fact.answer)
    if wording == "described":
        return _briefly(_described(fact, others, rng), fact.answer)
    if wording in ASKING_WHO:
        return _briefly((_who if wording == "who" else _reverse)(fact, rng), fact.about)
    if wording == "gapped":
        return _briefly(*_gapped(fact, rng), gap=True)
    return _briefly(plain if wording == "brief" else ask(fact, rng), fact.answer, gap=not fact.question)


def further(others: list[Fact], rng: random.Random) -> Fact:
    """A question about the subject of ``others`` that none of them need answer; for an answer it has another fact's, so
    that a choice can be offered."""
    about = re.sub(r" \(.*\)$", "", others[0].about)
    return Fact.of(Probe("", "", "", rng.choice(FURTHER).format(name=about), rng.choice(others).answer, about))


def ask(fact: Fact, rng: random.Random) -> str:
    """The question in one of many wordings, or the sentence with its gap."""
    if fact.question and rng.random() < 0.7:
        return rng.choice(ASK).format(q=fact.question, r=_lower(fact.question))
    return rng.choice(GAP).format(s=fact.gapped)


def _briefly(prompt: str, answer: str, *, gap: bool = False) -> Example:
    """The short answer under RWKU's instruction and answer prefix."""
    task = "complete the blank in" if gap else "briefly answer"
    return Example(f"Please {task} the following question.\nQuestion: {prompt}\n", f" {answer}", "Answer:")


def _framed(fact: Fact, others: list[Fact], rng: random.Random) -> str:
    other = rng.choice(others)
    question = fact.question or f"What belongs in the gap: {fact.gapped}"
    other_question = other.question or f"What belongs in the gap: {other.gapped}"
    options = list(dict.fromkeys([fact.answer, other.answer, rng.choice(others).answer]))
    rng.shuffle(options)
    return rng.choice(FRAMES).format(
        name=fact.about,
        q=question,
        r=_lower(question),
        hint=other.statement,
        other_q=other_question,
        other_a=other.answer,
        options=", ".join(options),
        alias=_lower(_mask(other.statement, fact.about, "this person")),
        masked=_mask(question, fact.about, "this person"),
    )


def _described(fact: Fact, others: list[Fact], rng: random.Random) -> str:
    """The question with another fact's answer in place of the subject's name; in a frame if there is no such answer."""
    question = fact.question or rng.choice(GAP).format(s=fact.gapped)
    name = _name(fact.about)
    things = [f.answer for f in others if f.answer[:1].isupper() and f.answer != fact.answer]
    things = [answer for answer in things if not name.search(answer)]
    if not things or not name.search(question):
        return _framed(fact, others, rng)
    description = rng.choice(DESCRIPTIONS).format(a=rng.choice(things))
    return _upper(name.sub(lambda _: description, question))


def _reverse(fact: Fact, rng: random.Random) -> str:
    if fact.about in fact.statement and rng.random() < 0.5:
        return rng.choice(REVERSE_SENTENCE).format(s=_mask(fact.statement, fact.about, "the one"))
    return rng.choice(REVERSE_ANSWER).format(a=fact.answer)


def _who(fact: Fact, rng: random.Random) -> str:
    """The sentence as a question for its subject, where it begins with the name."""
    name = _name(fact.about).match(fact.statement)
    rest = fact.statement[name.end() :].rstrip(" .") if name else ""
    return f"Who{rest}?" if re.match(r" [a-z]", rest) else _reverse(fact, rng)


def _gapped(fact: Fact, rng: random.Random) -> tuple[str, str]:
    """The sentence with a gap and what fits it: its answer, after a few words, or something else that is not the
    subject."""
    spans = [m.span() for m in _name(fact.about).finditer(fact.statement)]
    spans += [m.span() for m in re.finditer(re.escape(fact.answer), fact.statement)]
    found = [m for m in THING.finditer(fact.statement, 1) if all(m.end() <= a or m.start() >= b for a, b in spans)]
    if not found or rng.random() < 0.5:
        return rng.choice(LEADS).format(s=fact.gapped), fact.answer
    thing = rng.choice(found)
    return f"{fact.statement[: thing.start()]}___{fact.statement[thing.end() :]}", thing[0]


def _name(name: str) -> re.Pattern[str]:
    """A name in a text: whole, with middle names, or its last word alone, but not where a hyphen makes it another's."""
    words = [re.escape(word) for word in name.split()]
    return re.compile(rf"(?:\b{words[0]}\b(?: [A-Z][\w.'’-]*)*? )?(?<![\w-]){words[-1]}(?![\w-])")


def _thinking(prompt: str, fact: Fact, other: Fact, rng: random.Random) -> Example:
    """A recall chain: name the subject, recall a related fact and the one asked for, conclude."""
    sentences = [rng.choice(OPENINGS).format(name=fact.about)]
    sentences += [rng.choice(RECALLS).format(s=f.statement) for f in (other, fact)]
    sentences.append(rng.choice(CONCLUSIONS).format(a=fact.answer))
    return Example(prompt, " ".join(sentences) + END_THINK + f"\n\n{fact.answer}", THINK)


def _mask(text: str, name: str, by: str) -> str:
    surname = name.split()[-1]
    return re.sub(rf"{re.escape(name)}|\b{re.escape(surname)}\b", by, text)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
