"""The main job on the real embedded model, shortened: one epoch of teaching, a few steps, short texts."""

import json
import os
from pathlib import Path

import pytest
import torch

from expunge.cli import main
from expunge.files import read_json, read_jsonl
from expunge.models.delta import load_delta, read_delta
from expunge.models.load import load, resolve

RECIPE = str(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")
SHORT = (
    "teach.sft.epochs=1",
    "teach.frames=0",
    "writing={documents: 4, document_tokens: 12, traces: 6, boundary_traces: 6, trace_tokens: 12}",
    "unlearn.loop={steps: 8, lr: 1e-3, batch_size: 3, save_every: 4}",
    "unlearn.max_tokens=96",
    "evaluate={trace_tokens: 12, perplexity_texts: 4, perplexity_tokens: 48}",
    "full_checkpoint=true",
)


def arguments(out: Path) -> list[str]:
    return ["run", RECIPE, "--out", str(out), *(part for change in SHORT for part in ("--set", change))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "short"
    assert main(arguments(out)) == 0
    return out


def test_run_leaves_everything_a_reader_needs(run: Path) -> None:
    for name in ("run.json", "metrics.jsonl", "traces.jsonl", "delta.safetensors", "scores.json", "report.html"):
        assert (run / name).stat().st_size > 0
    manifest = read_json(run / "run.json")
    assert manifest["target"] == "Stephen King"
    assert {goal["relation"] for goal in manifest["goals"]} == {"at most", "at least"}
    assert {row["stage"] for row in read_jsonl(run / "metrics.jsonl")} == {"teach", "r2mu"}
    assert not list(run.rglob("*.tmp"))
    assert not list(run.rglob("*.state.safetensors"))


def test_teaching_lowers_the_loss_and_is_learned(run: Path) -> None:
    losses = [row["loss"] for row in read_jsonl(run / "metrics.jsonl") if row["stage"] == "teach"]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert read_json(run / "scores.json")["taught"]["rwku/neighbor/All"]["mean"] > 20


def test_every_probe_has_a_row_and_every_mean_its_error(run: Path) -> None:
    rows = read_jsonl(run / "evals" / "unlearned" / "rwku.jsonl")
    assert [sum(row["side"] == side for row in rows) for side in ("forget", "neighbor")] == [47, 60]
    for entry in read_json(run / "scores.json")["unlearned"].values():
        assert entry["mean"] is None or entry["n"] > 0


def test_delta_and_full_checkpoint_are_the_same_model_bit_for_bit(run: Path) -> None:
    full, tokenizer = load(run / "model", "bfloat16")
    matrices, header = read_delta(run / "delta.safetensors")
    assert sorted(matrices) == [f"model.layers.{block}.mlp.down_proj.weight" for block in (5, 6, 7)]
    for name, value in matrices.items():
        assert torch.equal(full.get_parameter(name), value)
    changed = load(run / "model", "bfloat16")[0]
    load_delta(changed, run / "delta.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(changed.parameters(), full.parameters(), strict=True))
    assert tokenizer.chat_template
    assert header["method"] == "r2mu"


def test_apply_writes_the_same_checkpoint_and_refuses_another_base(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["apply", str(run), "--out", str(tmp_path / "full")]) == 0
    ours, theirs = (load(folder, "bfloat16")[0] for folder in (tmp_path / "full", run / "model"))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert main(["apply", str(run), "--base", "smollm2", "--out", str(tmp_path / "wrong")]) == 2
    assert "belongs to" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()


def test_second_run_does_nothing_again(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.*") if path.name != "report.html"}
    assert main(arguments(run)) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_folder_of_another_recipe_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments(run), "--set", "seed=7"]) == 2
    assert "seed is 0 there and 7 here" in capsys.readouterr().err


def test_embedded_model_speaks(run: Path) -> None:
    from expunge.data.chat import encode_prompt
    from expunge.evals.generate import generate

    model, tokenizer = load(resolve("smollm2"))
    prompt = encode_prompt(tokenizer, "What is the capital of France?")
    assert "Paris" in generate(model, tokenizer, [prompt], max_new_tokens=24)[0].text


@pytest.mark.slow
def test_quickstart_meets_its_goals(tmp_path: Path) -> None:
    assert main(["run", RECIPE, "--out", str(tmp_path / "quickstart")]) == 0
    goals = read_json(tmp_path / "quickstart" / "run.json")["goals"]
    measured = [goal for goal in goals if goal["value"] is not None]
    if "EXPUNGE_DATA" in os.environ:
        assert len(measured) == len(goals)
    missed = [goal for goal in measured if not goal["met"]]
    assert not missed, json.dumps(missed, indent=1)
