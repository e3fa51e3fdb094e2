"""The exported verl run: its files against the recipe. What verl makes of them: test_verl_itself.py."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from verl_runs import ADA, ODD_NAMES, RL, Recipes, boundary_file, rows_of, settings_of

from expunge.cli import main
from expunge.data.rwku import load_target
from expunge.recipe import load_recipe
from expunge.rl import rebo
from expunge.rl.questions import boundary_rows, chosen, make_questions
from expunge.rl.rebo import batch_of
from expunge.rl.verl_export import export, literal
from expunge.rl.verl_texts import CRITIC, HERE

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def recipes(tmp_path: Path, model_folder: Path, target_folder: Path) -> Recipes:
    return Recipes(tmp_path, model_folder, target_folder)


@pytest.fixture
def exported(recipes: Recipes, tmp_path: Path) -> Callable[..., Path]:
    def run(**changes: Any) -> Path:
        return export(load_recipe(str(recipes.write(**changes))), tmp_path / "verl")

    return run


def test_the_folder_is_whole(exported):
    folder = exported()
    names = {"train.parquet", "dev.parquet", "reward.py", "manager.py", "run.sh", "start.yaml", "README.md"}
    assert {path.name for path in folder.iterdir()} == names
    assert os.access(folder / "run.sh", os.X_OK)
    subprocess.run(["bash", "-n", str(folder / "run.sh")], check=True)
    for name in ("reward.py", "manager.py"):
        compile((folder / name).read_text(encoding="utf-8"), name, "exec")


def test_parquet_rows_have_verls_schema(exported):
    folder = exported(asking={"aliases": ["Ada", "A. Stone"]})
    for name, count in (("train", RL["updates"] * RL["prompts"]), ("dev", 4)):
        table = parquet.read_table(folder / f"{name}.parquet")
        assert table.column_names == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
        assert table.num_rows == count
        assert not any(column.null_count for column in table.columns)
        for index, row in enumerate(table.to_pylist()):
            forget, info = row["data_source"] == "expunge/forget", row["extra_info"]
            (message,) = row["prompt"]
            assert message == {"role": "user", "content": info["question"]}
            assert row["ability"] == "unlearning"
            assert row["reward_model"]["style"] == "rule"
            assert row["reward_model"]["ground_truth"].startswith("" if forget else "It is ")
            assert bool(row["reward_model"]["ground_truth"]) != forget
            assert info["index"] == index
            assert info["split"] == name
            assert info["forget"] == forget
            assert (info["target"], info["aliases"]) == ((ADA, ["Ada", "A. Stone"]) if forget else ("", []))


def test_batches_are_those_of_the_packages_own_engines(recipes, tmp_path):
    source = load_recipe(str(recipes.write(seed=5)))
    folder = export(source, tmp_path / "verl")
    found = boundary_rows(source.questions, load_target(source.target))
    train = make_questions(chosen(found, source.questions, dev=False), source.questions, {}, ADA, 5)
    dev = make_questions(chosen(found, source.questions, dev=True), source.questions, {}, ADA, 6)
    wanted = [q.prompt for update in range(RL["updates"]) for q in batch_of(train, RL["prompts"], 0.5, 5, update)]
    assert [row["extra_info"]["question"] for row in rows_of(folder / "train.parquet")] == wanted
    assert [row["extra_info"]["question"] for row in rows_of(folder / "dev.parquet")] == [q.prompt for q in dev]
    assert not set(wanted) & {q.prompt for q in dev}
    for start in range(0, len(wanted), RL["prompts"]):
        batch = rows_of(folder / "train.parquet")[start : start + RL["prompts"]]
        assert sum(row["extra_info"]["forget"] for row in batch) == RL["prompts"] // 2


def test_every_setting_arrives(exported):
    clip = {"low": 0.11, "high": 0.33, "dual": 2.5, "kl": 0.02}
    rl = {"temperature": 0.7, "lr": 3e-6, "weight_decay": 0.05, "max_grad_norm": 0.4, "passes": 2, "clip": clip}
    found = settings_of(exported(rl=rl, seed=7), NNODES="2", GPUS_PER_NODE="8", TENSOR_PARALLEL="4", ENGINE="sglang")
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    wanted = {
        "algorithm.adv_estimator": "grpo",
        "algorithm.use_kl_in_reward": "false",
        "trainer.total_training_steps": "3",
        "trainer.test_freq": "2",
        "trainer.save_freq": "2",
        "trainer.nnodes": "2",
        "trainer.n_gpus_per_node": "8",
        "data.train_batch_size": "6",
        "data.shuffle": "false",
        "data.max_prompt_length": "512",
        "data.max_response_length": "24",
        f"{rollout}.n": "4",
        f"{rollout}.temperature": "0.7",
        f"{rollout}.seed": "7",
        f"{rollout}.name": "sglang",
        f"{rollout}.tensor_model_parallel_size": "4",
        f"{actor}.ppo_mini_batch_size": "6",
        f"{actor}.ppo_epochs": "2",
        f"{actor}.clip_ratio_low": "0.11",
        f"{actor}.clip_ratio_high": "0.33",
        f"{actor}.clip_ratio_c": "2.5",
        f"{actor}.use_kl_loss": "true",
        f"{actor}.kl_loss_coef": "0.02",
        f"{actor}.kl_loss_type": "low_var_kl",
        f"{actor}.loss_agg_mode": "token-mean",
        f"{actor}.optim.lr": "3e-06",
        f"{actor}.optim.lr_scheduler_type": "constant",
        f"{actor}.optim.weight_decay": "0.05",
        f"{actor}.optim.clip_grad": "0.4",
        "actor_rollout_ref.model.path": "'org/model'",
        "reward.custom_reward_function.name": "compute_score",
    }
    assert {key: found.get(key) for key in wanted} == wanted
    assert not [key for key in found if "lora" in key or key.startswith("critic")]


def test_no_limit_of_the_gradient_is_none_under_verl_either(exported):
    """verl scales gradients to the limit that it is given, 0 too."""
    folder = exported(rl={"max_grad_norm": 0})
    assert float(settings_of(folder)["actor_rollout_ref.actor.optim.clip_grad"]) == 1e9
    assert "| `rl.max_grad_norm: 0`, no limit | a limit of 1e9" in (folder / "README.md").read_text(encoding="utf-8")


def test_every_setting_of_the_recipe_is_mapped_or_named_in_the_readme(exported):
    readme = (exported(rl={"algorithm": "ppo"}) / "README.md").read_text(encoding="utf-8")
    assert [f.name for f in fields(rebo.RL) if not re.search(rf"`rl\.{f.name}\b", readme)] == []


@pytest.mark.parametrize(
    ("algorithm", "estimator"), [("rloo", "rloo"), ("reinforce_pp", "reinforce_plus_plus"), ("ppo", "gae")]
)
def test_algorithms(exported, algorithm, estimator):
    found = settings_of(exported(rl={"algorithm": algorithm, "smoothing": 0.9}))
    assert found["algorithm.adv_estimator"] == estimator
    critic = {key for key in found if key.startswith(("critic.", "algorithm.lam"))}
    assert bool(critic) == (algorithm == "ppo")
    if critic:
        assert (found["algorithm.lam"], found["critic.model.path"]) == ("0.9", "'org/model'")


def test_adapters_and_no_kl(exported):
    lora = {"rank": 8, "alpha": 24, "targets": ["q_proj", "v_proj"]}
    found = settings_of(exported(rl={"clip": {"kl": 0}}, stage={"lora": lora}))
    model = "actor_rollout_ref.model"
    assert (found[f"{model}.lora_rank"], found[f"{model}.lora_alpha"]) == ("8", "24")
    assert found[f"{model}.target_modules"] == "[q_proj,v_proj]"
    assert found["actor_rollout_ref.actor.use_kl_loss"] == "false"


def test_a_long_question_is_not_cut(exported, tmp_path):
    rows = [row | {"prompt": "é" * 900 + row["prompt"]} for row in json.loads(boundary_file(tmp_path).read_text())]
    (tmp_path / "long.json").write_text(json.dumps(rows))
    found = settings_of(exported(asking={"rows": str(tmp_path / "long.json")}))
    assert int(found["data.max_prompt_length"]) >= 1800 + 256


def test_the_start_is_a_recipe_of_what_comes_before(recipes, tmp_path):
    source = load_recipe(str(recipes.write(seed=3)))
    folder = export(source, tmp_path / "verl")
    start = load_recipe(str(folder / "start.yaml"))
    assert start == replace(source, name=start.name, unlearn=source.unlearn[:1], goals=(), full_checkpoint=True)
    assert "expunge run THIS_FOLDER/start.yaml --out runs/start --until unlearn" in (folder / "README.md").read_text()


def test_without_a_stage_before_there_is_no_start(exported):
    folder = exported(before=())
    assert not (folder / "start.yaml").exists()
    assert "no stage before ReBO" in (folder / "README.md").read_text()


def test_the_readme_tells_every_setting_of_run_sh(exported):
    folder = exported(rl={"algorithm": "ppo"}, stage={"lora": {"rank": 4}})
    readme = (folder / "README.md").read_text(encoding="utf-8")
    of_the_machine = {line.split("=")[0] for line in (*HERE, *CRITIC)}
    for key, value in settings_of(folder).items():
        assert key in of_the_machine or f"`{key}` | `{value}` |" in readme
    assert "transformers 5.5.3 or later, below 5.11" in readme


def test_the_model_is_asked_for(exported, tmp_path, model_folder, recipes):
    folder = exported()
    bare = {"PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", str(folder / "run.sh")], capture_output=True, text=True, env=bare)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "MODEL is not set" in done.stderr
    odd = tmp_path / "a model's {place}"
    odd.mkdir()
    (odd / "config.json").write_bytes((model_folder / "config.json").read_bytes())
    given = export(load_recipe(str(recipes.write())), tmp_path / "given", rs=odd)
    escaped = str(odd).replace("'", "\\'")
    assert settings_of(given, MODEL="")["actor_rollout_ref.model.path"] == f"'{escaped}'"


@pytest.mark.parametrize("name", [*ODD_NAMES, "two\nlines; exit 3\n#", "$(exit 4)`exit 5`"])
def test_odd_names_break_nothing(exported, name):
    folder = exported(name=name)
    subprocess.run(["bash", "-n", str(folder / "run.sh")], check=True)
    assert settings_of(folder)["trainer.experiment_name"] == literal(name)
    compile((folder / "reward.py").read_text(encoding="utf-8"), "reward.py", "exec")


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"unlearn": [{"method": "rs"}]}, [], "holds rs; expected a stage of the method rebo"),
        ({"asking": {"wordings": ["bare", "brief", "asked"]}}, [], "found asked, brief"),
        ({"asking": {"facts": 2}}, [], "questions.facts=0"),
        ({"stage": {"reference": "original"}}, [], "unlearn.1.reference=start"),
        ({"rl": {"first_block": 2}}, [], "unlearn.1.rl.first_block=0"),
        ({"rl": {"clip": {"dual": 1.0}}}, [], "clip.dual: found 1.0"),
        ({"stage": {"lora": {"alpha": 0.5}}}, [], "lora.alpha: found 0.5"),
        ({"asking": {"answers": "own"}}, [], "--answers FILE"),
        ({}, ["--answers", "answers.json"], "nothing would read it"),
        ({"asking": {"answers": "own"}}, ["--answers", "missing.json"], "no such file"),
        ({}, ["--rs", "nowhere"], "no config.json"),
        ({"asking": {"rows": None}}, [], "at least 40"),
        ({"rl": {"reward": {"name": "strikt"}}}, [], "did you mean 'strict'"),
        ({}, ["--scale", "huge"], "no scale 'huge'"),
        ({}, ["--set", "unlearn.1.rl.prompts=0"], "prompts"),
    ],
)
def test_bad_input(recipes, tmp_path, capsys, changes, arguments, message):
    out = tmp_path / "verl"
    assert main(["export", "verl", str(recipes.write(**changes)), "--out", str(out), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not out.exists()
    assert not list(tmp_path.glob(".verl*"))


def test_a_stage_after_rebo(recipes, tmp_path, capsys):
    stages = [{"method": "rebo"}, {"method": "rs"}]
    assert main(["export", "verl", str(recipes.write(unlearn=stages)), "--out", str(tmp_path / "verl")]) == 2
    assert "rs comes after rebo" in capsys.readouterr().err
    stages[1]["method"] = "drill"
    assert main(["export", "verl", str(recipes.write(unlearn=stages)), "--out", str(tmp_path / "verl")]) == 0
    assert "no part of this run" in (tmp_path / "verl" / "README.md").read_text(encoding="utf-8")


def test_a_folder_with_files_is_left_alone(recipes, tmp_path, capsys):
    out = tmp_path / "verl"
    out.mkdir()
    assert main(["export", "verl", str(recipes.write()), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main(["export", "verl", str(recipes.write()), "--out", str(out)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    (tmp_path / "file").write_text("mine")
    assert main(["export", "verl", str(recipes.write()), "--out", str(tmp_path / "file")]) == 2
    assert (tmp_path / "file").read_text() == "mine"


def test_own_answers(recipes, tmp_path, capsys):
    path, answers = recipes.write(asking={"answers": "own"}), tmp_path / "answers.json"
    prompts = [row["prompt"] for row in json.loads(recipes.rows.read_text())]
    command = ["export", "verl", str(path), "--out", str(tmp_path / "verl"), "--answers", str(answers)]
    for content, message in [
        ("[]", "expected a mapping"),
        ('{"a": 1}', "expected a mapping"),
        ("{", "not valid JSON"),
        (json.dumps(dict.fromkeys(prompts[:-1], "x")), "no answer to 1 of 40"),
    ]:
        answers.write_text(content)
        assert main(command) == 2
        assert message in capsys.readouterr().err
    answers.write_text(json.dumps({prompt: f"own {i}" for i, prompt in enumerate(prompts)}))
    assert main(command) == 0
    for row in rows_of(tmp_path / "verl" / "train.parquet"):
        number = prompts.index(row["extra_info"]["question"])
        assert row["reward_model"]["ground_truth"] == f"own {number}"


def test_without_pyarrow(recipes, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["export", "verl", str(recipes.write()), "--out", str(tmp_path / "verl")]) == 2
    assert "expunge[data]" in capsys.readouterr().err
