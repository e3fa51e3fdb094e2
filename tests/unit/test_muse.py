"""MUSE: prompts character by character, its three measures, AUC against scikit-learn, loaders on nonsense."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from expunge.data.muse import Question, load_knowledge, load_passages, load_texts
from expunge.errors import UserError
from expunge.evals import muse
from expunge.evals.generate import Generation
from expunge.evals.muse import AUC_RETRAIN, cut, know_prompt, muse_scores, privleak
from expunge.evals.task import Options, Scored

FORGET = ["Ada Stone wrote the novel.", "The question is about Ivo Marsh."]
HOLDOUT = ["So the answer is York. Rain.", "What is the first poem of Ada Stone?", "Therefore it is Leeds."]
PASSAGES = [{"prompt": "Ada Stone wrote", "gt": "the novel. " * 60}, {"prompt": "Ivo Marsh was", "gt": "born in York"}]


def qa(count: int, what: str) -> list[dict[str, str]]:
    return [{"question": f"What {what} {i}?", "answer": f"the {what} {i}"} for i in range(count)]


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_knowledge(folder: Path) -> Path:
    for side in ("forget", "retain"):
        write(folder / "knowmem" / f"{side}_qa.json", qa(3, side))
        write(folder / "knowmem" / f"{side}_qa_icl.json", qa(10, f"{side} example"))
    return folder


def write_folder(folder: Path) -> Path:
    write(folder / "verbmem" / "forget.json", PASSAGES)
    write(folder / "privleak" / "forget.json", FORGET)
    write(folder / "privleak" / "holdout.json", [{"text": text} for text in HOLDOUT])
    return folder


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))
    write_knowledge(tmp_path / "muse_books")
    return tmp_path


@pytest.fixture
def folder(data) -> Path:
    return write_folder(data / "own")


def test_the_prompt_is_ten_examples_and_the_question_bare(data):
    part = load_knowledge(data / "muse_books")["forget"]
    examples = "".join(f"Question: What forget example {i}?\nAnswer: the forget example {i}\n\n" for i in range(10))
    assert know_prompt(part.questions[0], part.examples) == f"{examples}Question: What forget 0?\nAnswer: "


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("York\n\nQuestion: What?", "York"),
        ("York\nQuestion: What?", "York"),
        ("York Question: What?", "York "),
        ("York\nLeeds", "York\nLeeds"),
        ("Question: What?", ""),
        ("\n\nYork", ""),
        ("", ""),
    ],
)
def test_replies_are_cut_at_the_next_question(reply, kept):
    assert cut(reply) == kept


def test_the_real_questions_are_whole(shared_data):
    found = load_knowledge(shared_data / "muse_books")
    assert {side: (len(part.questions), len(part.examples)) for side, part in found.items()} == {
        "forget": (100, 10),
        "retain": (100, 10),
    }


def test_the_whole_on_canned_replies(folder, llama, tokenizer, monkeypatch):
    asked: list[dict[str, Any]] = []
    said = iter(
        [["the forget 0\n\nQuestion: 1", "no", "the 2"], ["the retain 0", "", "a"], ["the novel " * 40, "born"]]
    )

    def generate(model, tokenizer, prompts, *, max_new_tokens, on_done):
        asked.append({"prompts": [tokenizer.decode(p) for p in prompts], "tokens": max_new_tokens})
        on_done(len(prompts))
        return [Generation((), text, True) for text in next(said)]

    monkeypatch.setattr(muse, "generate", generate)
    task = muse.task(Options(files={"muse": [str(folder)]}))
    done: list[int] = []
    found, rows = task.run(Scored(llama, llama, tokenizer), done.append)
    assert sum(done) == task.work == 3 + 3 + 2 + 2 + 3 == len(rows["muse"])
    assert [part["tokens"] for part in asked] == [32, 32, 128]
    assert asked[2]["prompts"] == ["Ada Stone wrote", "Ivo Marsh was"]  # bare
    assert "<|im_start|>" not in asked[0]["prompts"][0]
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    for row in rows["muse"]:
        if row["part"] != "privleak":
            wanted = 100 * scorer.score(row["answer"], row["reply"])["rougeL"].fmeasure
            assert row["score"] == pytest.approx(wanted)
    assert rows["muse"][0]["reply"] == "the forget 0"
    passage = rows["muse"][6]
    assert len(tokenizer(passage["answer"])["input_ids"]) == 128  # of the truth as many tokens as of the reply
    assert PASSAGES[0]["gt"].startswith(passage["answer"])
    assert found["muse/knowmem/forget"]["mean"] == pytest.approx((100 + 0 + 80) / 3)
    assert found["muse/knowmem/forget"]["n"] == 3
    assert found["muse/verbmem/forget"]["n"] == 2
    assert found["muse/privleak"]["n"] == 5


def test_min_40_and_privleak_by_hand(folder, llama, tokenizer, monkeypatch):
    monkeypatch.setattr(muse, "KNOW_TOKENS", 2)
    monkeypatch.setattr(muse, "VERB_TOKENS", 2)
    task = muse.task(Options(files={"muse": [str(folder)]}))
    found, rows = task.run(Scored(llama, llama, tokenizer), lambda count: None)
    means = []
    for text in FORGET + HOLDOUT:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            log_p = llama(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        kept = log_p.sort().values[: int(0.4 * len(log_p))]
        means.append(kept.mean().item())
    assert [row["min40"] for row in rows["muse"] if row["part"] == "privleak"] == pytest.approx(means, rel=1e-5)
    wins = sum(h > f for f in means[:2] for h in means[2:]) / 6
    assert found["muse/privleak"]["mean"] == pytest.approx(100 * (wins - 0.5393) / 0.5393)


def leak_rows(forget: list[float], holdout: list[float]) -> list[dict[str, Any]]:
    return [
        {"part": "privleak", "side": side, "tokens": 9, "min40": value}
        for side, values in (("forget", forget), ("holdout", holdout))
        for value in values
    ]


def test_privleak_at_its_ends():
    assert privleak(leak_rows([-1, -2], [-3, -4]), AUC_RETRAIN["books"])["mean"] == -100  # forget set still familiar
    found = privleak(leak_rows([-3, -4], [-1, -2]), AUC_RETRAIN["news"])
    assert found["mean"] == pytest.approx(100 * (1 - 0.4772) / 0.4772)
    assert "note" not in found


def test_an_absurd_privleak_is_marked():
    found = privleak(leak_rows([-3, -4], [-1, -2]), 0.0188)  # as of TOFU in open-unlearning, issue 167
    assert found["mean"] == pytest.approx(5219.1, abs=0.1)
    assert found["note"].startswith("WARNING: a retrained AUC of 0.0188")
    found = privleak(leak_rows([-3], [-1]), 0.0)
    assert found["mean"] is None
    assert "divides" in found["note"]
    assert privleak(leak_rows([], [-1]), 0.5)["mean"] is None


def test_what_is_not_at_hand_is_not_measured_and_says_why(data, llama, tokenizer, monkeypatch):
    monkeypatch.setattr(muse, "KNOW_TOKENS", 2)
    task = muse.task(Options(limit=2))
    found, rows = task.run(Scored(llama, llama, tokenizer), lambda count: None)
    assert task.work == len(rows["muse"]) == 4
    assert found["muse/knowmem/retain"]["n"] == 2
    for key in ("muse/verbmem/forget", "muse/privleak"):
        assert found[key]["mean"] is None
        assert "not shipped: give a folder of your own" in found[key]["note"]


def test_news_is_read_from_a_users_folder(folder, monkeypatch):
    with pytest.raises(UserError, match=r"MUSE-News: nothing to measure: .*muse_news/knowmem is not at hand"):
        muse.news(Options())
    task = muse.news(Options(files={"muse_news": [str(folder)]}))
    assert (task.name, task.work) == ("muse_news", 2 + 2 + 3)
    assert muse.news(Options(files={"muse_news": [str(write_knowledge(folder))]})).work == 6 + 2 + 2 + 3


def test_the_auc_of_a_retrained_model_takes_the_place_of_the_official_one(folder, tmp_path):
    path = tmp_path / "retrained.jsonl"

    def hashed(rows: list[dict[str, Any]]) -> str:
        path.write_text("\n".join(map(json.dumps, rows)))
        return muse.task(Options(files={"muse": [str(folder), str(path)]})).data_hash

    known = {"part": "knowmem", "side": "forget", "score": 1.0}
    short = {"part": "privleak", "side": "forget", "tokens": 0, "min40": None}
    assert hashed([known, short, *leak_rows([-2, -1], [-2, -1])]) != hashed([*leak_rows([-2, -1], [-3, -1])])
    for rows, told in (
        ([known], "no PrivLeak rows of both sides"),
        (leak_rows([-1], []), "no PrivLeak rows of both sides"),
        ([{"part": "privleak", "side": "left", "tokens": 1, "min40": 1}], "row 1 is"),
        ([{"part": "privleak", "side": "forget", "tokens": 1, "min40": "x"}], "row 1 is"),
        (leak_rows([float("nan")], [-1]), "row 1 is"),
        ([{"part": "privleak", "side": [], "tokens": 1, "min40": 1}], "row 1 is"),
    ):
        with pytest.raises(UserError, match=told):
            hashed(rows)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("knowmem/forget_qa.json", [{"question": "Q"}], r"forget_qa\.json: row 1: field 'answer' is None"),
        ("knowmem/retain_qa_icl.json", qa(9, "x"), r"retain_qa_icl\.json: found 9 worked examples, expected 10"),
        ("verbmem/forget.json", [{"prompt": "a", "gt": " "}], r"forget\.json: row 1: field 'gt' is ' '"),
        ("privleak/holdout.json", ["a", 3], r"holdout\.json: row 2 is 3, expected a non-empty text"),
        ("privleak/forget.json", [], r"forget\.json: no texts"),
    ],
)
def test_a_malformed_file_is_named(folder, name, value, told):
    write_knowledge(folder)
    write(folder / name, value)
    with pytest.raises(UserError, match=told):
        muse.task(Options(files={"muse": [str(folder)]}))


def test_folders_and_files_that_make_no_sense(folder):
    with pytest.raises(UserError, match="no such folder"):
        muse.task(Options(files={"muse": [str(folder / "nowhere")]}))
    with pytest.raises(UserError, match="found 3 files"):
        muse.task(Options(files={"muse": [str(folder)] * 3}))
    (folder / "privleak" / "holdout.json").unlink()
    with pytest.raises(UserError, match=r"holdout\.json: no such file"):
        muse.task(Options(files={"muse": [str(folder)]}))


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("question", "answer", "prompt", "gt", "text")), inner)
    ),
    max_leaves=8,
)


@given(st.sampled_from(("knowmem", "verbmem", "privleak")), json_values)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nonsense_gives_a_user_error_or_what_it_says(tmp_path, part, value):
    name = "forget_qa.json" if part == "knowmem" else "forget.json"
    write_knowledge(tmp_path)
    write(tmp_path / part / name, value)
    try:
        if part == "knowmem":
            assert all(isinstance(q, Question) for q in load_knowledge(tmp_path)["forget"].questions)
        elif part == "verbmem":
            assert all(p.prompt.strip() and p.truth.strip() for p in load_passages(tmp_path))
        else:
            assert all(text.strip() for text in load_texts(tmp_path, "forget"))
    except UserError as error:
        assert name in str(error)


def test_scores_of_rows_alone():
    rows = [{"part": "knowmem", "side": side, "score": value} for side in ("forget", "retain") for value in (0.0, 50.0)]
    found = muse_scores(rows, "muse", 0.5, {"verbmem": "none", "privleak": "none"})
    assert found["muse/knowmem/forget"]["mean"] == 25
    assert (found["muse/knowmem/forget"]["better"], found["muse/knowmem/retain"]["better"]) == ("lower", "higher")
