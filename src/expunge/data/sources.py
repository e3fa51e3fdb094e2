"""Where the texts of a stream come from: a table of named sources, or any JSONL file of texts.

Every source gives rendered texts (chat template included where there is one), ready to be
tokenised. None of them reads a benchmark probe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..files import read_rows
from .chat import END_THINK, THINK, render_prompt
from .rwku import Target
from .streams import Text

INSTRUCTION = "Please {task} the following question.\nQuestion: {question}\n"


@dataclass(frozen=True)
class Material:
    """What sources draw on: the target, the tokenizer, and what the model wrote in the traces stage."""

    target: Target
    tokenizer: Any
    written: Mapping[str, Sequence[Text]]


def packaged(name: str, *fields: str) -> list[dict[str, Any]]:
    """Rows of a data file of the package."""
    return read_rows(Path(str(resources.files("expunge.data") / "packaged" / name)), fields)


def wordings(question: str, index: int) -> tuple[str, str]:
    """A question bare, under an instruction with an answer prefix, or in think mode, in turn."""
    task = "complete the blank in" if "___" in question else "briefly answer"
    return (
        (question, ""),
        (INSTRUCTION.format(task=task, question=question), "Answer:"),
        (question, THINK),
    )[index % 3]


def _questions(material: Material) -> list[Text]:
    rows = [row for row in material.target.boundary if row.forget]
    return [Text(render_prompt(material.tokenizer, *wordings(row.prompt, i // 2))) for i, row in enumerate(rows)]


def _boundary_answers(material: Material) -> list[Text]:
    rows = [row for row in material.target.boundary if not row.forget]
    texts = []
    for i, row in enumerate(rows):
        prompt, start = wordings(row.prompt, i // 2)
        space = " " if start == "Answer:" else ""
        texts.append(Text(render_prompt(material.tokenizer, prompt, start) + space + row.answer))
    return texts


def _general(material: Material) -> list[Text]:
    return [Text(row["text"]) for row in packaged("general.jsonl", "text") if row["split"] == "retain"]


def _solutions(material: Material) -> list[Text]:
    return [
        Text(
            f"{row['solution']}{END_THINK}\n\n{row['answer']}",
            render_prompt(material.tokenizer, row["question"], THINK),
        )
        for row in packaged("gsm8k.jsonl", "question", "solution", "answer")
    ]


def _written(kind: str) -> Callable[[Material], list[Text]]:
    return lambda material: list(material.written[kind])


SOURCES: dict[str, Callable[[Material], list[Text]]] = {
    "target_questions": _questions,
    "target_documents": _written("target_documents"),
    "target_traces": _written("target_traces"),
    "boundary_answers": _boundary_answers,
    "boundary_traces": _written("boundary_traces"),
    "general": _general,
    "gsm8k": _solutions,
}


def texts(source: str, material: Material) -> list[Text]:
    """Texts of a named source, or the ``text`` fields of a JSONL file.

    Raises UserError for an unknown name, a missing or broken file (line named), or no text at all."""
    if source in SOURCES:
        found = SOURCES[source](material)
    elif source.endswith((".jsonl", ".json")):
        found = [Text(row["text"]) for row in read_rows(Path(source), ("text",))]
    else:
        raise UserError(f'unknown source {source!r}; {nearest(source, SOURCES)} Or a .jsonl file of {{"text": …}}.')
    if not found:
        raise UserError(f"source {source!r} is empty: it gave no text.")
    return found
