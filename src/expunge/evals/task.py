"""What a suite of the evaluation is: data and protocol, read and checked before any model is loaded, and how to
score a model by them.

Each suite is one module with ``task(options) -> Task``; the table of all is in evals/suites.py."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.chat import encode_prompt, render_prompt
from ..endpoint import Endpoint
from ..methods.icu import instructed
from ..methods.zerothink import silent

Found = dict[str, Any]  # score id -> entry: mean, se, n, label, unit, better (or mean None and a note)
Rows = dict[str, list[dict[str, Any]]]  # file name without ending -> one row a sample
Advance = Callable[[int], None]
Manner = Callable[[str, str], tuple[str, str]]  # user's turn and start of the reply -> the same as they are put


def plainly(prompt: str, start: str) -> tuple[str, str]:
    """A question as the protocol has it."""
    return prompt, start


def manner_of(zero_think: bool, icu: str | None) -> Manner:
    """With ICU's instruction about the target ``icu``, if there is one, and with an empty thought if so asked."""
    told = instructed(icu) if icu else plainly
    return (lambda prompt, start: silent(*told(prompt, start))) if zero_think else told


@dataclass(frozen=True)
class Scored:
    """The model under test, the original that its replies are read by, and how questions are put (ZeroThink, ICU)."""

    model: Any
    original: Any
    tokenizer: Any
    manner: Manner = plainly

    @property
    def plain(self) -> bool:
        """Are questions put as the protocols have them?"""
        return self.manner is plainly

    def prompt(self, question: str, start: str = "") -> tuple[int, ...]:
        """Token ids of a question in this manner, up to where the model goes on."""
        return encode_prompt(self.tokenizer, *self.manner(question, start))

    def text(self, question: str, start: str = "") -> str:
        """The same, not yet tokenised; special tokens stand in it."""
        return render_prompt(self.tokenizer, *self.manner(question, start))


@dataclass(frozen=True)
class Options:
    """What a user says of an evaluation. ``limit``: at most so many samples of each part, evenly spaced; 0: all."""

    target: str | None = None
    limit: int = 0
    judge: Endpoint | None = None
    """Where a judge model answers; without one, the columns that need it say "not judged"."""
    files: Mapping[str, Sequence[str]] | None = None
    """Files of a user's own, by suite."""
    nli: str | None = None
    """A model for natural language inference, for the columns that need one."""
    plain: bool = True
    """Questions are put as the protocols have them, without ZeroThink and ICU."""


@dataclass(frozen=True)
class Task:
    """One suite, ready to be run. ``protocol`` and ``data_hash`` name its cached result beside the model's hash."""

    name: str
    protocol: Mapping[str, Any]
    data_hash: str
    work: int
    """Units for the progress bar: ``run`` calls ``advance`` with so many in all."""
    run: Callable[[Scored, Advance], tuple[Found, Rows]]


def not_measured(label: str, note: str, unit: str = "", better: str = "") -> Found:
    """The entry of a score that could not be had; ``note`` says why and what to do."""
    return {"mean": None, "note": note, "label": label, "unit": unit, "better": better}
