"""What the original model itself writes: documents and reasoning traces, to be forgotten or held.

About a target: documents follow open prompts of our own, traces follow questions in think mode. About a
corpus: the model reasons about each document, as in R2MU's release (tracing.py). Only the tokens that are used
are generated, greedily, in batches (the release generated ten times more than it used, one prompt at a time)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..evals.generate import generate
from ..strict import at_least
from .chat import THINK, encode_prompt, render_prompt
from .prompts import OPEN_PROMPTS
from .rwku import Target

OPENER = "Let's reason this step by step.\n<think>"
"""What stands after a document that the model is to reason about, and before the trace in training."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Writing:
    """How much is written. Counts are prompts; ``*_tokens`` new tokens for each."""

    documents: int = at_least(0, 16)
    document_tokens: int = at_least(1, 64)
    traces: int = at_least(0, 48)
    trace_tokens: int = at_least(1, 64)
    boundary_traces: int = at_least(0, 48)
    about: tuple[str, ...] = ()
    """Sources whose texts the model reasons about; the traces are the source ``document_traces``."""
    read_tokens: int = at_least(1, 512)
    """Documents are cut at this many tokens before the model reasons about them."""
    segments: int = at_least(1, 1)
    """A trace about a document is this many pieces of ``trace_tokens`` each (the paper's N)."""
    batch_size: int = at_least(1, 32)
    """Documents that the model reasons about at once, which only says how fast."""


@dataclass(frozen=True)
class Job:
    """Prompts of one kind: what is recorded of each, the token ids it is, and how much is written."""

    kind: str
    rows: list[Row]
    prompts: list[tuple[int, ...]]
    new_tokens: int


def jobs(tokenizer: Any, target: Target | None, settings: Writing) -> list[Job]:
    """Everything that is to be written about a target, in order."""
    if target is None:
        return []
    open_prompts = [prompt.format(name=target.name) for prompt in OPEN_PROMPTS[: settings.documents]]
    about = spread([r.prompt for r in target.boundary if r.forget], settings.traces)
    beside = spread([r.prompt for r in target.boundary if not r.forget], settings.boundary_traces)
    out = []
    for kind, prompts, start, new_tokens in (
        ("target_documents", open_prompts, "", settings.document_tokens),
        ("target_traces", about, THINK, settings.trace_tokens),
        ("boundary_traces", beside, THINK, settings.trace_tokens),
    ):
        rows = [{"prompt": p, "start": start, "context": render_prompt(tokenizer, p, start)} for p in prompts]
        out.append(Job(kind, rows, [encode_prompt(tokenizer, p, start) for p in prompts], new_tokens))
    return out


def reason_about(tokenizer: Any, document: str, read_tokens: int) -> tuple[int, ...]:
    """A document cut at ``read_tokens`` tokens, then the opener, as token ids."""
    opener = tokenizer("\n" + OPENER, add_special_tokens=False)["input_ids"]
    return (*tokenizer(document, add_special_tokens=False)["input_ids"][:read_tokens], *opener)


def write(model: Any, tokenizer: Any, job: Job, on_done: Callable[[int], None] | None = None) -> list[Row]:
    """The job's rows with what the model wrote; ``context`` is what stands before it when it is trained on."""
    replies = generate(model, tokenizer, job.prompts, max_new_tokens=job.new_tokens, on_done=on_done)
    return [{**row, "text": reply.text} for row, reply in zip(job.rows, replies, strict=True)]


def segments(tokenizer: Any, ids: Sequence[int], size: int) -> Iterator[str]:
    """A trace in pieces of ``size`` tokens; the first even if it is empty."""
    for start in range(0, max(1, len(ids)), size):
        yield tokenizer.decode(ids[start : start + size], skip_special_tokens=True)


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """``count`` items, evenly spaced over the whole list."""
    if count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
