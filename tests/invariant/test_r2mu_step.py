"""The benchmark of R2MU's step on a tiny random model: what it prints, writes and refuses."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "r2mu_step.py"
TINY = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 9, "vocab_size": 320}
LENGTHS = {"forget": 12, "retain": 10, "trace": 7, "question": 9, "reasoning": 8, "opened": 8}


@pytest.fixture
def script(monkeypatch) -> Any:
    """The script with a shape `tiny`, short streams, and everything in this process."""
    spec = importlib.util.spec_from_file_location("r2mu_step", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(module.SHAPES, "tiny", TINY)
    monkeypatch.setattr(module, "LENGTHS", LENGTHS)
    monkeypatch.setattr(module, "in_own_process", lambda function, *arguments: function(*arguments))
    return module


def run(script: Any, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    given = ["r2mu_step.py", "--shape", "tiny", "--batch-size", "2", "--question-tokens", "9", *options]
    monkeypatch.setattr(sys, "argv", given)
    return script.main()


def test_the_released_step_and_ours_have_the_same_losses_and_the_ratios_are_told(script, monkeypatch, capsys, tmp_path):
    path = tmp_path / "step.json"
    assert run(script, monkeypatch, "--steps", "4", "--results", str(path)) == 0
    lines = capsys.readouterr().out.splitlines()
    told = json.loads(path.read_text())
    losses = told["losses"]
    assert len(losses["released"]) == 5  # one step to warm up
    assert losses["ours"] == pytest.approx(losses["released"], rel=1e-5)
    assert losses["ours, cached"] == pytest.approx(losses["released"], rel=1e-5)
    assert losses["released"][-1] < losses["released"][0]
    for name in ("float32", "cached", "bf16"):
        assert f"ratio {name} {told['ratios'][name]:.2f}" in lines
    assert told["tokens"] == LENGTHS
    assert told["command"].startswith("python benchmarks/r2mu_step.py --shape tiny --batch-size 2")
    assert {"commit", "created", "machine", "versions"} <= told.keys()


@pytest.mark.parametrize(
    ("dtype", "factor", "code"),
    [("float32", 1.0001, 1), ("float32", float("nan"), 1), ("bfloat16", 1.1, 1), ("bfloat16", 1.0, 0)],
)
def test_the_exit_code_is_1_when_a_loss_deviates(script, monkeypatch, dtype, factor, code):
    step, seen = script.Ours.step, []

    def third_is_off(self: Any, given: Any) -> float:
        seen.append(step(self, given))
        return seen[-1] * (factor if len(seen) == 3 else 1)

    monkeypatch.setattr(script.Ours, "step", third_is_off)
    assert run(script, monkeypatch, "--steps", "2", "--dtype", dtype) == code


def test_peak_memory_is_that_of_two_steps(script, monkeypatch, tmp_path):
    script.random_checkpoint(tmp_path / "model", TINY)
    step, lengths = script.Ours.step, []

    def counted(self: Any, given: Any) -> float:
        lengths.append({name: batch.ids.shape[1] for name, batch in given.items()})
        return step(self, given)

    monkeypatch.setattr(script.Ours, "step", counted)
    assert script.peak(tmp_path / "model", "float32", 2, LENGTHS, "ours") > 0
    assert lengths == [LENGTHS, LENGTHS]
