"""ROUGE-L as the PyPI package ``rouge-score`` defines it (its tokenizer is used as it is), for many pairs.

Words of a text are found once, and the longest common subsequence is a few operations on long integers for each word
instead of a table: step-wise measures compare every sentence with every other. tests/unit/test_rouge_l.py holds it
against the package."""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple


class Overlap(NamedTuple):
    """Longest common subsequence over the words of the reference, over those of the text, and their harmonic mean."""

    recall: float
    precision: float
    f1: float


def rouge_l(text: str, reference: str, *, stem: bool = False) -> Overlap:
    """ROUGE-L of a text against its reference, each in [0, 1]; 0 where either has no word.

    ``stem``: words of more than three letters are compared by their Porter stems.

    >>> rouge_l("the old town by the sea", "The town.").recall
    1.0
    """
    said, wanted = _words(text, stem), _words(reference, stem)
    if not said or not wanted:
        return Overlap(0.0, 0.0, 0.0)
    common = common_subsequence(said, wanted)
    recall, precision = common / len(wanted), common / len(said)
    return Overlap(recall, precision, 2 * recall * precision / (recall + precision) if common else 0.0)


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    The bits of one integer say where the row of the usual table stays level; a row follows from the one before by an
    addition, whose carries run over a whole block (Hyyrö, 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(a)) - 1
    level = full
    for word in b:
        match = level & places.get(word, 0)
        level = (level + match | level - match) & full
    return len(a) - level.bit_count()


@lru_cache(maxsize=65536)
def _words(text: str, stem: bool) -> tuple[str, ...]:
    return tuple(_tokenizer(stem).tokenize(text))


@cache
def _tokenizer(stem: bool) -> Any:
    from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(stem)
