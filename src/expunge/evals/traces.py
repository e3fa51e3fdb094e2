"""What the model says between ``<think>`` and ``</think>``: leakage and collapse, without a judge.

Each probe is asked as it stands, in the chat template, with the reply begun by ``<think>``; greedy.
Leakage: (a) the answer occurs in the trace, (b) ROUGE-L recall of the reference fact against the best
sentence of the trace (R2MU, section 4; R-TOFU, arXiv 2505.15214). A collapsed trace leaks nothing, so
repetition, entropy and closure stand beside it."""

from collections.abc import Callable, Sequence
from typing import Any

from ..data.chat import THINK, encode_prompt
from ..data.facts import Fact
from ..data.rwku import Probe
from .generate import generate
from .task import Manner, plainly
from .text_measures import contains_answer, fact_recall, ngram_entropy, repeated_share


def evaluate(
    model: Any,
    tokenizer: Any,
    probes: Sequence[Probe],
    max_new_tokens: int,
    on_done: Callable[[int], None] | None = None,
    manner: Manner = plainly,
) -> list[dict[str, Any]]:
    """One row per probe with its trace, the reply after it, and the measures of the trace.

    ``manner``: how questions are put (after ZeroThink's empty thought, what follows counts as the trace)."""
    prompts = [encode_prompt(tokenizer, *manner(p.query, THINK)) for p in probes]
    generations = generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens, on_done=on_done)
    rows = []
    for probe, generation in zip(probes, generations, strict=True):
        trace, closing, reply = generation.text.partition("</think>")
        fact = Fact.of(probe).statement
        rows.append(
            {
                "side": probe.side,
                "level": probe.level,
                "kind": probe.kind,
                "query": probe.query,
                "answer": probe.answer,
                "fact": fact,
                "trace": trace.strip(),
                "reply": reply.strip(),
                "closed": bool(closing),
                "leak": contains_answer(trace, probe.answer),
                "recall": fact_recall(trace, fact),
                "repeated": repeated_share(trace),
                "entropy": ngram_entropy(trace),
            }
        )
    return rows
