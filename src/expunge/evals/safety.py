"""Harmful requests, which should be declined or answered harmlessly, and harmless ones, which should not be declined.

StrongREJECT (arXiv 2402.10260), JBB-Behaviors (2404.01318) and WildJailbreak (2406.18510) ask for harm; the 250 safe
rows of XSTest (2308.01263) only sound like it. Greedy, in the chat template. Always measured: the share of replies that
decline, by the detector of `expunge refusals`; it says nothing about harm. With a judge: StrongREJECT's score and the
share of safe replies on each set, whole response with its thought, as in R2MU's table; over-refusal on XSTest.

Departs from STAR-1's harness (2504.01903): 512 new tokens instead of 8,000, no repetition penalty (it would hide a
collapse), a judge of the user's instead of Llama-Guard-3, and 250 rows of WildJailbreak evenly spaced."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..data.corpora import advice, data_file
from ..data.writing import spread
from ..endpoint import Endpoint
from ..errors import UserError
from ..files import content_hash, is_text, read_rows, read_text
from ..rl.refusals import detect
from . import collapse
from .judge import check, judge, protocol
from .parts import Part, Row
from .replies import asked
from .rubrics import RUBRICS
from .task import Advance, Found, Options, Rows, Scored, Task

NEW_TOKENS = 512
FILE = "safety"
HARMFUL, HARMLESS = "harmful", "harmless"
ALL = Part(FILE, {}, "safety/replies", "replies to all of these requests")


@dataclass(frozen=True)
class Published:
    """A published set under EXPUNGE_DATA: a table whose ``column`` holds the requests, of which the rows with
    ``only`` (column, value) count; ``most`` rows of it, evenly spaced."""

    name: str
    title: str
    path: Path
    column: str
    kind: str = HARMFUL
    only: tuple[str, str] | None = None
    most: int = 0


@dataclass(frozen=True)
class Requests:
    """Requests of one set and kind; ``note`` says why there are none."""

    name: str
    title: str
    kind: str
    texts: tuple[str, ...]
    note: str = "no samples"

    @property
    def part(self) -> Part:
        return Part(FILE, {"of": self.name, "kind": self.kind}, f"safety/{self.name}", self.title)


PUBLISHED = (
    Published("strongreject", "StrongREJECT", Path("strongreject/strongreject_dataset.csv"), "forbidden_prompt"),
    Published("jbb", "JBB-Behaviors", Path("jbb_behaviors/harmful-behaviors.csv"), "Goal"),
    Published(
        "wildjailbreak", "WildJailbreak", Path("wildjailbreak/eval.tsv"), "adversarial",
        only=("data_type", "adversarial_harmful"), most=250,
    ),
    Published("xstest", "XSTest, safe", Path("xstest/xstest_prompts.csv"), "prompt", HARMLESS, ("label", "safe")),
)  # fmt: skip


def task(options: Options) -> Task:
    """The suite ``safety``: the published sets that are at hand, and a user's files of ``prompt`` with or without
    ``label`` (safe or unsafe, which is what a row without one is).

    Raises UserError that names file and row for data that can not be read."""
    sets = [_published(one) for one in PUBLISHED]
    for file in (options.files or {}).get("safety", ()):
        found = read_requests(Path(file).expanduser())
        if any(found[0].name == known.name for known in sets):
            raise UserError(f"{file}: there are requests of the name {found[0].name!r} already. Rename the file.")
        sets += found
    sets = [Requests(s.name, s.title, s.kind, _at_most(s.texts, options.limit), s.note) for s in sets]
    count = sum(len(one.texts) for one in sets)
    judged = protocol(options.judge, "safety", "compliance")
    settings = {"new_tokens": NEW_TOKENS, "limit": options.limit, "judge": judged}
    told = content_hash([vars(one) for one in sets])
    return Task("safety", settings, told, count * (2 if judged else 1), partial(_run, sets, options.judge))


def _at_most(texts: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(spread(texts, count or len(texts)))


def _published(one: Published) -> Requests:
    """The requests of a published set; none, with a note, where it is not at hand."""
    try:
        path = data_file(one.path)
    except UserError:
        return Requests(one.name, one.title, one.kind, (), f"not at hand; {advice(one.path)}")
    return Requests(one.name, one.title, one.kind, _at_most(read_column(path, one.column, one.only), one.most))


def read_column(path: Path, column: str, only: tuple[str, str] | None = None) -> list[str]:
    """The texts of one column of a CSV or TSV file, of the rows with ``only`` (column, value) if given.

    Raises UserError that names file and row for anything else."""
    wanted = (column, *(only[:1] if only else ()))
    text = read_text(path)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",")
    out = []
    try:
        missing = [name for name in wanted if name not in (reader.fieldnames or ())]
        if missing:
            found = ", ".join(reader.fieldnames or ()) or "nothing"
            raise UserError(f"{path}: found the columns {found:.200}; expected also {', '.join(missing)}.")
        for number, row in enumerate(reader, 1):
            if only and row[only[0]] != only[1]:
                continue
            if not is_text(row[column]):
                raise UserError(f"{path}: row {number}: {column} is {row[column]!r:.80}, expected a non-empty text.")
            out.append(str(row[column]).strip())
    except csv.Error as error:
        raise UserError(f"{path}: after line {reader.line_num}: not a table that can be read ({error}).") from None
    if not out:
        kind = f" with {only[1]!r} in the column {only[0]}" if only else ""
        raise UserError(f"{path}: found no rows{kind}, expected at least one. Fetch the file again.")
    return out


def read_requests(path: Path) -> list[Requests]:
    """A user's own requests, harmful and harmless apart. Raises UserError that names file and row."""
    kinds: dict[str, list[str]] = {HARMFUL: [], HARMLESS: []}
    for number, row in enumerate(read_rows(path, ("prompt",)), 1):
        label = row.get("label", "unsafe")
        if label not in ("safe", "unsafe"):
            raise UserError(f"{path}: row {number}: label is {label!r:.80}, expected 'safe' or 'unsafe'.")
        kinds[HARMLESS if label == "safe" else HARMFUL].append(row["prompt"].strip())
    return [Requests(path.stem, f"{path.stem}, {kind}", kind, tuple(texts)) for kind, texts in kinds.items() if texts]


def _run(sets: Sequence[Requests], endpoint: Endpoint | None, under: Scored, advance: Advance) -> tuple[Found, Rows]:
    check(endpoint)
    rows: list[Row] = [{"of": one.name, "kind": one.kind, "query": text} for one in sets for text in one.texts]
    return score_rows(asked(under, rows, NEW_TOKENS, advance), sets, endpoint, advance)


def score_rows(
    rows: Sequence[Row], sets: Sequence[Requests], endpoint: Endpoint | None = None, advance: Advance | None = None
) -> tuple[Found, Rows]:
    """Scores of the rows of these sets, and the rows with ``refusal``, ``collapse`` and ``judged``."""
    out = [{**row, "refusal": detect(row["reply"]).refusal} for row in collapse.measure(rows)]
    found = Found()
    for one in sets:
        if one.kind == HARMFUL:
            told, better, name, rubric = "replies that decline", "higher", "refusals", "safety"
        else:
            told, better, name, rubric = "replies that decline (over-refusal)", "lower", "over_refusal", "compliance"
        found |= one.part.mean(out, name, "refusal", told, better=better, nothing=one.note)
        out, more = judge(RUBRICS[rubric], out, one.part, endpoint if one.texts else None, advance)
        found |= more if one.texts else {id_: {**value, "note": one.note} for id_, value in more.items()}
    return found | collapse.panel(ALL, out), {FILE: out}
