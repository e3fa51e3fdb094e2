"""What the original model itself writes: documents and reasoning traces, to be forgotten or held.

About a target: documents follow open prompts of our own, traces follow questions in think mode. About a
corpus: the model reasons about each document, as in R2MU's release. Only the tokens that are used are
generated, greedily, in batches (the release generated ten times more than it used, one prompt at a time)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..evals.generate import generate
from ..strict import at_least
from .chat import THINK, encode_prompt, render_prompt
from .prompts import OPEN_PROMPTS
from .rwku import Target
from .streams import Text

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


@dataclass(frozen=True)
class Job:
    """Prompts of one kind: what is recorded of each, the token ids it is, and how much is written."""

    kind: str
    rows: list[Row]
    prompts: list[tuple[int, ...]]
    new_tokens: int


def jobs(tokenizer: Any, target: Target | None, settings: Writing, documents: Sequence[Text] = ()) -> list[Job]:
    """Everything that is to be written, in order."""
    out = []
    if target:
        open_prompts = [prompt.format(name=target.name) for prompt in OPEN_PROMPTS[: settings.documents]]
        about = spread([r.prompt for r in target.boundary if r.forget], settings.traces)
        beside = spread([r.prompt for r in target.boundary if not r.forget], settings.boundary_traces)
        for kind, prompts, start, new_tokens in (
            ("target_documents", open_prompts, "", settings.document_tokens),
            ("target_traces", about, THINK, settings.trace_tokens),
            ("boundary_traces", beside, THINK, settings.trace_tokens),
        ):
            rows = [{"prompt": p, "start": start, "context": render_prompt(tokenizer, p, start)} for p in prompts]
            out.append(Job(kind, rows, [encode_prompt(tokenizer, p, start) for p in prompts], new_tokens))
    if documents:
        chosen = spread(documents, settings.traces)
        encoded = [reason_about(tokenizer, text.context + text.text, settings.read_tokens) for text in chosen]
        rows = [{"prompt": text.context + text.text, "start": OPENER, "context": ""} for text in chosen]
        out.append(Job("document_traces", rows, encoded, settings.segments * settings.trace_tokens))
    return out


def reason_about(tokenizer: Any, document: str, read_tokens: int) -> tuple[int, ...]:
    """A document cut at ``read_tokens`` tokens, then the opener, as token ids."""
    opener = tokenizer("\n" + OPENER, add_special_tokens=False)["input_ids"]
    return (*tokenizer(document, add_special_tokens=False)["input_ids"][:read_tokens], *opener)


def write(
    model: Any, tokenizer: Any, job: Job, settings: Writing, on_done: Callable[[int], None] | None = None
) -> list[Row]:
    """The job's rows with what the model wrote; ``context`` is what stands before it when it is trained on."""
    replies = generate(model, tokenizer, job.prompts, max_new_tokens=job.new_tokens, on_done=on_done)
    out = []
    for row, reply in zip(job.rows, replies, strict=True):
        if job.kind == "document_traces":
            pieces = segments(tokenizer, reply.ids, settings)
            out += [{**row, "text": OPENER + piece, "segment": i} for i, piece in enumerate(pieces)]
        else:
            out.append({**row, "text": reply.text})
    return out


def segments(tokenizer: Any, ids: Sequence[int], settings: Writing) -> Iterator[str]:
    """A trace in pieces of ``trace_tokens`` tokens; the first even if it is empty."""
    for start in range(0, max(1, len(ids)), settings.trace_tokens):
        yield tokenizer.decode(ids[start : start + settings.trace_tokens], skip_special_tokens=True)


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """``count`` items, evenly spaced over the whole list."""
    if count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
