"""The suite `lm_eval`: what it is given, and its numbers against our own on a tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_model

from expunge.cli import main
from expunge.data.choices import load_choices
from expunge.errors import UserError
from expunge.evals import harness
from expunge.evals.choices import evaluate
from expunge.evals.harness import harness_scores
from expunge.evals.task import Options, Scored

CHOICES = ["one", "two", "three", "four"]


def write_questions(path: Path, count: int = 6) -> Path:
    rows = [{"question": f"How many {i}?", "choices": CHOICES, "answer": i % 4, "subject": "it"} for i in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def write_task(folder: Path) -> Path:
    (folder / "towns.jsonl").write_text("\n".join(json.dumps({"q": f"Where is {i}?", "a": "York"}) for i in range(5)))
    path = folder / "towns.yaml"
    path.write_text(
        f"""task: towns
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder / "towns.jsonl"}}}, cache_dir: {folder / "datasets"}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{q}}}} Answer:"
doc_to_target: "{{{{a}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 3}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
    )
    return path


# --- without lm-eval ---------------------------------------------------------------------------------------------


def test_without_lm_eval_it_says_what_to_install(monkeypatch, tmp_path):
    files = {"lm_eval": [str(write_questions(tmp_path / "bio.jsonl"))]}
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'expunge\[lm-eval\]'"):
        harness.task(Options(files=files))


def test_without_a_source_it_says_what_to_give():
    with pytest.raises(UserError, match=r"--file lm_eval=SOURCE: mmlu:SUBJECT"):
        harness.task(Options())


@pytest.mark.parametrize("manner", [("--zero-think",), ("--icu", "Ada Stone")])
def test_a_manner_that_it_can_not_ask_in_is_refused_before_anything_is_written(
    manner, model_folder, tmp_path, cache, capsys
):
    given = ["eval", "--model", model_folder, "--suite", "lm_eval", "--file", "lm_eval=mmlu:all", *manner]
    assert main([*map(str, given), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "found ZeroThink or ICU" in error and "ask the suites wmdp and mmlu" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def row_of(filter_: str, **values: Any) -> dict[str, Any]:
    return {"of": "t", "filter": filter_, "values": values}


def test_means_have_an_error_and_what_is_no_mean_is_as_lm_eval_says():
    rows = [row_of("none", acc=x, f1=None, median=y) for x, y in ((1.0, 1.0), (0.0, 1.0), (1.0, 4.0))]
    rows += [row_of("strict", acc=0.0)]
    results = {"t": {"acc,none": 2 / 3, "f1,none": 0.25, "median,none": 1.0, "acc,strict": 0.0}}
    found = harness_scores(rows, results)
    assert found["lm_eval/t/acc"]["mean"] == pytest.approx(200 / 3)
    assert found["lm_eval/t/acc"]["n"] == 3 and found["lm_eval/t/acc"]["se"] > 0
    assert (found["lm_eval/t/f1"]["mean"], found["lm_eval/t/f1"]["se"], found["lm_eval/t/f1"]["n"]) == (0.25, None, 3)
    assert (found["lm_eval/t/median"]["mean"], found["lm_eval/t/median"]["se"]) == (1.0, None)  # not the mean, 2
    assert found["lm_eval/t/acc/strict"]["mean"] == 0


# --- with it -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    pytest.importorskip("lm_eval")
    return make_model(dtype=torch.float32, noise=0.05)


def test_letters_and_likelihoods_are_our_own(small, tokenizer, tmp_path):
    path = write_questions(tmp_path / "bio.jsonl")
    task = harness.task(Options(files={"lm_eval": [str(path), str(write_task(tmp_path))]}))
    done: list[int] = []
    found, rows = task.run(Scored(small, small, tokenizer), done.append)
    assert sum(done) == task.work == 6 + 5
    ours = evaluate(small, tokenizer, load_choices(path))
    theirs = [row for row in rows["lm_eval"] if row["of"] == "bio"]
    assert [row["prompt"].count("The following") for row in theirs] == [1] * 6
    for mine, row in zip(ours, theirs, strict=True):
        assert row["replies"] == pytest.approx(mine["log_likelihoods"], abs=1e-4)
        assert 100 * row["values"]["acc"] == mine["score"]
    assert found["lm_eval/bio/acc"]["mean"] == pytest.approx(sum(row["score"] for row in ours) / 6)
    assert found["lm_eval/towns/exact_match"]["n"] == 5
    assert json.loads(json.dumps(rows)) == rows
    assert task.run(Scored(small, small, tokenizer), done.append) == (found, rows)  # what was read serves twice


def test_the_limit_is_spread_and_the_hash_follows_the_data(small, tokenizer, tmp_path):
    files = {"lm_eval": [str(write_questions(tmp_path / "bio.jsonl"))]}
    task = harness.task(Options(limit=3, files=files))
    _, rows = task.run(Scored(small, small, tokenizer), lambda count: None)
    assert [row["id"] for row in rows["lm_eval"]] == [0, 2, 4]
    assert task.data_hash == harness.task(Options(limit=3, files=files)).data_hash
    assert task.data_hash != harness.task(Options(limit=2, files=files)).data_hash
    write_questions(tmp_path / "bio.jsonl", 9)
    assert task.data_hash != harness.task(Options(limit=3, files=files)).data_hash


def test_bad_sources(small, tmp_path):
    path = write_questions(tmp_path / "bio.jsonl")
    broken = tmp_path / "broken.yaml"
    broken.write_text("task: broken\ndataset_path: json\n")
    for sources, told in (
        (["bio"], "--file lm_eval=bio: Give"),
        ([tmp_path / "no.yaml"], r"no\.yaml: lm-eval can not load it"),
        ([broken], r"broken\.yaml: lm-eval can not load it"),
        ([tmp_path / "no.jsonl"], "no such file"),
        ([path, path], "a task named 'bio' already"),
    ):
        with pytest.raises(UserError, match=told):
            harness.task(Options(files={"lm_eval": [str(source) for source in sources]}))
    path.write_text('{"question": "Q", "choices": ["a"], "answer": 0}')
    with pytest.raises(UserError, match=r"bio\.jsonl: row 1: choices"):
        harness.task(Options(files={"lm_eval": [str(path)]}))
