"""ZeroThink: begin every reply with an empty thought, so that the model answers at once.
(A baseline of arXiv 2506.12963, section 3; no weight changes.)

It goes with every other method too: ``evaluate.zero_think`` scores an unlearned model that way."""

from dataclasses import dataclass

STREAMS: tuple[str, ...] = ()
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class ZeroThink:
    """There is nothing to set."""

    def weights(self) -> dict[str, float]:
        return {}


SETTINGS = ZeroThink


def opening(start: str) -> str:
    """How a reply that would begin with ``start`` begins: an empty thought, then the answer's own start.

    >>> opening("Answer:")
    '<think>\\n\\n</think>\\n\\nAnswer:'
    >>> opening("<think>\\n")  # asked to think, it has thought
    '<think>\\n\\n</think>\\n\\n'
    """
    return EMPTY_THOUGHT + ("" if start.startswith("<think>") else start)
