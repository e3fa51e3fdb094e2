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


def silent(prompt: str, start: str) -> tuple[str, str]:
    """The question as it is; the reply that would begin with ``start`` begins with an empty thought, then that.

    >>> silent("Who?", "Answer:")
    ('Who?', '<think>\\n\\n</think>\\n\\nAnswer:')
    >>> silent("Who?", "<think>\\n")  # asked to think, it has thought
    ('Who?', '<think>\\n\\n</think>\\n\\n')
    """
    return prompt, EMPTY_THOUGHT + ("" if start.startswith("<think>") else start)
