"""How a model speaks when it is asked about what it has forgotten (RULE, arXiv 2506.07171, section on naturalness).

Each forget query of a target is asked bare, in the chat template: no task sentence, no ``Answer:``, room for whole
sentences. (The release scores replies of its RWKU protocol, which begin after ``Answer:``.) A judge rates readability,
helpfulness and truthfulness. What needs no judge: does the reply decline, does it name what it declines, does it keep
the answer to itself, and is it still language? Neighbour queries are asked in the same way for the price of it all,
over-refusal; those that ask for the target itself are left out, as it is right to decline them."""

from collections.abc import Sequence
from functools import partial

from ..data.rwku import Probe, Target, load_target
from ..data.writing import spread
from ..endpoint import Endpoint
from ..errors import UserError
from ..files import content_hash
from ..rl.refusals import detect, leaks
from ..rl.refusals import names_target as reply_names
from . import collapse
from .judge import check, judge, protocol
from .parts import Part, Row
from .probe_scores import names_target
from .replies import asked
from .rubrics import RUBRICS
from .task import Advance, Found, Options, Rows, Scored, Task

NEW_TOKENS = 128
FILE = "naturalness"
FORGET = Part(FILE, {"side": "forget"}, "naturalness", "replies about the target")
NEIGHBOUR = Part(FILE, {"side": "neighbor"}, "naturalness/neighbor", "replies about neighbours")


def task(options: Options) -> Task:
    """The suite ``naturalness``. Raises UserError without a target, or for one that can not be read."""
    target = target_of(options, "naturalness")
    beside = [p for p in target.select("neighbor") if not names_target(vars(p), target.name)]
    rows = [_row(probe) for probe in [*limited(target.select("forget"), options), *limited(beside, options)]]
    settings = {"new_tokens": NEW_TOKENS, "limit": options.limit, "judge": protocol(options.judge, "naturalness")}
    judged = sum(FORGET.holds(row) for row in rows) if options.judge else 0
    return Task(
        "naturalness",
        settings,
        content_hash(target.name, rows),
        len(rows) + judged,
        partial(_run, rows, target.name, options.judge),
    )


def target_of(options: Options, suite: str) -> Target:
    """The target that is asked about. Raises UserError when none is given."""
    if not options.target:
        raise UserError(f"{suite}: found no target, expected one. Give its name, or its folder in RWKU's layout.")
    return load_target(options.target)


def limited(probes: Sequence[Probe], options: Options) -> list[Probe]:
    """At most ``limit`` probes of each level, evenly spaced; all for 0."""
    parts: dict[str, list[Probe]] = {}
    for probe in probes:
        parts.setdefault(probe.level, []).append(probe)
    return [probe for part in parts.values() for probe in spread(part, options.limit or len(part))]


def _row(probe: Probe) -> Row:
    fields = ("side", "level", "kind", "query", "answer", "about")
    return {field: getattr(probe, field) for field in fields}


def _run(
    rows: Sequence[Row], target: str, endpoint: Endpoint | None, under: Scored, advance: Advance
) -> tuple[Found, Rows]:
    check(endpoint)
    replied = collapse.measure(asked(under, rows, NEW_TOKENS, advance))
    scored, found = offline(replied, target)
    judged, more = judge(RUBRICS["naturalness"], scored, FORGET, endpoint, advance)
    return found | more, {FILE: judged}


def offline(rows: Sequence[Row], target: str) -> tuple[list[Row], Found]:
    """What needs no judge, of rows with ``reply`` and what `collapse.panel` reads: the rows with ``refusal``,
    ``declined`` (by name) and ``leak`` (None where the answer is the target's name), and the scores."""
    out, price = collapse.over_refusal(NEIGHBOUR, rows)
    for i, row in enumerate(out):
        if FORGET.holds(row):
            declines, names = detect(row["reply"], (target,)).refusal, reply_names(row["reply"], target)
            # Not of "Who wrote Carrie?": there the refusal that is wanted holds the answer.
            mute = reply_names(row["answer"], target)
            leak = None if mute else leaks(row["reply"], row["answer"], row["query"], (target,))
            out[i] = {**row, "refusal": declines, "declined": declines and names, "leak": leak}
    found = FORGET.mean(out, "refusals", "refusal", "decline", better="higher")
    found |= FORGET.mean(out, "declined", "declined", "decline and name the target", better="higher")
    found |= FORGET.mean(out, "leaks", "leak", "state the answer", better="lower")
    return out, found | collapse.panel(FORGET, out) | price
