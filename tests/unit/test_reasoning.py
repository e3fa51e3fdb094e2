"""Final answers, their equality, the three sets of problems, and the whole on a tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expunge.data.reasoning import SETS, Problem, held_out_solutions, load_problems
from expunge.errors import UserError
from expunge.evals import reasoning
from expunge.evals.generate import Generation
from expunge.evals.reasoning import final_answer, reasoning_scores, same_answer
from expunge.evals.task import Options, Scored

ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [
        {"question": "Ada has 3 poems and writes 2. How many?", "answer": "3+2=<<3+2=5>>5 poems.\n#### 5"},
        {"question": "How far is York?", "answer": "Far.\n#### 1,200"},
    ],
    "math500": [{"problem": "Half?", "solution": "", "answer": "\\frac{1}{2}", "level": 1}],
    "aime24": [{"id": 60, "problem": "How many?", "solution": "", "answer": "204"}],
}


def write_problems(root: Path) -> Path:
    for name, rows in ROWS.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))
    return write_problems(tmp_path)


def test_problems_with_their_final_answers(data, monkeypatch):
    solved = [
        Problem(ROWS["gsm8k"][0]["question"], "5", "3+2=5 poems."),
        Problem("How far is York?", "1200", "Far."),
    ]
    assert load_problems("gsm8k") == held_out_solutions(9) == solved
    assert held_out_solutions(1) == solved[:1]
    assert load_problems("math500") == [Problem("Half?", "\\frac{1}{2}")]
    assert load_problems("aime24") == [Problem("How many?", "204")]
    monkeypatch.delenv("EXPUNGE_DATA")
    assert held_out_solutions(9) == []


@pytest.mark.parametrize(("name", "count"), [("gsm8k", 1319), ("math500", 500), ("aime24", 30)])
def test_the_real_sets_are_whole(shared_data, monkeypatch, name, count):
    monkeypatch.setenv("EXPUNGE_DATA", str(shared_data))
    problems = load_problems(name)
    assert len(problems) == count
    if name != "math500":
        assert all(problem.answer.removeprefix("-").isdigit() for problem in problems)


@pytest.mark.parametrize(
    ("name", "row", "told"),
    [
        ("gsm8k", {"question": "Q", "answer": "no mark"}, r"row 3: the answer ends in 'no mark'; expected ####"),
        ("gsm8k", {"question": "Q", "answer": "nothing after ####  "}, r"row 3: the answer ends in .*expected ####"),
        ("gsm8k", {"problem": "Q", "answer": "#### 1"}, r"line 3: field 'question' is None"),
        ("math500", {"problem": "Q", "answer": " "}, r"line 2: field 'answer' is ' '"),
        ("aime24", {"problem": "Q", "answer": 204}, r"line 2: field 'answer' is 204"),
        ("aime24", {"problem": ["Q"], "answer": "204"}, r"line 2: field 'problem' is \['Q'\]"),
    ],
)
def test_a_malformed_row_is_named(data, name, row, told):
    with (data / name / "test.jsonl").open("a") as file:
        file.write(json.dumps(row))
    with pytest.raises(UserError, match=rf"{name}/test\.jsonl: {told}"):
        load_problems(name)


def test_what_is_missing_or_unknown_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"gsm8k/test\.jsonl is not at hand; set EXPUNGE_DATA"):
        load_problems("gsm8k")
    with pytest.raises(UserError, match=r"unknown problems 'gsm8'; did you mean 'gsm8k'"):
        load_problems("gsm8")


@given(
    st.sampled_from(list(SETS)),
    st.lists(
        st.dictionaries(
            st.sampled_from(("question", "problem", "answer")),
            st.none() | st.integers() | st.text(max_size=8) | st.sampled_from(("#### 5", "####", "x #### , ")),
        )
        | st.none()
        | st.text(max_size=3),
        max_size=3,
    ),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nonsense_gives_a_user_error_or_problems(data, name, rows):
    (data / name / "test.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    try:
        found = load_problems(name)
    except UserError as error:
        assert "test.jsonl" in str(error)
    else:
        assert all(problem.question.strip() and problem.answer for problem in found)


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("It is \\boxed{5}.", "5"),
        ("\\boxed{4} or rather \\boxed{5}", "5"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{ \\text{Ada {Stone}} }", "\\text{Ada {Stone}}"),
        ("\\boxed{5} and then \\boxed{6", "5"),  # cut off
        ("\\boxed{6", None),
        ("\\boxed{}", None),
        ("so\n#### 12\nthat is it", "12"),
        ("#### 1\n#### 12", "12"),
        ("#### 7 \\boxed{8}", "8"),
        ("####", None),
        ("the answer is 5", None),
        ("", None),
        ("\\boxed{\\boxed{3}}", "3"),  # the one that begins last
    ],
)
def test_final_answers(reply, found):
    assert final_answer(reply) == found


@given(st.text(alphabet="\\boxed{}# 5\n", max_size=40))
def test_final_answers_of_nonsense(reply):
    found = final_answer(reply)
    assert found is None or (found and found in reply)


@pytest.mark.parametrize(
    ("found", "answer", "same"),
    [
        ("5", "5", True),
        ("05", "5", True),
        ("5.0", "5", True),
        ("1,200", "1200", True),
        ("\\$18", "18", True),
        ("18\\text{ dollars}", "18", True),
        ("14/3", "\\frac{14}{3}", True),
        ("x=5", "5", True),
        ("(3,\\pi/2)", "\\left( 3, \\frac{\\pi}{2} \\right)", True),
        ("Evelyn", "\\text{Evelyn}", True),
        ("50\\%", "0.5", True),
        ("6", "5", False),
        ("Bob", "\\text{Evelyn}", False),
        ("{", "5", False),
        ("\\frac{", "5", False),
        ("5} \\boxed{6", "5", False),
    ],
)
def test_equal_as_mathematics(found, answer, same):
    pytest.importorskip("math_verify", reason="math-verify is not installed: pip install 'expunge[eval]'")
    assert same_answer(found, answer) is same


def test_a_reply_is_never_run_as_python(tmp_path):
    pytest.importorskip("math_verify", reason="math-verify is not installed: pip install 'expunge[eval]'")
    trap = tmp_path / "trap"
    assert not same_answer(f'__import__("pathlib").Path("{trap}").touch()', "5")
    assert not trap.exists()


def test_right_answers_of_math_500_equal_themselves(shared_data, monkeypatch):
    verify = pytest.importorskip("math_verify", reason="math-verify is not installed: pip install 'expunge[eval]'")
    monkeypatch.setenv("EXPUNGE_DATA", str(shared_data))
    for problem in load_problems("math500")[::12]:
        parsed = verify.parse(f"\\boxed{{{problem.answer}}}", extraction_config=[verify.LatexExtractionConfig()])
        assert parsed, problem.answer
        assert same_answer(f" {problem.answer} ", problem.answer), problem.answer


def test_the_whole_on_canned_replies(data, tokenizer, monkeypatch):
    pytest.importorskip("math_verify", reason="math-verify is not installed: pip install 'expunge[eval]'")
    asked: dict[str, Any] = {}
    replies = ["so \\boxed{5}", "#### 1,200", "\\boxed{0.5}", "it goes on and on"]

    def generate(model, tokenizer, prompts, **options):
        asked.update(options, prompts=[tokenizer.decode(prompt) for prompt in prompts])
        return [Generation((), reply, i < 3) for i, reply in enumerate(replies)]

    monkeypatch.setattr(reasoning, "generate", generate)
    task = reasoning.task(Options())
    found, rows = task.run(Scored(None, None, tokenizer), lambda count: None)
    assert (task.name, task.work, asked["max_new_tokens"]) == ("reasoning", 4, 4096)
    assert asked["prompts"][0] == (
        "<|im_start|>user\nAda has 3 poems and writes 2. How many?\n\nThink it through, then state the final answer "
        "inside \\boxed{}.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [row["score"] for row in rows["reasoning"]] == [True, True, True, False]
    assert [row["found"] for row in rows["reasoning"]] == ["5", "1,200", "0.5", None]
    assert found["reasoning/gsm8k/accuracy"]["mean"] == 100
    assert found["reasoning/gsm8k/accuracy"]["n"] == 2
    assert [found[f"reasoning/aime24/{key}"]["mean"] for key in ("accuracy", "closed", "answered")] == [0, 0, 0]


def test_the_whole_on_a_tiny_model(data, llama, tokenizer, monkeypatch):
    pytest.importorskip("math_verify", reason="math-verify is not installed: pip install 'expunge[eval]'")
    monkeypatch.setattr(reasoning, "NEW_TOKENS", 4)
    task = reasoning.task(Options(limit=1))
    done: list[int] = []
    found, rows = task.run(
        Scored(llama, llama, tokenizer, lambda *asked: (asked[0], f"<think>{asked[1]}")), done.append
    )
    assert sum(done) == task.work == len(rows["reasoning"]) == 3
    assert set(found) == {f"reasoning/{name}/{key}" for name in SETS for key in ("accuracy", "closed", "answered")}


def test_without_math_verify_the_extra_is_named(data, monkeypatch):
    monkeypatch.setattr(reasoning.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"expunge\[eval\]"):
        reasoning.task(Options())


def test_scores_of_rows():
    row = {"of": "gsm8k", "score": True, "closed": True, "answered": True}
    found = reasoning_scores([row, row | {"score": False, "answered": False}])
    assert (found["reasoning/gsm8k/accuracy"]["mean"], found["reasoning/gsm8k/closed"]["mean"]) == (50, 100)
    assert found["reasoning/gsm8k/accuracy"]["se"] > 0
