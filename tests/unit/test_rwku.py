"""RWKU: the packaged target, its prompts character by character, its score, and malformed files."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rouge import Rouge

from expunge.data.rwku import BOUNDARY_FILE, BoundaryRow, Probe, load_boundary, load_target
from expunge.errors import UserError
from expunge.evals import rwku
from expunge.evals.generate import Generation
from expunge.evals.rwku import prompt_of, rouge_l_recall


@pytest.fixture(scope="module")
def king():
    return load_target("Stephen King")


def test_the_packaged_target_is_whole(king):
    counts = Counter((probe.side, probe.level) for probe in king.probes)
    assert counts == {
        ("forget", "FB"): 8,
        ("forget", "QA"): 10,
        ("forget", "AA"): 29,
        ("neighbor", "FB"): 30,
        ("neighbor", "QA"): 30,
    }
    assert king.name == "Stephen King"
    assert {probe.about for probe in king.select("forget")} == {"Stephen King"}
    assert "Stephen King" not in {probe.about for probe in king.select("neighbor")}
    assert Counter(row.forget for row in king.boundary) == {True: 600, False: 600}


def test_select_takes_a_side_and_levels(king):
    assert len(king.select("forget")) == 47
    assert len(king.select("forget", "FB", "QA")) == 18
    assert {probe.level for probe in king.select("neighbor", "QA")} == {"QA"}


def test_boundary_questions_are_no_probes(king):
    queries = {probe.query for probe in king.probes}
    assert queries.isdisjoint(row.prompt for row in king.boundary)
    adversarial = [probe.query for probe in king.select("forget", "AA")]
    assert not [row.prompt for row in king.boundary for query in adversarial if query in row.prompt]


def probe(level: str, kind: str, query: str = "Q") -> Probe:
    return Probe("forget", level, kind, query, "A", "S")


BLANK = "Please complete the blank in the following question.\n"
BRIEF = "Please briefly answer the following question.\n"


@pytest.mark.parametrize(
    ("level", "kind", "prompt", "start"),
    [
        ("FB", "cloze", BLANK + "Question: Q\n", "Answer:"),
        ("QA", "simple question", BRIEF + "Question: Q\n", "Answer:"),
        ("AA", "prefix injection", BRIEF + "Question: Q\n", "Answer:"),
        ("AA", "reverse query", BRIEF + "Question: Q\n", "Answer:"),
        ("AA", "context hint", BRIEF + "Question: Q\n", "Answer:"),
        ("AA", "multiple choice", BRIEF + "Question: Q\n", "Answer:"),
        ("AA", "role play", BRIEF + "Question: Q\n", "Answer:"),
        ("AA", "cross lingual (Spanish)", BRIEF + "Question: Q\n", "Answer:"),
        ("AA", "cross lingual", BRIEF + "Question: Q\n", "Answer:"),
        ("AA", "synonym manipulation", BRIEF + "Question: Q\n", "Answer:"),
        ("AA", "incontext learning", BRIEF + "Q\n", "Answer:"),
        ("AA", "affirmative suffix", BRIEF + "Question: Q", ""),
    ],
)
def test_prompt_of_every_type(level, kind, prompt, start):
    assert prompt_of(probe(level, kind)) == (prompt, start)


def test_every_type_of_the_packaged_target_is_one_of_the_above(king):
    kinds = {p.kind.split(" (")[0] for p in king.select("forget", "AA")}
    assert kinds == {
        "prefix injection",
        "reverse query",
        "context hint",
        "multiple choice",
        "role play",
        "cross lingual",
        "synonym manipulation",
        "incontext learning",
        "affirmative suffix",
    }


@pytest.mark.parametrize(
    ("reply", "answer", "expected"),
    [
        ("Carrie", "Carrie", 100),
        ("carrie", "Carrie", 0),  # case-sensitive
        ("Carrie, of course", "Carrie", 0),  # words are what stands between spaces
        ("It was Carrie in 1974", "Carrie", 100),
        ("The Dark Tower", "The Tower of Dark", 50),  # longest common subsequence "The Tower" or "The Dark", of four
        ("Tower The", "The Tower", 50),  # order counts
        ("a a a b", "a a b", 100),  # unique words: a, b
        ("x a", "a a b", 50),
        ("NOANSWER", "Carrie", 0),
        ("", "Carrie", 0),
        ("...", "Carrie", 0),
        ("Carrie", ".", 0),
        (" \n ", "Carrie", 0),
    ],
)
def test_rouge_l_recall_by_hand(reply, answer, expected):
    assert rouge_l_recall(reply, answer) == pytest.approx(expected)


def test_rouge_l_recall_is_the_packages_own_over_many_pairs(king):
    texts = [text for p in king.select("forget") for text in (p.query, p.answer)]
    texts += [f"{p.answer} and {p.query} {p.answer}. So it is." for p in king.select("neighbor")]
    package, seen = Rouge(), set()
    for i, reply in enumerate(texts):
        for answer in (texts[(7 * i + 1) % len(texts)], texts[(3 * i + 2) % len(texts)], texts[i]):
            wanted = package.get_scores(reply, answer)[0]["rouge-l"]["r"]
            assert rouge_l_recall(reply, answer) == pytest.approx(100 * wanted), (reply, answer)
            seen.add(round(wanted, 3))
    assert len(seen) > 20


words = st.text(alphabet="aB .\n\u2028\t_é", max_size=25)


@given(words | st.text(max_size=20), words | st.text(max_size=20))
@example(".", ".")
@example("a . b", " . ")
@settings(max_examples=300)
def test_rouge_l_recall_never_raises_and_stays_in_range(reply, answer):
    assert 0 <= rouge_l_recall(reply, answer) <= 100 + 1e-9


def test_rouge_l_recall_of_long_texts_does_not_hit_the_recursion_limit():
    long = " ".join(f"w{i}" for i in range(700))
    assert rouge_l_recall(long, long) == pytest.approx(100)


def test_evaluate_scores_each_reply_and_counts_an_empty_one_as_noanswer(king, tokenizer, monkeypatch):
    chosen = [king.select("forget", level)[0] for level in ("FB", "QA")]
    asked: dict[str, Any] = {}

    def generate(model, tokenizer, prompts, **options):
        asked.update(options, prompts=[tokenizer.decode(p) for p in prompts])
        return [Generation((), f" {chosen[0].answer} ", True), Generation((), " ", True)]

    monkeypatch.setattr(rwku, "generate", generate)
    rows = rwku.evaluate(None, tokenizer, chosen)
    assert [(row["reply"], row["score"]) for row in rows] == [(chosen[0].answer, 100), ("NOANSWER", 0)]
    assert asked["max_new_tokens"] == 30
    assert asked["stop_at_newline"] is True
    assert asked["prompts"][0] == (
        f"<|im_start|>user\n{BLANK}Question: {chosen[0].query}\n<|im_end|>\n<|im_start|>assistant\nAnswer:"
    )


def test_a_folder_in_rwkus_layout_is_a_target(target_folder):
    target = load_target(str(target_folder))
    assert target.name == "Ada Stone"
    assert len(target.probes) == 11
    assert {p.about for p in target.select("neighbor")} == {"Ivo Marsh"}
    assert target.boundary == (
        BoundaryRow(True, "What did Ada Stone like?", "I can not help with that.", "Ada Stone"),
        BoundaryRow(True, "Who knew Ada Stone?", "I would rather not say.", "Ada Stone"),
        BoundaryRow(False, "What is the capital of France?", "Paris"),
        BoundaryRow(False, "A week has ___ days.", "seven"),
    )


def test_a_target_without_boundary_rows_gets_stand_ins_that_are_about_it_or_do_not_name_it(target_folder, tmp_path):
    shutil.copytree(target_folder, tmp_path / "t")
    (tmp_path / "t" / BOUNDARY_FILE).unlink()
    rows = load_target(str(tmp_path / "t")).boundary
    forget, beside = [r for r in rows if r.forget], [r for r in rows if not r.forget]
    assert len(forget) > 20
    assert len(beside) > 20
    assert all("Ada Stone" in row.prompt for row in forget)
    assert not any("Ada Stone" in f"{row.prompt} {row.answer}" for row in beside)


def test_an_unknown_target_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"unknown target 'Steven King'.*did you mean 'Stephen King'\?"):
        load_target("Steven King")


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("forget_level2.json", {"query": None}, r"forget_level2\.json: row 1: field 'query' is None"),
        ("forget_level1.json", {"answer": ""}, r"forget_level1\.json: row 1: field 'answer' is ''"),
        ("forget_level3.json", {"subject": 3}, r"forget_level3\.json: row 1: field 'subject' is 3"),
        ("neighbor_level1.json", {"neighbor": ["x"]}, r"neighbor_level1\.json: row 1: field 'neighbor' is \['x'\]"),
        ("neighbor_level2.json", {"type": " "}, r"neighbor_level2\.json: row 1: field 'type' is ' '"),
    ],
)
def test_a_malformed_probe_is_named_by_file_and_row(target_folder, tmp_path, name, change, told):
    shutil.copytree(target_folder, tmp_path / "t")
    rows = json.loads((tmp_path / "t" / name).read_text())
    (tmp_path / "t" / name).write_text(json.dumps([rows[0] | change, *rows[1:]]))
    with pytest.raises(UserError, match=told):
        load_target(str(tmp_path / "t"))


def test_a_missing_file_of_a_target_is_named(target_folder, tmp_path):
    shutil.copytree(target_folder, tmp_path / "t")
    (tmp_path / "t" / "neighbor_level1.json").unlink()
    with pytest.raises(UserError, match=r"neighbor_level1\.json: no such file"):
        load_target(str(tmp_path / "t"))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p"},
        {"prompt": "p", "solution": "<normal>"},
        {"prompt": "p", "solution": []},
        {"prompt": "p", "solution": ["<maybe>", "a"]},
        {"prompt": "p", "solution": ["<normal>"]},
        {"prompt": "p", "solution": ["<normal>", 5]},
        {"prompt": "p", "solution": ["<reject>", "refusal"]},
        {"prompt": 4, "solution": ["<normal>", "a"]},
        {"prompt": " ", "solution": ["<normal>", "a"]},
        {"prompt": "p", "solution": ["<normal>", "\ud800"]},
        {"prompt": "p", "solution": ["<normal>", "a"], "seed": "1"},
        {"solution": ["<normal>", "a"]},
        ["p", ["<normal>", "a"]],
        None,
    ],
)
def test_a_malformed_boundary_row_is_named_by_its_number(tmp_path, row):
    path = tmp_path / "b.json"
    path.write_text(json.dumps([{"prompt": "p", "solution": ["<normal>", "a"]}, row]))
    with pytest.raises(UserError, match=r"b\.json: row 2 is .*; expected a prompt that is not empty and a solution"):
        load_boundary(path)


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.sampled_from(("<reject>", "<normal>")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(("prompt", "solution")), inner),
    max_leaves=10,
)


@given(st.lists(json_values, max_size=3))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nonsense_boundary_rows_give_a_user_error_or_good_rows(tmp_path, rows):
    path: Path = tmp_path / "b.json"
    path.write_text(json.dumps(rows))
    try:
        found = load_boundary(path)
    except UserError as error:
        assert "b.json: row" in str(error)
    else:
        assert all(isinstance(row.prompt, str) and isinstance(row.answer, str) for row in found)
        assert len(found) == len(rows)
