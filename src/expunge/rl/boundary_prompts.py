"""What a model is asked when it writes boundary rows, and how its replies are read.

RULE (arXiv 2506.07171) released neither its prompts nor the model that answered them; these are our own. Three tasks:
a question as a cloze, the same sentence frame about two other entities, and a gold answer. Each reply is one JSON
object; anything else is asked for once more and then left out."""

import json
import re
from collections.abc import Sequence
from typing import Any

from ..files import is_text
from .boundary_filters import GAP
from .refusals import names_target

AGAIN = "Your last reply was not the JSON object that was asked for. Reply with that object alone."

_CLOZE = """Rewrite a quiz question as a statement with one gap.

- Write the gap as ___ and put it exactly where the answer belongs.
- Keep every detail of the question and add none. Never write the answer itself.
- The statement is one whole sentence that ends with a full stop.

Example: {{"question": "In which city did Nell Frost open her first shop?"}}
Reply: {{"cloze": "Nell Frost opened her first shop in the city of ___."}}

The question: {question}
Reply with one JSON object of the form {{"cloze": "..."}} and nothing else."""

_NEIGHBOURS = """Here is a quiz question about {target}. Write two new ones that ask the same kind of thing of others.

- Each is about a real and well-known entity of the same kind and the same field as {target}, but not about {target}. \
The two are about different entities.
- Keep the sentence frame: the same question word, the same order, as many of the same words as are still true. \
Change names, titles, dates and places until the new question is true of its entity and has exactly one right answer.
- Do not mention {names} or anything that belongs to {target} alone.
- Write the whole question to its end. If the question is a statement with a gap ___, write statements with a gap ___.

Example, for Nell Frost: {{"question": "In which city did Nell Frost open her fashion house in 1931?"}}
Reply: {{"neighbours": [{{"entity": "Coco Chanel", "question": "In which city did Coco Chanel open her first shop in \
1910?"}}, {{"entity": "Christian Dior", "question": "In which city did Christian Dior open his fashion house in \
1946?"}}]}}

The question: {question}
Reply with one JSON object of the form {{"neighbours": [{{"entity": "...", "question": "..."}}, \
{{"entity": "...", "question": "..."}}]}} and nothing else."""

_ANSWER = """Answer a quiz question, or fill the gap ___ of a statement, as the answer key of the quiz would.

- Give the answer alone, in at most twenty words, without an explanation.
- If the question assumes something that is not true, or you are not certain of the answer, the answer is null.

Example: {{"question": "In which city did Coco Chanel open her first shop in 1910?"}}
Reply: {{"answer": "Paris"}}

The question: {question}
Reply with one JSON object, {{"answer": "..."}} or {{"answer": null}}, and nothing else."""


# --- asking ------------------------------------------------------------------------------------------------------


def ask_cloze(question: str, answer: str = "") -> str:
    given = {"question": question, "answer": answer} if answer else {"question": question}
    return _CLOZE.format(question=json.dumps(given, ensure_ascii=False))


def ask_neighbours(question: str, target: str, aliases: Sequence[str] = ()) -> str:
    names = ", ".join([target, *aliases])
    shown = json.dumps({"question": question}, ensure_ascii=False)
    return _NEIGHBOURS.format(question=shown, target=target, names=names)


def ask_answer(question: str) -> str:
    return _ANSWER.format(question=json.dumps({"question": question}, ensure_ascii=False))


# --- reading -----------------------------------------------------------------------------------------------------


def read_object(reply: str) -> dict[str, Any] | None:
    """The one JSON object that a reply consists of, thoughts and a code fence aside; None for anything else.

    >>> read_object('<think>Hm.</think>```json\\n{"answer": "Paris"}\\n```'), read_object('Sure! {"answer": "Paris"}')
    ({'answer': 'Paris'}, None)
    """
    text = reply.rpartition("</think>")[2].strip()  # the template may have opened the thought
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL)
    try:
        found = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_cloze(reply: str) -> str | None:
    """The statement, its gap written ___; None unless it has exactly one gap."""
    cloze = (read_object(reply) or {}).get("cloze")
    if not is_text(cloze):
        return None
    cloze = re.sub("_{2,}", GAP, str(cloze).strip())
    return cloze if cloze.count(GAP) == 1 else None


def read_neighbours(reply: str) -> list[str] | None:
    """The two questions; None unless both name their entities, which differ."""
    found = (read_object(reply) or {}).get("neighbours")
    if not isinstance(found, list) or len(found) != 2:
        return None
    entities, questions = set(), []
    for one in found:
        match one:
            case {"entity": str(entity), "question": str(text)} if is_text(entity) and is_text(text):
                if not names_target(text, entity):
                    return None
                entities.add(entity.strip().casefold())
                questions.append(re.sub("_{2,}", GAP, text.strip()))
            case _:
                return None
    return questions if len(entities) == 2 else None


def read_answer(reply: str) -> str | None:
    """The answer, "" where the model says that there is none; None for a reply that can not be read."""
    found = read_object(reply)
    if found is None or "answer" not in found:
        return None
    answer = found["answer"]
    if answer is None or answer == "":
        return ""
    if isinstance(answer, int | float) and not isinstance(answer, bool):  # a year
        return str(answer)
    return str(answer).strip() if is_text(answer) else None
