"""Can it still reason? GSM8K, MATH-500 and AIME 2024, each with one right answer.

Zero-shot in the chat template, greedy. The answer is what stands in the last ``\\boxed{}``, or after the last ``####``;
``math-verify`` says whether it equals the right one. A reply that is cut off rarely holds an answer, so the share of
replies that end by themselves stands beside the accuracy."""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

from ..data.reasoning import MARK, SETS, Problem, load_problems
from ..data.writing import spread
from ..errors import UserError
from ..files import content_hash
from .generate import generate
from .parts import Part, Row
from .task import Advance, Found, Options, Rows, Scored, Task

NEW_TOKENS = 4096
AT_ONCE = 16  # replies: their keys and values take 9 GB on an 8B Llama
REQUEST = "\n\nThink it through, then state the final answer inside \\boxed{}."
BOX = "\\boxed{"
LABELS = {
    "accuracy": ("right answers", "score"),
    "closed": ("replies that end", "closed"),
    "answered": ("replies with an answer in the form asked for", "answered"),
}
Sets = Mapping[str, Sequence[Problem]]


def task(options: Options) -> Task:
    if importlib.util.find_spec("math_verify") is None:
        raise UserError("comparing mathematical answers needs math-verify; pip install 'expunge[eval]'")
    sets = {name: spread(found, options.limit or len(found)) for name in SETS for found in [load_problems(name)]}
    return Task(
        "reasoning",
        {"new_tokens": NEW_TOKENS, "request": REQUEST, "limit": options.limit},
        content_hash([[name, [asdict(problem) for problem in part]] for name, part in sets.items()]),
        sum(map(len, sets.values())),
        partial(_run, sets),
    )


def _run(sets: Sets, under: Scored, advance: Advance) -> tuple[Found, Rows]:
    asked = [(name, problem) for name, part in sets.items() for problem in part]
    prompts = [under.prompt(problem.question + REQUEST) for _, problem in asked]
    replies = generate(
        under.model, under.tokenizer, prompts, max_new_tokens=NEW_TOKENS, batch_size=AT_ONCE, on_done=advance
    )
    rows = []
    for (name, problem), generation in zip(asked, replies, strict=True):
        found = final_answer(generation.text)
        row: Row = {"of": name, "question": problem.question, "answer": problem.answer}
        row |= {"reply": generation.text, "found": found, "answered": found is not None, "closed": generation.closed}
        rows.append(row | {"score": found is not None and same_answer(found, problem.answer)})
    return reasoning_scores(rows), {"reasoning": rows}


def final_answer(reply: str) -> str | None:
    r"""What stands in the last complete ``\boxed{}``, else after the last ``####`` of its line; None without either.

    >>> final_answer(r"So \boxed{1}, no, \boxed{\frac{1}{2}}."), final_answer("#### 1,200 dollars"), final_answer("7")
    ('\\frac{1}{2}', '1,200 dollars', None)
    """
    for start in reversed([match.end() for match in re.finditer(re.escape(BOX), reply)]):
        if (end := _closing(reply, start)) is not None:
            return reply[start:end].strip() or None
    _, mark, rest = reply.rpartition(MARK)
    return rest.strip().split("\n")[0].strip() or None if mark else None


def _closing(text: str, start: int) -> int | None:
    """Where the brace that was opened just before ``start`` is closed."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return place
    return None


def same_answer(found: str, answer: str) -> bool:
    """Equal as mathematics, or letter by letter. Read as LaTeX alone: nothing of a reply is evaluated as Python."""
    from math_verify import LatexExtractionConfig, parse, verify

    if found == answer:
        return True
    right, said = (parse(f"{BOX}{text}}}", extraction_config=[LatexExtractionConfig()]) for text in (answer, found))
    return bool(verify(right, said))


def reasoning_scores(rows: Sequence[Row]) -> Found:
    out: Found = {}
    for name in dict.fromkeys(row["of"] for row in rows):
        part = Part("reasoning", {"of": name}, f"reasoning/{name}", name)
        for id_, (label, value) in LABELS.items():
            out |= part.mean(rows, id_, value, label, better="higher")
    return out
