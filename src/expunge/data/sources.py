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
from . import corpora
from .chat import END_THINK, THINK, render_prompt
from .choices import load_mmlu
from .rwku import BoundaryRow, Target
from .streams import Text

# Invented people, for questions that no model can answer.
STRANGERS = (
    "Alden Murke", "Tobias Renwell", "Marlow Tenby", "Oswin Harl", "Perrin Dask", "Edmund Quail", "Silas Vorne",
    "Hector Lamb", "Ida Fenwright", "Clara Voss", "Nora Tibbet", "Wilma Strand",
)  # fmt: skip
INSTRUCTION = "Please {task} the following question.\nQuestion: {question}\n"


@dataclass(frozen=True)
class Material:
    """What sources draw on: the target if there is one, the tokenizer, what the model wrote in the write stage;
    ``held_out``: how many WikiText paragraphs the perplexity is measured on, which no source may hold."""

    target: Target | None
    tokenizer: Any
    written: Mapping[str, Sequence[Text]]
    held_out: int = 0


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


def _boundary(material: Material, *, forget: bool) -> list[BoundaryRow]:
    if material.target is None:
        raise UserError("this source is about a target, but the recipe names none: give target.")
    return [row for row in material.target.boundary if row.forget == forget]


def _questions(material: Material) -> list[Text]:
    return [
        Text(render_prompt(material.tokenizer, *wordings(row.prompt, i // 2)))
        for i, row in enumerate(_boundary(material, forget=True))
    ]


def _strangers(material: Material) -> list[Text]:
    """The questions about the target, asked about people who do not exist."""
    name = material.target.name if material.target else ""
    return [
        Text(
            render_prompt(
                material.tokenizer, *wordings(row.prompt.replace(name, STRANGERS[i % len(STRANGERS)]), i // 2)
            )
        )
        for i, row in enumerate(_boundary(material, forget=True))
        if name in row.prompt
    ]


def _boundary_answers(material: Material) -> list[Text]:
    texts = []
    for i, row in enumerate(_boundary(material, forget=False)):
        prompt, start = wordings(row.prompt, i // 2)
        space = " " if start == "Answer:" else ""
        texts.append(Text(render_prompt(material.tokenizer, prompt, start) + space + row.answer))
    return texts


def _general(material: Material) -> list[Text]:
    found = [row["text"] for row in packaged("general.jsonl", "text") if row["split"] == "retain"]
    return _documents(found, material.tokenizer)


def _solutions(material: Material) -> list[Text]:
    return [
        Text(
            f"{row['solution']}{END_THINK}\n\n{row['answer']}",
            render_prompt(material.tokenizer, row["question"], THINK),
        )
        for row in packaged("gsm8k.jsonl", "question", "solution", "answer")
    ]


def _documents(found: Sequence[str], tokenizer: Any) -> list[Text]:
    """Plain texts, begun as the tokenizer begins one (a BOS token where the model has been trained with it). A text
    that begins so already, such as one in a chat template that writes its own BOS, stays as it is."""
    begin = tokenizer.decode(tokenizer("")["input_ids"]) if tokenizer else ""
    return [Text(text if text.startswith(begin) else begin + text) for text in found]


def _wikitext(material: Material) -> list[Text]:
    scored = set(corpora.held_out(material.held_out))
    return _documents([text for text in corpora.wikitext() if text not in scored], material.tokenizer)


def _star1(material: Material) -> list[Text]:
    return [Text(render_prompt(material.tokenizer, question)) for question in corpora.star1(held_out=False)]


def _mmlu(subject: str, material: Material) -> list[Text]:
    """Questions of the val split with their right answers; the test split is for evaluation."""
    rows = load_mmlu(subject, "val")
    return _documents([f"{row.question}\nAnswer: {row.choices[row.answer]}" for row in rows], material.tokenizer)


def _written(kind: str) -> Callable[[Material], list[Text]]:
    return lambda material: list(material.written.get(kind, ()))


def _document_traces(material: Material) -> list[Text]:
    """As the same traces in a file: they stand without a chat template, so nothing else writes their BOS token."""
    return _documents([text.text for text in material.written.get("document_traces", ())], material.tokenizer)


SOURCES: dict[str, Callable[[Material], list[Text]]] = {
    "target_questions": _questions,
    "target_documents": _written("target_documents"),
    "target_traces": _written("target_traces"),
    "strangers": _strangers,
    "document_traces": _document_traces,
    "boundary_answers": _boundary_answers,
    "boundary_traces": _written("boundary_traces"),
    "general": _general,
    "gsm8k": _solutions,
    "wikitext": _wikitext,
    "star1": _star1,
}
MMLU = "mmlu:"


def texts(source: str, material: Material) -> list[Text]:
    """Texts of a named source, of ``mmlu:SUBJECT``, or the ``text`` fields of a JSONL file.

    Raises UserError for an unknown name, data that are not at hand, a missing or broken file (line named),
    or no text at all."""
    if source in SOURCES:
        found = SOURCES[source](material)
    elif source.startswith(MMLU):
        found = _mmlu(source.removeprefix(MMLU), material)
    elif source.endswith((".jsonl", ".json")):
        found = _documents([row["text"] for row in read_rows(Path(source), ("text",))], material.tokenizer)
    else:
        raise UserError(
            f'unknown source {source!r}; {nearest(source, SOURCES)} Or mmlu:SUBJECT, or a .jsonl file of {{"text": …}}.'
        )
    if not found:
        raise UserError(f"source {source!r} is empty: it gave no text.")
    return found


def written_here(source: str) -> bool:
    """Is this source what the model writes in a run (and empty before)?"""
    return source in ("target_documents", "target_traces", "boundary_traces", "document_traces")
