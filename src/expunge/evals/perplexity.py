"""Perplexity: exp of the mean negative log-likelihood per token."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch


@torch.inference_mode()
def token_nll(
    model: Any, sequences: Sequence[Sequence[int]], first: Sequence[int], *, batch_size: int = 8
) -> list[list[float]]:
    """Negative log-likelihood, in nats, of each token from position ``first`` (>= 1) on, per sequence.

    Logits are computed at those positions only."""
    out: list[list[float]] = [[] for _ in sequences]
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = max(len(sequences[i]) for i in chosen)
        ids = torch.zeros((len(chosen), width), dtype=torch.long, device=model.device)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(chosen):
            tokens = sequences[index]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        hidden = decoder(input_ids=ids, attention_mask=mask).last_hidden_state
        for row, index in enumerate(chosen):
            begin, end = max(1, first[index]), len(sequences[index])
            if begin < end:
                logits = head(hidden[row, begin - 1 : end - 1]).float()
                nll = torch.nn.functional.cross_entropy(logits, ids[row, begin:end], reduction="none")
                out[index] = nll.tolist()
    return out


def perplexity(
    model: Any,
    sequences: Sequence[Sequence[int]],
    first: Sequence[int],
    on_done: Callable[[int], None] | None = None,
) -> float:
    """Perplexity over all tokens of the sequences, each from position ``first`` (>= 1) on."""
    total, count = 0.0, 0
    for start in range(0, len(sequences), 8):
        part = sequences[start : start + 8]
        for nll in token_nll(model, part, first[start : start + 8]):
            total, count = total + sum(nll), count + len(nll)
        if on_done:
            on_done(len(part))
    return math.exp(total / count)


def reply_perplexity(model: Any, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]) -> float:
    """Perplexity of replies given their prompts, over all reply tokens; nan if there are none."""
    sequences = [tuple(p) + tuple(r) for p, r in zip(prompts, replies, strict=True)]
    nlls = token_nll(model, sequences, [len(p) for p in prompts])
    count = sum(map(len, nlls))
    return math.exp(min(700.0, sum(map(sum, nlls)) / count)) if count else math.nan
