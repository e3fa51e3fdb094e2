"""RTP, reflection-token penalty: RMU that also makes reflection words unlikely. (arXiv 2506.12963, section 3.)

    loss = RMU + penalty * mean p(reflection | forget text so far)

p is the total probability of the reflection tokens at a position of the forget text. One of the paper's two
"unthinking" baselines: it needs the whole model's logits, and it does not keep facts out of traces."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import UserError
from ..strict import at_least
from . import misdirection

STREAMS = ("forget", "retain")
WORDS = (
    "<think>", "Wait", "wait", "but", "Okay", "Hmm", "Albeit", "However", "But", "Yet", "Still",
    "Nevertheless", "Though", "Meanwhile", "Whereas",
)  # fmt: skip


@dataclass(frozen=True)
class RTP(misdirection.Misdirection):
    """Settings; ``penalty`` is the paper's lambda."""

    penalty: float = at_least(0, 1.0)
    words: tuple[str, ...] = WORDS


SETTINGS = RTP
control = misdirection.control


def token_ids(tokenizer: Any, words: tuple[str, ...]) -> list[int]:
    """Ids of the words that are one token, with and without a space before them. Raises UserError if none is."""
    ids = set()
    for word in words:
        for text in (word, " " + word):
            found = tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(found) == 1:
                ids.add(found[0])
    if not ids:
        raise UserError(
            f"unlearn.settings.words: found {', '.join(words) or 'none'}, of which no word is a single token of this "
            "model: there is nothing to penalise. Give words that are, or take method rmu."
        )
    return sorted(ids)


def loss(
    hidden: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    mask: Mapping[str, Tensor],
    control: Tensor,
    settings: RTP,
    *,
    reflection: Tensor | None = None,
) -> tuple[Tensor, misdirection.Parts]:
    """reflection: (batch, tokens), total probability of the reflection tokens after each forget token."""
    total, parts = misdirection.to_control(hidden, reference, mask, control, settings)
    if reflection is None:
        return total, parts
    weight = mask["forget"].to(reflection.dtype)
    parts["reflection"] = settings.penalty * (reflection * weight).sum() / weight.sum().clamp(min=1.0)
    return total + parts["reflection"], parts
