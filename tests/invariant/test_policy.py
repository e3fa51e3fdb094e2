"""The policy loss by hand, and over prefix trees: the same as over each reply computed alone."""

import copy
import math

import pytest
import torch
from tiny import HIDDEN, make_model

from expunge.data.chat import Encoded
from expunge.rl.policy import Clip, k3, parts, policy_loss, token_logprobs

REPLIES = [
    Encoded((5, 6, 7, 8), (9, 10, 2)),
    Encoded((5, 6, 7, 8), (9, 10, 11, 12, 2)),
    Encoded((5, 6, 7, 8), (9, 10, 2)),  # sampled twice
    Encoded((5, 6, 20), (21,)),
    Encoded((30, 31, 32, 33, 34), (2,)),
]
LOG = math.log


def one(ratio, advantage, settings=None):
    loss, _ = policy_loss(
        torch.tensor([LOG(ratio)]), torch.zeros(1), None, torch.tensor([advantage]), settings or Clip(kl=0)
    )
    return loss.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 2.0, -2.0),
        (1.25, 2.0, -2.5),  # inside the clip
        (1.5, 2.0, -2.6),  # 1 + 0.3
        (0.5, 2.0, -1.0),  # the smaller of both
        (0.5, -1.0, 0.8),  # 1 - 0.2
        (2.0, -1.0, 2.0),
        (5.0, -1.0, 3.0),  # dual clip
    ],
)
def test_the_clipped_surrogate_by_hand(ratio, advantage, loss):
    assert one(ratio, advantage) == pytest.approx(loss, rel=1e-5)


def test_k3_is_zero_where_both_agree_and_positive_elsewhere():
    new = torch.tensor([-1.0, -2.0, -0.5])
    reference = torch.tensor([-1.0, -1.0, -3.0])
    assert k3(new, reference).tolist() == pytest.approx([0, math.e - 2, math.exp(-2.5) + 1.5], rel=1e-5)


def test_the_kl_term_is_added_with_its_coefficient():
    new, reference, advantage = torch.tensor([-2.0]), torch.tensor([-1.0]), torch.tensor([1.0])
    loss, found = policy_loss(new, new, reference, advantage, Clip(kl=0.1))
    assert found["kl"].item() == pytest.approx(0.1 * (math.e - 2), rel=1e-5)
    assert loss.item() == pytest.approx(-1 + 0.1 * (math.e - 2), rel=1e-5)


def alone(model, reply):
    """Log-probabilities of a reply from a plain forward pass over its own row."""
    ids = torch.tensor([reply.ids])
    logits = model(ids).logits[0].log_softmax(-1)
    n = len(reply.prompt)
    return torch.stack([logits[n - 1 + t, token] for t, token in enumerate(reply.reply)])


@pytest.mark.parametrize("max_nodes", [4, 9, 1000])
def test_log_probabilities_equal_those_of_each_reply_alone(llama, max_nodes):
    seen = {}
    for part in parts(REPLIES, max_nodes, 0):
        found, states = token_logprobs(llama, part)
        assert states.shape == (len(part.token), HIDDEN)
        for i in part.members:
            seen[i] = found[part.member == i]
    assert sorted(seen) == list(range(len(REPLIES)))
    for i, reply in enumerate(REPLIES):
        torch.testing.assert_close(seen[i].double(), alone(llama, reply).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_loss_and_gradient_do_not_depend_on_how_the_batch_is_split(temperature):
    model = make_model(dtype=torch.float64)
    model.requires_grad_(True)
    reference = make_model(dtype=torch.float64, noise=0.05)
    advantage = torch.tensor([1.0, -0.5, 0.3, -2.0, 0.0], dtype=torch.float64)
    tokens = sum(len(r.reply) for r in REPLIES)

    def gradient(max_nodes):
        other, total = copy.deepcopy(model), 0.0
        for part in parts(REPLIES, max_nodes, 0):
            new, _ = token_logprobs(other, part, temperature)
            held, _ = token_logprobs(reference, part, temperature)
            loss, _ = policy_loss(new, new.detach(), held.detach(), advantage[part.member], Clip(kl=0.1))
            (loss / tokens).backward()
            total += loss.item() / tokens
        return total, {name: p.grad for name, p in other.named_parameters() if p.grad is not None}

    first, many = gradient(1000), gradient(3)
    assert first[0] == pytest.approx(many[0], rel=1e-6)
    for name, value in first[1].items():
        torch.testing.assert_close(value, many[1][name], rtol=1e-4, atol=1e-5)


def test_without_advantage_only_the_kl_has_a_gradient():
    model, reference = make_model(dtype=torch.float64), make_model(dtype=torch.float64, noise=0.05)
    model.requires_grad_(True)

    def norm(kl):
        model.zero_grad()
        for part in parts(REPLIES, 1000, 0):
            new, _ = token_logprobs(model, part)
            held, _ = token_logprobs(reference, part)
            policy_loss(new, new.detach(), held.detach(), torch.zeros(len(new)), Clip(kl=kl))[0].backward()
        return sum(p.grad.abs().sum().item() for p in model.parameters() if p.grad is not None)

    assert norm(0.0) == 0.0
    assert norm(0.1) > 0.0
