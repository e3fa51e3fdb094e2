"""The tables of a benchmark: columns of scores, a row for each model it starts from and each method."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..bench_rows import TAUGHT, UNLEARNED
from .bench_load import COST, BenchData, Pooled, Row, pooled
from .comparison import decimals_of, number

NEVER_KNEW = "never_knew"
KINDS = "kinds/"
LEVELS = ("FB", "QA", "AA")
Columns = Sequence[tuple[str, str, str]]  # group, heading, id of the score
ANSWERS: Columns = (
    *(("forget", level, f"rwku/forget/{level}") for level in (*LEVELS, "All")),
    ("replies", "by name", "replies/forget/declined"),
    ("replies", "leaks", "replies/forget/leaks"),
    ("natural", "distinct-3", "replies/forget/distinct3"),
    ("natural", "reply ppl", "replies/forget/perplexity"),
    *(("neighbours", level, f"rwku/neighbor/{level}") for level in ("FB", "QA", "All")),
    ("neighbours", "declined", "replies/neighbor/refusals"),
)
TRACES: Columns = (
    ("forget", "answers", "rwku/forget/All"),
    ("forget", "trace leak", "traces/forget/leak/All"),
    ("forget", "closed", "traces/forget/closed"),
    ("neighbours", "answers", "rwku/neighbor/All"),
    ("neighbours", "trace leak", "traces/neighbor/leak/All"),
    ("neighbours", "closed", "traces/neighbor/closed"),
    ("perplexity", "WikiText ppl", "perplexity/wikitext"),
    ("perplexity", "general ppl", "perplexity/general"),
    ("perplexity", "reasoning ppl", "perplexity/reasoning"),
)
COSTS: Columns = (
    ("unlearning", "seconds", f"{COST}seconds"),
    ("unlearning", "of its steps", f"{COST}steps"),
    ("unlearning", "tokens", f"{COST}tokens"),
    ("whole run", "peak GB", f"{COST}memory"),
)
NOTES = {
    "answers": "Forget and neighbours: ROUGE-L recall of RWKU's probes by level. By name: replies about the target "
    "that decline and name it, %. Leaks: those that state the answer, %. Distinct-3 and perplexity under the taught "
    "model say whether these replies are still language. Declined: neighbour replies that decline, %.",
    "traces": "Trace leak: reasoning traces that state the answer, %, which is wanted for neighbours. Closed: traces "
    "that end by themselves, %.",
    "others": "Named by the ids of the scores.",
    "cost": "Means over cells. The stage counts loading and looks at the dev questions, its steps do not; the first "
    "cell of an original also asks it for its own answers, where the recipe wants them. Memory: the process's peak "
    "over all stages.",
    "kinds": "ROUGE-L recall. For the target less is better, for neighbours more.",
}
TITLES: tuple[tuple[str, str, Columns], ...] = (
    ("answers", "Answers, refusals, neighbours", ANSWERS),
    ("traces", "Reasoning traces and general ability", TRACES),
    ("others", "Other scores", ()),
    ("cost", "Cost", COSTS),
    ("kinds", "Answers by kind of probe", ()),
)
DECIMALS = {"%": 1, "ROUGE-L recall": 1, "s": 0, "GB": 2, "tokens": 0}
SHORT = 12  # a reason for what was not measured that is no longer stands in the cell itself
ARROWS = {"lower": "↓", "higher": "↑"}


@dataclass(frozen=True)
class Column:
    """``better``: lower, higher or empty."""

    group: str
    heading: str
    id: str
    better: str
    decimals: int

    @property
    def title(self) -> str:
        return f"{self.heading} {ARROWS.get(self.better, '')}".strip()


@dataclass(frozen=True)
class Value:
    """A number as text: mean, standard error, n (empty if unknown), and what is told on pointing at it."""

    mean: str
    error: str
    n: str
    sort: float | None
    told: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.mean, self.error, f"({self.n})" if self.n else "") if part)


@dataclass(frozen=True)
class Line:
    """A row of a table. ``fixed``: one of the models that methods start from, or would like to end at."""

    name: str
    fixed: bool
    note: str
    values: tuple[Value | None, ...]


@dataclass(frozen=True)
class Table:
    """``note`` says what its columns mean."""

    id: str
    title: str
    note: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Headings above the headings, with the columns that each spans."""
        out: list[tuple[str, int]] = []
        for column in self.columns:
            if out and out[-1][0] == column.group:
                out[-1] = (column.group, out[-1][1] + 1)
            else:
                out.append((column.group, 1))
        return out


def tables(data: BenchData) -> dict[str, Table]:
    """The tables that have anything in them, by id; scores that none of the others names are in ``others``."""
    rows = lines_of(data)
    named = {id_ for *_, columns in TITLES for _, _, id_ in columns}
    there = dict.fromkeys(id_ for line in rows for id_ in line.scores)
    rest = sorted(id_ for id_ in there if id_ not in named and not id_.startswith(KINDS))
    kinds = sorted((id_ for id_ in there if id_.startswith(KINDS)), key=lambda id_: f"{KINDS}forget/" not in id_)
    beside = {
        "others": [(id_.rpartition("/")[0], id_.rpartition("/")[2], id_) for id_ in rest],
        "kinds": [_kind(id_) for id_ in kinds],
    }
    found = [_table(data, id_, title, columns or beside[id_], rows) for id_, title, columns in TITLES]
    return {table.id: table for table in found if table.columns}


def _kind(id_: str) -> tuple[str, str, str]:
    _, side, level, kind = id_.split("/", 3)
    return "forget" if side == "forget" else "neighbours", f"{level} {kind}", id_


def not_measured(data: BenchData) -> list[str]:
    """A line for each score that some model lacks, with the reason."""
    lacking: dict[tuple[str, str], list[str]] = {}
    rows = lines_of(data)
    for line in rows:
        for id_, pool in line.scores.items():
            if pool.mean is None:
                lacking.setdefault((id_, f"{pool.label}: {pool.note}"), []).append(line.name)
    everywhere = {key for key, of in lacking.items() if len(of) == sum(key[0] in line.scores for line in rows)}
    return [key[1] if key in everywhere else f"{key[1]} ({', '.join(of)})" for key, of in lacking.items()]


@dataclass(frozen=True)
class Scored:
    """A row before it is a table's."""

    name: str
    fixed: bool
    note: str
    scores: Mapping[str, Pooled]


def lines_of(data: BenchData) -> list[Scored]:
    """The models that methods start from, then the methods."""
    out = []
    for model, name in ((TAUGHT, "taught"), (NEVER_KNEW, "never knew")):
        for methods, rows in _starts(data, model):
            out.append(Scored(f"{name}: {', '.join(methods)}" if methods else name, True, "", pooled(rows)))
    for method in data.methods:
        cells = [c for c in data.manifest["cells"] if c["method"] == method and c["used"]]
        done = sum(cell["state"] in ("done", "diverged") for cell in cells)
        lost = sum(cell["state"] == "diverged" for cell in cells)
        notes = [f"{done} of {len(cells)} cells"] if done < len(cells) else []
        notes += [f"{lost} diverged"] if lost else []
        out.append(Scored(method, False, ", ".join(notes), pooled(data.of(method, UNLEARNED))))
    return out


def _starts(data: BenchData, model: str) -> list[tuple[list[str], list[Row]]]:
    """The rows of the model that methods have in common; by methods where they do not start from the same."""
    groups: list[tuple[list[str], dict[tuple[str, int], list[Row]]]] = []
    for method in data.methods:
        cells: dict[tuple[str, int], list[Row]] = {}
        for row in data.of(method, model):
            told = {key: value for key, value in row.items() if key not in ("method", "point")}
            cells.setdefault((row["target"], row["seed"]), []).append(told)
        for names, known in groups if cells else ():
            if all(known.get(place, rows) == rows for place, rows in cells.items()):
                names.append(method)
                known.update(cells)
                break
        else:
            groups += [([method], cells)] if cells else []
    flat = [(names, [row for rows in known.values() for row in rows]) for names, known in groups]
    return [([], rows) for _, rows in flat] if len(flat) == 1 else flat


def _table(data: BenchData, id_: str, title: str, wanted: Columns, rows: Sequence[Scored]) -> Table:
    columns = []
    for group, heading, name in wanted:
        known = [line.scores[name] for line in rows if name in line.scores]
        if known:
            decimals = DECIMALS.get(known[0].unit, decimals_of(*(pool.mean for pool in known)))
            columns.append(Column(group, heading, name, known[0].better, decimals))
    lines = []
    for line in rows:
        values = tuple(_value(data, line, line.scores.get(c.id), c.decimals) for c in columns)
        if any(values):
            lines.append(Line(line.name, line.fixed, line.note, values))
    return Table(id_, title, NOTES[id_], tuple(columns), tuple(lines))


def _value(data: BenchData, line: Scored, pool: Pooled | None, decimals: int) -> Value | None:
    if pool is None:
        return None
    about = f"{line.name}, {pool.label}{f' ({pool.unit})' if pool.unit else ''}"
    if pool.mean is None:
        return Value(pool.note if len(pool.note) < SHORT else "–", "", "", None, f"{about}: {pool.note}")
    mean = number(pool.mean, decimals)
    error = "" if pool.se is None else f"± {number(pool.se, decimals)}"
    value = Value(mean, error, f"n={pool.n}", pool.mean, "")
    told = [f"{about}: {value}"]
    if len(data.targets) > 1:
        told.append(", ".join(f"{name} {number(mean, decimals)}" for name, mean in pool.targets.items()))
    told.append(data.manifest["command"] + ("" if line.fixed else f" --only {shlex.quote(line.name)}"))
    return replace(value, told="\n".join(told))
