"""What a model itself recalls about a target, as facts that can be asked for.

RULE's questions (arXiv 2506.07171) ask what a questioner thought of; what a model knows best may be something else,
and is what it gives away first. So the model is let reason about the target, many times over, and each
sentence that names the target and ends in a name, a title or a number becomes a fact with a gap. No benchmark
probe is read; facts are asked in rewordings only, never as the plain sentence with its gap."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ..data.chat import END_THINK, THINK, encode_prompt
from ..data.facts import Fact
from ..data.prompts import QUESTIONS
from .rollout import sample

PROMPTS, SAMPLES, NEW_TOKENS, BATCH = 40, 3, 64, 16
TEMPERATURE = 0.7  # between saying the same again and making things up
SENTENCE = re.compile(r"(?<=[.!?])\s+")
# What introduces a recalled sentence and is no part of it.
LEAD = re.compile(
    r"^(?:I (?:recall|know|remember|think|believe)(?: this:| that|,)?|One thing I (?:remember|know)(?: is that|:)"
    r"|(?:So|Also|And|Then|Therefore),?)\s+"
)
# A quoted title, a name, or a number.
ANSWER = re.compile(
    r"(?<=['‘\"“])[^'’\"”]{2,60}(?=['’\"”](?!\w))|"
    r"[A-Z][\w.&-]*(?: (?:(?:of|the|and|for) )?[A-Z][\w.&-]*)*|\d[\d,.]*\d|\d"
)
# Talk about the question, and what is no running text.
ASIDE = re.compile(r"\b(?:question|answer)\b|^(?:Let me|The question|This is about)\b|[<>\[\]{}*`|_]")
LEAST_WORDS, MOST_WORDS = 5, 30
SAME = 0.6  # a sentence with so many of its words in the question only says the question again


def mine(
    model: Any,
    tokenizer: Any,
    questions: Sequence[str],
    name: str,
    seed: int,
    on_done: Callable[[int], None] | None = None,
) -> list[Fact]:
    """Facts about ``name``, those recalled most often first. ``questions`` are thought about beside open ones."""
    asked = [*questions, *(question.format(name=name) for question in QUESTIONS)]
    prompts = [encode_prompt(tokenizer, question, THINK) for question in asked]
    counted: Counter[str] = Counter()
    for start in range(0, len(asked), BATCH):
        part = slice(start, start + BATCH)
        groups = sample(
            model,
            tokenizer,
            prompts[part],
            SAMPLES,
            max_new_tokens=NEW_TOKENS,
            temperature=TEMPERATURE,
            seed=seed + start,
        )
        for question, group in zip(asked[part], groups, strict=True):
            for rollout in group:
                text = tokenizer.decode(rollout.ids, skip_special_tokens=True).partition(END_THINK)[0]
                counted.update(set(recalled(text, name, question)))
        if on_done:
            on_done(len(asked[part]))
    facts = {fact.gapped: fact for s, _ in counted.most_common() if (fact := gapped(s, name))}
    return list(facts.values())


def recalled(text: str, name: str, question: str) -> list[str]:
    """Whole sentences of a text that say something about ``name`` which the question does not."""
    out = []
    for sentence in SENTENCE.split(text):
        said = LEAD.sub("", sentence.strip())
        words = said.split()
        new = _words(said)
        if (
            said.endswith(".")
            and name in said
            and not ASIDE.search(said)
            and LEAST_WORDS <= len(words) <= MOST_WORDS
            and len(new & _words(question)) <= SAME * len(new)
        ):
            out.append(said)
    return out


def gapped(sentence: str, name: str) -> Fact | None:
    """The sentence with a gap at its last name, title or number; None if it has none but the target's own.

    >>> gapped("Ada Stone wrote the novel Grey Tides in Leeds.", "Ada Stone").gapped
    'Ada Stone wrote the novel Grey Tides in ___.'"""
    own = _words(name)
    for hit in reversed(list(ANSWER.finditer(sentence.rstrip(".")))):
        answer = hit[0].strip(" .,")
        if hit.start() == 0 or not answer or _words(answer) <= own or name in answer:
            continue
        end = hit.start() + hit[0].index(answer) + len(answer)
        gap = f"{sentence[: end - len(answer)]}___{sentence[end:]}"
        return Fact(name, "", sentence, gap, answer)
    return None


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
