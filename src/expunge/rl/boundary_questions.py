"""Files of questions: what a user brings to the synthesizer, as seeds, as neighbours or as probes."""

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import is_text, read_json, read_jsonl, read_text

FIELDS = ("question", "prompt", "query")
Question = tuple[str, str]  # with its answer, "" where there is none


def read_questions(path: Path, *, answers: bool = False) -> list[Question]:
    """Questions of a file, with answers where it has them: JSON Lines or a JSON array of objects (.jsonl, .json) with
    ``question``, ``prompt`` or ``query`` and perhaps ``answer``; any other file holds a question a line.

    Raises UserError that names the row, for an empty file, and where ``answers`` are needed and missing."""
    out = []
    if path.suffix not in (".jsonl", ".json"):
        if answers:
            raise UserError(f"{path}: found no .jsonl or .json file, expected rows with question and answer.")
        out = [(line.strip(), "") for line in read_text(path).removeprefix("\ufeff").split("\n") if line.strip()]
    else:
        rows = read_json(path) if read_text(path).lstrip().startswith("[") else read_jsonl(path)
        for number, row in enumerate(rows, 1):
            out.append(_question(f"{path}: row {number}", row, answers))
    if not out:
        raise UserError(f"{path}: no questions; expected at least one.")
    return out


def _question(where: str, row: Any, answers: bool) -> Question:
    if not isinstance(row, dict):
        raise UserError(f"{where} is a {type(row).__name__}, expected an object with question and answer.")
    if "solution" in row:
        raise UserError(f"{where} has a solution: this is a finished boundary file. Give the questions alone.")
    name = next((name for name in FIELDS if name in row), None)
    if name is None:
        raise UserError(f"{where} has the fields {', '.join(row) or '(none)'}; expected one of {', '.join(FIELDS)}.")
    question, answer = row[name], row.get("answer")
    if not is_text(question):
        raise UserError(f"{where}: {name} is {str(question)[:80]!r}, expected a text of whole characters.")
    if not is_text(answer) and (answers or answer not in (None, "")):
        raise UserError(f"{where}: answer is {str(answer)[:80]!r}, expected a text of whole characters.")
    return question.strip(), (answer or "").strip()
