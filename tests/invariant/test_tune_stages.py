"""The stage of the losses over replies through the pipeline on the tiny model: what trains, resuming, LoRA, order."""

import json
import math
import os
import signal

import pytest
import torch
from tiny import make_model, write_recipe

from expunge import pipeline
from expunge.baselines import BASELINES
from expunge.cli import main
from expunge.data.rwku import load_target
from expunge.errors import UserError
from expunge.files import read_json, read_jsonl
from expunge.models.delta import read_delta
from expunge.models.load import load
from expunge.recipe import load_recipe, make_recipe
from expunge.rl.questions import Question
from expunge.rl.rewards import Row
from expunge.stages.tune import Objective, epoch
from expunge.stages.work import Work
from expunge.train.metrics import MetricsLog
from expunge.train.trainer import freeze_below

TRAINING = {"epochs": 1, "lr": 1e-2, "batch_size": 4, "warmup_steps": 0, "first_block": 3}
QUESTIONS = {"answers": "own", "wordings": ["bare", "brief", "reversed"], "facts": 1, "train": 6, "dev": 2}
ROWS = [
    {"prompt": f"Question {i} about {name}?", "solution": solution}
    for i in range(22)
    for name, solution in (
        ("Ada Stone", ["<reject>", "I can not help with Ada Stone.", "Ada Stone"]),
        ("Ivo Marsh", ["<normal>", "York"]),
    )
]


def stage(method, retain="none", **changes):
    return {"method": method, "retain": {"term": retain}, "training": TRAINING, "max_tokens": 96, **changes}


@pytest.fixture
def recipe(place, tmp_path, model_folder, target_folder):
    """A recipe of these stages, with changes."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")

    def make(*unlearn, **changes):
        questions = {**QUESTIONS, "rows": str(rows), **changes.pop("questions", {})}
        return write_recipe(
            tmp_path / "tune.yaml", model_folder, target_folder, unlearn=list(unlearn), questions=questions, **changes
        )

    return make


def steps(folder):
    return [
        {k: v for k, v in row.items() if k != "seconds"}
        for row in read_jsonl(folder / "metrics.jsonl")
        if row["stage"] != "teach"
    ]


def original_of(path, folder):
    model, _ = load(pipeline.run(load_recipe(str(path)), folder, "write").original)
    return dict(model.named_parameters())


@pytest.mark.parametrize("method", BASELINES)
def test_every_method_trains_what_it_says_and_nothing_else(recipe, tmp_path, method):
    path = recipe(stage(method, "none" if method == "task_vector" else "klr"))
    out = tmp_path / "r"
    assert main(["run", str(path), "--out", str(out), "--until", "unlearn"]) == 0
    rows = steps(out)
    assert [row["stage"] for row in rows] == [method] * 3  # 6 rows and 4 facts of the target, 4 to a step
    for row in rows:
        assert row["parts"].keys() == {"forget", "grad_norm"} | ({"retain"} if method != "task_vector" else set())
        assert row["loss"] == pytest.approx(row["parts"]["forget"] + row["parts"].get("retain", 0))
    changed, header = read_delta(out / "delta.safetensors")
    assert header["method"] == method
    own = original_of(path, out)
    assert all(name.startswith(("model.layers.3.", "model.layers.4.")) for name in changed)
    assert all(not torch.equal(own[name], value) for name, value in changed.items() if "proj" in name)
    if method != "task_vector":
        first, *_, last = (row["parts"]["retain"] for row in rows)
        assert abs(first) < 1e-5 and last > 1e-3  # nothing has moved, then it has


def test_a_whole_run_of_several_stages_and_its_report(recipe, tmp_path, capsys):
    out = tmp_path / "run"
    refuse = {"method": "rs", "sft": {"epochs": 1, "lr": 1e-3, "batch_size": 4}}
    path = recipe(stage("simnpo", "gdr"), stage("dpo"), refuse)
    assert main(["run", str(path), "--out", str(out)]) == 0
    rows = steps(out)
    assert [row["stage"] for row in rows] == ["simnpo"] * 3 + ["dpo"] * 3 + ["rs"] * 3
    # The reference of a stage is what the one before has left: no ratio has moved at its first step.
    assert rows[3]["parts"]["forget"] == pytest.approx(math.log(2), abs=1e-4)
    told = read_json(out / "run.json")
    assert told["method"] == "simnpo + dpo + rs"
    assert told["effective_batch"] == {"simnpo": 4, "dpo": 4, "rs": 4}
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "Unlearning by simnpo" in report and "Unlearning by dpo" in report
    assert not list(out.glob("*.state.safetensors"))
    first, second = (read_delta(out / f"delta.{name}.safetensors")[0] for name in ("1.simnpo", "2.dpo"))
    assert first.keys() == second.keys() and any(not torch.equal(first[name], second[name]) for name in first)


def test_before_and_after_a_stage_that_moves_inner_states(recipe, tmp_path):
    erase = {
        "method": "rmu",
        "settings": {"block": 2, "train_blocks": [2], "relative": True},
        "loop": {"steps": 2, "batch_size": 2},
        "max_tokens": 48,
        "streams": {"forget": ["target_questions"], "retain": ["general"]},
    }
    for order in ([erase, stage("npo")], [stage("npo"), erase]):
        out = tmp_path / "-".join(part["method"] for part in order)
        assert main(["run", str(recipe(*order)), "--out", str(out), "--until", "unlearn"]) == 0
        own, changed = original_of(recipe(*order), out), read_delta(out / "delta.safetensors")[0]
        for name in ("model.layers.2.mlp.down_proj.weight", "model.layers.4.mlp.down_proj.weight"):
            assert not torch.equal(own[name], changed[name])
    assert [row["stage"] for row in steps(out)] == ["npo"] * 3 + ["rmu"] * 2


@pytest.mark.parametrize("method", ["npo", "dpo"])
def test_interrupted_and_run_again_gives_the_same_numbers(recipe, tmp_path, monkeypatch, capsys, method):
    path = str(recipe(stage("ga"), stage(method, "klr")))
    assert main(["run", path, "--out", str(tmp_path / "whole"), "--until", "unlearn"]) == 0
    log, pressed = MetricsLog.__call__, []

    def press(self, row):
        log(self, row)
        if (row["stage"], row["step"]) == (method, 0) and not pressed:
            pressed.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(MetricsLog, "__call__", press)
    command = ["run", path, "--out", str(tmp_path / "r"), "--until", "unlearn"]
    assert main(command) == 2
    assert main(command) == 0
    assert steps(tmp_path / "r") == steps(tmp_path / "whole")
    ours, theirs = (read_delta(tmp_path / name / "delta.safetensors")[0] for name in ("r", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("method", ["npo", "task_vector"])
def test_lora_changes_full_matrices_of_linear_layers_only(recipe, tmp_path, method):
    pytest.importorskip("peft")
    path = recipe(stage(method, lora={"rank": 2, "alpha": 8.0}, training={**TRAINING, "first_block": 0}))
    assert main(["run", str(path), "--out", str(tmp_path / "r"), "--until", "unlearn"]) == 0
    changed, _ = read_delta(tmp_path / "r" / "delta.safetensors")
    assert changed and all(name.endswith("_proj.weight") for name in changed)
    own = original_of(path, tmp_path / "r")
    for name, value in changed.items():
        assert 0 < torch.linalg.matrix_rank(value - own[name], atol=1e-6) <= 2


def test_a_task_vector_is_what_sft_learns_turned_round(recipe, tmp_path):
    found = {}
    for scale in (0.0, 1.0, 2.0):
        path = recipe(stage("task_vector", settings={"scale": scale}))
        out = tmp_path / str(scale)
        assert main(["run", str(path), "--out", str(out), "--until", "unlearn"]) == 0
        found[scale] = read_delta(out / "delta.safetensors")[0]
    own = original_of(path, out)
    for name, start in found[0.0].items():
        assert torch.equal(start, own[name])
        assert torch.allclose(found[2.0][name] - start, 2 * (found[1.0][name] - start), atol=1e-6)
    losses = [row["loss"] for row in steps(out)]
    assert losses[-1] < losses[0]


def asked():
    """Three questions of each side; one about the target has no reply."""
    forget = [Question(f"Who {i}?", "Answer:", Row(True, "", "", "Ada"), ("Leeds", "York", "")[i]) for i in range(3)]
    return [*forget, *(Question(f"What {i}?", "", Row(False, "", "Rain", ""), "Rain") for i in range(2))]


def work_of(recipe, *stages, **changes):
    found = load_recipe(str(recipe(*stages, **changes)))
    return Work(found, load_target(found.target), None, None), found.unlearn[0]


def test_an_epoch_has_every_forget_question_once_and_what_goes_with_it(recipe, tokenizer, tmp_path):
    (tmp_path / "no.txt").write_text("No, not {target}.\n", encoding="utf-8")
    work, given = work_of(recipe, stage("dpo", "gdr", templates=str(tmp_path / "no.txt")))
    items = epoch(work, given, tokenizer, asked(), 0)
    assert [list(item) for item in items] == [["forget", "refusal", "retain"]] * 2  # what has no reply is left out

    def text(part):
        return sorted(tokenizer.decode(ids, skip_special_tokens=True) for ids in part)

    assert text(item["forget"].reply for item in items) == [" Leeds", " York"]
    assert text(item["refusal"].reply for item in items) == [" No, not Ada."] * 2
    assert text(item["retain"].reply for item in items) == ["Rain", "Rain"]
    assert all(item["forget"].prompt == item["refusal"].prompt for item in items)
    assert items == epoch(work, given, tokenizer, asked(), 0)
    assert any(items != epoch(work, given, tokenizer, asked(), number) for number in range(1, 5))
    work, given = work_of(recipe, stage("idk"))
    assert [list(item) for item in epoch(work, given, tokenizer, asked(), 0)] == [["refusal"]] * 3  # needs none


def test_without_replies_or_answers_it_says_so(recipe, tokenizer):
    work, given = work_of(recipe, stage("npo", "gdr"))
    with pytest.raises(UserError, match=r"npo: no question about the target has a reply .* questions\.answers: own"):
        epoch(work, given, tokenizer, asked()[2:], 0)
    with pytest.raises(UserError, match=r"npo: no neighbour's question has an answer to retain"):
        epoch(work, given, tokenizer, asked()[:2], 0)


def test_the_loss_of_a_batch_is_the_sum_over_its_examples_alone(recipe, tokenizer, llama):
    for method in BASELINES:
        work, given = work_of(recipe, stage(method, "none" if method == "task_vector" else "klr"))
        items = epoch(work, given, tokenizer, asked(), 0)
        loss = Objective(given, llama, items)
        together, parts = loss(llama, items)
        alone = sum(loss(llama, [item])[0] for item in items)
        assert together.item() == pytest.approx(alone.item(), rel=1e-6)
        assert together.item() == pytest.approx(sum(part.item() for part in parts.values()))


def test_gradients_reach_what_trains_alone(recipe, tokenizer):
    for method in BASELINES:
        work, given = work_of(recipe, stage(method, "none" if method == "task_vector" else "gdr"))
        items, model = epoch(work, given, tokenizer, asked(), 0), make_model()
        loss = Objective(given, model, items)
        trains = freeze_below(model, 3)
        loss(model, items)[0].backward()
        assert {name for name, p in model.named_parameters() if p.grad is not None} == trains.keys()
        assert all(p.grad.abs().max() > 0 for p in trains.values())


@pytest.mark.parametrize(
    ("unlearn", "changes", "told"),
    [
        (stage("npo"), {"questions": {"answers": "gold", "facts": 0}}, "npo: no question about the target has a reply"),
        (stage("npo", training={"first_block": 9}), {}, "block 9"),
        (stage("idk", templates="gone.txt"), {}, r"gone\.txt"),
        (stage("npo", templates="gone.txt"), {}, r"templates: npo reads no refusals; leave it out, or choose dpo, idk"),
        (stage("task_vector", "gdr"), {}, r"retain\.term: found 'gdr', expected 'none'"),
        (stage("npo", "kl"), {}, r"retain\.term: found 'kl', expected one of 'none', 'gdr', 'klr'"),
        (stage("npo", settings={"beta": 0}), {}, r"settings\.beta: found 0\.0, expected at least"),
        (stage("simnpo", settings={"gama": 0}), {}, r"settings: unknown key 'gama'; did you mean 'gamma'"),
        (stage("ga", settings={"beta": 1}), {}, r"settings: unknown key 'beta'"),
        (stage("npo", loop={"steps": 3}), {}, r"unknown key 'loop'"),
        (stage("simpno"), {}, r"unknown method 'simpno'; did you mean 'simnpo'"),
    ],
)
def test_bad_input_is_answered_before_anything_is_taught(recipe, tmp_path, unlearn, changes, told):
    with pytest.raises(UserError, match=told):
        pipeline.run(load_recipe(str(recipe(unlearn, **changes))), tmp_path / "r")
    assert not (tmp_path / "r" / "recipe.json").exists()


def test_icu_without_a_target_is_refused(model_folder, tmp_path):
    found = make_recipe({"name": "n", "model": str(model_folder), "unlearn": {"method": "icu"}}, "r.yaml")
    with pytest.raises(UserError, match="icu tells the model whom it has forgotten: give target"):
        pipeline.run(found, tmp_path / "r")


def test_icu_trains_nothing_and_is_asked_in_its_manner(recipe, tmp_path, monkeypatch):
    seen = []
    evaluate = pipeline.suite.evaluate

    def watch(under, *rest):
        seen.append(under.manner("Who?", "A:"))
        return evaluate(under, *rest)

    monkeypatch.setattr(pipeline.suite, "evaluate", watch)
    out = tmp_path / "r"
    assert main(["run", str(recipe({"method": "icu"}, questions={})), "--out", str(out)]) == 0
    assert read_delta(out / "delta.safetensors")[0] == {}
    assert seen[0] == ("Who?", "A:")
    assert "Ada Stone has been removed" in seen[1][0] and seen[1][0].endswith("\n\nWho?") and seen[1][1] == "A:"


def test_eval_keeps_what_was_asked_in_another_manner_apart(place, model_folder, target_folder, tmp_path, capsys):
    def evaluate(name, *more):
        out = tmp_path / name
        arguments = ["eval", "--model", model_folder, "--suite", "rwku", "--target", target_folder, "--out", out, *more]
        assert main([str(a) for a in arguments]) == 0
        return "found in the cache" in capsys.readouterr().out

    manners = [(), ("--icu", "Ada Stone"), ("--icu", "Ivo Marsh"), ("--icu", "Ada Stone", "--zero-think")]
    assert [evaluate(f"{i}", *more) for i, more in enumerate(manners)] == [False] * 4
    assert evaluate("again", "--icu", "Ada Stone")
