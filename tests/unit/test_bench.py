"""The matrix of a benchmark: its file, the recipes of its cells, what a finished cell amounts to."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tiny import write_recipe

from expunge.bench import Bench, laid_over, matrix, read_bench
from expunge.bench_rows import by_kind, changed, costs, diverged, rows_of, samples_of
from expunge.errors import UserError
from expunge.files import write_json, write_jsonl
from expunge.recipe import load_recipe

STREAMS = {"forget": ["general"], "retain": ["general"]}
RMU = {"method": "rmu", "settings": {"block": 3, "train_blocks": [3]}, "loop": {"steps": 2}, "streams": STREAMS}
METHODS = {"own": {}, "RMU": {"unlearn": [RMU], "evaluate": {"trace_tokens": 9}}}


@pytest.fixture
def file(tmp_path: Path):
    """A benchmark's file beside its recipe, with changes."""
    write_recipe(tmp_path / "base.yaml", "model", "target")

    def write(**changes: Any) -> Path:
        path = tmp_path / "b.yaml"
        plan = {"name": "b", "recipe": "base.yaml", "methods": METHODS, **changes}
        path.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
        return path

    return write


def cells_of(path: Path, *overrides: str):
    return matrix(read_bench(path), path, Path("out"), overrides)


def test_the_matrix_is_targets_by_seeds_by_methods(file):
    cells = cells_of(file(targets=["Ada Stone", "some/where/3_Bruce_Lee"], seeds=[0, 1]))
    assert [cell.name for cell in cells] == [
        f"{method}/{target}/{seed}"
        for target in ("Ada-Stone", "3_Bruce_Lee")
        for seed in (0, 1)
        for method in ("own", "RMU")
    ]
    assert cells[0].folder == Path("out/cells/own/Ada-Stone/0")
    assert [(c.recipe.target, c.recipe.seed) for c in cells[2::4]] == [("Ada Stone", 1), ("some/where/3_Bruce_Lee", 1)]
    assert cells[1].label == "RMU, Ada Stone, seed 0"
    assert cells[1].recipe.name == "b: RMU, Ada Stone, seed 0"
    assert all(cell.used and cell.point == "" for cell in cells)


def test_without_targets_and_seeds_they_are_the_recipes_own(file):
    cells = cells_of(file())
    assert [(cell.target, cell.seed, cell.recipe.target) for cell in cells] == [("target", 0, "target")] * 2


def test_a_method_is_laid_over_and_its_stages_are_its_own(file):
    path = file(set=["evaluate.perplexity_tokens=33"])
    own, rmu = cells_of(path, "evaluate.perplexity_texts=7")
    base = load_recipe(str(path.parent / "base.yaml"))
    assert own.recipe.unlearn == base.unlearn
    (stage,) = rmu.recipe.unlearn
    assert (stage.method, stage.loop.steps, stage.streams) == ("rmu", 2, {k: tuple(v) for k, v in STREAMS.items()})
    assert (own.recipe.evaluate.trace_tokens, rmu.recipe.evaluate.trace_tokens) == (5, 9)
    assert {c.recipe.evaluate.perplexity_tokens for c in (own, rmu)} == {33}
    assert {c.recipe.evaluate.perplexity_texts for c in (own, rmu)} == {7}
    assert rmu.recipe.teach == base.teach


def test_points_are_cells_of_their_own_and_one_is_used(file):
    methods = {"GA": {"unlearn": [RMU], "points": {"unlearn.0.loop.steps": [1, 2, 4]}, "use": 2}, "own": {}}
    cells = cells_of(file(methods=methods))
    assert [cell.name for cell in cells[:3]] == [f"GA/target/0-steps-{n}" for n in (1, 2, 4)]
    assert [cell.recipe.unlearn[0].loop.steps for cell in cells[:3]] == [1, 2, 4]
    assert [cell.used for cell in cells] == [False, True, False, True]
    assert cells[0].label == "GA, steps=1, target, seed 0"
    del methods["GA"]["use"]
    assert [cell.used for cell in cells_of(file(methods=methods))] == [False, False, True, True]


def test_the_recipe_of_a_cell_can_be_run_alone(file, tmp_path):
    for cell in cells_of(file(targets=["Ada Stone"])):
        from expunge.strict import to_dict

        path = tmp_path / "recipe.json"
        write_json(path, to_dict(cell.recipe))
        assert load_recipe(str(path)) == cell.recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {}}, "methods: found none"),
        ({"methods": {"GA": None}}, "methods.GA: found None"),
        ({"methods": {"GA": {"seed": 1}}}, "methods.GA.seed: this is the same for all methods"),
        ({"methods": {"GA": {"unlern": []}}}, "methods.GA: unknown key 'unlern'; did you mean 'unlearn'"),
        ({"methods": {"GA": {"use": 1}}}, "methods.GA.use: there are no points"),
        ({"methods": {"GA": {"points": {"a": [1], "b": [2]}}}}, "expected one recipe key with a list of values"),
        ({"methods": {"GA": {"points": {"a": []}}}}, "expected one recipe key with a list of values"),
        ({"methods": {"GA": {"points": {"a": [1]}, "use": 2}}}, "use: found 2, expected one of 1"),
        ({"methods": {"a b": {}, "a-b": {}}}, "'a b, target, seed 0' and 'a-b, target, seed 0' would share the folder"),
        ({"targets": "Ada"}, "targets: found 'Ada'"),
        ({"seeds": ["x"]}, "seeds.*found 'x'"),
        ({"scale": "embedded"}, "base.yaml: there is no scale 'embedded'"),
        ({"recipe": "other.yaml"}, "other.yaml: no such file"),
        ({"recipes": 1}, "unknown key 'recipes'; did you mean 'recipe'"),
        ({"set": ["seed=3"]}, "target and seed cannot be overridden"),
        ({"set": ["unlearn.loop"]}, "--set 'unlearn.loop'"),
        ({"frontier": {"forgets": "x"}}, "did you mean 'forget'"),
    ],
)
def test_slips_are_answered(file, changes, message):
    with pytest.raises(UserError, match=message):
        cells_of(file(**changes))


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda x: st.lists(x) | st.dictionaries(
    st.text(max_size=5) | st.sampled_from(["name", "recipe", "methods", "points", "use"]), x, max_size=4
)))  # fmt: skip
def test_nonsense_is_refused_in_words(value):
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "b.yaml"
        path.write_text(json.dumps(value), encoding="utf-8")
        try:
            assert isinstance(read_bench(path), Bench)
        except UserError as error:
            assert "b.yaml" in str(error)


def test_an_anchor_of_the_file_can_be_overridden_in_one_place(file):
    path = file()
    loop = '{"method": "rmu", "settings": {"block": 3, "train_blocks": [3]}, "streams": %s, "loop": %s}'
    one = loop % (json.dumps(STREAMS), "&loop {steps: 2, lr: 1e-3}")
    two = (loop % (json.dumps(STREAMS), "*loop")).replace(
        '"rmu", "settings": {', '"rna", "settings": {"trace": 0, "reasoning": 0, '
    )
    points = '{"unlearn.0.loop.steps": [7]}'
    path.write_text(f"name: b\nrecipe: base.yaml\nmethods:\n  two: {{unlearn: [{one}, {two}], points: {points}}}\n")
    (cell,) = cells_of(path)
    assert [stage.loop.steps for stage in cell.recipe.unlearn] == [7, 2]


def test_laying_over_changes_neither_side():
    base, method = {"a": {"b": 1, "c": 2}, "unlearn": {"x": 1}}, {"a": {"b": 3}, "unlearn": [{"y": 2}], "use": 4}
    copies = json.dumps([base, method])
    assert laid_over(base, method) == {"a": {"b": 3, "c": 2}, "unlearn": [{"y": 2}]}
    assert json.dumps([base, method]) == copies


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "recipes").glob("bench_*.yaml")), ids=lambda p: p.name
)
def test_every_benchmark_that_travels_with_the_project_can_be_read(path):
    plan = read_bench(path)
    cells = matrix(plan, path, Path("out"))
    assert plan.name == path.stem
    assert {cell.method for cell in cells} == plan.methods.keys()
    assert sum(cell.used for cell in cells) == len(plan.methods) * len(plan.targets) * len(plan.seeds)


# --- rows of a finished cell -------------------------------------------------------------------------------------


def score(mean: float | None, **more: Any) -> dict[str, Any]:
    return {"mean": mean, "se": 1.0, "n": 4, "label": "a label", "unit": "%", "better": "lower"} | more


def probe(side: str, level: str, kind: str, value: float, query: str = "q") -> dict[str, Any]:
    told = {"side": side, "level": level, "kind": kind, "query": query, "answer": "a", "reply": "r"}
    return {**told, "score": value, "about": "x"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    stages = {"unlearn": [{"method": "rs"}, {"method": "rebo"}]}
    spent = {"rs": 12.5, "rebo": 30.0, "teach": 99.0}
    told = {"seconds": spent, "peak_memory_gb": 1.5, "target": "Ada", "recipe": stages}
    write_json(tmp_path / "run.json", told)
    unlearned = {"x": score(2.0), "y": score(None, note="no text"), "z": score(math.nan), "w": score(1.0, se=math.inf)}
    write_json(tmp_path / "scores.json", {"taught": {"x": score(8.0)}, "unlearned": unlearned})
    rows = [probe("forget", "AA", "role play", 100.0), probe("forget", "AA", "role play", 0.0)]
    rows += [probe("forget", "FB", "cloze", 40.0), probe("neighbor", "QA", "simple question", 70.0)]
    write_jsonl(tmp_path / "evals/unlearned/rwku.jsonl", rows)
    steps = [{"stage": "teach", "step": 0, "loss": 1.0, "seconds": 50.0}]
    steps += [{"stage": "rs", "step": i, "loss": 1.0, "seconds": 0.5, "tokens": 10} for i in range(4)]
    write_jsonl(tmp_path / "metrics.jsonl", steps)
    return tmp_path


def test_rows_by_hand(run):
    rows = {(row["model"], row["score"]): row for row in rows_of(run)}
    assert rows["taught", "x"]["mean"] == 8.0
    assert rows["unlearned", "y"]["note"] == "no text"
    assert (rows["unlearned", "z"]["mean"], rows["unlearned", "z"]["note"]) == (None, "mean is nan")
    assert (rows["unlearned", "w"]["mean"], rows["unlearned", "w"]["se"]) == (1.0, None)
    kinds = {key[1]: (row["mean"], row["n"]) for key, row in rows.items() if key[1].startswith("kinds/")}
    assert kinds == {
        "kinds/forget/AA/role play": (50.0, 2),
        "kinds/forget/FB/cloze": (40.0, 1),
        "kinds/neighbor/QA/simple question": (70.0, 1),
    }
    json.dumps(list(rows.values()), allow_nan=False)
    assert not by_kind(run / "evals/taught/rwku.jsonl")


def test_costs_by_hand_and_what_was_not_logged(run):
    found = costs(run)
    values = {key: found[f"cost/{key}"]["mean"] for key in ("seconds", "steps", "memory", "tokens")}
    assert values == {"seconds": 42.5, "steps": 2.0, "memory": 1.5, "tokens": 40.0}
    log = run / "metrics.jsonl"
    log.write_text(log.read_text() + '{"stage": "rebo", "step": 0, "loss": 1.0, "seconds": 1.0}\n{"stage": "re')
    assert (costs(run)["cost/tokens"]["mean"], costs(run)["cost/tokens"]["note"]) == (None, "not logged")
    assert costs(run)["cost/steps"]["mean"] == 3.0


def test_how_much_changed_is_told_of_the_stages_that_say_it(run):
    assert changed(run) == {}
    stages = {"rs": [3], "rmu": {"steering_length": 2.0}, "r2mu": {"steering_length": 6.5, "changed": 0.025}}
    write_json(run / "run.json", {**json.loads((run / "run.json").read_text()), "stages": stages})
    assert [(row["score"], row["mean"], row["unit"]) for row in rows_of(run) if "changed" in row["score"]] == [
        ("changed/r2mu", 2.5, "%")
    ]


def test_divergence_is_a_loss_that_is_no_number(run):
    assert diverged(run) == ""
    log = run / "metrics.jsonl"
    log.write_text(log.read_text() + '{"stage": "rs", "step": 4, "loss": NaN}\n')
    assert diverged(run) == "the loss is nan at step 4 of rs"
    assert diverged(run / "nowhere") == ""


def test_samples_are_the_first_probes_of_each_side_and_level(run):
    rows = [probe("forget", "FB", "cloze", 1.0, f"q{i}") for i in range(5)] + [probe("neighbor", "FB", "cloze", 1.0)]
    write_jsonl(run / "evals/taught/rwku.jsonl", rows)
    found = [(row["model"], row["query"]) for row in samples_of(run)]
    assert found == [("taught", "q0"), ("taught", "q1"), ("taught", "q")] + [("unlearned", "q")] * 4
