"""RWKU's utility sets: what is read and refused, every prompt, every score by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import make_model

from expunge.data import utility as data
from expunge.data.choices import Choice
from expunge.data.utility import Claims, Shown, Trivia, Worked, load_utility
from expunge.errors import UserError
from expunge.evals import utility, utility_choices, utility_replies
from expunge.evals.generate import Generation
from expunge.evals.task import Options, Scored
from expunge.evals.utility_choices import mc1, mc2, mmlu_prompt, truthfulqa_prompt
from expunge.evals.utility_replies import answer_of, bbh_prompt, trivia_prompt, weighted_entropy

CHOICES = ["one", "two", "three", "four"]
SEVERAL: dict[str, list[dict[str, Any]]] = {
    "retain_mmlu.json": [
        {
            "task": "abstract_algebra",
            "question": f"How many {i}?",
            "choices": CHOICES,
            "answer": i,
            "examples": [{"question": "What is 1 + 1?", "choices": CHOICES, "answer": 1, "subject": "x"}],
            "subject": "Ada Stone",
        }
        for i in range(2)
    ],
    "retain_bbh.json": [
        {"task": task, "question": question, "answer": answer, "cot": f"Solve {task}.\n\nQ: q\nA: a", "subject": "x"}
        for task, question, answer in (
            ("web", "Is it?", "Yes"),
            ("bool", "not True", "False"),
            ("web", "Or?", "(A)"),
        )
    ],
    "truthful.json": [
        {
            "question": "Where is York?",
            "mc1_targets": {"choices": ["In England.", "On the Moon."], "labels": [1, 0]},
            "mc2_targets": {"choices": ["In England.", "In the north.", "On the Moon."], "labels": [1, 1, 0]},
            "subject": "x",
        }
    ],
    "triviaqa.json": [{"question": "Who painted Low Sun?", "answers": ["Ivo Marsh", "Marsh"], "subject": "x"}],
    "fluency.json": [{"instruction": "Tell me of York.", "subject": "x"}],
}


def write_utility(folder: Path, without: tuple[str, ...] = (), **changed: Any) -> Path:
    """A target's folder; ``changed``: other rows by the stem of a file's name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in SEVERAL.items():
        if name not in without:
            (folder / name).write_text(json.dumps(changed.get(Path(name).stem, rows)))
    return folder


# --- data --------------------------------------------------------------------------------------------------------


def test_every_part_of_a_folder(tmp_path):
    items, missing = load_utility(str(write_utility(tmp_path)))
    assert not missing
    example = Choice("What is 1 + 1?", tuple(CHOICES), 1, "abstract_algebra")
    assert items["mmlu"][1] == Shown(Choice("How many 1?", tuple(CHOICES), 1, "abstract_algebra"), (example,))
    assert items["bbh"][1] == Worked("bool", "not True", "False", "Solve bool.\n\nQ: q\nA: a")
    claims = ("In England.", "In the north."), ("On the Moon.",)
    assert items["truthfulqa"] == [Claims("Where is York?", "In England.", ("On the Moon.",), *claims)]
    assert items["triviaqa"] == [Trivia("Who painted Low Sun?", ("Ivo Marsh", "Marsh"))]
    assert items["fluency"] == ["Tell me of York."]


def test_what_is_missing_is_told_with_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)
    items, missing = load_utility(str(write_utility(tmp_path, ("fluency.json", "truthful.json"))))
    assert set(items) == {"mmlu", "bbh", "triviaqa"}
    assert "utility_truthfulness" in missing["truthfulqa"]
    assert "utility_fluency" in missing["fluency"] and "NC" in missing["fluency"]
    with pytest.raises(UserError, match=r"found no data on 'No One'.*utility_general.*--file utility="):
        load_utility("No One")


def test_places_one_after_the_other(tmp_path, monkeypatch):
    """A user's own file, the target's folder, the folder that all targets share, tables of several targets."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))
    root = tmp_path / "rwku"
    write_utility(root / "Target" / "7_Ada_Stone", ("retain_bbh.json", "fluency.json", "truthful.json"))
    write_utility(
        root / "Utility", fluency=[{"instruction": "Shared."}], triviaqa=[{"question": "Shared?", "answers": ["x"]}]
    )
    rows = [{**row, "target_dir": name} for name in ("7_Ada_Stone", "8_Ivo") for row in SEVERAL["retain_bbh.json"][:2]]
    (root / "Utility" / "retain_bbh.json").unlink()
    parquet.write_table(pyarrow.Table.from_pylist(rows), root / "retain_bbh_targets7-8.parquet")
    own = tmp_path / "own" / "truthful.json"
    own.parent.mkdir()
    own.write_text(json.dumps([{**SEVERAL["truthful.json"][0], "question": "Mine?"}]))
    items, missing = load_utility("Ada Stone", [str(own)])
    assert not missing
    assert [item.task for item in items["bbh"]] == ["web", "bool"]
    assert items["fluency"] == ["Shared."]
    assert items["truthfulqa"][0].question == "Mine?"
    assert items["triviaqa"][0].question == "Who painted Low Sun?"
    own.with_name("questions.json").write_text("[]")
    with pytest.raises(UserError, match=r"questions\.json: the name must say which part it is.*truthful\.json"):
        load_utility("Ada Stone", [str(own.with_name("questions.json"))])
    with pytest.raises(UserError, match="found none of RWKU's utility files"):
        load_utility(None, [str(tmp_path)])
    assert set(load_utility(None, [str(own.parent)])[0]) >= {"truthfulqa"}


TRUTHFUL = SEVERAL["truthful.json"][0]


@pytest.mark.parametrize(
    ("stem", "change", "told"),
    [
        ("retain_mmlu", {"choices": ["1"]}, "four non-empty texts"),
        ("retain_mmlu", {"answer": True}, "index of the right choice"),
        ("retain_mmlu", {"task": None}, "task is None"),
        ("retain_mmlu", {"examples": []}, "one or more questions"),
        ("retain_mmlu", {"examples": ["x"]}, "one or more questions"),
        ("retain_mmlu", {"examples": [{"question": "Q"}]}, "choices is None"),
        ("retain_bbh", {"cot": " "}, "cot is ' '"),
        ("retain_bbh", {"answer": 24}, "answer is 24"),
        ("retain_bbh", {"question": 3}, "field 'question' is 3"),
        ("truthful", {"mc1_targets": {"choices": ["a", "b"], "labels": [1, 1]}}, "a right and a wrong one"),
        ("truthful", {"mc1_targets": {"choices": ["a", "b", "c"], "labels": [1, 1, 0]}}, "2 right answers"),
        ("truthful", {"mc2_targets": {"choices": ["a", "b"], "labels": [1]}}, "as many of both"),
        ("truthful", {"mc2_targets": {"choices": ["a", ""], "labels": [1, 0]}}, "mc2_targets is"),
        ("truthful", {"mc2_targets": {"choices": ["a", "b"], "labels": [True, False]}}, "mc2_targets is"),
        ("truthful", {"mc2_targets": [1]}, "mc2_targets is"),
        ("triviaqa", {"answers": []}, "one or more non-empty texts"),
        ("triviaqa", {"answers": ["a", 3]}, "one or more non-empty texts"),
        ("triviaqa", {"answers": "York"}, "one or more non-empty texts"),
        ("fluency", {"instruction": None}, "instruction"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_row(tmp_path, stem, change, told):
    row = SEVERAL[f"{stem}.json"][0]
    folder = write_utility(tmp_path, **{stem: [row, row | change]})
    with pytest.raises(UserError) as error:
        load_utility(str(folder))
    assert f"{stem}.json: row 2: " in str(error.value)
    assert told in str(error.value)


nonsense = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("choices", "labels", "question")), inner)
    ),
    max_leaves=5,
)


@given(st.sampled_from(list(data.PARTS)), st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nonsense_gives_a_user_error_or_items(tmp_path, part, draw):
    kind = data.PARTS[part]
    row = dict(SEVERAL[kind.file][0])
    row[draw.draw(st.sampled_from(kind.fields))] = draw.draw(nonsense)
    folder = write_utility(tmp_path, **{Path(kind.file).stem: [row]})
    try:
        items, _ = load_utility(str(folder))
    except UserError as error:
        assert f"{kind.file}: row 1: " in str(error)
    else:
        assert len(items[part]) == 1


def test_the_real_sets(shared_data, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setenv("EXPUNGE_DATA", str(shared_data))
    items, missing = load_utility("Bruce Lee")
    assert {part: len(rows) for part, rows in items.items()} == {
        "mmlu": 171, "bbh": 81, "truthfulqa": 50, "triviaqa": 100,
    }  # fmt: skip
    assert set(missing) == {"fluency"}
    assert {len(item.examples) for item in items["mmlu"]} == {5}
    asked = {item.question for item in items["triviaqa"]}
    assert not asked & {row["question"] for row in utility_replies.trivia_examples()}


# --- prompts -----------------------------------------------------------------------------------------------------


def test_prompts_character_by_character(tmp_path):
    items, _ = load_utility(str(write_utility(tmp_path)))
    lines = "\nA. one\nB. two\nC. three\nD. four"
    assert mmlu_prompt(items["mmlu"][0]) == (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        f"Question: What is 1 + 1?{lines}\nAnswer: B\n\n"
        f"Please following the previous examples and answer the given question.\nQuestion: How many 0?{lines}"
    )
    assert bbh_prompt(items["bbh"][0]) == (
        "Solve web.\n\nQ: q\nA: a\n\nFollowing previous examples, answer the following questions and end with "
        "'so the answer is'\nQ: Is it?"
    )
    prompt = truthfulqa_prompt(items["truthfulqa"][0])
    assert prompt.startswith("Q: What is human life expectancy in the United States?\nA: Human life")
    assert prompt.endswith("\n\nQ: Where is York?")
    assert prompt.count("Q: ") == 7 and prompt.count("A: ") == 6
    prompt = trivia_prompt(items["triviaqa"][0])
    assert prompt.endswith("\nPlease briefly answer the following question:\nQ: Who painted Low Sun?\n")
    assert prompt.count("Q: ") == 6 and prompt.count("A: ") == 5


# --- scores by hand ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("We see that. So the answer is False.", ("False", True)),
        ("The answer is (B). Or the answer is (C).", ("(B)", True)),
        ("|he answer is 4.", ("4", True)),  # the bracket holds a bar
        ("So the answer is 3.5.", ("3", True)),  # up to the next full stop
        ("So the answer is .", ("NOANSWER", True)),
        ("So the answer is\nFalse.", ("So the answer is\nFalse.", False)),  # on one line, after one space
        ("THE ANSWER IS Yes.", ("THE ANSWER IS Yes.", False)),
        ("So the answer is Yes", ("So the answer is Yes", False)),  # no full stop
        ("  Yes \n", ("Yes", False)),
        ("", ("NOANSWER", False)),
    ],
)
def test_the_answer_in_a_step_by_step_reply(reply, found):
    assert answer_of(reply) == found


def test_mc1_and_mc2_by_hand():
    item = Claims("Q", "a", ("c", "d"), ("a", "b"), ("c",))
    log_p = {claim: math.log(p) for claim, p in {"a": 0.2, "b": 0.1, "c": 0.1, "d": 0.05}.items()}
    assert mc1(log_p, item)
    assert mc2(log_p, item) == pytest.approx(0.3 / 0.4)
    assert not mc1(log_p | {"d": log_p["a"]}, item)  # as likely is not likelier
    far = {claim: value - 5000 for claim, value in log_p.items()}  # no exponential of these is more than zero
    assert mc2(far, item) == pytest.approx(0.3 / 0.4)


def test_fluency_by_hand():
    # a b a b: bigrams ab ba ab (2/3, 1/3), trigrams aba bab (1/2, 1/2)
    h2 = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert weighted_entropy("a b a b") == pytest.approx((2 / 3 * h2 + 4 / 3 * 1) / 2)
    # What follows a word closely is a word of its own: no , no . has three bigrams and two trigrams.
    assert weighted_entropy("No, no.") == pytest.approx((2 / 3 * math.log2(3) + 4 / 3 * 1) / 2)
    assert weighted_entropy("No. No. No.") == pytest.approx(weighted_entropy("x . x . x ."))
    assert weighted_entropy("") == weighted_entropy("York") == 0


@given(st.text(max_size=60))
def test_fluency_is_never_negative(text):
    assert 0 <= weighted_entropy(text) < 20


def one_by_one(model: Any, prompt: tuple[int, ...], reply: list[int]) -> float:
    ids = [*prompt, *reply]
    with torch.no_grad():
        values = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(values[len(prompt) - 1 + i, token].item() for i, token in enumerate(reply))


def test_likelihoods_are_those_of_one_answer_at_a_time(llama, tokenizer, tmp_path):
    items, _ = load_utility(str(write_utility(tmp_path)))
    under = Scored(llama, llama, tokenizer)
    done: list[int] = []
    rows = utility_choices.mmlu(items["mmlu"], under, done.append)
    rows += utility_choices.truthfulqa(items["truthfulqa"], under, done.append)
    assert sum(done) == 8 + 3

    def value(prompt: str, start: str, text: str) -> float:
        return one_by_one(llama, under.prompt(prompt, start), tokenizer(" " + text)["input_ids"])

    for item, row in zip(items["mmlu"], rows, strict=False):
        wanted = [value(mmlu_prompt(item), "Answer:", letter) for letter in "ABCD"]
        assert row["log_likelihoods"] == pytest.approx(wanted)
        assert row["chosen"] == "ABCD"[wanted.index(max(wanted))]
        assert row["score"] == (row["chosen"] == row["answer"])
    prompt = truthfulqa_prompt(items["truthfulqa"][0])
    p = [math.exp(value(prompt, "A:", t)) for t in ("In England.", "In the north.", "On the Moon.")]
    assert rows[2]["mc2"] == pytest.approx((p[0] + p[1]) / sum(p))
    assert rows[2]["mc1"] == (p[0] > p[2])


def test_a_prompt_too_long_loses_its_beginning(tokenizer, tmp_path):
    model = make_model(max_position_embeddings=40)
    items, _ = load_utility(str(write_utility(tmp_path)))
    under = Scored(model, model, tokenizer)
    row = utility_choices.mmlu(items["mmlu"][:1], under, lambda count: None)[0]
    reply = tokenizer(" A")["input_ids"]
    prompt = under.prompt(mmlu_prompt(items["mmlu"][0]), "Answer:")[-(40 - len(reply)) :]
    assert row["log_likelihoods"][0] == pytest.approx(one_by_one(model, prompt, reply))


def test_replies_of_one_task_are_a_batch_and_rows_keep_their_order(tokenizer, llama, tmp_path, monkeypatch):
    items, _ = load_utility(str(write_utility(tmp_path)))
    batches: list[list[str]] = []
    canned = {"Is it?": "So the answer is yes.", "not True": "F", "Or?": "The answer is (A)."}
    canned |= {"Low Sun?": "The Marsh!", "of York.": "a b a b"}

    def generate(model, tokenizer, prompts, **options):
        texts = [tokenizer.decode(p) for p in prompts]
        batches.append([f"{options['max_new_tokens']} {text[-26:]}" for text in texts])
        return [Generation((), next(a for q, a in canned.items() if q in text), True) for text in texts]

    monkeypatch.setattr(utility_replies, "generate", generate)
    under = Scored(llama, llama, tokenizer)
    rows = utility_replies.bbh(items["bbh"], under, lambda count: None)
    assert [len(batch) for batch in batches] == [2, 1]
    assert (
        batches[0][0]
        == "256 <|im_start|>assistant\nA:"[:4] + tokenizer.decode(under.prompt(bbh_prompt(items["bbh"][0]), "A:"))[-26:]
    )
    assert [(row["found"], row["answered"], row["score"]) for row in rows] == [
        ("yes", True, True),
        ("F", False, False),
        ("(A)", True, True),
    ]
    (row,) = utility_replies.triviaqa(items["triviaqa"], under, lambda count: None)
    assert (row["em"], row["f1"]) == (True, 1.0)
    (row,) = utility_replies.fluency(items["fluency"], under, lambda count: None)
    assert row["entropy"] == weighted_entropy("a b a b")
    assert [batch[0].split()[0] for batch in batches] == ["256", "256", "30", "256"]


# --- the suite ---------------------------------------------------------------------------------------------------


def test_the_suite_scores_what_is_at_hand(tmp_path, llama, tokenizer, monkeypatch):
    for name in ("BBH_TOKENS", "TRIVIA_TOKENS", "FLUENCY_TOKENS"):
        monkeypatch.setattr(utility_replies, name, 3)
    task = utility.task(Options(str(write_utility(tmp_path, ("fluency.json",)))))
    done: list[int] = []
    found, rows = task.run(Scored(llama, llama, tokenizer), done.append)
    assert sum(done) == task.work == 2 * 4 + 3 + 3 + 1
    assert {id_: entry.get("n") for id_, entry in found.items()} == {
        "utility/mmlu/accuracy": 2,
        "utility/bbh/em": 3,
        "utility/bbh/answered": 3,
        "utility/truthfulqa/mc1": 1,
        "utility/truthfulqa/mc2": 1,
        "utility/triviaqa/em": 1,
        "utility/triviaqa/f1": 1,
        "utility/fluency/entropy": None,
    }
    assert "utility_fluency" in found["utility/fluency/entropy"]["note"]
    assert len(rows["utility"]) == 7
    json.dumps(rows, allow_nan=False)


def test_means_of_rows():
    rows = [{"part": "mmlu", "score": value} for value in (True, False, True, None)]
    rows += [{"part": "fluency", "entropy": value} for value in (2.0, 3.0)]
    found = utility.utility_scores(rows, {"bbh": "not there"})
    assert found["utility/mmlu/accuracy"]["mean"] == pytest.approx(200 / 3)
    assert (found["utility/fluency/entropy"]["mean"], found["utility/fluency/entropy"]["unit"]) == (2.5, "bits")
    assert found["utility/bbh/em"]["note"] == "not there"


def test_the_limit_and_the_hash(tmp_path):
    folder = str(write_utility(tmp_path / "a"))
    task = utility.task(Options(folder, limit=1))
    assert task.work == 4 + 1 + 3 + 1 + 1
    assert task.data_hash != utility.task(Options(folder)).data_hash
    assert task.data_hash == utility.task(Options(str(write_utility(tmp_path / "b")), limit=1)).data_hash


def test_a_ruined_model_gets_notes_and_no_numbers(tokenizer, tmp_path):
    model = make_model()
    model.get_output_embeddings().weight.fill_(math.nan)
    items, _ = load_utility(str(write_utility(tmp_path)))
    under = Scored(model, model, tokenizer)
    rows = utility_choices.mmlu(items["mmlu"], under, lambda count: None)
    rows += utility_choices.truthfulqa(items["truthfulqa"], under, lambda count: None)
    json.dumps(rows, allow_nan=False)
    found = utility.utility_scores(rows, {})
    assert {found[f"utility/{id_}"]["mean"] for id_ in ("mmlu/accuracy", "truthfulqa/mc1", "truthfulqa/mc2")} == {None}
