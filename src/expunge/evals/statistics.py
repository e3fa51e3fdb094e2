"""Do two models differ on the same samples? Paired differences with bootstrap intervals, and two evaluations compared.

The interval is the percentile bootstrap of the mean paired difference: samples are drawn again with replacement, those
of both models together, and within groups where a score is a mean of the means of groups (RWKU's "All"). Which rows
a score is made of stands in its entry (evals/parts.py), or here for those that do not say it."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import UserError
from ..files import read_json, read_jsonl
from ..strict import build
from .parts import Part, Row, Source, finite, number_at
from .task import Found

RESAMPLES = 10_000
DRAWN_AT_ONCE = 4_000_000  # numbers of a block of resamples: 32 MB
IDENTITY = ("id", "of", "side", "level", "kind", "about", "category", "query", "question", "prompt")
"""Fields that say which sample a row is about; paired rows agree in those that they have."""

_SIDE, _LEVEL = "(?P<side>forget|neighbor)", "(?P<level>[^/]+)"
KNOWN: tuple[tuple[str, Source], ...] = (  # scores whose entries do not say it; named groups become ``where``
    (f"rwku/{_SIDE}/All", Source("rwku", {}, "score", by="level")),
    (f"rwku/{_SIDE}/{_LEVEL}", Source("rwku", {}, "score")),
    (f"traces/{_SIDE}/leak/All", Source("traces", {}, "leak", 100, by="level")),
    (f"traces/{_SIDE}/leak/{_LEVEL}", Source("traces", {}, "leak", 100)),
    (f"traces/{_SIDE}/recall/All", Source("traces", {}, "recall", 100)),
    (f"traces/{_SIDE}/closed", Source("traces", {}, "closed", 100)),
    (f"traces/{_SIDE}/repeated", Source("traces", {}, "repeated", 100)),
    (f"traces/{_SIDE}/entropy", Source("traces", {}, "entropy")),
    ("choices/(?P<of>.+)", Source("choices", {}, "score")),
    ("questions/(?P<of>.+)/refusals", Source("questions", {}, "refusal", 100)),
    ("questions/(?P<of>.+)/closed", Source("questions", {}, "closed", 100)),
    ("questions/(?P<of>.+)/repeated", Source("questions", {}, "repeated", 100)),
)


# --- differences -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Mean of b - a with its interval, over ``n`` pairs."""

    mean: float
    low: float
    high: float
    n: int


def paired_difference(
    a: Sequence[Sequence[float]],
    b: Sequence[Sequence[float]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Plain mean over groups of the mean of b - a, with the percentile bootstrap interval that covers ``level``.

    Values of one place in a and b belong to one sample. Raises ValueError for unequal or empty groups.

    >>> paired_difference([[1.0, 2.0, 3.0]], [[2.0, 3.0, 4.0]])  # the same gain everywhere
    Difference(mean=1.0, low=1.0, high=1.0, n=3)
    """
    if not a or [len(group) for group in a] != [len(group) for group in b] or not all(len(group) for group in a):
        raise ValueError("a paired difference needs groups of equal length with at least one value each")
    rng = np.random.default_rng(seed)
    gains = [np.asarray(y, np.float64) - np.asarray(x, np.float64) for x, y in zip(a, b, strict=True)]
    draws = np.zeros(resamples)
    for gain in gains:
        block = max(1, DRAWN_AT_ONCE // gain.size)
        for start in range(0, resamples, block):
            count = min(block, resamples - start)
            draws[start : start + count] += gain[rng.integers(0, gain.size, (count, gain.size))].mean(1) / len(gains)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Difference(float(np.mean([g.mean() for g in gains])), float(low), float(high), sum(g.size for g in gains))


# --- two evaluations ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """One score of two models. ``low``, ``high`` and ``n`` (pairs) stand where samples could be paired; the
    difference, B - A, is then that of the pairs."""

    id: str
    label: str
    unit: str
    better: str
    a: float | None
    b: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0

    @property
    def verdict(self) -> str:
        """B is "better", "worse" or just "other" than A where the interval leaves zero out, else ""."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return ""
        if not self.better:
            return "other"
        return "better" if (self.low > 0) == (self.better == "higher") else "worse"


def compare(a: Path, b: Path, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Compared]:
    """The scores of two evaluation folders side by side, in the order of A's, then those that B alone has.

    Raises UserError for a folder that is no evaluation's, folders without a score in common, rows that are not about
    the same samples, and scores that their own rows contradict."""
    ours, theirs = _entries(a), _entries(b)
    if not ours.keys() & theirs.keys():
        raise UserError(
            f"{a} has scores such as {next(iter(ours))!r}, {b} such as {next(iter(theirs))!r}: none in common. "
            "Compare two evaluations of the same suites."
        )
    pairs: dict[str, list[tuple[Row, Row]]] = {}
    out = []
    for id_ in {**ours, **theirs}:
        one, two = ours.get(id_), theirs.get(id_)
        about: Found = one or two or {}
        before, after = (None if e is None else e["mean"] for e in (one, two))
        difference = None if before is None or after is None else after - before
        row = Compared(id_, about["label"], about["unit"], about["better"], before, after, difference)
        source = _source(id_, one, two, a, b) if difference is not None else None
        if source:
            if source.file not in pairs:
                pairs[source.file] = _pairs(a, b, source.file)
            row = _with_interval(row, source, pairs[source.file], (a, b), resamples, seed)
        out.append(row)
    return out


def _entries(folder: Path) -> dict[str, Found]:
    """Scores by id, checked as far as a comparison needs it."""
    path = folder / "scores.json"
    hint = "Give the folder of one evaluated model, such as RUN/evals/unlearned."
    if not path.is_file():
        raise UserError(f"{folder}: no scores.json in it. {hint}")
    found = read_json(path)
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path}: found {str(found)[:60]!r}, expected a JSON object with scores by id. {hint}")
    out = {}
    for id_, value in found.items():
        if not isinstance(value, dict) or "mean" not in value:
            raise UserError(f"{path}: {id_}: found {str(value)[:60]!r}, expected an object with a mean. {hint}")
        mean = value["mean"]
        if isinstance(mean, bool) or not isinstance(mean, int | float | None):
            raise UserError(f"{path}: {id_}: mean is {str(mean)[:60]!r}, expected a number or null. Evaluate again.")
        texts = {key: str(value.get(key) or "") for key in ("label", "unit", "better")}
        mean = None if mean is None else finite(mean)  # NaN: an average over nothing
        out[id_] = {**value, **texts, "mean": mean, "label": texts["label"] or id_}
    return out


def _source(id_: str, one: Found | None, two: Found | None, a: Path, b: Path) -> Source | None:
    """What a score is made of in both folders; None where nobody says."""
    found = []
    for folder, value in ((a, one or {}), (b, two or {})):
        if "made_of" in value:
            where = f"{folder / 'scores.json'}: {id_}: made_of"
            source = build(Source, value["made_of"], where)
            if not re.fullmatch(r"[\w-]+", source.file):
                raise UserError(f"{where}.file: found {source.file!r}, expected the plain name of a file of rows.")
            found.append(source)
            continue
        matches = ((re.fullmatch(pattern, id_), source) for pattern, source in KNOWN)
        hit = next(((match, source) for match, source in matches if match), None)
        found.append(Source(**{**asdict(hit[1]), "where": hit[0].groupdict()}) if hit else None)
    if found[0] != found[1]:
        raise UserError(
            f"{id_} is made of other samples in {b} than in {a}. Evaluate both with the same version of expunge."
        )
    return found[0]


def _pairs(a: Path, b: Path, name: str) -> list[tuple[Row, Row]]:
    """Rows of both folders side by side; none where a folder has no such file, or rows do not say what they are
    about. Raises UserError when they are not about the same samples."""
    paths = [folder / f"{name}.jsonl" for folder in (a, b)]
    if not all(path.is_file() for path in paths):
        return []
    ours, theirs = (read_jsonl(path) for path in paths)
    remedy = "Evaluate both under the same protocol, target and limit."
    if len(ours) != len(theirs):
        raise UserError(f"{paths[0]} has {len(ours)} rows, {paths[1]} has {len(theirs)}. {remedy}")
    out = []
    for number, (one, two) in enumerate(zip(ours, theirs, strict=True), 1):
        for field in IDENTITY:
            if one.get(field) != two.get(field):
                raise UserError(
                    f"row {number}: {field} is {str(one.get(field))[:60]!r} in {paths[0]} and "
                    f"{str(two.get(field))[:60]!r} in {paths[1]}. {remedy}"
                )
        if any(field in one for field in IDENTITY):
            out.append((one, two))
    return out


def _with_interval(
    row: Compared,
    source: Source,
    pairs: Sequence[tuple[Row, Row]],
    folders: tuple[Path, Path],
    resamples: int,
    seed: int,
) -> Compared:
    """The score with the paired difference, if there is a pair with both values."""
    part = Part(source.file, source.where, "", "")
    values: list[list[tuple[float | None, str]]] = []
    for side, folder in enumerate(folders):
        try:
            chosen = [pair[side] for pair in pairs if part.holds(pair[side])]
            values.append([(number_at(one, source.value), str(one.get(source.by))) for one in chosen])
        except ValueError as error:
            raise UserError(f"{folder / source.file}.jsonl: {error}, expected a number. Evaluate again.") from None
        said, of_rows = (row.a, row.b)[side], _mean_of(values[-1], source.times)
        if said is not None and of_rows is not None and not abs(said - of_rows) <= 1e-6 * max(1.0, abs(said)):
            raise UserError(
                f"{folder}: {row.id} is {said:.6g} in scores.json, but the rows of {source.file}.jsonl make it "
                f"{of_rows:.6g}. The files are not of one evaluation; evaluate again."
            )
    if len(values[0]) != len(values[1]):
        raise UserError(
            f"{row.id}: {folders[0]} has {len(values[0])} rows of it, {folders[1]} has {len(values[1])}. "
            "Evaluate both under the same protocol."
        )
    groups: dict[str, list[tuple[float, float]]] = {}
    for (x, group), (y, _) in zip(*values, strict=True):
        if x is not None and y is not None:
            groups.setdefault(group, []).append((source.times * x, source.times * y))
    if not groups:
        return row
    sides = [[[pair[i] for pair in group] for group in groups.values()] for i in (0, 1)]
    found = paired_difference(sides[0], sides[1], resamples=resamples, seed=seed)
    return Compared(**{**asdict(row), "difference": found.mean, "low": found.low, "high": found.high, "n": found.n})


def _mean_of(values: Sequence[tuple[float | None, str]], times: float) -> float | None:
    groups: dict[str, list[float]] = {}
    for value, group in values:
        if value is not None:
            groups.setdefault(group, []).append(times * value)
    return float(np.mean([np.mean(group) for group in groups.values()])) if groups else None


# --- for the eye -------------------------------------------------------------------------------------------------


def print_comparison(rows: Sequence[Compared], a: str, b: str, console: Console) -> None:
    """The rows as a table; what the two are called stands above it. Verdicts are words, not colours alone."""

    def words(content: str, style: str = "") -> Text:
        """Text rather than markup, as labels may hold brackets; plain where the terminal is."""
        plain = console.options.ascii_only
        return Text(content.encode("ascii", "replace").decode() if plain else content, style)

    def number(value: float | None) -> Text:
        return words("-", "dim") if value is None else words(f"{value:.2f}")

    console.print(words(f"A: {a}"), words(f"B: {b}"), sep="\n")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, heading in enumerate(("Measure", "A", "B", "B - A", "95 % interval", "Pairs", "B is")):
        table.add_column(heading, justify="right" if 0 < i < 6 else "left", no_wrap=i > 0)
    for row in rows:
        label = words(row.label)
        if row.unit:
            label.append_text(words(f", {row.unit}", "dim"))
        interval = words("-", "dim") if row.low is None else words(f"[{row.low:.2f}, {row.high:.2f}]")
        style = {"better": "green", "worse": "red"}.get(row.verdict, "")
        difference = number(row.difference)
        table.add_row(
            label, number(row.a), number(row.b), difference, interval, words(str(row.n or "-")),
            words(row.verdict, style),
        )  # fmt: skip
    console.print(table)
