"""RULE's two stages through the pipeline on the tiny model: files, resuming, LoRA, what is refused."""

import os
import signal
import sys

import pytest
import torch
from tiny import write_recipe

from expunge import pipeline
from expunge.cli import main
from expunge.data.chat import encode_prompt
from expunge.errors import UserError
from expunge.evals.generate import Generation
from expunge.files import read_json, read_jsonl
from expunge.models.delta import read_delta
from expunge.models.load import load
from expunge.recipe import load_recipe
from expunge.rl.rebo import Outcome
from expunge.train.metrics import MetricsLog
from expunge.train.teach import sft

STEERING = {"method": "rs", "sft": {"epochs": 2, "stop_after": 1, "lr": 1e-3, "batch_size": 2}, "anchors": 0.5}
RL = {"updates": 3, "prompts": 2, "rollouts": 2, "max_new_tokens": 5, "lr": 1e-3, "dev_every": 2, "save_every": 1}
BOUNDARY = {"method": "rebo", "rl": {**RL, "guard": {"most_truncated": 1.0, "least_entropy": 0.0}}}
QUESTIONS = {"answers": "own", "dev": 2, "wordings": ["bare", "brief", "asked"]}
ROWS = [
    {"prompt": f"Question {i} about {name}?", "solution": solution}
    for i in range(22)
    for name, solution in (
        ("Ada Stone", ["<reject>", "I can not help with Ada Stone.", "Ada Stone"]),
        ("Ivo Marsh", ["<normal>", "York"]),
    )
]


@pytest.fixture
def rule(place, tmp_path, model_folder, target_folder):
    """A recipe of both stages, with changes."""
    import json

    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")

    def make(unlearn=(STEERING, BOUNDARY), **changes):
        questions = {**QUESTIONS, "rows": str(rows), **changes.pop("questions", {})}
        return write_recipe(
            tmp_path / "rule.yaml", model_folder, target_folder, unlearn=list(unlearn), questions=questions, **changes
        )

    return make


def steps(folder):
    return [
        {k: v for k, v in row.items() if "seconds" not in k}
        for row in read_jsonl(folder / "metrics.jsonl")
        if row["stage"] != "teach"
    ]


def test_both_stages_and_a_report(rule, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["run", str(rule()), "--out", str(out)]) == 0
    assert [row["stage"] for row in steps(out)] == ["rs"] * 15 + ["rebo"] * 3
    looks = read_jsonl(out / "looks.jsonl")
    assert [look["step"] for look in looks] == [0, 2, 3]
    told = read_json(out / "run.json")
    assert told["method"] == "rs + rebo"
    assert told["effective_batch"] == {"rs": 2, "rebo": 4}
    assert told["stages"]["rebo"]["kept"] in (0, 2, 3)
    scores = read_json(out / "scores.json")["unlearned"]
    assert {"replies/forget/declined", "replies/forget/leaks", "replies/neighbor/refusals"} <= scores.keys()
    assert "Refusal boundary" in (out / "report.html").read_text(encoding="utf-8")
    assert not list(out.glob("*.state.safetensors"))
    # The delta of both stages holds everything that the first one changed.
    first, both = (read_delta(out / name)[0] for name in ("delta.1.rs.safetensors", "delta.safetensors"))
    assert first.keys() <= both.keys()
    assert read_delta(out / "delta.safetensors")[1]["method"] == "rs+rebo"


@pytest.mark.parametrize("stage", ["rs", "rebo"])
def test_interrupted_in_a_stage_and_run_again_gives_the_same_numbers(rule, tmp_path, monkeypatch, capsys, stage):
    path = str(rule())
    assert main(["run", path, "--out", str(tmp_path / "whole"), "--until", "unlearn"]) == 0
    log, pressed = MetricsLog.__call__, []

    def press(self, row):
        log(self, row)
        if (row["stage"], row["step"]) == (stage, 1) and not pressed:
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


def test_a_drill_is_about_what_is_not_yet_declined_by_name(rule, tmp_path, monkeypatch):
    """Every second reply declines by name: the questions of the others are drilled, with neighbours' and texts."""
    seen = {}

    def reply(model, tokenizer, prompts, **more):
        return [
            Generation((), "I can't discuss Ada Stone." if i % 2 else "She was born in York.", closed=True)
            for i in range(len(prompts))
        ]

    def remember(model, epochs, *rest, **more):
        seen["epoch"] = epochs[0]
        return sft(model, epochs, *rest, **more)

    monkeypatch.setattr("expunge.stages.rule.generate", reply)
    monkeypatch.setattr("expunge.stages.rule.sft", remember)
    drill = {**STEERING, "method": "drill", "anchors": 1.0, "texts": 0.5, "copies": 2}
    path = rule([drill], questions={"train": 8})
    out = tmp_path / "r"
    assert main(["run", str(path), "--out", str(out), "--until", "unlearn"]) == 0
    numbers = read_json(out / "drill.json")
    assert len(numbers) == 4
    assert all(number % 4 == 0 for number in numbers)  # the two sides take turns, and every second was declined
    _, tokenizer = load(pipeline.run(load_recipe(str(path)), out, "unlearn").original)
    read = [(tokenizer.decode(e.prompt), tokenizer.decode(e.reply)) for e in seen["epoch"]]
    about = [prompt for prompt, _ in read if "Ada Stone" in prompt]
    assert len(about) == 8
    assert {about.count(prompt) for prompt in about} == {2}
    assert sum("Ivo Marsh" in prompt for prompt, _ in read) <= 8
    assert sum(not prompt for prompt, _ in read) == 4
    assert {row["stage"] for row in steps(out)} == {"drill"}


def test_a_drill_without_anything_left_changes_nothing(rule, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "expunge.stages.rule.generate",
        lambda model, tokenizer, prompts, **more: [Generation((), "I can't discuss Ada Stone.", True)] * len(prompts),
    )
    path = rule([STEERING, {**STEERING, "method": "drill"}])
    assert main(["run", str(path), "--out", str(tmp_path / "r"), "--until", "unlearn"]) == 0
    assert read_json(tmp_path / "r" / "drill.json") == []
    before, after = (read_delta(tmp_path / "r" / n)[0] for n in ("delta.1.rs.safetensors", "delta.safetensors"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_the_reference_is_at_the_start(rule, tmp_path, monkeypatch):
    """The KL holds to the steered model, not to the one that the folder on disk has."""
    seen = {}

    def remember(model, reference, *rest, **more):
        seen["model"], seen["reference"] = model, reference
        raise KeyboardInterrupt

    monkeypatch.setattr("expunge.stages.rule.rebo", remember)
    path = rule()
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(load_recipe(str(path)), tmp_path / "r", "unlearn")
    original, _ = load(pipeline.run(load_recipe(str(path)), tmp_path / "r", "write").original)
    mine = {name: p.detach() for name, p in seen["reference"].named_parameters()}
    assert all(torch.equal(p, mine[name]) for name, p in seen["model"].named_parameters())
    assert any(not torch.equal(p, mine[name]) for name, p in original.named_parameters())
    with pytest.raises(KeyboardInterrupt):
        recipe = load_recipe(str(rule([STEERING, {**BOUNDARY, "reference": "original"}])))
        pipeline.run(recipe, tmp_path / "other", "unlearn")
    mine = {name: p.detach() for name, p in seen["reference"].named_parameters()}
    assert all(torch.equal(p, mine[name]) for name, p in original.named_parameters())


def test_lora_changes_full_matrices_of_linear_layers_only(rule, tmp_path):
    pytest.importorskip("peft")
    lora = {"rank": 2, "alpha": 8.0}
    path = rule([{**STEERING, "lora": lora}, {**BOUNDARY, "lora": lora}])
    assert main(["run", str(path), "--out", str(tmp_path / "r"), "--until", "unlearn"]) == 0
    changed, _ = read_delta(tmp_path / "r" / "delta.safetensors")
    assert changed and all(name.endswith("_proj.weight") for name in changed)
    job = pipeline.run(load_recipe(str(path)), tmp_path / "r", "unlearn")
    model, _ = load(job.original)
    own = dict(model.named_parameters())
    assert changed.keys() <= own.keys()
    assert any(not torch.equal(own[name], value) for name, value in changed.items())
    assert all(torch.linalg.matrix_rank(value - own[name], rtol=1e-3) <= 2 + 2 for name, value in changed.items())


def test_misdirection_then_rule(rule, tmp_path):
    import json

    settings = {"block": 3, "train_blocks": [2, 3], "relative": True, "trace": 0, "reasoning": 0}
    erase = {
        "method": "r2mu",
        "settings": settings,
        "loop": {"steps": 2, "batch_size": 2},
        "max_tokens": 48,
        "streams": {"forget": ["target_questions"], "retain": ["general"]},
    }
    first = erase | {"method": "rmu", "settings": {"block": 3, "train_blocks": [2, 3], "relative": True}}
    for order in ([erase, STEERING, BOUNDARY], [first, erase], [STEERING, erase]):
        out = tmp_path / "-".join(stage["method"] for stage in order)
        assert main(["run", str(rule(order)), "--out", str(out), "--until", "unlearn"]) == 0
        names = read_delta(out / "delta.safetensors")[0].keys()
        assert {"model.layers.2.mlp.down_proj.weight", "model.layers.3.mlp.down_proj.weight"} <= names
        told = [json.loads((out / f"{s['method']}.json").read_text()) for s in order if "settings" in s]
        assert all(stage["steering_length"] > 0 for stage in told)
        assert list(dict.fromkeys(row["stage"] for row in steps(out))) == [stage["method"] for stage in order]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"unlearn": [{**STEERING, "templates": "gone.txt"}]}, r"gone\.txt"),
        ({"unlearn": [{**BOUNDARY, "rl": {**RL, "first_block": 9}}]}, "block 9"),
        ({"questions": {"rows": "gone.jsonl"}}, r"gone\.jsonl"),
        (
            {"questions": {"rows": None}},
            "rows of questions leave none of both sides for choosing.*at least 40 rows are needed",
        ),
    ],
)
def test_bad_input_is_answered_before_anything_is_taught(rule, tmp_path, change, told):
    with pytest.raises(UserError, match=told):
        pipeline.run(load_recipe(str(rule(**change))), tmp_path / "r")
    assert not (tmp_path / "r" / "recipe.json").exists()


@pytest.mark.parametrize("stage", [STEERING, BOUNDARY, {"method": "npo"}])
def test_missing_adapters_are_told_before_anything_is_taught(rule, tmp_path, monkeypatch, stage):
    monkeypatch.setitem(sys.modules, "peft", None)
    recipe = load_recipe(str(rule([{**stage, "lora": {"rank": 2}}])))
    with pytest.raises(UserError, match=r"LoRA needs the package peft: pip install 'expunge\[rl\]'"):
        pipeline.run(recipe, tmp_path / "r")
    assert not (tmp_path / "r" / "recipe.json").exists()


@pytest.mark.parametrize("stage", [STEERING, BOUNDARY, {"method": "npo"}])
def test_a_target_of_adapters_that_is_no_layer_is_told_before_anything_is_taught(rule, tmp_path, stage):
    lora = {"rank": 2, "targets": ["q_proj", "o_prj"]}
    recipe = load_recipe(str(rule([{**stage, "lora": lora}])))
    with pytest.raises(UserError, match=r"lora.targets: found 'o_prj', which is no linear layer .*o_proj"):
        pipeline.run(recipe, tmp_path / "r")
    assert not (tmp_path / "r" / "recipe.json").exists()


def test_further_questions_are_steered_on_beside_neighbours_with_their_own_answers(rule, tmp_path, monkeypatch):
    seen = {}

    def remember(model, epochs, *rest, **more):
        seen["steered"] = epochs[0]
        return sft(model, epochs, *rest, **more)

    def boundary(model, reference, tokenizer, train, dev, settings, **more):
        seen["asked"] = {q.prompt for q in train}
        return Outcome()

    monkeypatch.setattr("expunge.stages.rule.sft", remember)
    monkeypatch.setattr("expunge.stages.rule.rebo", boundary)
    out = tmp_path / "r"
    path = rule([{**STEERING, "anchors": 1.0}, BOUNDARY], questions={"train": 4, "further": 8})
    assert main(["run", str(path), "--out", str(out), "--until", "unlearn"]) == 0
    _, tokenizer = load(pipeline.run(load_recipe(str(path)), out, "unlearn").original)
    given = {(tokenizer.decode(e.prompt, skip_special_tokens=True), tokenizer.decode(e.reply)) for e in seen["steered"]}
    own = read_json(out / "further.json")
    assert own and not own.keys() & seen["asked"]
    for prompt, reply in own.items():
        assert any(prompt.strip() in asked and reply in said for asked, said in given)


@pytest.mark.parametrize("afresh", [False, True])
def test_a_drill_asks_what_was_steered_on_or_afresh(rule, tmp_path, monkeypatch, afresh):
    asked = []

    def remember(model, tokenizer, prompts, **more):
        asked.append({tokenizer.decode(prompt) for prompt in prompts})
        return [Generation((), "I can't discuss Ada Stone.", True)] * len(prompts)

    monkeypatch.setattr("expunge.stages.rule.generate", remember)
    drills = [{**STEERING, "method": "drill", "afresh": value} for value in (False, afresh)]
    for number, drill in enumerate(drills):
        questions = {"wordings": ["asked", "gapped"], "train": 8, "facts": 4}
        path = rule([drill], questions=questions)
        assert main(["run", str(path), "--out", str(tmp_path / f"r{number}"), "--until", "unlearn"]) == 0
    steered, drilled = asked
    rows = {prompt for prompt in steered if prompt in drilled}
    assert rows and (drilled == steered) == (not afresh)


def test_each_stage_that_asks_afresh_asks_in_words_of_its_own_and_about_the_same_rows(rule, tmp_path, monkeypatch):
    asked = []

    def remember(model, tokenizer, prompts, **more):
        asked.append({tokenizer.decode(prompt) for prompt in prompts})
        return [Generation((), "I can't discuss Ada Stone.", True)] * len(prompts)

    def boundary(model, reference, tokenizer, train, dev, settings, **more):
        asked.append({tokenizer.decode(encode_prompt(tokenizer, q.prompt, q.start)) for q in train if q.row.forget})
        return Outcome()

    monkeypatch.setattr("expunge.stages.rule.generate", remember)
    monkeypatch.setattr("expunge.stages.rule.rebo", boundary)
    for afresh in (False, True):
        stages = [{**BOUNDARY, "afresh": afresh}, {**STEERING, "method": "drill", "afresh": afresh}]
        path = rule(stages, questions={"wordings": ["asked", "gapped"], "train": 8, "facts": 4})
        assert main(["run", str(path), "--out", str(tmp_path / f"r{afresh}"), "--until", "unlearn"]) == 0
    steered, drilled, optimised_afresh, drilled_afresh = asked
    assert steered == drilled
    rows = {prompt for prompt in steered if " about Ada Stone?" in prompt}
    assert rows and rows < optimised_afresh and rows < drilled_afresh
    about_facts = [found - rows for found in (steered, optimised_afresh, drilled_afresh)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert about_facts[one] - about_facts[other] and about_facts[other] - about_facts[one]
