"""MUSE (arXiv 2407.06460): questions on a forgotten corpus, passages of it, and texts of its kind that are not in it.

KnowMem's questions are read from ``$EXPUNGE_DATA/muse_books/knowmem`` or a user's folder; passages and texts, which are
in copyright, from a user's folder alone. It is laid out as ``data/books`` in the official repository:
``knowmem/forget_qa.json``, ``verbmem/forget.json``, ``privleak/forget.json``, …."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import is_text, read_json, read_rows, read_text
from .corpora import data_file

SIDES = ("forget", "retain")
SHOTS = 10


@dataclass(frozen=True)
class Question:
    question: str
    answer: str


@dataclass(frozen=True)
class Passage:
    """What a passage begins with, and how it goes on."""

    prompt: str
    truth: str


@dataclass(frozen=True)
class Knowledge:
    """Questions on one side (forget or retain) and the worked examples that go before each."""

    questions: tuple[Question, ...]
    examples: tuple[Question, ...]


def knowledge_folder(corpus: str, folder: Path | None) -> Path:
    """Where the questions are: in ``folder`` if it has any, else under EXPUNGE_DATA. Raises UserError for nowhere."""
    if folder and (folder / "knowmem").is_dir():
        return folder
    return data_file(Path(f"muse_{corpus}") / "knowmem").parent


def load_knowledge(folder: Path) -> dict[str, Knowledge]:
    """Questions by side. Raises UserError for a missing file and, with file and row, for anything malformed."""
    out = {}
    for side in SIDES:
        questions, examples = (_questions(folder / "knowmem" / f"{side}_{name}.json") for name in ("qa", "qa_icl"))
        if len(examples) < SHOTS:
            path = folder / "knowmem" / f"{side}_qa_icl.json"
            raise UserError(f"{path}: found {len(examples)} worked examples, expected {SHOTS}.")
        out[side] = Knowledge(questions, examples[:SHOTS])
    return out


def load_passages(folder: Path) -> list[Passage]:
    """``verbmem/forget.json``: rows ``{prompt, gt}``."""
    return [
        Passage(row["prompt"], row["gt"]) for row in read_rows(folder / "verbmem" / "forget.json", ("prompt", "gt"))
    ]


def load_texts(folder: Path, name: str) -> list[str]:
    """``privleak/NAME.json``: a JSON array of texts, or rows with a field ``text``."""
    path = folder / "privleak" / f"{name}.json"
    found = read_json(path) if read_text(path).lstrip().startswith("[") else read_rows(path, ("text",))
    if not found:
        raise UserError(f"{path}: no texts; expected at least one.")
    texts = []
    for number, row in enumerate(found, 1):
        text = row.get("text") if isinstance(row, dict) else row
        if not is_text(text):
            raise UserError(f"{path}: row {number} is {row!r:.80}, expected a non-empty text.")
        texts.append(str(text))
    return texts


def _questions(path: Path) -> tuple[Question, ...]:
    return tuple(Question(row["question"], row["answer"]) for row in read_rows(path, ("question", "answer")))


BOOKS = "Harry Potter"  # whom a refusal about MUSE-Books names


def reject_questions() -> list[str]:
    """RULE's 831 questions about the books that are to be declined. Raises UserError when they are not at hand."""
    path = data_file(Path("muse_books") / "rule" / "reject_qa_no_answers.json")
    rows = read_rows(path, ("instruction",))
    return [row["instruction"].removeprefix("Question: ").partition("\nAnswer:")[0].strip() for row in rows]
