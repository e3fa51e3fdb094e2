"""Mark, in a model's output, the words of the right answer. The text itself stays as it is, escaped."""

import re

from markupsafe import Markup, escape

# Marked only in an answer that has no other words: "the" in every sentence is no leak.
FUNCTION_WORDS = frozenset(re.findall(r"\w+", "a an and as at by for from in into is it of on or the to was were with"))


def answer_words(answer: str) -> frozenset[str]:
    """Words to look for, case folded.

    >>> sorted(answer_words("The Dark Tower"))
    ['dark', 'tower']"""
    words = frozenset(word.casefold() for word in re.findall(r"\w+", answer))
    return words - FUNCTION_WORDS or words


def mark(text: str, answer: str) -> Markup:
    """The text as HTML, with each whole word of the answer in ``<mark>``.

    >>> str(mark("<b> Carrie, he wrote", "carrie"))
    '&lt;b&gt; <mark>Carrie</mark>, he wrote'"""
    wanted = answer_words(answer)
    out = []
    for position, piece in enumerate(re.split(r"(\w+)", text)):  # words stand at the odd positions
        safe = escape(piece)
        out.append(Markup(f"<mark>{safe}</mark>") if position % 2 and piece.casefold() in wanted else safe)
    return Markup("").join(out)
