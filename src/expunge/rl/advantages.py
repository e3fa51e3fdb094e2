"""How much better than expected a reply was: GRPO, RLOO, REINFORCE++ and PPO's GAE as pure functions.

Rewards and lengths are (prompts, rollouts): a reply earns its reward at its last token and nothing is
discounted, so that every token of a reply has the reply's return. Sources: GRPO arXiv 2402.03300, RLOO
arXiv 2402.14740, REINFORCE++ arXiv 2501.03262, GAE arXiv 1506.02438; as RULE (arXiv 2506.07171) uses them."""

from collections.abc import Callable

import torch
from torch import Tensor

Advantage = Callable[[Tensor, Tensor], Tensor]


def grpo(rewards: Tensor, lengths: Tensor) -> Tensor:
    """(r - mean) / (std + 1e-6) within each group, std with n - 1.

    >>> grpo(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), torch.ones(1, 4)).round(decimals=3)
    tensor([[ 0.8660, -0.8660, -0.8660,  0.8660]])
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, keepdim=True) + 1e-6)


def rloo(rewards: Tensor, lengths: Tensor) -> Tensor:
    """The reward less the mean of the group's other rewards.

    >>> rloo(torch.tensor([[1.0, 0.0, 0.0]]), torch.ones(1, 3))
    tensor([[ 1.0000, -0.5000, -0.5000]])
    """
    n = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * n / (n - 1)


def reinforce_pp(rewards: Tensor, lengths: Tensor) -> Tensor:
    """Whitened over all tokens of the batch: no baseline of the group's own.

    >>> reinforce_pp(torch.tensor([[1.0, 0.0]]), torch.tensor([[1, 3]])).round(decimals=3)
    tensor([[ 1.7320, -0.5770]])
    """
    mean = (rewards * lengths).sum() / lengths.sum()
    variance = ((rewards - mean) ** 2 * lengths).sum() / lengths.sum()
    return (rewards - mean) / (variance + 1e-8).sqrt()


ADVANTAGES: dict[str, Advantage] = {"grpo": grpo, "rloo": rloo, "reinforce_pp": reinforce_pp}
ALGORITHMS = (*ADVANTAGES, "ppo")


def gae(reward: float, values: Tensor, discount: float, smoothing: float) -> tuple[Tensor, Tensor]:
    """Generalised advantages and returns (tokens,) of one reply, whose ``reward`` comes at its last token.

    ``values`` (tokens,) are the critic's, before each token. After the last token nothing more is to be had.

    >>> gae(1.0, torch.tensor([0.5, 0.25]), 1.0, 1.0)
    (tensor([0.5000, 0.7500]), tensor([1., 1.]))
    """
    advantages = torch.zeros_like(values)
    carried = values.new_zeros(())
    for t in range(len(values) - 1, -1, -1):
        last = t + 1 == len(values)
        gain = reward if last else discount * values[t + 1]
        carried = gain - values[t] + discount * smoothing * carried
        advantages[t] = carried
    return advantages, advantages + values


def whiten(values: Tensor) -> Tensor:
    """Mean 0 and variance 1 over all entries."""
    return (values - values.mean()) / (values.var(unbiased=False) + 1e-8).sqrt()


def without_variance(rewards: Tensor) -> int:
    """How many groups earned one and the same reward throughout: they say nothing about the policy."""
    return int((rewards.amax(1) - rewards.amin(1) < 1e-9).sum())
