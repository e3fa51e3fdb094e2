"""The policy's side of ReBO: log-probabilities of sampled tokens, and the clipped loss with its KL term.

Source: RULE (arXiv 2506.07171), the section on ReBO and its training settings; PPO arXiv 1707.06347, dual clip
arXiv 1912.09729, the k3 estimator of the KL as in GRPO (arXiv 2402.03300, eq. 4).

A batch of replies is computed as prefix trees: prompts and what replies begin with in common once, logits
where a sampled token stands and nowhere else."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.chat import Encoded
from ..prefix_tree import Tree, TreeBatch, collate, pack
from ..strict import at_least


@dataclass(frozen=True)
class Part:
    """Some replies as one tree. ``node`` (tokens,): after which node each sampled token was drawn; ``token``
    (tokens,); ``member`` (tokens,): the number of its reply in the batch, replies in order of ``members``."""

    batch: TreeBatch
    members: tuple[int, ...]
    node: Tensor
    token: Tensor
    member: Tensor


def parts(examples: Sequence[Encoded], max_nodes: int, pad_token: int) -> Iterator[Part]:
    """The batch in pieces of about ``max_nodes`` tokens each, to be computed one after the other."""
    for members in pack(examples, max_nodes):
        tree = Tree()
        nodes: list[int] = []
        for i in members:
            ids = examples[i].ids
            path = tree.add(ids[:-1] or ids, len(ids))  # nothing is drawn after the last token
            nodes += path[len(examples[i].prompt) - 1 : len(ids) - 1]
        yield Part(
            collate([tree], pad_token),
            tuple(members),
            torch.tensor(nodes),
            torch.tensor([token for i in members for token in examples[i].reply]),
            torch.tensor([i for i in members for _ in examples[i].reply]),
        )


def token_logprobs(
    model: Any, part: Part, temperature: float = 1.0, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (tokens,) of a part's sampled tokens, and the states (tokens, hidden) they come from; with
    ``dtype`` matrix products are in it, and what they need of the weights is rounded to it."""
    device = model.device
    inputs = {name: value.to(device) for name, value in part.batch.inputs().items()}
    nodes, place = part.node.to(device).unique(return_inverse=True)
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        states = model.get_decoder()(**inputs, use_cache=False).last_hidden_state[0]
        logits = model.get_output_embeddings()(states[nodes])
    logits = logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    chosen = logits[place, part.token.to(device)] - logits.logsumexp(-1)[place]
    return chosen, states[nodes][place]


@dataclass(frozen=True)
class Clip:
    """How far one update may go. ``low``, ``high``: the ratio of new to old probability that still counts;
    ``dual``: the largest ratio that counts where the advantage is negative, more than 1; ``kl``: coefficient of the KL
    term."""

    low: float = at_least(0, 0.2)
    high: float = at_least(0, 0.3)
    dual: float = 3.0
    kl: float = at_least(0, 0.01)


def policy_loss(
    new: Tensor, old: Tensor, reference: Tensor | None, advantage: Tensor, settings: Clip
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum over tokens of the loss, and its parts; all tensors (tokens,). Divide by the number of tokens of the batch.

    surrogate = min(ratio A, clip(ratio) A), but not below dual A where A < 0; k3 = exp(d) - d - 1 with
    d = reference - new. With ``reference`` None there is no KL term."""
    ratio = (new - old).exp()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - settings.low, 1 + settings.high) * advantage)
    surrogate = torch.where(advantage < 0, torch.maximum(surrogate, settings.dual * advantage), surrogate)
    found = {"policy": -surrogate.sum()}
    if reference is not None:
        found["kl"] = settings.kl * k3(new, reference).sum()
    return sum(found.values()), found  # type: ignore[return-value]


def k3(new: Tensor, reference: Tensor) -> Tensor:
    """Estimate of KL(new ‖ reference) from tokens drawn from ``new``: never negative, zero where both agree."""
    difference = reference - new
    return difference.exp() - difference - 1
