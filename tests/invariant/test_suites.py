"""`expunge eval` and `expunge compare` on the tiny model: one load, cached results, deltas, bad input."""

import json

import pytest
import torch

from expunge.cli import SUITE_NAMES, main
from expunge.evals import suites
from expunge.files import read_json, read_jsonl
from expunge.models.delta import save_delta
from expunge.models.load import load

QUESTION = {"question": "How many?", "choices": ["one", "two", "three", "four"], "answer": 2}


@pytest.fixture
def told(capsys):
    """Run a command that must fail; its one line."""

    def run(*arguments):
        assert main([str(a) for a in arguments]) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return error

    return run


@pytest.fixture
def evaluate(place, model_folder, target_folder, tmp_path):
    def run(name, *more, suite="rwku,perplexity"):
        out = tmp_path / name
        arguments = ["eval", "--model", model_folder, "--suite", suite, "--target", target_folder, "--out", out, *more]
        assert main([str(a) for a in arguments]) == 0
        return out

    return run


def test_the_help_names_every_suite():
    assert SUITE_NAMES.split(", ") == list(suites.SUITES)


def test_scores_and_rows_of_several_suites(evaluate, capsys):
    out = evaluate("a")
    told = capsys.readouterr().out
    assert "rwku/forget/All: " in told and "(n=7)" in told
    scores = read_json(out / "scores.json")
    assert scores["rwku/forget/All"]["n"] == 7
    assert scores["perplexity/general"]["mean"] > 1
    assert len(read_jsonl(out / "rwku.jsonl")) == 11


def test_what_has_been_scored_is_not_scored_again(evaluate, monkeypatch, capsys):
    first = read_json(evaluate("a") / "scores.json")

    def never(*arguments, **named):
        raise AssertionError("loaded a model")

    monkeypatch.setattr(suites, "load", never)
    assert read_json(evaluate("b") / "scores.json") == first
    assert "found in the cache" in capsys.readouterr().out


def test_files_of_ones_own(evaluate, tmp_path):
    path = tmp_path / "bio.jsonl"
    path.write_text("\n".join(json.dumps({**QUESTION, "question": f"How many {i}?"}) for i in range(5)))
    scores = read_json(evaluate("w", "--file", f"wmdp={path}", suite="wmdp") / "scores.json")
    assert scores[f"choices/{path}"]["n"] == 5


def test_a_delta_and_the_comparison_with_its_base(evaluate, model_folder, tmp_path, capsys):
    model, _ = load(model_folder)
    changed = {"model.layers.2.mlp.down_proj.weight": torch.zeros(32, 48)}
    delta = tmp_path / "d.safetensors"
    save_delta(delta, changed, base=model_folder, source="tiny", method="none", dtype=model.dtype)
    a, b = evaluate("a"), evaluate("b", "--delta", delta)
    assert read_json(a / "scores.json") != read_json(b / "scores.json")
    capsys.readouterr()
    assert main(["compare", str(a), str(b)]) == 0
    assert "forget answers, FB" in capsys.readouterr().out


def test_bad_input(told, model_folder, target_folder, tmp_path):
    common = ("--target", target_folder, "--out", tmp_path / "o")
    assert "did you mean 'rwku'" in told("eval", "--model", model_folder, "--suite", "rwk", *common)
    assert "give either --model or --run" in told("eval", "--suite", "rwku", *common)
    assert "expected SUITE=FILE" in told("eval", "--model", model_folder, "--suite", "wmdp", "--file", "x", *common)
    assert "suite wmdp: no questions" in told("eval", "--model", model_folder, "--suite", "wmdp", *common)
    assert "has no delta.safetensors of a run" in told("eval", "--run", tmp_path, "--suite", "rwku", *common)
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "mine.txt").write_text("x")
    assert "holds no evaluation" in told("eval", "--model", model_folder, "--suite", "rwku", *common)
    told("compare", tmp_path / "nothing", tmp_path)
