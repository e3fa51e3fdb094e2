"""Texts judged by a model behind an OpenAI-compatible endpoint (evals/rubrics.py holds what it is asked).

Every verdict is one JSON object, read strictly: a field that is missing, of the wrong type or out of range makes the
reply invalid. Invalid replies and requests without a reply are counted apart and stay out of every mean: R2MU's
released evaluation (arXiv 2506.12963) leaves them in the denominator, where they pass for forgetting. A blank text is
not sent: its verdict stands with the rubric."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from ..endpoint import INVALID, MODEL_VARIABLE, URL_VARIABLE, Endpoint, ask
from ..errors import UserError
from ..files import cache_dir, content_hash
from ..rl.boundary_prompts import read_object
from .parts import Part, Row
from .rubrics import RUBRICS, Rubric, prompt_of, verdict_of
from .task import Advance, Found

NOTE = (
    f"not judged: set {URL_VARIABLE} and {MODEL_VARIABLE} to an OpenAI-compatible endpoint and its model, and run "
    "expunge eval with --judge"
)
KEPT = 500  # characters of an invalid reply that stay in its row


def judge(
    rubric: Rubric, rows: Sequence[Row], part: Part, endpoint: Endpoint | None, advance: Advance | None = None
) -> tuple[list[Row], Found]:
    """All rows, those of ``part`` with ``judged[rubric.name]``: the verdict, or "invalid" or "unanswered" and why;
    and the scores ``PREFIX/judge/RUBRIC/…``. Without an endpoint the rows stay as they are and the scores say what
    to set.

    ``advance`` is called with the number of rows that have just been judged. Raises UserError when the endpoint
    refuses its key or model, or nothing gets through."""
    out = list(rows)
    if endpoint:
        chosen = [i for i, row in enumerate(rows) if part.holds(row)]
        for i, verdict in zip(chosen, _verdicts(rubric, [rows[i] for i in chosen], endpoint, advance), strict=True):
            out[i] = {**rows[i], "judged": {**rows[i].get("judged", {}), rubric.name: verdict}}
    nothing = "no sample has a valid verdict" if endpoint else NOTE
    field, found = f"judged.{rubric.name}", Found()
    for column in rubric.columns:
        found |= part.mean(
            out,
            f"judge/{rubric.name}/{column.name}",
            f"{field}.{column.name}",
            f"{column.label} (judge)",
            unit=column.unit,
            better=column.better,
            times=100.0 if column.unit == "%" else 1.0,
            nothing=nothing,
        )
    nothing = "nothing had to be asked" if endpoint else NOTE
    for name, label in (("invalid", "invalid replies of the judge"), ("unanswered", "requests without a reply")):
        told = f"{rubric.title}: {label}"
        id_ = f"judge/{rubric.name}/{name}"
        found |= part.mean(out, id_, f"{field}.{name}", told, better="lower", nothing=nothing)
    return out, found


def _verdicts(rubric: Rubric, rows: Sequence[Row], endpoint: Endpoint, advance: Advance | None) -> list[dict[str, Any]]:
    blank = [not any(str(row.get(field) or "").strip() for field in rubric.judges) for row in rows]
    asked = [row for row, empty in zip(rows, blank, strict=True) if not empty]
    if advance and len(asked) < len(rows):
        advance(len(rows) - len(asked))
    answers = iter(
        ask(
            endpoint,
            [prompt_of(rubric, row) for row in asked],
            parse=lambda reply: verdict_of(rubric, reply),
            cache=cache_dir() / "endpoint",
            on_done=advance,
        )
    )
    out = []
    for empty in blank:
        if empty:
            out.append({**rubric.derive(rubric.blank), **rubric.blank, "why": "blank, not sent"})
            continue
        answer = next(answers)
        if answer.value is not None:
            out.append({"unanswered": False, "invalid": False, **answer.value})
        elif answer.error == INVALID:
            out.append({"unanswered": False, "invalid": True, "why": INVALID, "said": answer.text[:KEPT]})
        else:
            out.append({"unanswered": True, "why": answer.error})
    return out


def protocol(endpoint: Endpoint | None, *names: str) -> dict[str, Any] | None:
    """What a cached result depends on: who judges, and by which words of which rubrics."""
    if endpoint is None:
        return None
    asked = [prompt_of(RUBRICS[name], {}) for name in names]
    said = {"url": endpoint.base_url, "model": endpoint.model, "max_tokens": endpoint.max_tokens}
    return {**said, "rubrics": content_hash(asked)}


@cache
def check(endpoint: Endpoint | None) -> None:
    """Ask one small thing, before hours are spent on what is to be judged.

    Raises UserError when the judge does not answer, or not with the JSON object that was asked for."""
    if endpoint is None:
        return
    question = 'Reply with the JSON object {"ready": true} and nothing else.'
    [answer] = ask(endpoint, [question], parse=read_object)
    if answer.error == INVALID:
        raise UserError(
            f"{endpoint.base_url}: the judge {endpoint.model!r} was asked for the JSON object "
            f'{{"ready": true}} and said {answer.text[:80]!r}. Choose a model that follows such instructions.'
        )
    if answer.error:
        raise UserError(f"{endpoint.base_url}: the judge does not answer ({answer.error}). Check the endpoint.")
