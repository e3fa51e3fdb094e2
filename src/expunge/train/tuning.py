"""What a recipe says of a stage that trains by a loss over replies, and what of it can be wrong."""

from dataclasses import dataclass
from typing import Any, Literal

from ..baselines import BASELINES
from ..baselines.npo import NPO
from ..errors import UserError
from ..strict import at_least
from .lora import LoRA
from .trainer import Training


@dataclass(frozen=True)
class Tuning(Training):
    """The loop; ``batch_size`` counts forget questions, each with its refusal and the retained one beside it."""

    epochs: int = at_least(1, 3)
    lr: float = at_least(0, 1e-5)


@dataclass(frozen=True)
class Retain:
    """What holds the neighbours' answers: see expunge/baselines/retain.py."""

    term: Literal["none", "gdr", "klr"] = "none"
    weight: float = at_least(0, 1.0)


@dataclass(frozen=True)
class Tune:
    """A stage that trains on the target's questions by a loss over replies: a method of expunge/baselines/."""

    method: str = "npo"
    settings: Any = NPO()
    """Of the method's own kind."""
    retain: Retain = Retain()
    training: Tuning = Tuning()
    lora: LoRA | None = None
    max_tokens: int = at_least(16, 512)
    """A question with its reply is cut at this many tokens."""
    templates: str | None = None
    """A file of refusals, one a line, with {target} in each; the packaged ones if none is given."""


def check(stage: Tune, where: str) -> None:
    """Raises UserError for what makes no sense together."""
    method = BASELINES[stage.method]
    if stage.templates and "refusal" not in method.READS:
        refusing = ", ".join(name for name, other in BASELINES.items() if "refusal" in other.READS)
        raise UserError(f"{where}.templates: {stage.method} reads no refusals; leave it out, or choose {refusing}.")
    if hasattr(method, "finish") and stage.retain.term != "none":
        raise UserError(
            f"{where}.retain.term: found {stage.retain.term!r}, expected 'none': what {stage.method} learns is taken "
            "away again, and what it holds would be too."
        )
