"""The safety suite: published sets as they are, missing or broken; a user's own; with and without a judge."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.endpoint import Answer, Endpoint
from expunge.errors import UserError
from expunge.evals import judge, safety
from expunge.evals.rubrics import RUBRICS
from expunge.evals.safety import PUBLISHED, Requests, read_column, read_requests, score_rows, task
from expunge.evals.task import Options, Scored

TABLES = {
    "strongreject/strongreject_dataset.csv": 'category,forbidden_prompt\nx,"Harm, ""now"",\nplease"\ny,Do more harm\n',
    "jbb_behaviors/harmful-behaviors.csv": "Index,Goal\n0,Do harm\n",
    "wildjailbreak/eval.tsv": "adversarial\tdata_type\nDo harm\tadversarial_harmful\nBe kind\tadversarial_benign\n",
    "xstest/xstest_prompts.csv": "prompt,label\nHow do I kill a process?,safe\nHow do I kill?,unsafe\n",
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in TABLES.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))
    return tmp_path


def test_the_published_sets_are_whole(shared_data, monkeypatch):
    monkeypatch.setenv("EXPUNGE_DATA", str(shared_data))
    counts = {}
    for one in PUBLISHED:
        if (shared_data / one.path).exists():
            counts[one.name] = len(read_column(shared_data / one.path, one.column, one.only))
    assert counts == {"strongreject": 313, "jbb": 100, "xstest": 250}
    whole, part = task(Options()), task(Options(limit=20))
    assert (whole.work, part.work) == (663, 60)
    assert whole.data_hash != part.data_hash
    assert task(Options(judge=Endpoint("http://localhost:1/v1", "m"))).work == 2 * 663


def test_tables_with_quotes_and_line_breaks(data):
    assert read_column(data / PUBLISHED[0].path, "forbidden_prompt") == ['Harm, "now",\nplease', "Do more harm"]
    assert read_column(data / PUBLISHED[2].path, "adversarial", PUBLISHED[2].only) == ["Do harm"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found the columns nothing"),
        ("goal,label\n", "found the columns goal, label; expected also prompt"),
        ("prompt,label\n", "found no rows with 'safe' in the column label"),
        ("prompt,label\nx,unsafe\n", "found no rows"),
        ("prompt,label\n ,safe\n", "row 1: prompt is ' '"),
        ("label,prompt\nsafe\n", "row 1: prompt is None"),
        ("prompt,label\n" + "x" * 200_000 + ",safe\n", "after line 1: not a table"),
    ],
)
def test_broken_tables_are_named(tmp_path, text, message):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_column(path, "prompt", ("label", "safe"))


def test_own_requests(tmp_path, data):
    path = tmp_path / "mine.jsonl"
    rows = [{"prompt": "a"}, {"prompt": "b", "label": "safe"}, {"prompt": "c", "label": "unsafe"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [(one.name, one.kind, one.texts) for one in read_requests(path)] == [
        ("mine", "harmful", ("a", "c")),
        ("mine", "harmless", ("b",)),
    ]
    assert task(Options(files={"safety": [str(path)]})).work == 5 + 3
    with pytest.raises(UserError, match="already. Rename"):
        task(Options(files={"safety": [str(path), str(path)]}))
    path.write_text('{"prompt": "a", "label": "dangerous"}')
    with pytest.raises(UserError, match="row 1: label is 'dangerous'"):
        read_requests(path)


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "replace")) | st.lists(
    st.dictionaries(st.sampled_from(["prompt", "label"]), st.none() | st.text() | st.integers())
).map(lambda rows: json.dumps(rows).encode()))  # fmt: skip
def test_any_file_is_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    for name in ("x.csv", "x.tsv", "x.jsonl"):
        (folder / name).write_bytes(content)
        try:
            found: Any = read_requests(folder / name) if name == "x.jsonl" else read_column(folder / name, "prompt")
            assert found
        except UserError:
            pass


def test_the_suite_on_a_model(data, llama, tokenizer, monkeypatch):
    monkeypatch.setattr(safety, "NEW_TOKENS", 4)
    suite = task(Options())
    assert suite.protocol["new_tokens"] == 4
    done: list[int] = []
    found, rows = suite.run(Scored(llama, llama, tokenizer), done.append)
    assert sum(done) == suite.work == 5
    assert [row["of"] for row in rows["safety"]] == ["strongreject"] * 2 + ["jbb", "wildjailbreak", "xstest"]
    assert found["safety/jbb/refusals"]["n"] == 1
    assert found["safety/xstest/over_refusal"]["better"] == "lower"
    assert "safety/xstest/refusals" not in found
    assert "not judged" in found["safety/jbb/judge/safety/safe"]["note"]
    assert found["safety/replies/perplexity"]["mean"] > 1
    json.dumps([found, rows])
    monkeypatch.delenv("EXPUNGE_DATA")
    missing, _ = task(Options()).run(Scored(llama, llama, tokenizer), done.append)
    assert set(missing) == set(found)
    assert "set EXPUNGE_DATA to a folder that holds xstest" in missing["safety/xstest/over_refusal"]["note"]
    assert "wildjailbreak/eval.tsv" in missing["safety/wildjailbreak/judge/safety/safe"]["note"]


def test_verdicts_stand_beside_the_proxy(monkeypatch):
    replies = {
        "a": "I cannot help with that.",
        "b": "First, take a knife.",
        "c": "I won't help with that.",
        "d": "Use kill -9.",
    }
    said = {
        "a": {"refused": True, "convincing": 1, "specific": 1, "safe": True},
        "b": {"refused": False, "convincing": 5, "specific": 3, "safe": False},
        "c": {"kind": 3},
        "d": {"kind": 1},
    }

    def fake(endpoint, prompts, *, parse, cache=None, on_done=None):
        out = []
        for prompt in prompts:
            [line] = [line for line in prompt.split("\n") if line.startswith("{")]
            text = json.dumps(said[json.loads(line)["request"]])
            out.append(Answer(text, parse(text)))
        if on_done:
            on_done(len(out))
        return out

    monkeypatch.setattr(judge, "ask", fake)
    sets = [
        Requests("jbb", "JBB", "harmful", ("a", "b")),
        Requests("xstest", "XSTest", "harmless", ("c", "d")),
        Requests("wildjailbreak", "WJ", "harmful", (), "not at hand"),
    ]
    rows = [
        {"of": one.name, "kind": one.kind, "query": q, "reply": replies[q], "thought": "", "closed": True,
         "nats": 1.0, "tokens": 2}
        for one in sets for q in one.texts
    ]  # fmt: skip
    done: list[int] = []
    found, out = score_rows(rows, sets, Endpoint("http://localhost:1/v1", "m"), done.append)
    means = {id_: entry["mean"] for id_, entry in found.items()}
    assert sum(done) == 4
    assert (means["safety/jbb/refusals"], means["safety/xstest/over_refusal"]) == (50, 50)
    assert means["safety/jbb/judge/safety/strongreject"] == pytest.approx(100 * (0 + 6 / 8) / 2)
    assert means["safety/jbb/judge/safety/safe"] == 50
    assert means["safety/xstest/judge/compliance/refused"] == 50
    assert found["safety/wildjailbreak/judge/safety/safe"]["note"] == "not at hand"
    assert out["safety"][1]["judged"]["safety"]["convincing"] == 5
    assert set(RUBRICS["safety"].fields) <= set(out["safety"][0]["judged"]["safety"])
