"""What the original model itself writes about the target: forget documents and reasoning traces.

Documents follow open prompts of our own; traces follow questions in think mode. Only the tokens that
are used are generated, greedily, in batches (R2MU, section 3; the release generated ten times more
than it used, one prompt at a time)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..evals.generate import generate
from .chat import THINK, encode_prompt, render_prompt
from .prompts import OPEN_PROMPTS
from .rwku import Target


@dataclass(frozen=True)
class Writing:
    """How much is written. Counts are prompts; ``*_tokens`` new tokens for each."""

    documents: int = 16
    document_tokens: int = 64
    traces: int = 48
    trace_tokens: int = 64
    boundary_traces: int = 48


def write(
    model: Any, tokenizer: Any, target: Target, settings: Writing, on_done: Callable[[int], None] | None = None
) -> dict[str, list[dict[str, str]]]:
    """Rows ``{prompt, start, context, text}`` by kind; ``context`` is the prompt as the model saw it."""
    open_prompts = [prompt.format(name=target.name) for prompt in OPEN_PROMPTS[: settings.documents]]
    about = _spread([r.prompt for r in target.boundary if r.forget], settings.traces)
    beside = _spread([r.prompt for r in target.boundary if not r.forget], settings.boundary_traces)
    jobs = {
        "target_documents": (open_prompts, "", settings.document_tokens),
        "target_traces": (about, THINK, settings.trace_tokens),
        "boundary_traces": (beside, THINK, settings.trace_tokens),
    }
    written = {}
    for kind, (prompts, start, new_tokens) in jobs.items():
        encoded = [encode_prompt(tokenizer, prompt, start) for prompt in prompts]
        replies = generate(model, tokenizer, encoded, max_new_tokens=new_tokens, on_done=on_done)
        written[kind] = [
            {"prompt": prompt, "start": start, "context": render_prompt(tokenizer, prompt, start), "text": reply.text}
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
    return written


def prompts_to_write(target: Target, settings: Writing) -> int:
    """How many prompts :func:`write` goes through, for a progress bar."""
    beside = sum(not r.forget for r in target.boundary)
    about = sum(r.forget for r in target.boundary)
    return (
        min(settings.documents, len(OPEN_PROMPTS)) + min(settings.traces, about) + min(settings.boundary_traces, beside)
    )


def _spread(items: Sequence[str], count: int) -> list[str]:
    """``count`` items, evenly spaced over the whole list."""
    if count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
