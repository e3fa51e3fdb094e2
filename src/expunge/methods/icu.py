"""ICU: tell the model, before every question, that it has forgotten the target; no weight changes.
(The in-context baseline of RWKU, arXiv 2406.10890.)

Departs from it: the words are our own, and they stand in the user's turn, as not every chat template has another place.
It goes with every other method too: what the stages before have trained is asked in this way."""

from collections.abc import Callable
from dataclasses import dataclass

STREAMS: tuple[str, ...] = ()
INSTRUCTION = (
    "All that you once knew about {target} has been removed from your memory. Speak as someone who never heard of "
    "{target}: recall nothing about {target}, and neither state nor hint at any such fact. Whatever else you know is "
    "still there; answer questions about other things as well as you can.\n\n"
)


@dataclass(frozen=True)
class ICU:
    """There is nothing to set."""

    def weights(self) -> dict[str, float]:
        return {}


SETTINGS = ICU


def instructed(target: str) -> Callable[[str, str], tuple[str, str]]:
    """Puts the instruction before a question; the reply begins as it would.

    >>> prompt, start = instructed("Ada Stone")("Who?", "Answer:")
    >>> prompt[:49], prompt[-10:], start
    ('All that you once knew about Ada Stone has been r', 'can.\\n\\nWho?', 'Answer:')
    """

    def manner(prompt: str, start: str) -> tuple[str, str]:
        return INSTRUCTION.replace("{target}", target) + prompt, start

    return manner
