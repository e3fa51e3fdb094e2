"""One step of ReBO on two groups of two replies: loss, its parts and gradients against plain passes over each reply
alone, with advantages and clipped ratios worked out by hand."""

import copy
import math

import pytest
import torch
from tiny import HIDDEN, make_model

from expunge.data.chat import Encoded
from expunge.rl.policy import Clip, parts
from expunge.rl.rebo import RL, Critic, learn
from expunge.rl.rollout import Rollout

PROMPTS = [(5, 6, 7, 8), (5, 6, 20)]
GROUPS = [[(9, 10, 2), (9, 10, 11, 12, 2)], [(21,), (22, 2)]]
REPLIES = [Encoded(prompt, reply) for prompt, group in zip(PROMPTS, GROUPS, strict=True) for reply in group]
REWARDS = torch.tensor([[1.0, 0.0], [0.7, 1.0]])
EARNED = [1.0] * 3 + [0.0] * 5 + [0.7] + [1.0] * 2
"""By REINFORCE++ each token has the reward of its reply."""
GAINED = [0.25, 0.5, 1.0] + [0.0] * 5 + [0.7] + [0.5, 1.0]
"""By PPO with values of 0 the last token has the reward, and each one before half (the smoothing) of the next."""
RATIOS = [1.0, 1.1, 1.5, 0.5, 0.9, 1.6, 4.0, 1.0, 0.6, 1.2, 1.4]
"""Probability of each token now over what it was told to be sampled with."""
COUNT = [1.0, 1.1, 1.3, 0.8, 0.9, 1.6, 3.0, 1.0, 0.6, 1.2, 1.3]
"""Up to 1.3 where the advantage is positive, from 0.8 to 3 where it is negative; outside there is no gradient."""
KL, VALUE = 0.1, 0.25


class Watched:
    """Stands for an optimiser: takes the gradients, changes nothing."""

    def __init__(self, module):
        self.parameters, self.gradients = dict(module.named_parameters()), {}

    def step(self, *_):
        self.gradients = {name: p.grad for name, p in self.parameters.items()}
        for parameter in self.parameters.values():
            parameter.grad = None


def white(values):
    """Less their mean, over their standard deviation."""
    mean = sum(values) / len(values)
    return [(v - mean) / math.sqrt(sum((w - mean) ** 2 for w in values) / len(values)) for v in values]


def alone(model, reply):
    """Log-probabilities (tokens,) of a reply, and the states (tokens, hidden) they come from, by a plain pass."""
    found = model(torch.tensor([reply.ids]), output_hidden_states=True)
    start = len(reply.prompt) - 1
    logprobs = found.logits[0, start:-1].log_softmax(-1)
    return logprobs[range(len(reply.reply)), reply.reply], found.hidden_states[-1][0, start:-1]


@pytest.mark.parametrize("tree_tokens", [1, 9, 1000])
@pytest.mark.parametrize("algorithm", ["reinforce_pp", "ppo"])
def test_a_step_in_any_number_of_parts_is_the_step_worked_out_by_hand(algorithm, tree_tokens):
    model = make_model(dtype=torch.float64).requires_grad_(True)
    reference = make_model(dtype=torch.float64, noise=0.05)
    advantages = torch.tensor(white(EARNED if algorithm == "reinforce_pp" else GAINED), dtype=torch.float64)
    count = torch.tensor(COUNT, dtype=torch.float64)
    inside = count == torch.tensor(RATIOS, dtype=torch.float64)

    plain = copy.deepcopy(model)
    read = [alone(plain, reply) for reply in REPLIES]
    new, states = torch.cat([logprobs for logprobs, _ in read]), torch.cat([states for _, states in read]).detach()
    away = torch.cat([alone(reference, reply)[0] for reply in REPLIES]) - new
    kl = KL * (away.exp() - away - 1)
    ((kl - advantages * count * inside * new).sum() / len(new)).backward()

    told = (new.detach() - torch.tensor(RATIOS).log()).split([len(reply.reply) for reply in REPLIES])
    rollouts = [Rollout(r.reply, tuple(t.tolist()), (), True) for r, t in zip(REPLIES, told, strict=True)]
    settings = RL(
        algorithm=algorithm, smoothing=0.5, value_loss=VALUE, tree_tokens=tree_tokens, passes=2,
        clip=Clip(kl=KL),
    )  # fmt: skip
    assert len(list(parts(REPLIES, tree_tokens, 0))) == {1: 4, 9: 3, 1000: 1}[tree_tokens]
    critic = Critic(HIDDEN, "cpu", 0.0) if algorithm == "ppo" else None
    if critic:
        critic.optimiser = Watched(critic.head)
    optimiser = Watched(model)
    row = learn(model, reference, optimiser, critic, REPLIES, [rollouts[:2], rollouts[2:]], REWARDS, settings)

    wanted = {"policy": -(advantages * count).mean().item(), "kl": kl.mean().item()}
    if critic:
        wanted["value"] = VALUE * sum(gain**2 for gain in GAINED) / len(GAINED)
        slope = -2 * VALUE * torch.tensor(GAINED, dtype=torch.float64) @ states / len(GAINED)
        torch.testing.assert_close(critic.optimiser.gradients["weight"][0].double(), slope, rtol=1e-4, atol=1e-6)
    assert row["parts"] == pytest.approx(wanted, rel=1e-4)
    assert row["loss"] == pytest.approx(sum(wanted.values()), rel=1e-4)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(optimiser.gradients[name], parameter.grad, rtol=1e-4, atol=1e-5)
