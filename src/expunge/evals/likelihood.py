"""How likely a model finds given continuations: log-probabilities, token by token, of (prompt, reply) pairs.

What pairs begin with in common (a few-shot prompt, a question with several answers, the first words of an answer) is
computed once: they are laid out as prefix trees. A sequence longer than ``LONGEST``, or than the model's sliding
window, of which a tree knows nothing, is a batch of its own. Logits are computed where a token is scored and nowhere
else, ``LOGIT_ROWS`` positions at a time, in float32 or better."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.chat import Encoded
from ..rl.policy import parts

TREE_TOKENS = 2048
LONGEST = 4096
LOGIT_ROWS = 256

Measure = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits (rows, vocabulary), row of each scored token (tokens,), the tokens (tokens,) -> values (tokens, columns)."""


def log_likelihoods(
    model: Any,
    pairs: Sequence[Encoded],
    *,
    tree_tokens: int = TREE_TOKENS,
    on_done: Callable[[int], None] | None = None,
) -> list[list[float]]:
    """Log-probability in nats of each reply token, given all that stands before it; pairs in their order.

    ``on_done`` is called with the number of pairs that have just been scored. A pair without a prompt raises
    ValueError: a first token has no probability."""
    found = _measure(model, pairs, _log_probability, tree_tokens, on_done)
    return [[value for (value,) in rows] for rows in found]


def standardised(
    model: Any,
    pairs: Sequence[Encoded],
    *,
    tree_tokens: int = TREE_TOKENS,
    on_done: Callable[[int], None] | None = None,
) -> list[list[tuple[float, float]]]:
    """The same, each log-probability followed by its distance from the mean over the vocabulary in standard
    deviations, both under the model's own distribution: (log p - mu) / sigma (Min-K%++, arXiv 2404.02936, eq. 3)."""
    found = _measure(model, pairs, _against_vocabulary, tree_tokens, on_done)
    return [[(value, distance) for value, distance in rows] for rows in found]


def whole_text(model: Any, tokenizer: Any, text: str) -> Encoded:
    """A bare text as a pair: its first token is the prompt, of all others the probability counts.

    Special tokens are those that the tokenizer adds by itself; what goes beyond the model's context is cut off."""
    ids = tokenizer(text)["input_ids"][: model.config.max_position_embeddings]
    return Encoded(tuple(ids[:1]), tuple(ids[1:]))


def lowest(values: Sequence[float], percent: int) -> float:
    """Min-K% (arXiv 2310.16789): mean of the lowest ``percent`` of one or more values, of one value at least."""
    taken = sorted(values)[: max(1, len(values) * percent // 100)]
    return sum(taken) / len(taken)


def _log_probability(logits: Tensor, row: Tensor, token: Tensor) -> Tensor:
    return (logits[row, token] - logits.logsumexp(-1)[row])[:, None]


def _against_vocabulary(logits: Tensor, row: Tensor, token: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    deviation = (p * (log_p - mean[:, None]).square()).sum(-1).sqrt()
    value = log_p[row, token]
    # A distribution that is all on one token has no deviation; that token is no surprise then.
    distance = (value - mean[row]) / deviation[row].clamp(min=torch.finfo(logits.dtype).eps)
    return torch.stack([value, distance], -1)


@torch.inference_mode()
def _measure(
    model: Any,
    pairs: Sequence[Encoded],
    measure: Measure,
    tree_tokens: int,
    on_done: Callable[[int], None] | None,
) -> list[list[list[float]]]:
    """Values by pair, token and column."""
    if any(not pair.prompt for pair in pairs):
        raise ValueError("a pair needs a prompt of one token at least: a first token has no probability")
    decoder, head, device = model.get_decoder(), model.get_output_embeddings(), model.device
    out: list[list[list[float]]] = [[] for _ in pairs]
    done = on_done or (lambda count: None)
    # Families without a window have no such field.
    longest = min(LONGEST, getattr(model.config, "sliding_window", None) or LONGEST)
    asked = [i for i, pair in enumerate(pairs) if pair.reply]
    done(len(pairs) - len(asked))
    together = [i for i in asked if len(pairs[i].ids) <= longest]
    for part in parts([pairs[i] for i in together], tree_tokens, 0) if together else ():
        inputs = {name: value.to(device) for name, value in part.batch.inputs().items()}
        states = decoder(**inputs, use_cache=False).last_hidden_state[0]
        values = _at(head, states, part.node.to(device), part.token.to(device), measure)
        for member, value in zip(part.member.tolist(), values, strict=True):
            out[together[member]].append(value)
        done(len(part.members))
    for i in asked:
        if len(pairs[i].ids) > longest:
            ids = torch.tensor(pairs[i].ids, device=device)
            first = len(pairs[i].prompt)
            states = decoder(ids[None], use_cache=False).last_hidden_state[0]
            nodes = torch.arange(first - 1, len(ids) - 1, device=device)
            out[i] = _at(head, states, nodes, ids[first:], measure)
            done(1)
    return out


def _at(head: Any, states: Tensor, node: Tensor, token: Tensor, measure: Measure) -> list[list[float]]:
    """Measures of tokens (tokens,), each drawn after its node (tokens,) of the states (nodes, hidden)."""
    nodes, place = node.unique(return_inverse=True)
    out: list[list[float]] = [[] for _ in range(len(token))]
    for start in range(0, len(nodes), LOGIT_ROWS):
        logits = head(states[nodes[start : start + LOGIT_ROWS]])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        here = ((place >= start) & (place < start + LOGIT_ROWS)).nonzero()[:, 0]
        values = measure(logits, place[here] - start, token[here])
        for index, value in zip(here.tolist(), values.tolist(), strict=True):
            out[index] = value
    return out
