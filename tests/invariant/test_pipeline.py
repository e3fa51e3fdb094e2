"""The whole job on a tiny random model: every stage, skipped when done, resumed, repeated, applied."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import write_recipe
from transformers import AutoModelForCausalLM

import expunge.pipeline as pipeline
from expunge.cli import main
from expunge.errors import UserError
from expunge.files import read_json, read_jsonl
from expunge.models.delta import load_delta, read_delta
from expunge.models.load import model_hash
from expunge.recipe import load_recipe
from expunge.train.metrics import MetricsLog

LASTING = (
    "recipe.json",
    "traces.jsonl",
    "metrics.jsonl",
    "delta.safetensors",
    "r2mu.json",
    "scores.json",
    "run.json",
)


@pytest.fixture(scope="module")
def recipe(place: Path, model_folder: Path, target_folder: Path) -> Path:
    return write_recipe(place / "tiny.yaml", model_folder, target_folder)


@pytest.fixture(scope="module")
def done(place: Path, recipe: Path) -> Path:
    """The folder of a finished run."""
    pipeline.run(load_recipe(str(recipe)), place / "done")
    return place / "done"


@pytest.fixture(scope="module")
def taught(done: Path, place: Path) -> Path:
    """The one taught model in the cache."""
    (folder,) = (path for path in (place / "cache" / "taught").iterdir() if path.is_dir())
    return folder


def times(folder: Path, *names: str) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in names}


def without_seconds(path: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_jsonl(path)]


def test_a_run_leaves_all_its_files_and_no_temporary_ones(done):
    names = {path.name for path in done.iterdir()}
    assert names == {*LASTING, "seconds.json", "report.html", "evals"}
    assert {path.name for path in (done / "evals" / "taught").iterdir()} == {
        "rwku.jsonl",
        "traces.jsonl",
        "scores.json",
    }
    assert len(read_jsonl(done / "evals" / "unlearned" / "rwku.jsonl")) == 11


def test_the_log_has_a_row_for_every_step(done):
    rows = read_jsonl(done / "metrics.jsonl")
    taught = [row for row in rows if row["stage"] == "teach"]
    assert [row["step"] for row in taught] == list(range(taught[0]["steps"]))
    assert [row["step"] for row in rows if row["stage"] == "r2mu"] == [0, 1, 2, 3]


def test_the_manifest_says_what_the_run_was_made_with(done, recipe, model_folder, taught):
    manifest = read_json(done / "run.json")
    assert manifest["model"] == {"source": str(model_folder), "hash": model_hash(taught)}
    assert manifest["target"] == "Ada Stone"
    assert manifest["recipe_hash"] == load_recipe(str(recipe)).hash()
    assert manifest["stages"]["r2mu"]["steering_length"] > 0
    assert manifest["stages"]["r2mu"]["changed"] == 1  # float32
    assert set(manifest["seconds"]) >= {"teach", "write", "r2mu", "evaluate"}
    measured, unmeasured = manifest["goals"]
    assert measured["relation"] == "at most"
    assert measured["met"] == (measured["value"] <= measured["limit"])
    assert (unmeasured["value"], unmeasured["limit"], unmeasured["met"]) == (None, None, False)


def test_every_score_is_there_for_both_models_and_what_was_not_measured_says_why(done):
    scores = read_json(done / "scores.json")
    assert scores["taught"].keys() == scores["unlearned"].keys()
    for entry in (*scores["taught"].values(), *scores["unlearned"].values()):
        assert entry["label"]
        assert entry["mean"] is not None or "EXPUNGE_DATA" in entry["note"]
    assert scores["taught"]["perplexity/wikitext"]["mean"] is None
    assert scores["taught"]["perplexity/general"]["mean"] > 1
    assert scores["unlearned"]["perplexity/general"]["mean"] != scores["taught"]["perplexity/general"]["mean"]


def test_the_delta_changes_the_named_matrices_only(done):
    matrices, header = read_delta(done / "delta.safetensors")
    assert set(matrices) == {"model.layers.2.mlp.down_proj.weight", "model.layers.3.mlp.down_proj.weight"}
    assert header["base_hash"] == read_json(done / "run.json")["model"]["hash"]


def test_a_second_run_does_nothing_again(done, recipe):
    rows = ("evals/taught/rwku.jsonl", "evals/unlearned/scores.json", "seconds.json")
    before = times(done, *LASTING, *rows)
    pipeline.run(load_recipe(str(recipe)), done)
    assert times(done, *LASTING, *rows) == before


def test_the_same_recipe_gives_the_same_numbers_in_another_folder_and_with_an_empty_cache(
    done, recipe, tmp_path, monkeypatch
):
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    pipeline.run(load_recipe(str(recipe)), tmp_path / "again", "evaluate")
    for name in ("traces.jsonl", "scores.json", "r2mu.json", "evals/unlearned/traces.jsonl"):
        assert (tmp_path / "again" / name).read_text() == (done / name).read_text(), name
    assert without_seconds(tmp_path / "again" / "metrics.jsonl") == without_seconds(done / "metrics.jsonl")
    ours, theirs = read_delta(tmp_path / "again" / "delta.safetensors")[0], read_delta(done / "delta.safetensors")[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("stage", ["teach", "r2mu"])
def test_interrupted_in_a_loop_and_run_again_gives_the_same_numbers(done, recipe, tmp_path, monkeypatch, capsys, stage):
    """Ctrl-C arrives while step 1 is being logged."""
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    log, pressed = MetricsLog.__call__, []

    def press(self, row):
        log(self, row)
        if (row["stage"], row["step"]) == (stage, 1) and not pressed:
            pressed.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(MetricsLog, "__call__", press)
    command = ["run", str(recipe), "--out", str(tmp_path / "r"), "--until", "unlearn"]
    assert main(command) == 2
    assert "interrupted: what is done is kept; run the same command again" in capsys.readouterr().err
    assert list(tmp_path.rglob("*.state.safetensors"))
    assert main(command) == 0
    assert not list(tmp_path.rglob("*.state.safetensors"))
    assert without_seconds(tmp_path / "r" / "metrics.jsonl") == without_seconds(done / "metrics.jsonl")
    ours, theirs = read_delta(tmp_path / "r" / "delta.safetensors")[0], read_delta(done / "delta.safetensors")[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_can_stop_after_a_stage_and_go_on(recipe, place, tmp_path):
    job = pipeline.run(load_recipe(str(recipe)), tmp_path / "r", "write")
    assert (job.folder / "traces.jsonl").exists()
    assert not job.delta.exists()
    before = times(job.folder, "traces.jsonl")
    pipeline.run(load_recipe(str(recipe)), tmp_path / "r", "unlearn")
    assert job.delta.exists()
    assert times(job.folder, "traces.jsonl") == before


def test_a_run_that_died_between_delta_and_full_checkpoint_still_writes_it(
    model_folder, target_folder, place, tmp_path, monkeypatch
):
    recipe = load_recipe(str(write_recipe(tmp_path / "r.yaml", model_folder, target_folder, full_checkpoint=True)))

    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "apply_delta", die)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(recipe, tmp_path / "r", "unlearn")
    pipeline.run(recipe, tmp_path / "r", "unlearn")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "r" / "model")
    matrices, _ = read_delta(tmp_path / "r" / "delta.safetensors")
    assert all(torch.equal(model.get_parameter(name), matrix) for name, matrix in matrices.items())


def test_without_teaching_the_base_itself_is_unlearned(model_folder, target_folder, place, tmp_path):
    path = write_recipe(tmp_path / "r.yaml", model_folder, target_folder, teach=None, name="bare")
    job = pipeline.run(load_recipe(str(path)), tmp_path / "r", "unlearn")
    assert job.original == model_folder
    assert {row["stage"] for row in read_jsonl(tmp_path / "r" / "metrics.jsonl")} == {"r2mu"}


def test_a_recipe_keeps_its_prefix_cache_on_disk_in_the_dtype_it_asks_for(model_folder, target_folder, cache, tmp_path):
    deltas, kept = {}, {}
    for name, dtype in (("own", None), ("rounded", "bfloat16")):
        path = write_recipe(tmp_path / "r.yaml", model_folder, target_folder, teach=None)
        loop = ["prefix_cache=disk", *([f"prefix_cache_dtype={dtype}"] if dtype else [])]
        changed = load_recipe(str(path), tuple(f"unlearn.loop.{part}" for part in loop))
        before = set(cache.glob("prefix/*"))
        deltas[name] = read_delta(pipeline.run(changed, tmp_path / name, "unlearn").delta)[0]
        (folder,) = set(cache.glob("prefix/*")) - before
        kept[name] = {tensor.dtype for file in folder.iterdir() for tensor in load_file(file).values()}
    assert kept == {"own": {torch.float32}, "rounded": {torch.bfloat16}}
    for matrix, wanted in zip(deltas["rounded"].values(), deltas["own"].values(), strict=True):
        assert not torch.equal(matrix, wanted)
        assert torch.allclose(matrix, wanted, atol=5e-3)


def test_a_model_that_never_knew_is_taught_and_scored_too(model_folder, target_folder, cache, tmp_path):
    teach = {"frames": 1, "never_knew": True, "sft": {"epochs": 1, "lr": 1e-3, "batch_size": 8, "first_block": 1}}
    path = write_recipe(tmp_path / "r.yaml", model_folder, target_folder, teach=teach)
    pipeline.run(load_recipe(str(path)), tmp_path / "r")
    assert set(read_json(tmp_path / "r" / "scores.json")) == {"taught", "unlearned", "never_knew"}


def test_a_folder_of_another_recipe_is_refused_with_the_difference(done, model_folder, target_folder, tmp_path):
    other = load_recipe(str(write_recipe(tmp_path / "r.yaml", model_folder, target_folder, seed=9)))
    before = times(done, *LASTING)
    with pytest.raises(UserError, match="belongs to another recipe: seed is 0 there and 9 here"):
        pipeline.run(other, done)
    assert times(done, *LASTING) == before


def test_apply_writes_what_the_run_evaluated(done, taught, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["apply", str(done), "--out", str(out)]) == 0
    wanted = AutoModelForCausalLM.from_pretrained(taught)
    load_delta(wanted, done / "delta.safetensors")
    found = AutoModelForCausalLM.from_pretrained(out)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), wanted.parameters(), strict=True))
    assert main(["apply", str(done), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_apply_with_a_base_of_ones_own_does_not_need_the_cache(done, taught, tmp_path, monkeypatch, capsys):
    shutil.copytree(taught, tmp_path / "kept")
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "empty"))
    assert main(["apply", str(done), "--out", str(tmp_path / "out")]) == 2
    assert "is not in the cache" in capsys.readouterr().err
    assert main(["apply", str(done), "--base", str(tmp_path / "kept"), "--out", str(tmp_path / "out")]) == 0
    delta = str(done / "delta.safetensors")
    assert main(["apply", delta, "--base", str(tmp_path / "kept"), "--out", str(tmp_path / "two")]) == 0
    assert model_hash(tmp_path / "out") == model_hash(tmp_path / "two")
    assert main(["apply", delta, "--out", str(tmp_path / "three")]) == 2
    assert "name the model it belongs to with --base" in capsys.readouterr().err


def test_report_is_written_again_from_a_finished_run(done, capsys):
    page = done / "report.html"
    page.unlink()
    assert main(["report", str(done)]) == 0
    assert "Ada Stone" in page.read_text()
    assert "rwku" not in capsys.readouterr().err
