"""Exact match and F1 of short answers, by hand."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.evals.answers import answer_words, best_f1, exact_match


@pytest.mark.parametrize(
    ("reply", "answers", "right"),
    [
        ("The Danube.", ["danube"], True),
        ("danube river", ["danube"], False),
        ("Rhine", ["Danube", "the Rhine!"], True),
        ("U.S.A.", ["USA"], True),  # punctuation goes without a gap
        ("well-known", ["well known"], False),
        ("(B)", ["(B)"], True),
        ("B", ["(B)"], True),
        ("(C)", ["(B)"], False),
        ("(A)", ["(A)"], True),  # an article, which is all that stands there
        ("A", ["(A)"], True),
        ("the", ["(A)"], False),
        (")", ["(A)"], False),
        ("] ) }", ["] ) }"], True),
        ("])}", ["] ) }"], True),
        ("] ) )", ["] ) }"], False),
        ("", ["] ) }"], False),
        ("", ["York"], False),
        ("The The", ["The The"], True),
        ("A The", ["The The"], False),
        ("True", ["True"], True),
        ("T", ["True"], False),
        ("2", ["24"], False),
    ],
)
def test_exact_match(reply, answers, right):
    assert exact_match(reply, answers) is right


@pytest.mark.parametrize(
    ("reply", "answers", "f1"),
    [
        ("the river Danube", ["Danube"], 2 * (1 / 2) * 1 / (1 / 2 + 1)),  # precision 1/2, recall 1
        ("river Danube", ["Danube", "the river Danube"], 1.0),
        ("red red car", ["red car car"], 2 / 3),  # each word as often as both have it
        ("York", ["Leeds"], 0.0),
        ("", ["York"], 0.0),
        ("the", ["a"], 1.0),  # both empty
        ("one two three four", ["two four six"], 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3)),
    ],
)
def test_f1_of_the_nearest_answer(reply, answers, f1):
    assert best_f1(reply, answers) == pytest.approx(f1)


texts = st.text(alphabet="aAnthe BC.()'\u2019\n", max_size=12)


@given(texts, st.lists(texts.map(lambda text: f"{text}."), min_size=1, max_size=3))
def test_both_stay_in_range_and_an_answer_is_right(reply, answers):
    assert exact_match(answers[0], answers)
    assert 0 <= best_f1(reply, answers) <= 1
    assert best_f1(answers[0], answers) == 1
    if exact_match(reply, answers):
        assert best_f1(reply, answers) == 1


@given(st.text(max_size=20))
def test_words_hold_no_punctuation_and_no_article(text):
    for word in answer_words(text):
        assert not set(word) & set(string.punctuation)
        assert word not in ("a", "an", "the")
