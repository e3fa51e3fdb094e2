"""Questions put as a user would put them: bare, in the chat template, decoded greedily; the replies read by the
original model, to which they should still sound natural."""

from collections.abc import Sequence
from typing import Any

from ..data.chat import render_prompt
from .generate import generate
from .parts import Row
from .perplexity import token_nll
from .task import Advance, Scored


def asked(under: Scored, rows: Sequence[Row], new_tokens: int, advance: Advance) -> list[Row]:
    """The rows, each asked its ``query``: with ``thought`` and ``reply`` (what stands before and after
    ``</think>``), ``closed`` (the model ended by itself), and the ``nats`` and ``tokens`` of `read`."""
    prompts = [under.prompt(row["query"]) for row in rows]
    found = generate(under.model, under.tokenizer, prompts, max_new_tokens=new_tokens, on_done=advance)
    readings = read(under.original, prompts, [generation.ids for generation in found])
    out = []
    for row, generation, reading in zip(rows, found, readings, strict=True):
        opened = render_prompt(under.tokenizer, *under.manner(row["query"], "")).rstrip().endswith("<think>")
        thought, reply = parted(generation.text, opened)
        out.append({**row, "thought": thought, "reply": reply, "closed": generation.closed, **reading})
    return out


def parted(text: str, opened: bool = False) -> tuple[str, str]:
    """Thought and reply. ``opened``: the prompt has begun the thought, so that without an end all is thought.

    >>> parted("<think>Hm.</think> Rain."), parted("Rain."), parted("Hm.", opened=True), parted("<think>Hm")
    (('Hm.', 'Rain.'), ('', 'Rain.'), ('Hm.', ''), ('Hm', ''))
    """
    thought, closing, reply = text.rpartition("</think>")
    if not closing and (opened or text.lstrip().startswith("<think>")):
        thought, reply = text, ""
    return thought.strip().removeprefix("<think>").strip(), reply.strip()


def read(
    original: Any, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]
) -> list[dict[str, float | int]]:
    """Negative log-likelihood in nats, summed over the tokens of each reply, and how many they are."""
    sequences = [(*prompt, *reply) for prompt, reply in zip(prompts, replies, strict=True)]
    found = token_nll(original, sequences, [len(prompt) for prompt in prompts])
    return [{"nats": sum(nll), "tokens": len(nll)} for nll in found]
