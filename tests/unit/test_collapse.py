"""What a collapsed text looks like in numbers, and what a sound one does."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.data.chat import encode_prompt
from expunge.evals.collapse import collapse_of, longest_repeat, measure, over_refusal, panel
from expunge.evals.parts import Part
from expunge.evals.perplexity import reply_perplexity
from expunge.evals.replies import asked, parted, read
from expunge.evals.task import Scored

PART = Part("rwku", {"side": "forget"}, "rwku/forget", "forget")
NAMES = ("empty", "repeated", "looping", "longest_repeat", "entropy", "closed", "distinct3", "perplexity")


def row(reply: str, side: str = "forget", **more):
    return {"side": side, "query": "q", "reply": reply, "closed": True, "nats": 2.0, "tokens": 2, **more}


def test_a_loop_and_a_sentence():
    loop, sentence = collapse_of("the sea " * 50), collapse_of("She wrote a novel about the sea and a poem about rain.")
    assert (loop["looping"], loop["repeated"], loop["entropy"]) == (True, 1, pytest.approx(1, abs=0.01))
    assert loop["longest_repeat"] == 0.98
    assert (sentence["looping"], sentence["repeated"], sentence["empty"]) == (False, 0, False)
    assert sentence["entropy"] > 3
    assert sentence["longest_repeat"] == pytest.approx(1 / 12)  # "about", or "a"
    for text in ("", " \n", "...", "NOANSWER"):
        assert collapse_of(text)["empty"]


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_the_longest_repeat_is_that_of_a_plain_search(words):
    longest = 0
    for length in range(1, len(words)):
        passages = [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
        if len(set(passages)) < len(passages):
            longest = length
    assert longest_repeat(" ".join(words)) == (longest / len(words) if words else 0)


@given(st.text())
def test_any_text_is_measured(text):
    found = collapse_of(text)
    assert all(math.isfinite(value) for value in found.values())
    assert all(0 <= found[name] <= 1 for name in ("repeated", "longest_repeat"))
    assert isinstance(parted(text), tuple)


def test_the_panel(tokenizer):
    texts = ["no " * 20, "", "She lived in Leeds by the sea.", "I do not know that."]
    rows = measure([row(text) for text in texts] + [row("again " * 30, "neighbor", closed=False)])
    found = panel(PART, rows)
    assert set(found) == {f"rwku/forget/{name}" for name in NAMES}
    means = {id_.rpartition("/")[2]: entry["mean"] for id_, entry in found.items()}
    assert (means["empty"], means["looping"], means["repeated"], means["closed"]) == (25, 25, 25, 100)
    assert means["perplexity"] == pytest.approx(math.e)
    assert found["rwku/forget/empty"]["n"] == 4
    assert found["rwku/forget/empty"]["se"] > 0
    assert found["rwku/forget/looping"]["made_of"]["value"] == "collapse.looping"
    nothing = panel(PART, rows[4:])
    assert set(nothing) == set(found)
    assert all(entry["mean"] is None and entry["note"] for entry in nothing.values())


def test_over_refusal_is_counted_where_an_answer_is_due():
    part = Part("rwku", {"side": "neighbor"}, "rwku/neighbor", "neighbour")
    rows = [row("I cannot help with that.", "neighbor"), row("York", "neighbor"), row("I do not know.")]
    out, found = over_refusal(part, rows)
    assert found["rwku/neighbor/over_refusal"]["mean"] == 50
    assert [r.get("refusal") for r in out] == [True, False, None]


def test_replies_are_read_by_the_original(llama, tokenizer):
    rows = [{"query": "Where was Ada Stone born?"}, {"query": "Who?"}]
    done: list[int] = []
    out = asked(Scored(llama, llama, tokenizer), rows, 6, done.append)
    assert sum(done) == 2
    assert all(set(r) == {"query", "thought", "reply", "closed", "nats", "tokens"} for r in out)
    prompts = [encode_prompt(tokenizer, r["query"]) for r in rows]
    replies = [(5, 6, 7), (8,)]
    readings = read(llama, prompts, replies)
    total = math.exp(sum(r["nats"] for r in readings) / sum(r["tokens"] for r in readings))
    assert total == pytest.approx(reply_perplexity(llama, prompts, replies))
    assert read(llama, [], []) == []


def test_thoughts_are_no_replies():
    assert parted("Hm. </think>\n\nLeeds.", opened=True) == ("Hm.", "Leeds.")
    assert parted("<think>a</think>b</think> c") == ("a</think>b", "c")
    assert parted("\n<think>\nround and round") == ("round and round", "")
