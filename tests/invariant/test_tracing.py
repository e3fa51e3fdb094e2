"""Traces about documents: the same file one at a time, in batches, after an interrupt and by several processes."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_model, make_tokenizer, save_model, write_recipe

from expunge import pipeline, tracing
from expunge.cli import main
from expunge.data.sources import Material, texts
from expunge.data.writing import OPENER, reason_about
from expunge.errors import UserError
from expunge.files import read_jsonl
from expunge.models.load import load
from expunge.recipe import load_recipe
from expunge.tracing import Tracing, trace

DOCUMENTS = [
    "Ada Stone wrote the novel.",
    "Ivo Marsh was born in York, in a street without a name.",
    "Rain.",
    "Therefore it is Leeds. " * 9,
    "Ada Stone wrote the novel.",  # once more
    "Which one?\u2028One thing I remember.",
    "The question is about Ivo Marsh.",
]
SETTINGS = Tracing(tokens=3, segments=3, read_tokens=20, batch_size=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that ends some of its traces by itself: a token it often writes is one of its end tokens."""
    random = make_model(dtype=torch.float32)
    tokenizer = make_tokenizer()
    prompts = [reason_about(tokenizer, document, SETTINGS.read_tokens) for document in DOCUMENTS]
    replies = [random.generate(torch.tensor([p]), max_new_tokens=9, do_sample=False)[0, len(p) :] for p in prompts[:2]]
    random.generation_config.eos_token_id = [2, int(replies[1][4])]
    return str(save_model(tmp_path_factory.mktemp("tracing"), random, tokenizer))


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("documents") / "mine.jsonl", DOCUMENTS)


@pytest.fixture(scope="module")
def undisturbed(model: str, documents: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return trace(model, documents, tmp_path_factory.mktemp("whole") / "t.jsonl", SETTINGS).read_text()


def write(path: Path, found: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in found))
    return str(path)


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.split("\n")[:-1]]


def after_batch(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Have something happen when batch ``number`` (from 1) is kept; the bar is told of what is kept first."""

    @contextmanager
    def bar(title: str, total: float | None) -> Iterator[Callable[[float], None]]:
        calls: list[float] = []

        def advance(amount: float) -> None:
            calls.append(amount)
            if len(calls) == number + 1:
                act()

        yield advance

    monkeypatch.setattr(tracing, "bar", bar)


def no_model(*arguments: Any) -> None:
    raise AssertionError("the model is not to be loaded")


def test_traces_equal_those_written_one_at_a_time(model, documents, undisturbed):
    loaded, tokenizer = load(Path(model))
    wanted = []
    for document in DOCUMENTS:
        prompt = reason_about(tokenizer, document, 20)
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        new = loaded.generate(ids, attention_mask=mask, max_new_tokens=9, do_sample=False)[0, len(prompt) :].tolist()
        ends = [2, *loaded.generation_config.eos_token_id]
        closed = new[-1] in ends
        new = new[:-1] if closed else new
        pieces = [new[i : i + 3] for i in range(0, max(1, len(new)), 3)]
        for i, piece in enumerate(pieces):
            text = OPENER + tokenizer.decode(piece, skip_special_tokens=True)
            wanted.append((document[:200], i, text, len(piece), closed and i + 1 == len(pieces)))
    found = rows_of(undisturbed)
    assert [(r["document"], r["segment"], r["text"], r["tokens"], r["closed"]) for r in found] == wanted
    assert 0 < sum(r["closed"] for r in found) < len(DOCUMENTS)
    assert {(r["model"], r["decoding"], r["read_tokens"], r["segments"], r["max_tokens"]) for r in found} == {
        (model, "greedy", 20, 3, 3)
    }
    assert len({r["id"] for r in found}) == len(set(DOCUMENTS))


def test_the_file_is_a_source_of_texts(undisturbed, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(undisturbed)
    assert [text.text for text in texts(str(path), Material(None, None, {}))] == [
        row["text"] for row in rows_of(undisturbed)
    ]


@pytest.mark.parametrize("batch_size", [1, 64])
def test_the_batch_size_does_not_matter(model, documents, undisturbed, tmp_path, batch_size):
    settings = replace(SETTINGS, batch_size=batch_size)
    assert trace(model, documents, tmp_path / "t.jsonl", settings).read_text() == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_call_goes_on_to_the_same_file(
    model, documents, undisturbed, tmp_path, monkeypatch, number, torn
):
    out, partial = tmp_path / "new" / "t.jsonl", tmp_path / "new" / "t.jsonl.partial.jsonl"
    with monkeypatch.context() as patch:
        after_batch(patch, 2, lambda: os.kill(os.getpid(), number))
        with pytest.raises(KeyboardInterrupt):
            trace(model, documents, out, SETTINGS)
    assert not out.exists()
    kept = rows_of(partial.read_text())
    assert len({row["id"] for row in kept}) == 4
    assert all(row in rows_of(undisturbed) for row in kept)
    if torn:  # in the middle of a line: what is left of its document is not a whole trace
        partial.write_bytes(partial.read_bytes()[:-40])
    assert trace(model, documents, out, SETTINGS).read_text() == undisturbed
    assert [path.name for path in out.parent.iterdir()] == ["t.jsonl"]


def test_a_recipe_interrupted_in_its_traces_computes_only_the_rest(
    model, documents, undisturbed, target_folder, cache, tmp_path, monkeypatch
):
    about = {"about": [documents], "trace_tokens": 3, "segments": 3, "read_tokens": 20, "batch_size": 2, "traces": 7}
    about |= {"documents": 2, "document_tokens": 4, "boundary_traces": 1}
    recipe = load_recipe(str(write_recipe(tmp_path / "r.yaml", model, target_folder, teach=None, writing=about)))
    asked: list[int] = []
    generate = tracing.generate
    monkeypatch.setattr(tracing, "generate", lambda *a, **k: asked.append(len(a[2])) or generate(*a, **k))
    pipeline.run(recipe, tmp_path / "whole", "write")
    wanted = read_jsonl(tmp_path / "whole" / "traces.jsonl")
    assert asked == [2, 2, 2]  # one of the seven documents comes twice
    kinds = ["target_documents", "target_traces", "boundary_traces", "document_traces"]
    assert list(dict.fromkeys(row["kind"] for row in wanted)) == kinds
    found = [(row["text"], row["segment"]) for row in wanted if row["kind"] == "document_traces"]
    assert found == [(row["text"], row["segment"]) for row in rows_of(undisturbed)]
    keys = ["kind", "prompt", "start", "context", "text", "segment", "model", "model_hash", "decoding"]
    assert list(wanted[-1]) == keys
    assert [wanted[-1][key] for key in keys[1:4]] == [DOCUMENTS[-1], OPENER, ""]

    asked.clear()
    with monkeypatch.context() as patch:
        after_batch(patch, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(recipe, tmp_path / "cut", "write")
    assert asked == [2]
    assert not (tmp_path / "cut" / "traces.jsonl").exists()
    assert len({row["id"] for row in read_jsonl(tmp_path / "cut" / "traces.jsonl.partial.jsonl")}) == 2
    pipeline.run(recipe, tmp_path / "cut", "write")
    assert asked == [2, 2, 2]
    both = [(tmp_path / name / "traces.jsonl").read_text() for name in ("cut", "whole")]
    assert both[0] == both[1]
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {"recipe.json", "seconds.json", "traces.jsonl"}


def test_a_finished_file_is_returned_at_once(model, documents, undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "t.jsonl"
    out.write_text(undisturbed)
    before = out.stat().st_mtime_ns
    monkeypatch.setattr(tracing, "load", no_model)
    assert trace(model, documents, out, SETTINGS) == out
    assert out.stat().st_mtime_ns == before


def test_new_documents_are_added_and_lost_ones_refused(model, documents, undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "t.jsonl"
    first = write(tmp_path / "first.jsonl", DOCUMENTS[:4])
    trace(model, first, out, SETTINGS)
    asked: list[int] = []
    generate = tracing.generate
    monkeypatch.setattr(tracing, "generate", lambda *a, **k: asked.append(len(a[2])) or generate(*a, **k))
    assert trace(model, documents, out, SETTINGS).read_text() == undisturbed
    assert sum(asked) == 2
    with pytest.raises(UserError, match="is about 2 documents that are not in"):
        trace(model, first, out, SETTINGS)
    assert out.read_text() == undisturbed


def test_two_processes_write_the_same_file(model, documents, undisturbed, tmp_path):
    settings = replace(SETTINGS, processes=2)
    assert trace(model, documents, tmp_path / "t.jsonl", settings).read_text() == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("how", ["one dies", "all die", "all get SIGINT", "all get SIGTERM"])
def test_processes_that_end_early_lose_nothing(model, documents, undisturbed, tmp_path, monkeypatch, how):
    """Forked here, which takes no time; that they are spawned makes no difference to what is tested."""
    monkeypatch.setattr(tracing, "get_context", lambda _: multiprocessing.get_context("fork"))
    out, settings = tmp_path / "t.jsonl", replace(SETTINGS, batch_size=1, tokens=30, processes=2)
    wanted = trace(model, documents, tmp_path / "alone.jsonl", replace(settings, processes=1)).read_text()

    def act() -> None:
        children = multiprocessing.active_children()
        for child in children[: 1 if how == "one dies" else None]:
            os.kill(child.pid, signal.SIGKILL if "die" in how else getattr(signal, how.split()[-1]))
        if "die" not in how:
            os.kill(os.getpid(), getattr(signal, how.split()[-1]))

    with monkeypatch.context() as patch:
        after_batch(patch, 1, act)
        with pytest.raises((UserError, KeyboardInterrupt)) as ended:
            trace(model, documents, out, settings)
    assert str(ended.value)[:37] == ("a worker failed: exit code -9. What i" if "die" in how else "")
    assert multiprocessing.active_children() == []
    kept = rows_of((tmp_path / "t.jsonl.partial.jsonl").read_text())
    assert 0 < len({row["id"] for row in kept}) < len(set(DOCUMENTS))
    assert all(row in rows_of(wanted) for row in kept)
    assert trace(model, documents, out, settings).read_text() == wanted


def test_an_error_in_a_worker_is_told(model, documents, tmp_path, monkeypatch, capsys):
    def fail(*arguments: Any) -> None:
        raise ValueError("a strange config")

    monkeypatch.setattr(tracing, "get_context", lambda _: multiprocessing.get_context("fork"))
    arguments = ["traces", model, "--documents", documents, "--out", str(tmp_path / "t.jsonl")]
    monkeypatch.setattr(tracing, "load", fail)
    assert main([*arguments, "--processes", "2", "--batch-size", "2"]) == 2
    assert "a worker failed: ValueError: a strange config. What is done is kept" in capsys.readouterr().err
    monkeypatch.undo()

    def no_memory(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(tracing, "generate", no_memory)
    assert main([*arguments, "--batch-size", "2"]) == 2
    assert (
        "cpu is out of memory: give a --batch-size (in a recipe, writing.batch_size, with another --out) below 2."
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--tokens", "4"], "max_tokens is 3 there and 4 here"),
        (["--segments", "1"], "segments is 3 there and 1 here"),
        (["--read-tokens", "21"], "read_tokens is 20 there and 21 here"),
        (["--dtype", "bfloat16"], "dtype is float32 there and bfloat16 here"),
        (["--another-model"], "model is "),
    ],
)
def test_a_file_of_other_settings_is_refused(
    model, model_folder, documents, undisturbed, tmp_path, monkeypatch, capsys, finished, changed, told
):
    out = tmp_path / ("t.jsonl" if finished else "t.jsonl.partial.jsonl")
    out.write_text(undisturbed)
    monkeypatch.setattr(tracing, "load", no_model)
    options = {"--tokens": "3", "--segments": "3", "--read-tokens": "20"} | dict([changed] if len(changed) == 2 else [])
    chosen = str(model_folder) if changed == ["--another-model"] else model
    arguments = ["--documents", documents, "--out", str(tmp_path / "t.jsonl")]
    assert main(["traces", chosen, *arguments, *[word for pair in options.items() for word in pair]]) == 2
    message = capsys.readouterr().err
    assert f"{out} was begun with other settings: {told}" in message
    assert message.count("\n") == 1
    assert out.read_text() == undisturbed


@pytest.mark.parametrize(
    ("options", "content", "told"),
    [
        (["--tokens", "0"], None, "tokens: found 0, expected a whole number of at least 1"),
        (["--segments", "-1"], None, "segments: found -1"),
        (["--read-tokens", "0"], None, "read tokens: found 0"),
        (["--batch-size", "0"], None, "batch size: found 0"),
        (["--processes", "0"], None, "processes: found 0"),
        ([], "", "bad.jsonl: no rows"),
        ([], '{"text": "a"}\n{"text": ', "bad.jsonl:2: not valid JSON"),
        ([], '{"text": "a"}\n{"txt": "b"}', "bad.jsonl: line 2: field 'text' is None"),
        (["--documents", "gone.jsonl"], None, "gone.jsonl: no such file"),
        (["--documents", "genral"], None, "unknown source 'genral'; did you mean 'general'?"),
        (["--documents", "target_questions"], None, "this source is about a target"),
    ],
)
def test_bad_input_is_told_before_anything_is_loaded(model, tmp_path, monkeypatch, capsys, options, content, told):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a"}\n' if content is None else content)
    monkeypatch.setattr(tracing, "load", no_model)
    out = tmp_path / "out" / "t.jsonl"
    assert main(["traces", model, "--documents", str(bad), "--out", str(out), *options]) == 2
    message = capsys.readouterr().err
    assert told in message
    assert message.count("\n") == 1
    assert not out.parent.exists()


@pytest.mark.parametrize("place", ["mine.jsonl", "folder", "mine.jsonl/t.jsonl"])
def test_an_out_that_is_something_else_is_left_alone(model, tmp_path, monkeypatch, capsys, place):
    source = write(tmp_path / "mine.jsonl", DOCUMENTS)
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(tracing, "load", no_model)
    assert main(["traces", model, "--documents", source, "--out", str(tmp_path / place)]) == 2
    assert str(tmp_path / place.split("/")[0]) in capsys.readouterr().err
    assert len((tmp_path / "mine.jsonl").read_text().split("\n")) == len(DOCUMENTS) + 1


def test_a_model_that_is_not_there(documents, tmp_path, capsys):
    assert main(["traces", "smolm2", "--documents", documents, "--out", str(tmp_path / "t.jsonl")]) == 2
    assert "unknown model 'smolm2'" in capsys.readouterr().err
