"""Paired differences against scipy and by hand; two evaluation folders compared, and folders that are none."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from expunge.errors import UserError
from expunge.evals import statistics
from expunge.evals.parts import Part
from expunge.evals.probe_scores import probe_scores
from expunge.evals.statistics import Compared, compare, paired_difference, print_comparison
from expunge.files import write_json, write_jsonl

PART = Part("safety", {"of": "xstest"}, "safety/xstest", "XSTest")


def evaluation(folder: Path, scores: Any, **rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "scores.json", scores)
    for name, part in rows.items():
        write_jsonl(folder / f"{name}.jsonl", part)
    return folder


def asked(values: list[Any], **more: Any) -> list[dict[str, Any]]:
    return [{"of": "xstest", "query": f"q{i}", "refusal": value, **more} for i, value in enumerate(values)]


def of(folder: Path, values: list[Any], better: str = "lower") -> Path:
    rows = asked(values)
    return evaluation(folder, PART.mean(rows, "over_refusal", "refusal", "decline", better=better), safety=rows)


def test_the_interval_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    a = rng.normal(50, 20, 80)
    b = a + rng.exponential(6, 80) - 4
    found = paired_difference([a], [b], resamples=20_000)
    wanted = stats.bootstrap(
        (a, b), lambda x, y, axis: (y - x).mean(axis), paired=True, method="percentile", n_resamples=20_000,
        vectorized=True, rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    assert found.mean == pytest.approx((b - a).mean())
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.05 * (wanted.high - wanted.low))
    assert found.n == 80


def test_pairs_are_narrower_than_their_parts():
    """What both models find hard does not blur the difference between them."""
    rng = np.random.default_rng(0)
    a = rng.normal(50, 30, 60)
    b = a + 2 + rng.normal(0, 1, 60)
    found = paired_difference([a], [b])
    assert 1.5 < found.low < 2 < found.high < 2.5
    assert paired_difference([a], [b]) == found  # seeded
    assert paired_difference([a], [b], seed=1) != found


def test_groups_count_alike_however_large(monkeypatch):
    a, b = [[0.0] * 30, [10.0, 20.0]], [[1.0] * 30, [10.0, 26.0]]
    found = paired_difference(a, b)
    assert found.mean == pytest.approx((1 + 3) / 2)
    assert (found.low, found.high) == pytest.approx(((1 + 0) / 2, (1 + 6) / 2))  # the two of the small group
    assert found.n == 32
    monkeypatch.setattr(statistics, "DRAWN_AT_ONCE", 64)
    blocks = paired_difference(a, b, resamples=999)
    assert (blocks.mean, blocks.low, blocks.high) == pytest.approx((2, 0.5, 3.5))


@pytest.mark.parametrize(("a", "b"), [([], []), ([[]], [[]]), ([[1.0]], [[1.0, 2.0]]), ([[1.0]], [[1.0], [2.0]])])
def test_unpaired_values_are_refused(a, b):
    with pytest.raises(ValueError, match="groups of equal length"):
        paired_difference(a, b)


def test_two_evaluations_side_by_side(tmp_path):
    a, b = of(tmp_path / "a", [True] * 30 + [False] * 10), of(tmp_path / "b", [False] * 35 + [True] * 5)
    [row] = compare(a, b)
    assert (row.id, row.a, row.b, row.difference, row.n) == ("safety/xstest/over_refusal", 75, 12.5, -62.5, 40)
    assert row.low < -62.5 < row.high < 0
    assert row.verdict == "better"
    assert compare(b, a)[0].verdict == "worse"
    assert compare(a, a)[0].verdict == ""
    plain = [of(tmp_path / name, values, better="") for name, values in (("c", [True] * 9), ("d", [False] * 9))]
    assert compare(*plain)[0].verdict == "other"


def test_samples_without_a_value_in_either_are_left_out(tmp_path):
    """Invalid verdicts: the means stand as they are, the difference is that of the pairs."""
    a, b = of(tmp_path / "a", [True, None, False, True]), of(tmp_path / "b", [True, True, None, False])
    [row] = compare(a, b)
    assert (row.a, row.b) == (pytest.approx(200 / 3), pytest.approx(200 / 3))
    assert (row.difference, row.n) == (-50, 2)


def test_probes_and_traces_are_known_without_being_told(tmp_path):
    def folder(name: str, shift: float) -> Path:
        sides = [("forget", "FB"), ("forget", "FB"), ("forget", "AA"), ("neighbor", "QA"), ("neighbor", "QA")]
        rows = [
            {
                "side": side, "level": level, "kind": "", "query": f"{level} {i}", "answer": "Leeds",
                "reply": "I do not know." if shift else "Leeds", "score": 10.0 * i + shift, "trace": "Leeds",
                "leak": bool(i % 2), "recall": i / 10, "closed": True, "repeated": 0.0, "entropy": shift + i,
            }
            for i, (side, level) in enumerate(sides)
        ]  # fmt: skip
        return evaluation(tmp_path / name, probe_scores(rows, rows, "Ada Stone"), rwku=rows, traces=rows)

    found = {row.id: row for row in compare(folder("a", 0), folder("b", 3))}
    assert found["rwku/forget/All"].a == pytest.approx((5 + 20) / 2)
    for id_ in ("rwku/forget/All", "rwku/forget/FB", "rwku/neighbor/QA"):
        assert (found[id_].difference, found[id_].low, found[id_].high) == pytest.approx((3, 3, 3)), id_
        assert found[id_].verdict == ("worse" if "forget" in id_ else "better")
    assert found["rwku/forget/All"].n == 3
    assert found["traces/forget/entropy"].difference == pytest.approx(3)
    assert found["traces/forget/leak/All"].n == 3
    assert found["replies/forget/refusals"].n == 0  # nothing says which rows
    assert found["replies/forget/refusals"].difference == 100


def test_scores_of_one_side_and_unmeasured_ones_are_shown(tmp_path):
    made = {"mean": 1.0, "label": "x", "unit": "%", "better": "lower"}
    a = evaluation(tmp_path / "a", {"x": made, "y": made, "only/a": made, "none": {"mean": None, "note": "no"}})
    b = evaluation(tmp_path / "b", {"x": {"mean": 4}, "y": {"mean": math.nan}, "only/b": {"mean": 2}, "none": made})
    found = {row.id: (row.a, row.b, row.difference, row.n) for row in compare(a, b)}
    assert list(found) == ["x", "y", "only/a", "none", "only/b"]
    assert found["x"] == (1, 4, 3, 0)
    assert found["y"] == found["only/a"] == (1, None, None, 0)
    assert found["only/b"] == (None, 2, None, 0)


def test_folders_that_do_not_match(tmp_path):
    a = of(tmp_path / "a", [True, False])
    entry = json.loads((a / "scores.json").read_text())["safety/xstest/over_refusal"]
    id_ = "safety/xstest/over_refusal"

    def refused(message: str, folder: Path) -> None:
        with pytest.raises(UserError, match=message):
            compare(a, folder)

    refused("no scores.json in it", tmp_path / "nowhere")
    refused("none in common", evaluation(tmp_path / "other", {"rwku/forget/All": {"mean": 1.0}}))
    refused("taught: found .* expected an object with a mean", evaluation(tmp_path / "run", {"taught": {id_: entry}}))
    refused("2 rows, .* has 3", of(tmp_path / "longer", [True, False, True]))
    refused("made of other samples", evaluation(tmp_path / "old", {id_: {"mean": 50.0}}))
    refused("mean is 'much'", evaluation(tmp_path / "text", {id_: {**entry, "mean": "much"}}))
    moved = {**entry, "made_of": {**entry["made_of"], "file": "../secret"}}
    refused("the plain name of a file", evaluation(tmp_path / "moved", {id_: moved}))
    refused("unknown key 'of'", evaluation(tmp_path / "odd", {id_: {**entry, "made_of": {"of": 1}}}))
    rows = asked([True, False])
    rows[1]["query"] = "another"
    refused("row 2: query is 'q1' in .* and 'another'", evaluation(tmp_path / "asked", {id_: entry}, safety=rows))
    stale = evaluation(tmp_path / "stale", {id_: entry}, safety=asked([True, True]))
    refused("is 50 in scores.json, but the rows of safety.jsonl make it 100", stale)
    text = evaluation(tmp_path / "words", {id_: entry}, safety=asked([True, "no"]))
    refused("refusal is 'no', expected a number", text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["mean", "made_of", "file", "where", "value", "by", "x"]), inner, max_size=4
            )
        ),
        max_leaves=8,
    ),
    st.lists(st.dictionaries(st.sampled_from(["x", "query", "of"]), st.none() | st.floats() | st.text(), max_size=3)),
)
def test_any_folder_is_compared_or_refused(tmp_path_factory, entry, rows):
    folder = tmp_path_factory.mktemp("any")
    scores = {"choices/x": entry, "y": {"mean": 1}}
    try:
        a = evaluation(folder / "a", scores, choices=rows, x=rows)
        for row in compare(a, evaluation(folder / "b", scores, choices=rows, x=rows), resamples=5):
            assert row.difference in (None, 0) or math.isnan(row.difference)
    except UserError:
        pass


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_table_fits_and_holds_no_markup(encoding):
    rows = [
        Compared(
            "a", "forget answers [FB] – mean of levels", "ROUGE-L recall", "lower", 75.0, 12.5, -62.5, -80, -45, 40
        ),
        Compared("b", "perplexity", "", "lower", 7.0, None, None),
    ]
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    print_comparison(rows, "runs/a [1]", "runs/b", Console(file=file, width=100))
    file.flush()
    text = raw.getvalue().decode(encoding)
    assert "runs/a [1]" in text
    assert "[-80.00, -45.00]" in text
    assert "[FB]" in text
    assert "better" in text
    assert max(map(len, text.split("\n"))) <= 100
