"""Is a short answer the right one? Exact match and F1 over normalised words, as in SQuAD (arXiv 1606.05250).

Normalised: lower case, no punctuation, no articles. Of some right answers that leaves nothing ("(A)", brackets to be
closed): SQuAD's exact match would then accept any other nothing. Here such an answer is compared with its articles,
and where that leaves nothing either, sign by sign."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def plain_words(text: str) -> list[str]:
    """Words in lower case, without punctuation.

    >>> plain_words("The  Cat's (old) hat.")
    ['the', 'cats', 'old', 'hat']
    """
    return text.lower().translate(_PUNCTUATION).split()


def answer_words(text: str) -> list[str]:
    """The same without articles.

    >>> answer_words("The  Cat's (old) hat."), answer_words("(A)")
    (['cats', 'old', 'hat'], [])
    """
    return _ARTICLES.sub(" ", " ".join(plain_words(text))).split()


def _signs(text: str) -> list[str]:
    return list("".join(text.lower().split()))


def exact_match(reply: str, answers: Sequence[str]) -> bool:
    """Does the reply say one of the right answers, and nothing else?

    >>> exact_match("the Danube.", ["Rhine", "Danube"]), exact_match("(B)", ["(A)"]), exact_match("] )", ["] }"])
    (True, False, False)
    """
    return any(_matches(reply, answer) for answer in answers)


def _matches(reply: str, answer: str) -> bool:
    for read in (answer_words, plain_words, _signs):
        wanted = read(answer)
        if wanted:
            return read(reply) == wanted
    return False


def best_f1(reply: str, answers: Sequence[str]) -> float:
    """F1 of the reply's words against the nearest of one or more right answers, in [0, 1].

    >>> best_f1("the river Danube", ["Danube", "Rhine"])
    0.6666666666666666
    """
    return max(_f1(answer_words(reply), answer_words(answer)) for answer in answers)


def _f1(said: Sequence[str], wanted: Sequence[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    common = (Counter(said) & Counter(wanted)).total()
    return 2 * common / (len(said) + len(wanted))
