"""ROUGE-L against the package it stands for, over real answers and over nonsense."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from expunge.evals.rouge_l import common_subsequence, rouge_l


@pytest.mark.parametrize(("stem", "count"), [(False, 1000), (True, 250)])  # stemming is slow
def test_rouge_l_is_the_packages_own_over_real_answers(shared_data, stem, count):
    lines = (shared_data / "tofu" / "retain90.json").read_text().split("\n")
    answers = [json.loads(line)["answer"] for line in lines[: count + 1]]
    scorer, seen = RougeScorer(["rougeL"], use_stemmer=stem), set()
    for i in range(count):
        for j in (i + 1, (7 * i) % (count + 1)):
            wanted = scorer.score(answers[j], answers[i])["rougeL"]
            found = rouge_l(answers[i], answers[j], stem=stem)
            assert found == pytest.approx((wanted.recall, wanted.precision, wanted.fmeasure)), (answers[i], answers[j])
            seen.add(round(found.f1, 3))
    assert len(seen) > 100


letters = st.lists(st.sampled_from("abc"), max_size=12)


@given(letters, letters)
@settings(max_examples=200)
def test_common_subsequences_against_the_usual_table(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if x == y else max(table[i - 1][j], table[i][j - 1])
    assert common_subsequence(a, b) == table[-1][-1] == common_subsequence(b, a)


@given(st.text(max_size=30), st.text(max_size=30), st.booleans())
def test_rouge_l_of_any_texts_is_the_packages(text, reference, stem):
    wanted = RougeScorer(["rougeL"], use_stemmer=stem).score(reference, text)["rougeL"]
    assert rouge_l(text, reference, stem=stem) == pytest.approx((wanted.recall, wanted.precision, wanted.fmeasure))
