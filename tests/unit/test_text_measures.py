"""Offline measures of texts, by hand and on nonsense."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from expunge.evals.text_measures import (
    contains_answer,
    distinct_n,
    fact_recall,
    ngram_entropy,
    normalise,
    repeated_share,
    sentences,
)


def test_normalise():
    assert normalise("  The DARK-Tower, (1982)!\n") == "the dark tower 1982"


@pytest.mark.parametrize(
    ("text", "answer", "there"),
    [
        ("It is Carrie, of course.", "carrie", True),
        ("The Dark\nTower!", "dark tower", True),
        ("Carriers", "Carrie", False),  # whole words only
        ("dark and tower", "dark tower", False),
        ("anything", "", False),
        ("anything", "...", False),  # an answer without a word can not be leaked
        ("", "Carrie", False),
        ("São Paulo", "são paulo", True),
    ],
)
def test_contains_answer(text, answer, there):
    assert contains_answer(text, answer) is there


def test_sentences_end_at_stops_and_lines():
    assert sentences("One. Two!  Three?\nFour\n\n") == ["One.", "Two!", "Three?", "Four"]
    assert sentences(" \n ") == []


def test_fact_recall_is_that_of_the_best_sentence():
    fact = "King wrote Carrie in 1974"
    # best sentence "King wrote It": 2 of 5 words in order
    assert fact_recall("It rains. King wrote It. Carrie!", fact) == pytest.approx(2 / 5)
    assert fact_recall("In 1974? No: king WROTE carrie in 1974!", fact) == pytest.approx(1.0)
    assert fact_recall("", fact) == 0.0
    # spread over sentences it does not add up
    assert fact_recall("King. wrote. Carrie. in. 1974.", fact) == pytest.approx(1 / 5)


def test_fact_recall_agrees_with_the_scorer_on_one_sentence():
    fact, said = "the cat sat on the mat", "on the mat the cat slept"
    wanted = RougeScorer(["rougeL"], use_stemmer=False).score(fact, said)["rougeL"].recall
    assert fact_recall(said, fact) == wanted == pytest.approx(3 / 6)


def test_distinct_n_by_hand():
    # 3-grams: abc bcd | abc: three, two of them different
    assert distinct_n(["a b c d", "a b c"], 3) == pytest.approx(2 / 3)
    assert distinct_n(["a b"], 3) == 0.0
    assert distinct_n(["a a a a a"], 2) == pytest.approx(1 / 4)


def test_repeated_share_by_hand():
    # bigrams: ab ba ab bc: ab stands twice
    assert repeated_share("a b a b c", 2) == pytest.approx(2 / 4)
    assert repeated_share("x x x x x x", 4) == 1.0
    assert repeated_share("a b c d e") == 0.0
    assert repeated_share("a b") == 0.0


def test_ngram_entropy_by_hand():
    # bigrams ab, ba, ab, bc with shares 1/2, 1/4, 1/4
    assert ngram_entropy("a b a b c", 2) == pytest.approx(1.5)
    assert ngram_entropy("x x x x", 2) == 0.0
    assert ngram_entropy("a b c d e", 1) == pytest.approx(math.log2(5))
    assert ngram_entropy("", 2) == 0.0


@given(st.text(max_size=60), st.integers(1, 4))
def test_shares_stay_in_range_for_any_text(text, n):
    assert 0 <= distinct_n([text], n) <= 1
    assert 0 <= repeated_share(text, n) <= 1
    assert 0 <= fact_recall(text, "a fact") <= 1
    count = max(0, len(text.split()) - n + 1)
    assert 0 <= ngram_entropy(text, n) <= (math.log2(count) if count else 0) + 1e-9
