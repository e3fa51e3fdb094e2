"""Offline measures of a text: what it leaks, and whether it has collapsed into repetition.

Leakage (R-TOFU, arXiv 2505.15214, and the R2MU paper's question without a judge): the answer string
in the trace, and ROUGE-L recall of the reference fact against the best sentence of the trace."""

import re
from collections import Counter
from functools import cache
from math import log2
from typing import Any


def normalise(text: str) -> str:
    """Lower case, letters and digits only, single spaces."""
    return " ".join(re.findall(r"\w+", text.lower()))


def contains_answer(text: str, answer: str) -> bool:
    """Does the answer occur in the text as whole words, case and punctuation aside?"""
    wanted = normalise(answer)
    return bool(wanted) and f" {wanted} " in f" {normalise(text)} "


def sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])\s+|\n+", text) if s.strip()]


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


def fact_recall(text: str, fact: str) -> float:
    """ROUGE-L recall of the fact against each sentence of the text, the best of them, in [0, 1]."""
    return max((_rouge_scorer().score(fact, s)["rougeL"].recall for s in sentences(text)), default=0.0)


def distinct_n(texts: list[str], n: int = 3) -> float:
    """Share of different n-grams among all n-grams of the texts, in [0, 1]; 0 without any n-gram."""
    grams = [g for text in texts for g in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repeated_share(text: str, n: int = 4) -> float:
    """Share of the text's n-grams that stand in it more than once, in [0, 1]."""
    counts = Counter(_ngrams(text, n))
    total = sum(counts.values())
    return sum(c for c in counts.values() if c > 1) / total if total else 0.0


def ngram_entropy(text: str, n: int = 2) -> float:
    """Entropy of the text's n-grams in bits."""
    counts = Counter(_ngrams(text, n))
    total = sum(counts.values())
    return -sum(c / total * log2(c / total) for c in counts.values()) if total else 0.0


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return list(zip(*(words[i:] for i in range(n)), strict=False))
