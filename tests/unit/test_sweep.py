"""The pure part of a sweep: axes, grid, halves of the probes, the rule, the front; by hand and by property."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import write_recipe

from expunge.errors import UserError
from expunge.evals.goals import judge_goals
from expunge.recipe import Goal
from expunge.sweep import (
    choose,
    forget_and_retain,
    grid,
    halves,
    of_half,
    pareto,
    parse_axis,
    rescored,
    short_names,
    shortfall,
)

SCALARS = st.from_regex(r"[a-z0-9.+-]{1,6}", fullmatch=True)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(lambda v: f"[{', '.join(v)}]"))


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., str]:
    def write(**changes: Any) -> str:
        return str(write_recipe(tmp_path / "r.yaml", "model", "target", **changes))

    return write


@given(st.lists(VALUES, min_size=1, max_size=5))
def test_an_axis_gives_back_its_values(values):
    assert parse_axis(f"a.b={','.join(values)}") == ("a.b", values)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("k=5", ["5"]),
        ("k=5e-4, 1e-3", ["5e-4", "1e-3"]),
        ("k=[5,6,7],[8,9,10]", ["[5,6,7]", "[8,9,10]"]),
        ("k={a: [1,2], b: 3},{}", ["{a: [1,2], b: 3}", "{}"]),
        ("k=a=b,c", ["a=b", "c"]),
    ],
)
def test_commas_in_brackets_do_not_split(text, values):
    assert parse_axis(text) == ("k", values)


@pytest.mark.parametrize("text", ["k", "k=", "=1", "k=1,,2", "k=1,", "k=[1,2", "k=1]"])
def test_an_axis_that_cannot_be_understood(text):
    with pytest.raises(UserError, match="expected KEY=V1,V2"):
        parse_axis(text)


def test_the_grid_is_the_product_with_the_last_axis_fastest(recipe, tmp_path):
    vary = ("unlearn.settings.retain=20,50", "unlearn.loop.lr=5e-4,1e-3,2e-3")
    points = grid(recipe(), vary, tmp_path / "out", ("seed=3",), None)
    found = [(p.recipe.unlearn[0].settings.retain, p.recipe.unlearn[0].loop.lr) for p in points]
    assert found == [(20, 5e-4), (20, 1e-3), (20, 2e-3), (50, 5e-4), (50, 1e-3), (50, 2e-3)]
    assert {p.recipe.seed for p in points} == {3}
    assert points[5].settings == {"unlearn.settings.retain": "50", "unlearn.loop.lr": "2e-3"}
    assert points[5].label == "retain=50 lr=2e-3"
    assert len({p.folder.name for p in points}) == 6
    assert points[5].folder.parent == tmp_path / "out" / "points"
    assert points[5].folder.name.startswith("retain-50-lr-2e-3-")
    assert [p.folder for p in grid(recipe(), vary, tmp_path / "out", ("seed=3",), None)] == [p.folder for p in points]


def test_values_that_read_alike_still_get_folders_of_their_own(recipe, tmp_path):
    vary = ("unlearn.settings.train_blocks=[2,3],[3],[23]", "unlearn.settings.block=23")
    assert len({p.folder for p in grid(recipe(), vary, tmp_path, (), None)}) == 3


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (("unlearn.settings.retain=20,20.0",), "'retain=20' and 'retain=20.0' are the same point"),
        (("seed=1,2", "seed=3"), "names a key twice"),
        (("unlearn.loop.lr=1e-3,fast",), "unlearn.loop.lr: found 'fast'"),
        (("unlearn.settings.retane=1",), "unknown key 'retane'"),
    ],
)
def test_a_grid_that_makes_no_sense(recipe, tmp_path, vary, message):
    with pytest.raises(UserError, match=message):
        grid(recipe(), vary, tmp_path / "out", (), None)


@pytest.mark.parametrize(
    ("changes", "overrides", "scale", "wanted"),
    [
        ({}, (), None, "disk"),
        ({}, ("unlearn.loop.prefix_cache=memory",), None, "memory"),
        ({"unlearn": {"settings": {"trace": 0, "reasoning": 0}, "loop": {"prefix_cache": "off"}}}, (), None, "off"),
        ({"scales": {"small": {"unlearn": {"loop": {"prefix_cache": "off"}}}}}, (), "small", "off"),
        ({}, ("unlearn.settings.count_padding=true",), None, "off"),
        ({"scales": {"small": {"unlearn": {"loop": {"prefix_cache": "off"}}}}}, (), None, "disk"),
    ],
)
def test_prefixes_are_cached_on_disk_unless_something_else_was_said(recipe, changes, overrides, scale, wanted):
    streams = {"forget": ["general"], "trace": ["general"], "retain": ["general"], "reasoning": ["general"]}
    if "unlearn" in changes:
        changes["unlearn"]["streams"] = streams
    (point,) = grid(recipe(**changes), ("seed=1",), Path("out"), overrides, scale)
    assert point.recipe.unlearn[0].loop.prefix_cache == wanted


def test_keys_are_shortened_as_far_as_they_stay_different():
    keys = ("unlearn.loop.lr", "teach.sft.lr", "seed", "unlearn.loop.steps")
    assert list(short_names(keys).values()) == ["loop.lr", "sft.lr", "seed", "steps"]
    assert short_names(("lr", "a.lr")) == {"lr": "lr", "a.lr": "a.lr"}


def probes(queries: Iterable[str], side: str = "forget", level: str = "QA") -> list[dict[str, str]]:
    return [{"query": query, "side": side, "level": level} for query in queries]


@given(st.lists(st.text()), st.lists(st.text()), st.randoms())
def test_every_query_is_in_one_half_and_the_halves_are_equal_in_every_level(some, others, random):
    rows = probes(some, "forget") + probes(others, "neighbor")
    found = halves(rows)
    assert found.keys() == {*some, *others}
    shuffled = random.sample(rows, len(rows))
    assert halves(shuffled) == found
    for part in (set(some), set(others) - set(some)):  # a query that comes again stays where it was
        assert sum(found[query] == "dev" for query in part) == -(-len(part) // 2)


def test_the_halves_are_the_same_on_every_machine():
    rows = probes(f"Question {i}?" for i in range(10))
    assert "".join(half[0] for _, half in sorted(halves(rows).items())) == "ttdtdddtdt"


def answered(side: str, level: str, score: float, query: str = "q", answer: str = "a") -> dict[str, Any]:
    return {"side": side, "level": level, "query": query, "answer": answer, "reply": "one two three", "score": score}


def thought(side: str, level: str, leak: bool, query: str = "q") -> dict[str, Any]:
    measures = {"recall": 0.5, "closed": True, "repeated": 0.25, "entropy": 3.0}
    return {"side": side, "level": level, "query": query, "leak": leak, **measures}


def test_rescoring_by_hand():
    rows = {
        "rwku": [
            answered("forget", "FB", 100.0),
            answered("forget", "FB", 0.0),
            answered("forget", "QA", 20.0),
            answered("neighbor", "QA", 80.0),
            answered("neighbor", "QA", 0.0, answer="Ada Stone"),
        ],
        "traces": [thought("forget", "FB", True), thought("forget", "FB", True), thought("forget", "QA", False)],
    }
    means = {name: (value["mean"], value["n"]) for name, value in rescored(rows, "Ada Stone").items()}
    assert means == {
        "rwku/forget/FB": (50.0, 2),
        "rwku/forget/QA": (20.0, 1),
        "rwku/forget/All": (35.0, 3),  # of levels, not of probes
        "rwku/neighbor/QA": (40.0, 2),
        "rwku/neighbor/All": (40.0, 2),
        "rwku/neighbor/apart": (80.0, 1),
        "traces/forget/leak/FB": (100.0, 2),
        "traces/forget/leak/QA": (0.0, 1),
        "traces/forget/leak/All": (50.0, 3),
        "traces/forget/recall/All": (50.0, 3),
        "traces/forget/closed": (100.0, 3),
        "traces/forget/repeated": (25.0, 3),
        "traces/forget/entropy": (3.0, 3),
        "replies/forget/refusals": (0.0, 3),
        "replies/forget/declined": (0.0, 3),
        "replies/forget/leaks": (0.0, 3),
        "replies/forget/distinct3": (pytest.approx(100 / 3), 3),
        "replies/forget/reward": (0.0, 3),
        "replies/neighbor/refusals": (0.0, 2),
        "replies/neighbor/reward": (50.0, 2),  # no refusal, and no word of the answer
    }


def test_one_half_has_its_own_scores_and_no_others_but_those_that_are_of_no_probe():
    half = halves(probes(("q", "r"), "forget", "FB"))
    queries = {half[query]: query for query in half}
    rows = {
        "rwku": [
            answered("forget", "FB", 10.0, queries["dev"]),
            answered("forget", "FB", 90.0, queries["test"]),
            answered("forget", "QA", 50.0, queries["test"]),
        ],
        "traces": [thought("forget", "FB", True, queries["test"])],
    }
    whole = rescored(rows, "Ada Stone") | {"perplexity/wikitext": {"mean": 9.0, "se": None, "n": 4}}
    entries = {name: {**value, "label": name} for name, value in whole.items()}
    dev, test = (of_half(entries, rows, "Ada Stone", half) for half in ("dev", "test"))
    assert dev["rwku/forget/FB"]["mean"] == dev["rwku/forget/All"]["mean"] == 10.0
    assert "rwku/forget/QA" not in dev
    assert test["rwku/forget/All"]["mean"] == 70.0
    assert test["traces/forget/leak/All"]["n"] == 1
    assert not any(name.startswith("traces/") for name in dev)
    assert dev["perplexity/wikitext"] == test["perplexity/wikitext"] == entries["perplexity/wikitext"]
    assert dev["rwku/forget/FB"]["label"] == "rwku/forget/FB"


def judged(**means: float | None) -> list[dict[str, Any]]:
    """Limits: a at most 10, b at least 80, c at most 0."""
    goals = (Goal("a", at_most=0.1, relative=True), Goal("b", at_least=80), Goal("c", at_most=0))
    scores = {name: {"mean": mean, "label": name} for name, mean in means.items()}
    return judge_goals(goals, {"unlearned": scores, "taught": {"a": {"mean": 100.0, "label": "a"}}})


def test_shortfall_by_hand():
    assert shortfall(judged(a=10.0, b=80.0, c=0.0)) == 0
    assert shortfall(judged(a=15.0, b=80.0, c=0.0)) == pytest.approx(0.5)
    assert shortfall(judged(a=15.0, b=60.0, c=2.0)) == pytest.approx(0.5 + 0.25 + 2.0)
    assert shortfall(judged(a=None, b=100.0)) == 2.0  # c is nowhere
    assert shortfall(judged(a=math.nan, b=80.0, c=0.0)) == math.inf


def test_what_points_are_compared_by():
    entries = {"rwku/forget/All": {"mean": 10.0}, "traces/forget/leak/All": {"mean": 4.0}}
    assert forget_and_retain(entries, (), (), "Ada Stone") == (7.0, None)
    entries = {**entries, "traces/forget/leak/All": {"mean": None}, "rwku/neighbor/All": {"mean": 95.0}}
    assert forget_and_retain(entries, (), (), "Ada Stone") == (10.0, 95.0)


def test_without_probes_points_are_compared_by_their_goals():
    goals = [
        Goal("x", at_most=40),
        Goal("y", at_least=50),
        Goal("perplexity/general", at_most=10),
        Goal("z", at_most=1),
    ]
    means = {"x": 30.0, "y": 60.0, "perplexity/general": 5.0, "z": None}
    scores = {name: {"mean": mean, "label": name} for name, mean in means.items()}
    found = judge_goals(goals, {"unlearned": scores, "taught": {}})
    assert forget_and_retain(scores, goals, found, None) == (0.75, 1.2)


@pytest.mark.parametrize(
    ("marks", "best"),
    [
        ([(0.0, 9.0, 90.0), (0.0, 5.0, 80.0), (0.1, 1.0, 99.0)], 1),  # the lowest forget score of those that meet all
        ([(0.3, 1.0, 90.0), (0.1, 50.0, 10.0)], 1),  # none meets them: the smallest shortfall, whatever the score
        ([(0.0, 5.0, 80.0), (0.0, 5.0, 90.0), (0.0, 5.0, 90.0)], 1),  # ties: retain, then order
        ([(0.0, None, None), (0.0, 70.0, None)], 1),
        ([(math.inf, 3.0, 1.0), (math.inf, 2.0, 1.0)], 1),
    ],
)
def test_the_rule_by_hand(marks, best):
    assert choose(marks) == best


def test_the_front_by_hand():
    marks = [(10.0, 90.0), (5.0, 80.0), (10.0, 85.0), (12.0, 90.0), (None, 100.0), (5.0, 80.0), (0.0, None)]
    assert pareto(marks) == {0, 1, 5}
    assert pareto([(None, None)]) == set()


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_holds_the_extremes_and_beats_all_that_is_not_on_it(marks):
    front = pareto(marks)
    assert min(marks, key=lambda m: (m[0], -m[1])) in [marks[i] for i in front]
    assert max(marks, key=lambda m: (m[1], -m[0])) in [marks[i] for i in front]
    for place, (forget, retain) in enumerate(marks):
        beaten = any((f < forget and r >= retain) or (f <= forget and r > retain) for f, r in marks)
        assert (place in front) == (not beaten)
