"""TOFU: measures by hand, splits, references, loaders on nonsense."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import make_model

from expunge.data.chat import encode_prompt
from expunge.data.rtofu import load_traced
from expunge.data.tofu import load_splits
from expunge.errors import UserError
from expunge.evals import tofu
from expunge.evals.task import Options, Scored
from expunge.evals.tofu import model_utility, truth_ratio

FILES = {"forget10": 400, "retain": 310, "real_authors": 4, "world_facts": 5}


def item(source: str, number: int) -> dict[str, Any]:
    row: dict[str, Any] = {"question": f"What {source} {number}?", "answer": f"the answer {number}"}
    if source in ("forget10", "retain"):
        row["paraphrased_answer"] = f"answer it is {number}"
    return row | {"perturbed_answer": [f"the poem {number}", "York"]}


def write_tofu(root: Path) -> Path:
    (root / "tofu").mkdir(parents=True, exist_ok=True)
    for source, count in FILES.items():
        ending = "jsonl" if source == "forget10" else "json"
        rows = [json.dumps(item(source, number)) for number in range(1, count + 1)]
        (root / "tofu" / f"{source}_perturbed.{ending}").write_text("\n".join(rows))
    return root


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))
    return write_tofu(tmp_path)


def test_splits_are_the_ends_of_forget10(data):
    splits = load_splits()
    assert {name: len(part) for name, part in splits.items()} == {
        "forget10": 400,
        "forget05": 200,
        "forget01": 40,
        "retain": 310,
        "real_authors": 4,
        "world_facts": 5,
    }
    assert splits["forget05"] == splits["forget10"][200:]
    assert splits["forget01"] == splits["forget10"][360:]
    assert (splits["forget01"][0].source, splits["forget01"][0].row) == ("forget10", 361)
    assert splits["forget10"][0].paraphrase == "answer it is 1"
    assert splits["real_authors"][0].paraphrase == "the answer 1"


def test_splits_of_the_real_data_are_the_official_ones(shared_data, monkeypatch):
    monkeypatch.setenv("EXPUNGE_DATA", str(shared_data))
    splits = load_splits()
    for name, count in (("forget10", 400), ("forget05", 200), ("forget01", 40)):
        lines = (shared_data / "tofu" / f"{name}.jsonl").read_text().split("\n")
        rows = [json.loads(line) for line in lines if line]
        assert len(rows) == count
        assert [(i.question, i.answer) for i in splits[name]] == [(r["question"], r["answer"]) for r in rows]
    assert {name: len(splits[name]) for name in ("retain", "real_authors", "world_facts")} == {
        "retain": 400,
        "real_authors": 100,
        "world_facts": 117,
    }


def test_the_first_300_rows_each_asked_once(data):
    task = tofu.task(Options())
    rows = 300 + 100 + 300 + 4 + 5  # of forget10 the first 300 and, for forget05 and forget01, the last 100
    assert task.work == rows * (1 + 4)
    assert tofu.task(Options(limit=3)).work == (6 * 3 - 1) * 5  # row 201 is in two splits


@pytest.fixture
def measured(data, llama, tokenizer, monkeypatch):
    monkeypatch.setattr(tofu, "NEW_TOKENS", 3)
    task = tofu.task(Options(limit=2))
    done: list[int] = []
    found, rows = task.run(Scored(llama, llama, tokenizer), done.append)
    assert sum(done) == task.work
    return found, rows["tofu"]


def mean_nll(model: Any, tokenizer: Any, question: str, answer: str) -> float:
    prompt = encode_prompt(tokenizer, question)
    ids = [*prompt, *tokenizer(answer)["input_ids"], tokenizer.eos_token_id]
    labels = torch.tensor([[-100] * len(prompt) + ids[len(prompt) :]])
    with torch.no_grad():
        return model(torch.tensor([ids]), labels=labels).loss.item()


def test_rows_by_hand(measured, llama, tokenizer):
    _, rows = measured
    assert [(row["source"], row["row"]) for row in rows] == [
        ("forget10", 1),
        ("forget10", 151),
        ("forget10", 201),
        ("forget10", 301),
        ("forget10", 361),
        ("forget10", 381),
        ("retain", 1),
        ("retain", 151),
        ("real_authors", 1),
        ("real_authors", 3),
        ("world_facts", 1),
        ("world_facts", 3),
    ]
    for row in (rows[0], rows[7], rows[9]):
        given_ = item(row["source"], row["row"])
        nll = mean_nll(llama, tokenizer, row["question"], row["answer"])
        wrong = [mean_nll(llama, tokenizer, row["question"], text) for text in given_["perturbed_answer"]]
        paraphrased = mean_nll(llama, tokenizer, row["question"], given_.get("paraphrased_answer", row["answer"]))
        assert row["nll"] == pytest.approx(nll, rel=1e-5)
        assert row["nll_perturbed"] == pytest.approx(wrong, rel=1e-5)
        ratio = math.exp(sum(wrong) / 2 - paraphrased)
        if row["source"] == "forget10":
            assert row["truth_ratio"] == pytest.approx(min(ratio, 1 / ratio), rel=1e-4)
        else:
            assert row["truth_ratio"] == pytest.approx(max(0, 1 - 1 / ratio), rel=1e-4, abs=1e-6)
        own, others = math.exp(-nll), sum(math.exp(-w) for w in wrong)
        wanted = own / (own + others) if row["source"] == "real_authors" else own
        assert row["probability"] == pytest.approx(wanted, rel=1e-4)


def test_scores_of_every_split(measured):
    found, rows = measured
    splits = ("forget10", "forget05", "forget01", "retain", "real_authors", "world_facts")
    assert set(found) == {
        *(f"tofu/{split}/{measure}" for split in splits for measure in ("rouge", "probability", "truth_ratio")),
        *(f"tofu/{split}/quality{kind}" for split in splits[:3] for kind in ("", "_log10")),
        "tofu/model_utility",
    }
    assert found["tofu/forget05/probability"]["mean"] == pytest.approx(
        100 * sum(row["probability"] for row in rows[2:4]) / 2
    )
    assert found["tofu/forget05/probability"]["n"] == 2
    assert found["tofu/forget01/probability"]["better"] == "lower"
    assert found["tofu/retain/probability"]["better"] == "higher"
    assert found["tofu/forget10/quality"]["mean"] is None
    assert "never saw forget10" in found["tofu/forget10/quality"]["note"]


def test_forget_quality_against_a_retrained_model(measured, data, llama, tokenizer, monkeypatch):
    found, rows = measured
    path = data / "retrained.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(tofu, "NEW_TOKENS", 1)
    under = Scored(llama, llama, tokenizer)
    same, _ = tofu.task(Options(limit=2, files={"tofu": [str(path)]})).run(under, lambda count: None)
    assert [same[f"tofu/{split}/quality"]["mean"] for split in ("forget10", "forget05", "forget01")] == [1, 1, 1]
    path.write_text("".join(json.dumps(row | {"log_truth_ratio": 50}) + "\n" for row in rows))
    other, _ = tofu.task(Options(limit=2, files={"tofu": [f"forget05={path}"]})).run(under, lambda count: None)
    assert other["tofu/forget05/quality"]["mean"] == pytest.approx(1 / 3)  # two draws all above two
    assert other["tofu/forget05/quality_log10"]["mean"] == pytest.approx(math.log10(1 / 3))
    assert other["tofu/forget10/quality"]["mean"] is None


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (None, r"row 1 of forget10 is not there\. Evaluate the retrained model under the same limit"),
        ({"question": "Other?"}, r"row 1 of forget10 asks 'Other\?', expected 'What forget10 1\?'"),
        ({"log_truth_ratio": None}, r"log_truth_ratio is None, expected a finite number"),
        ({"log_truth_ratio": float("nan")}, r"log_truth_ratio is nan"),
        ({"log_truth_ratio": True}, r"log_truth_ratio is True"),
        ({"source": 5}, r"row 1 is .*expected a row of an earlier TOFU evaluation"),
        ({"row": []}, r"row 1 is .*expected a row of an earlier TOFU evaluation"),
    ],
)
def test_rows_that_are_no_reference_are_told(data, row, told):
    path = data / "retrained.jsonl"
    good = [
        {"source": "forget10", "row": n, "question": f"What forget10 {n}?", "log_truth_ratio": 0.5}
        for n in (1, 201, 361)
    ]
    rows = good[1:] if row is None else [good[0] | row, *good[1:]]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=told):
        tofu.task(Options(limit=1, files={"tofu": [str(path)]}))


def test_truth_ratios():
    assert truth_ratio(1e9, forget=True) == 0 == truth_ratio(-1e9, forget=False)
    assert truth_ratio(0, forget=True) == 1 == truth_ratio(1e9, forget=False)


def test_model_utility_is_the_harmonic_mean_of_nine():
    rng = np.random.default_rng(1)
    groups = [
        [dict(zip(tofu.LABELS, rng.uniform(0.1, 1, 3).tolist(), strict=True)) for _ in range(n)] for n in (5, 4, 7)
    ]
    means = [np.mean([row[m] for row in group]) for group in groups for m in tofu.LABELS]
    found = model_utility(groups)
    assert found.mean == pytest.approx(100 * 9 / sum(1 / m for m in means))
    assert found.n == 16
    assert 0 < found.se < 20
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    assert found.mean == pytest.approx(100 * stats.hmean(means))
    assert model_utility([[dict.fromkeys(tofu.LABELS, 0.0)]]).mean == 0


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (
            "forget10_perturbed.jsonl",
            {"paraphrased_answer": None},
            r"jsonl: line 1: field 'paraphrased_answer' is None",
        ),
        ("retain_perturbed.json", {"perturbed_answer": []}, r"json: row 1: perturbed_answer is \[\], expected a list"),
        ("retain_perturbed.json", {"perturbed_answer": "x"}, r"json: row 1: perturbed_answer is 'x'"),
        (
            "world_facts_perturbed.json",
            {"perturbed_answer": ["a", ""]},
            r"json: row 1: perturbed_answer is \['a', ''\]",
        ),
        ("real_authors_perturbed.json", {"question": 4}, r"json: line 1: field 'question' is 4"),
    ],
)
def test_a_malformed_row_is_named(data, name, change, told):
    path = data / "tofu" / name
    first, *others = path.read_text().split("\n")
    path.write_text("\n".join([json.dumps(json.loads(first) | change), *others]))
    with pytest.raises(UserError, match=told):
        tofu.task(Options())


def test_a_file_that_is_cut_or_missing_is_told(data):
    path = data / "tofu" / "forget10_perturbed.jsonl"
    path.write_text("\n".join(path.read_text().split("\n")[:-1]))
    with pytest.raises(UserError, match=r"found 399 rows, expected 400"):
        load_splits()
    path.unlink()
    with pytest.raises(UserError, match=r"forget10_perturbed\.json is not at hand; set EXPUNGE_DATA"):
        load_splits()


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("question", "answer", "perturbed_answer", "cot")), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(json_values)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nonsense_gives_a_user_error_or_items(data, value):
    path = data / "tofu" / "world_facts_perturbed.json"
    path.write_text(json.dumps(value))
    try:
        assert all(i.perturbed and i.question.strip() for i in load_splits()["world_facts"])
    except UserError as error:
        assert path.name in str(error)
    try:
        assert all(thought.trace.strip() for thought in load_traced([str(path)])[path.stem])
    except UserError as error:
        assert path.name in str(error)
    try:
        tofu.task(Options(limit=1, files={"tofu": [str(path)]}))
    except UserError as error:
        assert path.name in str(error)
    else:
        raise AssertionError("no such rows are a reference")


def test_a_ruined_model_gets_notes_and_no_numbers(data, tokenizer, monkeypatch):
    model = make_model()
    model.get_output_embeddings().weight.fill_(math.nan)
    monkeypatch.setattr(tofu, "NEW_TOKENS", 1)
    path = data / "retrained.jsonl"
    path.write_text(json.dumps(item("forget10", 1) | {"source": "forget10", "row": 1, "log_truth_ratio": 0.5}))
    task = tofu.task(Options(limit=1, files={"tofu": [f"forget10={path}"]}))
    found, rows = task.run(Scored(model, model, tokenizer), lambda count: None)
    assert {rows["tofu"][0][key] for key in ("nll", "probability", "truth_ratio", "log_truth_ratio")} == {None}
    assert found["tofu/model_utility"]["mean"] == 0
    for key in ("forget10/probability", "world_facts/probability", "retain/truth_ratio", "forget10/quality"):
        assert "ruined" in found[f"tofu/{key}"]["note"]
