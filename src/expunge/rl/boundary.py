"""``expunge boundary``: training rows on both sides of the line between what is refused and what is answered.

RULE (arXiv 2506.07171, section on data) makes four rows of each question about the target, R R N N: a cloze of it and
the question itself, both with a refusal, then a question in the same sentence frame about somebody else and a cloze
about yet another, both with their gold answers. The neighbours come from a model (behind an endpoint, or local), or
without any model from a user's own retain questions. Departs from the release: every row is filtered, rows that meet
an evaluation probe are left out, and a card tells what was dropped."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.rwku import PACKAGED, load_target, targets_at_hand
from ..endpoint import Endpoint
from ..errors import UserError
from ..files import check_space, content_hash, file_hash, is_text, write_jsonl, write_text
from ..progress import bar
from . import boundary_prompts as ask
from .boundary_card import Record, read_head, render
from .boundary_filters import Probes, evades, has_gap
from .boundary_questions import Question, read_questions
from .boundary_sift import Candidate, Sifted, sift
from .boundary_writers import EndpointWriter, ModelWriter, Writer
from .neighbours import EMBEDDER, choose, cloze_of, embedder
from .refusals import detect, leaks, names_target
from .templates import fill, load_templates

VERSION = 2  # of what is made of the same settings; a change makes other files


@dataclass(frozen=True)
class Synthesis:
    """``questions`` about ``target``, and one place where neighbours come from: ``retain`` (a file of questions with
    answers), ``model`` (a local chat model) or ``endpoint``."""

    target: str
    questions: Path
    out: Path
    aliases: tuple[str, ...] = ()
    retain: Path | None = None
    model: str | None = None
    endpoint: Endpoint | None = None
    probes: tuple[Path, ...] = ()
    """Files of questions that evaluation asks; those of a known target are always among them."""
    templates: Path | None = None
    """Refusals of ones own; see expunge.rl.templates."""
    keep_overlap: bool = False
    batch_size: int = 16
    """Prompts that a local model answers at once."""
    dtype: str = "float32"


@dataclass(frozen=True)
class Summary:
    """What was made. ``forget`` and ``boundary`` are rows; ``dropped`` what the filters took, at every stage."""

    out: Path
    card: Path
    forget: int
    boundary: int
    dropped: int
    overlaps: int
    probes: int
    """How many the rows were compared with."""

    def __str__(self) -> str:
        met = (
            f"{self.overlaps:,} meet a probe" if self.probes else "there were no probes to compare with (--probes FILE)"
        )
        return (
            f"{self.out}: {self.forget + self.boundary:,} rows ({self.forget:,} to refuse, {self.boundary:,} to "
            f"answer); {self.dropped:,} dropped, {met}; see {self.card}"
        )


def synthesise(settings: Synthesis) -> Summary:
    """Write the boundary file and its card. A file of the same settings is left as it is.

    Raises UserError for bad input, for an output that holds something else, and when nothing is left to write."""
    _check(settings)
    out, card = settings.out, settings.out.with_name(f"{settings.out.stem}.card.md")
    questions = read_questions(settings.questions)
    retain = read_questions(settings.retain, answers=True) if settings.retain else []
    probes = Probes(_probes(settings))
    templates = [t for t in load_templates(settings.templates) if _serves(t, settings)]
    if not templates:
        raise UserError(
            f"{settings.templates or 'templates'}: none of them, with {settings.target!r} filled in, is found to be a "
            "refusal that names it. Try them with: expunge refusals FILE"
        )
    writer = _writer(settings)
    folder = embedder() if writer is None else None
    measure = {"similarity": "TF-IDF" if folder is None else f"all-MiniLM-L6-v2 of {EMBEDDER}"}
    origin = writer.origin if writer else measure
    about = [settings.target, settings.aliases, settings.keep_overlap]
    settled = content_hash(VERSION, about, questions, retain, probes.prompts, templates, origin)
    done = _done(out, card, settled)
    if done:
        return done

    # Alone first: what is not fit to be asked about needs no neighbours.
    sifted = _sift(settings, probes, (Candidate(True, text, "", i) for i, (text, _) in enumerate(questions)))
    seeds = {row.seed: questions[row.seed] for row in sifted.kept}
    stages = [("Questions about the target", len(questions), sifted)]
    unusable: dict[str, int] = {}
    if writer:
        candidates = _written(settings, seeds, writer, unusable)
    else:
        pool = _sift(settings, probes, (Candidate(False, *pair, i) for i, pair in enumerate(retain)))
        stages.append(("Retain questions", len(retain), pool))
        candidates = _found(settings.target, seeds, pool.kept, folder)
    sifted = _sift(settings, probes, candidates)
    stages.append(("Rows", len(candidates), sifted))

    forget = sum(row.forget for row in sifted.kept)
    if not 0 < forget < len(sifted.kept):
        raise UserError(
            f"{settings.questions}: no rows {'to answer' if forget else 'to refuse'} are left; "
            f"{_told(stages, unusable)}. Give other questions, or --keep-overlap where probes took them."
        )
    rows = list(_rows(sifted.kept, templates, settings.target))
    # What was met early and dropped there is not among the rows; what is kept is met again.
    overlaps = [pair for _, _, s in (stages[-1:] if settings.keep_overlap else stages) for pair in s.overlaps]
    head = {
        "target": settings.target,
        "aliases": list(settings.aliases),
        "forget": forget,
        "boundary": len(rows) - forget,
        "dropped": sum(len(taken) for _, _, s in stages for taken in s.dropped.values()),
        "overlaps": len(overlaps),
        "probes": len(probes.prompts),
        "keep_overlap": settings.keep_overlap,
        "neighbours": origin,
        "settings": settled,
        "rows_sha256": hashlib.sha256(_text(rows).encode()).hexdigest(),
    }
    answered = {row.seed for row in sifted.kept if not row.forget}
    notes = [f"refusals: {len(templates)} templates, in turn"]
    notes.append(f"questions without a neighbour: {len(seeds.keys() - answered)}")
    record = Record(head, _sources(settings, origin), stages, unusable, overlaps, notes)
    write_text(card, render(record))  # first: a file without its card would be nobody's
    write_jsonl(out, rows)
    if writer:
        writer.finish()
    return _summary(out, card, head)


# --- what rows are made of ---------------------------------------------------------------------------------------


def _written(
    settings: Synthesis, seeds: dict[int, Question], writer: Writer, unusable: dict[str, int]
) -> list[Candidate]:
    """All rows with a model's help; ``unusable`` counts the replies that were none, by task."""

    def usable(task: str, replies: Sequence[Any]) -> list[Any]:
        unusable[task] = unusable.get(task, 0) + sum(reply is None for reply in replies)
        return list(replies)

    def clozes(title: str, asked: Sequence[Question]) -> list[str | None]:
        found = writer.write(title, [ask.ask_cloze(*pair) for pair in asked], ask.read_cloze)
        told = [None if c and a and leaks(c, a, q) else c for c, (q, a) in zip(found, asked, strict=True)]
        return usable("cloze", told)

    own = {i: pair for i, pair in seeds.items() if not has_gap(pair[0])}
    own_clozes = dict(zip(own, clozes("clozes", list(own.values())), strict=True))
    asked = [ask.ask_neighbours(text, settings.target, settings.aliases) for text, _ in seeds.values()]
    neighbours = usable("neighbours", writer.write("neighbours", asked, ask.read_neighbours))
    pairs = {i: pair for i, pair in zip(seeds, neighbours, strict=True) if pair}
    flat = [question for pair in pairs.values() for question in pair]
    found = writer.write("gold answers", [ask.ask_answer(q) for q in flat], ask.read_answer)
    told = [None if a and evades(q, a) else a for q, a in zip(flat, found, strict=True)]
    answers = usable("answer", told)
    gold = {i: answers[2 * n : 2 * n + 2] for n, i in enumerate(pairs)}
    # The second neighbour becomes a cloze; one that has no answer stays for the filters to name.
    second = {i: (q, gold[i][1]) for i, (_, q) in pairs.items() if gold[i][1] and not has_gap(q)}
    second_clozes = dict(zip(second, clozes("neighbour clozes", list(second.values())), strict=True))

    out = []
    for i, (text, _) in seeds.items():
        if own_clozes.get(i):
            out.append(Candidate(True, str(own_clozes[i]), "", i))
        out.append(Candidate(True, text, "", i))
        if i in pairs:
            first, other = pairs[i]
            cloze = second_clozes[i] if i in second else other
            for prompt, answer in ((first, gold[i][0]), (cloze, gold[i][1])):
                if prompt is not None and answer is not None:
                    out.append(Candidate(False, prompt, answer, i))
    return out


def _found(target: str, seeds: dict[int, Question], pool: Sequence[Candidate], folder: Path | None) -> list[Candidate]:
    """All rows without a model: clozes by rule, neighbours out of the user's own questions, each used once."""
    texts = [text for text, _ in seeds.values()]
    with bar(f"neighbours of {target}", None):
        firsts, seconds = choose(texts, [row.prompt for row in pool], 2, folder) if pool else ([], [])
    out = []
    for n, (i, (text, _)) in enumerate(seeds.items()):
        if not has_gap(text):
            out.append(Candidate(True, cloze_of(text), "", i))
        out.append(Candidate(True, text, "", i))
        first, second = (firsts[n], seconds[n]) if pool else (None, None)
        if first is not None:
            out.append(Candidate(False, pool[first].prompt, pool[first].answer, i))
        if second is not None:
            out.append(Candidate(False, cloze_of(pool[second].prompt), pool[second].answer, i))
    return out


def _rows(kept: Sequence[Candidate], templates: Sequence[str], target: str) -> Iterator[dict[str, Any]]:
    """In RULE's schema, and with the number of the question; both its rows get the same refusal, the next question
    the next."""
    turn = {seed: n for n, seed in enumerate(dict.fromkeys(row.seed for row in kept if row.forget))}
    for row in kept:
        if row.forget:
            refusal = fill(templates[turn[row.seed] % len(templates)], target)
            yield {"prompt": row.prompt, "solution": ["<reject>", refusal, target], "seed": row.seed}
        else:
            yield {"prompt": row.prompt, "solution": ["<normal>", row.answer], "seed": row.seed}


# --- small parts -------------------------------------------------------------------------------------------------


def _check(settings: Synthesis) -> None:
    if not is_text(settings.target):
        raise UserError("the target is empty; expected the name of what is to be forgotten (--target NAME).")
    places = [settings.retain, settings.model, settings.endpoint]
    if sum(place is not None for place in places) != 1:
        raise UserError(
            f"neighbours: found {sum(place is not None for place in places)} places to take them from, expected one: "
            "--retain FILE (no model needed), --model MODEL or --endpoint."
        )
    if settings.batch_size < 1:
        raise UserError(f"batch size: found {settings.batch_size}, expected a whole number of at least 1.")
    if settings.out.is_dir():
        raise UserError(f"{settings.out} is a folder, expected the name of a .jsonl file to write.")
    check_space(settings.out.parent, 1 << 20)  # before a model is asked for hours


def _writer(settings: Synthesis) -> Writer | None:
    if settings.endpoint:
        return EndpointWriter(settings.endpoint)
    if settings.model:
        partial_file = settings.out.with_name(f"{settings.out.name}.partial.jsonl")
        return ModelWriter(settings.model, partial_file, settings.batch_size, settings.dtype)
    return None


def _serves(template: str, settings: Synthesis) -> bool:
    text = fill(template, settings.target)
    target, aliases = settings.target, settings.aliases
    return detect(text, (target, *aliases)).refusal and names_target(text, target, aliases)


def _sift(settings: Synthesis, probes: Probes, rows: Any) -> Sifted:
    return sift(rows, settings.target, settings.aliases, probes, keep_overlap=settings.keep_overlap)


def _probes(settings: Synthesis) -> list[str]:
    own = [probe.query for name in _known(settings) for probe in load_target(name).probes]
    return own + [text for path in settings.probes for text, _ in read_questions(path)]


def _known(settings: Synthesis) -> list[str]:
    """Targets at hand that bear one of the names: case aside, whole or up to a comma."""
    names = {_folded(name) for name in (settings.target, *settings.aliases)}
    at_hand = dict.fromkeys([*PACKAGED, *targets_at_hand()])
    return [name for name in at_hand if names & {_folded(name), _folded(name.partition(",")[0])}]


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())


def _sources(settings: Synthesis, origin: dict[str, Any]) -> list[tuple[str, str, str]]:
    files = [
        ("questions", settings.questions),
        ("retain questions", settings.retain),
        ("templates", settings.templates),
    ]
    files += [("probes", path) for path in settings.probes]
    out = [(what, path.name, file_hash(path)) for what, path in files if path]
    out += [("probes", f"RWKU, {name}", "") for name in _known(settings)]
    return [*out, ("neighbours", ", ".join(f"{name}: {value}" for name, value in origin.items()), "")]


def _told(stages: Sequence[tuple[str, int, Sifted]], unusable: dict[str, int]) -> str:
    told = []
    for what, count, sifted in stages:
        taken = ", ".join(f"{len(rows)} {name}" for name, rows in sifted.dropped.items() if rows)
        told.append(f"{what.lower()}: {count}, dropped: {taken or 'none'}")
    told += [f"replies that could not be used, {task}: {count}" for task, count in unusable.items() if count]
    return "; ".join(told)


def _text(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _done(out: Path, card: Path, settled: str) -> Summary | None:
    """The summary of a file that these settings have made already."""
    head = read_head(card) if card.exists() else {}
    if not out.exists():
        return None
    if head.get("settings") == settled and head.get("rows_sha256") == file_hash(out):
        return _summary(out, card, head)
    raise UserError(
        f"{out} holds rows that other settings or other files have made: give another --out, or move it away first."
    )


def _summary(out: Path, card: Path, head: dict[str, Any]) -> Summary:
    return Summary(out, card, head["forget"], head["boundary"], head["dropped"], head["overlaps"], head["probes"])
