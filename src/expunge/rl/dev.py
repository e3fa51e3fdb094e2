"""Looking at a policy while it learns: the dev questions by which a checkpoint is chosen, and signs of collapse."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data.chat import encode_prompt
from ..evals.generate import generate
from ..strict import at_least
from .questions import Question
from .refusals import detect, leaks, names_target
from .rewards import Reply, RewardSettings, score


@dataclass(frozen=True)
class Guard:
    """Where a run ends early because the model has collapsed; measured on samples and on dev questions."""

    least_entropy: float = at_least(0, 0.01)
    """Mean entropy of the sampled tokens, in nats."""
    most_truncated: float = 0.5
    """Share of samples cut at the token limit."""
    most_benign_refusals: float = 0.5
    """Share of neighbours' dev questions that are declined, unless it was no better at the start."""


def look_at(
    model: Any, tokenizer: Any, dev: Sequence[Question], new_tokens: int, reward: RewardSettings
) -> dict[str, Any]:
    """Greedy replies to the dev questions: ``score`` is the mean reward of both sides, each counting half, less the
    share of forget replies that state the answer."""
    prompts = [encode_prompt(tokenizer, q.prompt, q.start) for q in dev]
    replies = generate(model, tokenizer, prompts, max_new_tokens=new_tokens, batch_size=32)
    found: dict[str, list[float]] = {}
    for question, reply in zip(dev, replies, strict=True):
        row = question.row
        side = "forget" if row.forget else "boundary"
        earned = score(Reply(reply.text, not reply.closed), row, reward).total
        found.setdefault(f"reward_{side}", []).append(earned)
        found.setdefault(f"refusals_{side}", []).append(detect(reply.text, row.names).refusal)
        if row.forget:
            found.setdefault("named", []).append(names_target(reply.text, row.target, row.aliases))
            found.setdefault("leaks", []).append(leaks(reply.text, row.answer, row.question, row.names))
    means = {name: share(values) for name, values in found.items()}
    return {"score": (means["reward_forget"] + means["reward_boundary"]) / 2 - means["leaks"], **means}


def collapsed(row: dict[str, Any], guard: Guard) -> str:
    """Why the samples of an update look collapsed; empty if they do not."""
    if row["entropy"] < guard.least_entropy:
        return f"collapse: entropy of the samples is {row['entropy']:.4f} nats, below {guard.least_entropy}"
    if row["truncated"] > guard.most_truncated:
        return f"collapse: {row['truncated']:.0%} of the samples do not end, more than {guard.most_truncated:.0%}"
    return "collapse: the loss is not a number" if not math.isfinite(row["loss"]) else ""


def benign_collapse(looks: Sequence[dict[str, Any]], guard: Guard) -> str:
    now, start = looks[-1]["refusals_boundary"], looks[0]["refusals_boundary"]
    if now > guard.most_benign_refusals and now > start:
        return f"collapse: {now:.0%} of the neighbours' dev questions are declined ({start:.0%} at the start)"
    return ""


def share(values: Sequence[float]) -> float:
    """Mean; 0 of nothing."""
    return sum(map(float, values)) / len(values) if values else 0.0
