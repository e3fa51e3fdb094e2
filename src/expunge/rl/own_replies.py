"""What a model says of itself before anything is unlearned: RULE's neighbours are answered as they were."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..data.chat import END_THINK, encode_prompt
from ..data.facts import worded
from ..data.rwku import BoundaryRow
from ..evals.generate import Generation, generate
from .questions import Question, fact_of
from .refusals import names_target

ANSWER_TOKENS = 20
THOUGHT_TOKENS = 96
Done = Callable[[int], None] | None


def own_answers(model: Any, tokenizer: Any, rows: Sequence[BoundaryRow], on_done: Done = None) -> dict[str, str]:
    """Its answer to each row's question, briefly and greedily."""
    facts = {row.prompt: fact_of(row, row.target, "") for row in rows}
    examples = {p: worded(fact, [fact], "brief", random.Random(0)) for p, fact in facts.items()}
    asked = {p: (example.prompt, example.start) for p, example in examples.items()}
    said = _replies(model, tokenizer, asked, ANSWER_TOKENS, on_done, line=True)
    return {prompt: reply.text.strip() for prompt, reply in said.items()}


def own_further(model: Any, tokenizer: Any, asked: Sequence[Question], on_done: Done = None) -> dict[str, str]:
    """Its guesses at neighbours' further questions; those that name the target are left out."""
    about = next((q.row for q in asked if q.row.forget), None)
    said = _replies(model, tokenizer, _neighbours(asked), ANSWER_TOKENS, on_done, line=True)
    texts = {prompt: reply.text.strip() for prompt, reply in said.items()}
    return {
        prompt: text
        for prompt, text in texts.items()
        if text and not (about and names_target(text, about.target, about.aliases))
    }


def own_thoughts(model: Any, tokenizer: Any, asked: Sequence[Question], on_done: Done = None) -> dict[str, str]:
    """Its thoughts about neighbours, with what it then says; thoughts that do not end are left out."""
    said = _replies(model, tokenizer, _neighbours(asked), THOUGHT_TOKENS, on_done)
    return {prompt: reply.text for prompt, reply in said.items() if reply.closed and END_THINK in reply.text}


def answered(asked: Sequence[Question], own: Mapping[str, str]) -> tuple[Question, ...]:
    """The target's questions, and the neighbours' with what the model itself said, by which replies are then judged;
    without those to which it said nothing."""
    return tuple(
        q if q.row.forget else replace(q, reply=own[q.prompt], row=replace(q.row, answer=own[q.prompt]))
        for q in asked
        if q.row.forget or q.prompt in own
    )


def _neighbours(asked: Sequence[Question]) -> dict[str, tuple[str, str]]:
    return {q.prompt: (q.prompt, q.start) for q in asked if not q.row.forget}


def _replies(
    model: Any, tokenizer: Any, asked: Mapping[str, tuple[str, str]], tokens: int, on_done: Done, *, line: bool = False
) -> dict[str, Generation]:
    """Greedy replies to prompts with the starts of their replies, of one ``line`` or as they end."""
    prompts = [encode_prompt(tokenizer, prompt, start) for prompt, start in asked.values()]
    replies = generate(
        model, tokenizer, prompts, max_new_tokens=tokens, stop_at_newline=line, batch_size=32, on_done=on_done
    )
    return dict(zip(asked, replies, strict=True))
