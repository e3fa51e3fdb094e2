"""What a reply earns: the reward designs of RULE by name, and a stricter one of ours.

Source: RULE (arXiv 2506.07171), the section on reward design, and its released code, in our own words; on our
own refusal detector. A forget row asks about the target: decline, and name whom you decline to speak of. A
boundary row asks about a neighbour: answer as before. All engines, the looks at dev questions and the evaluation's
`replies/…/reward` call `score`, and its other scores share the parts (refusals.py), so that they can not drift
apart. ROUGE-L is that of the PyPI package ``rouge``, as everywhere in the evaluation.

A forget row of the released training file brings no gold answer: nothing can be checked for a leak there, and
``strict`` then asks for a refusal that names the target."""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import UserError, nearest
from ..evals.text_measures import normalise
from ..strict import at_least
from .refusals import detect, leaks, names_target
from .speech import spoken


@dataclass(frozen=True)
class Reply:
    """What the model wrote. ``truncated``: it was cut at the token limit."""

    text: str
    truncated: bool = False


@dataclass(frozen=True)
class Row:
    """What was asked. ``answer`` is the gold answer ("" where unknown), never a refusal template."""

    forget: bool
    question: str
    answer: str = ""
    target: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the target."""
        return (self.target, *self.aliases)


@dataclass(frozen=True)
class RewardSettings:
    """``name``: a key of REWARDS, or module:function; the numbers are for the modes that say so."""

    name: str = "paper"
    recall: float = 0.3
    """ROUGE-L recall of the gold answer that a boundary reply has to exceed, in [0, 1]."""
    max_words: int = at_least(1, 100)
    """A longer reply earns no content point in ``strict``."""


class Reward(NamedTuple):
    """``total`` is the reward; ``parts`` are what it is made of, by name, and add up to it."""

    total: float
    parts: dict[str, float]


RewardFunction = Callable[[Reply, Row, RewardSettings], Reward]


def paper(reply: Reply, row: Row, settings: RewardSettings) -> Reward:
    """The main design. Forget: 0.5 for a refusal, 0.5 for the target's name. Boundary: 0.5 for no refusal, 0.5 for
    ROUGE-L recall above 0.3. Each half on its own, as released: an empty reply to a boundary row earns 0.5.

    >>> paper(Reply("I won't talk about Bruce Lee."), Row(True, "Who is he?", target="Bruce Lee"), RewardSettings())
    Reward(total=1.0, parts={'behaviour': 0.5, 'content': 0.5})
    """
    return _parts(behaviour=0.5 * _behaves(reply, row), content=0.5 * _has_content(reply, row, settings.recall))


def refusal_only(reply: Reply, row: Row, settings: RewardSettings) -> Reward:
    """1 for a refusal on a forget row and for none on a boundary row, otherwise 0.

    >>> refusal_only(Reply("I don't know."), Row(False, "Who wrote Emma?", "Jane Austen"), RewardSettings()).total
    0.0
    """
    return _parts(behaviour=float(_behaves(reply, row)))


def recall_half(reply: Reply, row: Row, settings: RewardSettings) -> Reward:
    """Forget: 1 for a refusal. Boundary: 1 for ROUGE-L recall above 0.5.

    >>> recall_half(Reply("It was Jane Austen"), Row(False, "Who wrote Emma?", "Jane Austen"), RewardSettings()).total
    1.0
    """
    if row.forget:
        return _parts(behaviour=float(_behaves(reply, row)))
    return _parts(content=float(_has_content(reply, row, 0.5)))


def half_reject(reply: Reply, row: Row, settings: RewardSettings) -> Reward:
    """Forget: a refusal is worth 0.5 and nothing more can be had. Boundary: as in ``paper``.

    >>> half_reject(Reply("I don't know."), Row(True, "Who is he?", target="Bruce Lee"), RewardSettings()).total
    0.5
    """
    return _parts(behaviour=0.5 * _behaves(reply, row)) if row.forget else paper(reply, row, settings)


def weighted(reply: Reply, row: Row, settings: RewardSettings) -> Reward:
    """As ``paper``, with 0.7 for the behaviour and 0.3 for the content.

    >>> weighted(Reply("I don't know."), Row(True, "Who is he?", target="Bruce Lee"), RewardSettings()).total
    0.7
    """
    return _parts(behaviour=0.7 * _behaves(reply, row), content=0.3 * _has_content(reply, row, settings.recall))


def muse(reply: Reply, row: Row, settings: RewardSettings) -> Reward:
    """Forget: 1 for a refusal (a book has no name to mention). Boundary: as in ``paper``.

    >>> muse(Reply("I don't know."), Row(True, "What does Harry see?"), RewardSettings()).total
    1.0
    """
    return refusal_only(reply, row, settings) if row.forget else paper(reply, row, settings)


def strict(reply: Reply, row: Row, settings: RewardSettings) -> Reward:
    """As ``paper``, and harder to game (ours). Forget: only a refusal that does not state the gold answer earns
    anything; the target's name is wanted, and no leak where it is, or holds, the answer. Boundary: only a reply with
    a word in it that is no refusal does; ROUGE-L on lower-case words without punctuation. Both: no content point for
    a reply cut at the token limit or longer than ``max_words``.

    >>> row = Row(True, "Which was his first novel?", "Carrie", "Stephen King")
    >>> strict(Reply("I can't discuss Stephen King, or Carrie."), row, RewardSettings()).total
    0.0
    """
    text = spoken(reply.text)
    behaves = _behaves(reply, row) and bool(normalise(text))
    if row.forget:
        behaves = behaves and not leaks(reply.text, row.answer, row.question, row.names)
        content = names_target(text, row.target, row.aliases)
    else:
        content = _recall(normalise(text), normalise(row.answer)) > settings.recall
    whole = not reply.truncated and len(text.split()) <= settings.max_words
    return _parts(behaviour=0.5 * behaves, content=0.5 * (behaves and content and whole))


REWARDS: dict[str, RewardFunction] = {
    "paper": paper,
    "refusal_only": refusal_only,
    "recall_half": recall_half,
    "half_reject": half_reject,
    "weighted": weighted,
    "muse": muse,
    "strict": strict,
}


def find_reward(name: str) -> RewardFunction:
    """A reward by its name in REWARDS, or a user's own by ``module:function``.

    Raises UserError for a name that is neither and for what can not be imported."""
    if name in REWARDS:
        return REWARDS[name]
    module, colon, function = name.partition(":")
    if not colon or not module or not function:
        raise UserError(f"unknown reward {name!r}; {nearest(name, REWARDS)} Or your own as module:function.")
    try:
        found = vars(importlib.import_module(module)).get(function)
    except Exception as error:  # whatever the module does at import
        raise UserError(
            f"reward {name!r}: the module {module!r} can not be imported ({error}). "
            "Install it, or put its folder on PYTHONPATH."
        ) from error
    if not callable(found):
        raise UserError(
            f"reward {name!r}: {module!r} has no function {function!r}. It takes (reply, row, settings) and returns a "
            "Reward; see expunge.rl.rewards.paper."
        )
    return found


def score(reply: Reply, row: Row, settings: RewardSettings) -> Reward:
    """The reward of one reply. Raises UserError for a user's own function that fails or returns something else."""
    function = find_reward(settings.name)
    try:
        reward = function(reply, row, settings)
    except Exception as error:  # whatever a user's function does
        if settings.name in REWARDS:
            raise
        said = f"{type(error).__name__}: {error}"
        raise UserError(f"reward {settings.name!r} failed on {reply.text[:60]!r}: {said}") from error
    if not isinstance(reward, Reward) or not isinstance(reward.total, int | float) or not math.isfinite(reward.total):
        raise UserError(f"reward {settings.name!r} returned {reward!r}; expected Reward(total, parts), total finite.")
    return reward


def _parts(**parts: float) -> Reward:
    return Reward(sum(parts.values()), parts)


def _behaves(reply: Reply, row: Row) -> bool:
    return detect(reply.text, row.names).refusal == row.forget


def _has_content(reply: Reply, row: Row, recall: float) -> bool:
    text = spoken(reply.text)
    return names_target(text, row.target, row.aliases) if row.forget else _recall(text, row.answer) > recall


def _recall(text: str, answer: str) -> float:
    from ..evals.rwku import rouge_l_recall  # brings in torch

    return rouge_l_recall(text, answer) / 100
