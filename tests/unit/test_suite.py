"""A recipe's evaluation: its data are read once for all models; a corpus that is missing is named."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tiny import make_model

from expunge.errors import UserError
from expunge.evals import suite, suites
from expunge.evals.task import Options, Scored, Task, manner_of
from expunge.files import read_jsonl
from expunge.methods.icu import INSTRUCTION
from expunge.methods.zerothink import EMPTY_THOUGHT
from expunge.recipe import Evaluate

QUESTION = {"question": "How many?", "choices": ["one", "two", "three", "four"], "answer": 2}


@pytest.fixture
def protocol(tmp_path, monkeypatch):
    """An evaluation of four-choice questions, open questions, one suite and few texts; WikiText is not there."""
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)
    four, open_ = tmp_path / "four.jsonl", tmp_path / "open.jsonl"
    four.write_text(json.dumps(QUESTION))
    open_.write_text(json.dumps({"text": "Who?"}))
    return Evaluate(
        trace_tokens=3,
        perplexity_texts=2,
        perplexity_tokens=20,
        choices=(str(four),),
        questions=(str(open_),),
        suites=("tofu",),
    )


def test_data_are_read_once_and_serve_every_model(protocol, llama, tokenizer, monkeypatch):
    read: list[str] = []

    def task(options: Options) -> Task:
        read.append("tofu")
        return Task("tofu", {}, "", 1, lambda under, advance: (advance(1), ({"tofu/x": {}}, {"tofu": []}))[1])

    monkeypatch.setitem(suites.SUITES, "tofu", task)
    data = suite.read(None, protocol)
    for name in (*protocol.choices, *protocol.questions):
        Path(name).unlink()
    scores = []
    for _ in range(2):
        done: list[int] = []
        found, rows = suite.evaluate(Scored(llama, llama, tokenizer), None, protocol, data, done.append)
        assert sum(done) == suite.work(None, data) == 1 + 1 + 1 + 2
        assert set(rows) == {"rwku", "traces", "choices", "questions", "tofu"}
        scores.append(found)
    assert scores[0] == scores[1]
    assert read == ["tofu"]
    assert set(suite.scores(None, protocol)) | {"tofu/x"} == set(scores[0])


def test_a_suite_that_is_none_is_refused(protocol):
    with pytest.raises(UserError, match="evaluate.suites: found 'tofoo'; did you mean 'tofu'"):
        suite.read(None, dataclasses.replace(protocol, suites=("tofoo",)))
    with pytest.raises(UserError, match="evaluate.suites: found 'rwku'"):
        suite.read(None, dataclasses.replace(protocol, suites=("rwku",)))


def test_a_recipe_names_the_files_of_its_suites(protocol, tmp_path):
    row = {"question": "Which is a fruit?", "choices": ["iron", "pear", "oak", "wool"], "answer": 1}
    file = tmp_path / "w.jsonl"
    file.write_text(json.dumps(row), encoding="utf-8")
    own = dataclasses.replace(protocol, choices=(), questions=(), suites=("wmdp",), files={"wmdp": (str(file),)})
    assert [task.work for task in suite.read(None, own).tasks] == [1]
    with pytest.raises(UserError, match=r"found 'safety', expected one of evaluate.suites \(wmdp\)"):
        suite.read(None, dataclasses.replace(own, files={"safety": (str(file),)}))


def test_a_recipe_in_another_manner_can_not_ask_lm_eval(protocol):
    own = dataclasses.replace(protocol, suites=("lm_eval",), files={"lm_eval": protocol.choices})
    with pytest.raises(UserError, match="found ZeroThink or ICU"):
        suite.read(None, own, plain=False)


@pytest.mark.parametrize(("zero_think", "icu"), [(True, None), (False, "Ada"), (True, "Ada")])
def test_multiple_choice_is_asked_in_the_manner_of_replies(protocol, tokenizer, zero_think, icu):
    model = make_model(noise=0.1)
    under = Scored(model, model, tokenizer, manner_of(zero_think, icu))
    [questions] = suite.read(None, dataclasses.replace(protocol, suites=())).choices.values()
    told = INSTRUCTION.replace("{target}", "Ada") if icu else ""
    text = (
        f"<|im_start|>user\n{told}The following are multiple choice questions (with answers).\n\n"
        "How many?\nA. one\nB. two\nC. three\nD. four<|im_end|>\n<|im_start|>assistant\n"
        f"{EMPTY_THOUGHT if zero_think else ''}Answer:"
    )
    wanted = []
    for letter in "ABCD":
        ids = tokenizer(f"{text} {letter}", add_special_tokens=False)["input_ids"]
        begin = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            log_p = model(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
        wanted.append(sum(log_p[i - 1, ids[i]].item() for i in range(begin, len(ids))))
    [row] = suite.score_choices({}, "four", questions, under, lambda count: None)
    assert row["log_likelihoods"] == pytest.approx(wanted, abs=1e-5)
    [bare] = suite.score_choices({}, "four", questions, Scored(model, model, tokenizer), lambda count: None)
    assert bare["log_likelihoods"] != pytest.approx(wanted, abs=1e-3)


def test_rows_of_two_suites_of_one_kind_are_all_kept(protocol, llama, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    [four] = protocol.choices
    both = dataclasses.replace(protocol, suites=("wmdp", "mmlu"), files={"wmdp": (four,), "mmlu": (four,)})
    under = Scored(llama, llama, tokenizer)
    _, rows = suite.evaluate(under, None, both, suite.read(None, both), lambda count: None)
    assert len(rows["choices"]) == 3  # evaluate.choices and both suites
    monkeypatch.setattr(suites, "_load", lambda *rest: under)
    monkeypatch.setattr(suites, "resolve", lambda name: tmp_path)
    monkeypatch.setattr(suites, "model_hash", lambda folder: "x")
    out = suites.evaluate(suites.Subject("m"), ["wmdp", "mmlu"], tmp_path / "out", Options(files=both.files))
    assert len(read_jsonl(out / "choices.jsonl")) == 2


def test_recipe_and_eval_say_the_same_of_held_out_texts(protocol, llama, tokenizer, monkeypatch):
    monkeypatch.setattr(suites, "TEXTS", 2)
    monkeypatch.setattr(suites, "TEXT_TOKENS", 20)
    under, none = Scored(llama, llama, tokenizer), dataclasses.replace(protocol, choices=(), questions=(), suites=())
    of_eval, _ = suites.SUITES["perplexity"](Options()).run(under, lambda count: None)
    of_recipe, _ = suite.evaluate(under, None, none, suite.read(None, none), lambda count: None)
    assert of_eval == of_recipe
    assert of_eval["perplexity/wikitext"]["mean"] is None
    assert "wiki.test.raw.txt" in of_eval["perplexity/wikitext"]["note"]
    assert of_eval["perplexity/general"]["n"] == 2
