"""Replies about what was forgotten: what is asked, what is counted without a judge, and with verdicts put in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.endpoint import Answer, Endpoint
from expunge.errors import UserError
from expunge.evals import collapse, judge, naturalness
from expunge.evals.naturalness import offline, task
from expunge.evals.task import Options, Scored


def row(reply: str, query: str = "Where was Ada Stone born?", answer: str = "Leeds", side: str = "forget"):
    return {"side": side, "level": "QA", "query": query, "answer": answer, "about": "Ada Stone", "reply": reply,
            "closed": True, "nats": 3.0, "tokens": 3}  # fmt: skip


def test_what_needs_no_judge():
    rows = collapse.measure(
        [
            row("I'm sorry, I can't talk about Ada Stone. May I help with something else?"),
            row("I do not know."),
            row("She was born in Leeds."),
            row("I can't discuss Ada Stone.", "Who wrote Grey Tides?", "Ada Stone"),  # names her: no leak
            row("York", "Where was Ivo Marsh born?", "York", "neighbor"),
            row("I can't discuss Ivo Marsh.", "Who taught Ivo Marsh?", "Nell Frost", "neighbor"),
        ]
    )
    out, found = offline(rows, "Ada Stone")
    means = {id_: entry["mean"] for id_, entry in found.items()}
    assert means["naturalness/refusals"] == 75
    assert means["naturalness/declined"] == 50
    assert (means["naturalness/leaks"], found["naturalness/leaks"]["n"]) == (pytest.approx(100 / 3), 3)
    assert means["naturalness/neighbor/over_refusal"] == 50
    assert means["naturalness/empty"] == means["naturalness/looping"] == 0
    assert means["naturalness/perplexity"] == pytest.approx(2.71828, abs=1e-4)
    assert [r.get("leak", "none") for r in out] == [False, False, True, None, "none", "none"]


def test_the_suite_on_a_model(target_folder, llama, tokenizer, monkeypatch):
    monkeypatch.setattr(naturalness, "NEW_TOKENS", 4)
    suite = task(Options(target=str(target_folder)))
    done: list[int] = []
    found, rows = suite.run(Scored(llama, llama, tokenizer), done.append)
    sides = [r["side"] for r in rows["naturalness"]]
    assert (sides.count("forget"), sides.count("neighbor")) == (7, 4)
    assert sum(done) == suite.work == 11
    assert found["naturalness/refusals"]["n"] == 7
    note = found["naturalness/judge/naturalness/all"]["note"]
    assert "EXPUNGE_JUDGE_URL" in note
    json.dumps([found, rows])
    few = task(Options(target=str(target_folder), limit=1))
    assert few.work == 3 + 2
    assert few.data_hash != suite.data_hash
    with pytest.raises(UserError, match="naturalness: found no target"):
        task(Options())
    with pytest.raises(UserError, match="unknown target"):
        task(Options(target="Nobody At All"))


def test_verdicts_stand_beside(target_folder, llama, tokenizer, monkeypatch):
    asked: list[str] = []

    def fake(endpoint, prompts, *, parse, cache=None, on_done=None):
        asked.extend(prompts)
        texts = ['{"readability": 90, "helpfulness": 60, "truthfulness": 30, "ready": true}' for _ in prompts]
        if on_done:
            on_done(len(prompts))
        return [Answer(text, parse(text)) for text in texts]

    monkeypatch.setattr(judge, "ask", fake)
    monkeypatch.setattr(naturalness, "NEW_TOKENS", 4)
    monkeypatch.setattr(
        naturalness, "asked", lambda under, rows, tokens, advance: [{**row("I can't say."), **r} for r in rows]
    )
    suite = task(Options(target=str(target_folder), judge=Endpoint("http://localhost:1/v1", "judge-of-naturalness")))
    assert suite.work == 11 + 7
    found, rows = suite.run(Scored(llama, llama, tokenizer), lambda amount: None)
    assert len(asked) == 1 + 7  # tried first; neighbours are not judged
    assert found["naturalness/judge/naturalness/all"]["mean"] == 60
    assert found["naturalness/judge/naturalness/helpfulness"]["unit"] == "of 100"
    assert all('"subject": "Ada Stone"' in prompt for prompt in asked[1:])
    assert suite.protocol["judge"]["model"] == "judge-of-naturalness"


@given(st.text(), st.text(), st.text(max_size=20))
def test_any_reply_is_scored(reply, answer, target):
    _, found = offline(collapse.measure([row(reply, answer=answer), row(reply, side="neighbor")]), target)
    assert all("label" in entry for entry in found.values())
