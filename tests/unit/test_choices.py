"""Four-choice questions: what is read, what is refused, and the prompt, character by character."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.data.choices import ALL, Choice, load_choices, load_mmlu, mmlu_examples
from expunge.errors import UserError
from expunge.evals.choices import accuracy, prompt_of

ROW = {"question": "What is 1 + 1?", "choices": ["1", "2", "3", "4"], "answer": 1}
SUBJECTS = ("abstract_algebra", "virology")


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def mmlu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as EXPUNGE_DATA names it, with two subjects: seven dev questions each, three test ones."""
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    folder = tmp_path / "data" / "mmlu"
    folder.mkdir(parents=True)
    for split, count in (("dev", 7), ("test", 3)):
        rows = [{**ROW, "question": f"{split} {s} {i}?", "subject": s} for s in SUBJECTS for i in range(count)]
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}.parquet")
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path / "data"))
    return folder


@pytest.mark.parametrize("as_array", [True, False])
def test_a_good_file_is_read_in_order(tmp_path, as_array):
    rows = [ROW, {**ROW, "answer": 3, "subject": "biology", "more": [1]}]
    path = tmp_path / "wmdp.json"
    write(path, rows) if as_array else write(path, *rows)
    choices = ("1", "2", "3", "4")
    assert load_choices(path) == [Choice(ROW["question"], choices, 1), Choice(ROW["question"], choices, 3, "biology")]
    assert [q.subject for q in load_choices(str(path), "chemistry")] == ["chemistry", "biology"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"question": " "}, "question"),
        ({"question": 4}, "question"),
        ({"question": "a\ud800"}, "whole characters"),
        ({"choices": ["1", "2", "3"]}, "four non-empty texts"),
        ({"choices": ["1", "2", "3", "4", "5"]}, "four non-empty texts"),
        ({"choices": ["1", "2", "3", ""]}, "four non-empty texts"),
        ({"choices": ["1", "2", "3", 4]}, "four non-empty texts"),
        ({"choices": "1234"}, "four non-empty texts"),
        ({"choices": None}, "four non-empty texts"),
        ({"answer": 4}, "0 to 3"),
        ({"answer": -1}, "0 to 3"),
        ({"answer": 1.0}, "0 to 3"),
        ({"answer": True}, "0 to 3"),
        ({"answer": "B"}, "0 to 3"),
        ({"answer": None}, "0 to 3"),
        ({"subject": 3}, "subject is 3"),
        ({"subject": None}, "subject is None"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, change, expected):
    path = write(tmp_path / "questions.jsonl", ROW, {**ROW, **change})
    with pytest.raises(UserError, match=expected) as caught:
        load_choices(path)
    assert str(path) in str(caught.value)
    assert "2: " in str(caught.value)


@pytest.mark.parametrize("field", ["question", "choices", "answer"])
def test_a_missing_field_is_named(tmp_path, field):
    path = write(tmp_path / "questions.jsonl", {key: value for key, value in ROW.items() if key != field})
    with pytest.raises(UserError, match=field):
        load_choices(path)


@pytest.mark.parametrize("text", ["", "[]", "[1]", '"text"', "{", "[[]]"])
def test_a_file_without_rows_is_refused(tmp_path, text):
    path = tmp_path / "questions.json"
    path.write_text(text)
    with pytest.raises(UserError, match="questions.json"):
        load_choices(path)
    with pytest.raises(UserError, match="no such file"):
        load_choices(tmp_path / "nowhere.json")


NONSENSE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 5)
    | st.floats()
    | st.text(st.characters(exclude_categories=[]), max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from([*ROW, "subject"]), inner),
    max_leaves=12,
)


@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys([*ROW, "subject"], NONSENSE)) | NONSENSE, max_size=3))
def test_nonsense_is_refused_or_becomes_whole_questions(tmp_path_factory, rows):
    path = write(tmp_path_factory.mktemp("nonsense") / "rows.jsonl", *rows)
    try:
        questions = load_choices(path)
    except UserError as error:
        assert "rows.jsonl" in str(error)
        return
    assert len(questions) == len(rows)
    for question in questions:
        prompt_of(question, [question]).encode()


def test_mmlu_is_read_by_subject(mmlu):
    questions = load_mmlu("virology")
    assert [q.question for q in questions] == [f"test virology {i}?" for i in range(3)]
    assert questions[0] == Choice("test virology 0?", ("1", "2", "3", "4"), 1, "virology")
    assert load_mmlu("abstract algebra") == load_mmlu("abstract_algebra")
    assert [q.subject for q in load_mmlu(ALL)] == [s for s in SUBJECTS for _ in range(3)]
    assert len(load_mmlu("virology", "dev")) == 7


def test_examples_are_the_first_of_dev(mmlu):
    assert [e.question for e in mmlu_examples("virology")] == [f"dev virology {i}?" for i in range(5)]
    assert [e.question for e in mmlu_examples(ALL, 1)] == [f"dev {s} 0?" for s in SUBJECTS]
    assert mmlu_examples("virology", 0) == []
    for shots in (-1, 6):
        with pytest.raises(UserError, match="choose 0 to 5"):
            mmlu_examples("virology", shots)


def test_an_unknown_subject_or_split_is_answered_with_the_nearest(mmlu):
    with pytest.raises(UserError, match="did you mean 'virology'"):
        load_mmlu("virologie")
    with pytest.raises(UserError, match="did you mean 'abstract_algebra'"):
        load_mmlu("Abstract Algebra 2")
    with pytest.raises(UserError, match="did you mean 'test'"):
        load_mmlu("virology", "tests")


def test_without_the_data_the_advice_is_to_set_the_folder(mmlu, monkeypatch):
    with pytest.raises(UserError, match=r"val\.parquet"):
        load_mmlu("virology", "val")
    monkeypatch.delenv("EXPUNGE_DATA")
    with pytest.raises(UserError, match="EXPUNGE_DATA is not set"):
        load_mmlu("virology")


def test_without_pyarrow_the_advice_is_to_install_it(mmlu, monkeypatch):
    original = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'expunge\[data\]'"):
        load_mmlu("virology")


def test_a_broken_parquet_file_is_refused(mmlu):
    import pyarrow
    from pyarrow import parquet

    path = mmlu / "test.parquet"
    good = {**ROW, "subject": "virology"}
    parquet.write_table(pyarrow.Table.from_pylist([good, {**good, "answer": 7}]), path)
    with pytest.raises(UserError, match=r"test\.parquet: row 2: answer is 7"):
        load_mmlu("virology")
    parquet.write_table(pyarrow.Table.from_pylist([ROW]), path)
    with pytest.raises(UserError, match="expected also subject"):
        load_mmlu("virology")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="cannot be read as parquet"):
        load_mmlu("virology")


def test_the_released_mmlu_has_its_counts(shared_data, monkeypatch):
    pytest.importorskip("pyarrow")
    if not (shared_data / "mmlu").is_dir():
        pytest.skip("no mmlu folder")
    monkeypatch.setenv("EXPUNGE_DATA", str(shared_data))
    questions = load_mmlu(ALL)
    assert (len(questions), len({q.subject for q in questions})) == (14_042, 57)
    assert len(mmlu_examples(ALL)) == 57 * 5


def test_the_prompt_is_that_of_lm_eval():
    question = Choice("  Which is red?\n", ("sky", "grass", " rose", "snow"), 2, "high_school_us_history")
    example = Choice("Which is cold?", ("fire", "ice", "sun", "tea"), 1, "high_school_us_history")
    bare = "Which is red?\nA. sky\nB. grass\nC.  rose\nD. snow\nAnswer:"
    head = "The following are multiple choice questions (with answers) about high school us history.\n\n"
    assert prompt_of(question) == head + bare
    shown = "Which is cold?\nA. fire\nB. ice\nC. sun\nD. tea\nAnswer: B\n\n"
    assert prompt_of(question, [example]) == head + shown + bare
    nameless = Choice(question.question, question.choices, 2)
    assert prompt_of(nameless) == "The following are multiple choice questions (with answers).\n\n" + bare


def test_accuracy_counts_each_question_alike():
    found = accuracy([{"score": 100.0}, {"score": 0.0}, {"score": 0.0}, {"score": 100.0}])
    assert (found.mean, found.n) == (50, 4)
    assert 15 < found.se < 35  # 25 is its expected value
