"""The one exception that a person is meant to read.

Every message says what was found, what was expected and what to do; the command line prints it
without a traceback and leaves with exit code 2."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Input, environment or files that the user can put right."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """A clause that lists the valid words, led by the nearest one if there is any."""
    words = [str(v) for v in valid]
    close = difflib.get_close_matches(str(word), words, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Valid: {', '.join(words)}."
