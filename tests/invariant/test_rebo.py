"""The native loop on a tiny model: it learns what is rewarded, resumes to the same numbers, keeps the best, stops."""

import copy
import math
import signal
from dataclasses import replace

import pytest
import torch
from tiny import make_model

from expunge.data.chat import Encoded, encode_prompt
from expunge.rl.dev import Guard, collapsed
from expunge.rl.policy import Clip
from expunge.rl.questions import Question
from expunge.rl.rebo import RL, batch_of, learn, rebo
from expunge.rl.rewards import Reward, RewardSettings, Row
from expunge.rl.rollout import sample
from expunge.train.optimiser import MasterAdamW

SIDES = [Question(f"Who is {n}?", "", Row(n % 2 == 0, f"Who is {n}?", "Ada", "Ada Stone")) for n in range(24)]
SMALL = RL(updates=4, prompts=4, rollouts=4, max_new_tokens=6, lr=1e-3, dev_every=2, save_every=1, tree_tokens=64)
SMALL = replace(SMALL, reward=RewardSettings("test_rebo:short"), guard=Guard(most_truncated=1.1))


def short(reply, row, settings):
    """A word less is a tenth more: something that a random model can learn."""
    return Reward(-len(reply.text) / 10, {"short": -len(reply.text) / 10})


def constant(reply, row, settings):
    return Reward(1.0, {"constant": 1.0})


def policy(seed=0):
    model = make_model(dtype=torch.float32, noise=0.05, seed=seed)
    model.requires_grad_(True)
    return model


def run(model, settings, tokenizer, **more):
    rows = []
    outcome = rebo(model, copy.deepcopy(model), tokenizer, SIDES[:20], SIDES[20:], settings, log=rows.append, **more)
    return outcome, rows


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "reinforce_pp", "ppo"])
def test_what_is_rewarded_becomes_likelier(tokenizer, algorithm):
    settings = replace(SMALL, algorithm=algorithm, updates=20, dev_every=20, prompts=8, rollouts=8, lr=3e-3)
    _, rows = run(policy(), settings, tokenizer)
    earned = [(r["reward_forget"] + r["reward_boundary"]) / 2 for r in rows if r["stage"] == "rebo"]
    assert sum(earned[-4:]) / 4 > sum(earned[:4]) / 4 + 0.1


def test_rewards_without_variance_move_nothing_but_by_the_kl_and_are_counted(tokenizer):
    model = policy()
    settings = replace(SMALL, reward=RewardSettings("test_rebo:constant"), weight_decay=0.0, updates=1)
    before = weights(model)
    _, rows = run(model, settings, tokenizer)
    assert rows[1]["zero_variance_groups"] == 4
    assert rows[1]["parts"]["policy"] == 0
    for name, value in weights(model).items():  # the KL to an equal reference has no gradient either
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_token_counts_by_the_ratio_of_its_probabilities_unless_the_samples_are_the_models_own(tokenizer, dtype):
    """All samples told a tenth likelier than they were: each token counts exp(-0.1), and no ratio is clipped."""
    settings = replace(SMALL, clip=Clip(kl=0.0), lr=0.0, max_grad_norm=1e9)
    prompts = [encode_prompt(tokenizer, q.prompt, q.start) for q in SIDES[:3]]
    rewards = torch.rand(3, 4, generator=torch.Generator().manual_seed(1))

    def norm(more, dtype=None, passes=1):
        model, its = policy(), replace(settings, passes=passes)
        groups = sample(model, tokenizer, prompts, 4, max_new_tokens=6, seed=2)
        told = [[replace(r, logprobs=tuple(p + more for p in r.logprobs)) for r in group] for group in groups]
        replies = [Encoded(p, r.ids) for p, group in zip(prompts, told, strict=True) for r in group]
        optimiser = MasterAdamW(dict(model.named_parameters()), 0.0)
        return learn(model, None, optimiser, None, replies, told, rewards, its, dtype)["parts"]["grad_norm"]

    exact = norm(0.0)
    assert norm(0.1) == pytest.approx(exact, rel=1e-6)
    near = 1e-4 if dtype is None else 0.03
    assert norm(0.0, dtype, passes=2) == pytest.approx(exact, rel=near)
    assert norm(0.1, dtype, passes=2) == pytest.approx(exact * math.exp(-0.1), rel=near)
    assert norm(0.1, torch.bfloat16) == pytest.approx(exact * math.exp(-0.1), rel=0.03)


def test_in_bfloat16_the_gradient_is_the_exact_one_but_for_rounding_and_an_equal_reference_gives_no_kl(tokenizer):
    prompts = [encode_prompt(tokenizer, q.prompt, q.start) for q in SIDES[:3]]
    rewards = torch.rand(3, 4, generator=torch.Generator().manual_seed(1))
    found = {}
    for dtype in (None, torch.bfloat16):
        model = policy()
        groups = sample(model, tokenizer, prompts, 4, max_new_tokens=6, seed=2)
        replies = [Encoded(p, r.ids) for p, group in zip(prompts, groups, strict=True) for r in group]
        before = weights(model)
        optimiser = MasterAdamW(dict(model.named_parameters()), 0.0)
        optimiser.step = lambda *more: None  # the gradients stay where they are
        row = learn(model, copy.deepcopy(model), optimiser, None, replies, groups, rewards, SMALL, dtype)
        assert row["parts"]["kl"] == row["divergence"] == 0
        assert all(torch.equal(p, before[name]) and p.grad.dtype == p.dtype for name, p in model.named_parameters())
        found[dtype] = torch.cat([p.grad.flatten() for p in model.parameters()])
    exact, rounded = found.values()
    assert 0 < (rounded - exact).norm() < 0.03 * exact.norm()


class Killed(Exception):
    pass


def test_products_are_in_bfloat16_where_the_recipe_says_so_and_the_log_says_it(tokenizer, monkeypatch):
    seen = []

    def noted(*more, dtype=None, **options):
        seen.append(dtype)
        return sample(*more, dtype=dtype, **options)

    def learnt(*more):
        seen.append(more[-1])
        return learn(*more)

    monkeypatch.setattr("expunge.rl.rebo.sample", noted)
    monkeypatch.setattr("expunge.rl.rebo.learn", learnt)
    found = {}
    for wish in ("model", "bfloat16"):
        _, rows = run(policy(), replace(SMALL, updates=1, compute_dtype=wish), tokenizer)
        found[wish] = [row.get("compute_dtype") for row in rows if row["stage"] == "rebo"]
    assert seen == [None, None, torch.bfloat16, torch.bfloat16]
    assert found == {"model": [None], "bfloat16": ["bfloat16"]}


@pytest.mark.parametrize("compute_dtype", ["model", "bfloat16"])
@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_run_killed_at_any_update_goes_on_to_the_same_rewards_and_weights(
    tokenizer, tmp_path, algorithm, at, compute_dtype
):
    settings = replace(SMALL, algorithm=algorithm, compute_dtype=compute_dtype)
    whole = policy()
    outcome, rows = run(whole, settings, tokenizer)

    def die(row):
        seen.append(row)
        if row["stage"] == "rebo" and row["step"] == at:
            raise Killed

    seen, broken = [], policy()
    reference = copy.deepcopy(broken)
    questions = SIDES[:20], SIDES[20:]
    with pytest.raises(Killed):
        rebo(broken, reference, tokenizer, *questions, settings, checkpoint=tmp_path / "s.safetensors", log=die)
    again, later = policy(), []
    found = rebo(
        again, reference, tokenizer, *questions, settings, checkpoint=tmp_path / "s.safetensors", log=later.append
    )
    assert found.looks == outcome.looks and found.best_update == outcome.best_update
    kept = {r["step"]: r for r in [*seen, *later] if r["stage"] == "rebo"}
    for row in (r for r in rows if r["stage"] == "rebo"):
        assert {k: v for k, v in kept[row["step"]].items() if "seconds" not in k} == {
            k: v for k, v in row.items() if "seconds" not in k
        }
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name


def test_ctrl_c_ends_the_update_in_progress_and_saves(tokenizer, tmp_path):
    def press(row):
        if row["stage"] == "rebo":
            signal.raise_signal(signal.SIGINT)

    model = policy()
    with pytest.raises(KeyboardInterrupt):
        rebo(
            model, copy.deepcopy(model), tokenizer, SIDES[:20], SIDES[20:], replace(SMALL, save_every=100),
            checkpoint=tmp_path / "s.safetensors", log=press,
        )  # fmt: skip
    assert (tmp_path / "s.safetensors").exists()


def test_the_weights_of_the_best_look_are_kept(tokenizer, monkeypatch):
    scores = iter([0.1, 0.9, 0.2])
    look = {"refusals_boundary": 0.0}
    monkeypatch.setattr("expunge.rl.rebo.look_at", lambda *a, **k: {**look, "score": next(scores)})
    model, seen = policy(), []

    def remember(row):
        if row["stage"] == "rebo_dev":
            seen.append(weights(model))

    settings = replace(SMALL, updates=4)
    outcome = rebo(model, copy.deepcopy(model), tokenizer, SIDES[:20], SIDES[20:], settings, log=remember)
    assert outcome.best_update == 2
    for name, value in weights(model).items():
        assert torch.equal(value, seen[1][name])
    assert any(not torch.equal(seen[2][name], value) for name, value in seen[1].items())


def test_a_collapsed_model_is_never_kept(tokenizer, monkeypatch):
    """Garbage declines nothing, and half of the neighbours' reward is for that."""
    settings = replace(SMALL, updates=2, dev_every=2, lr=1e30, max_grad_norm=0.0)
    scores = iter([0.1, 0.25])
    look = {"refusals_boundary": 0.0}
    monkeypatch.setattr("expunge.rl.rebo.look_at", lambda *a, **k: {**look, "score": next(scores)})
    monkeypatch.setattr("expunge.rl.rebo.collapsed", lambda row, guard: "collapse: the loss is not a number")
    model = policy()
    before = weights(model)
    outcome, _ = run(model, settings, tokenizer)
    assert (outcome.best_update, len(outcome.looks)) == (0, 2)
    assert "not a number" in outcome.ended
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_no_better_look_for_a_while_ends_the_run(tokenizer, monkeypatch):
    monkeypatch.setattr("expunge.rl.rebo.look_at", lambda *a, **k: {"score": 0.5, "refusals_boundary": 0.0})
    outcome, rows = run(policy(), replace(SMALL, updates=20, dev_every=1, patience=3), tokenizer)
    assert "no better look" in outcome.ended
    assert [r["step"] for r in rows if r["stage"] == "rebo"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"entropy": 0.001}, "entropy of the samples is 0.0010 nats, below 0.01"),
        ({"truncated": 0.75}, "75% of the samples do not end, more than 50%"),
        ({"loss": float("nan")}, "the loss is not a number"),
        ({}, ""),
    ],
)
def test_signs_of_collapse(change, told):
    assert told in collapsed({"entropy": 1.0, "truncated": 0.1, "loss": 0.0, **change}, Guard())


def test_a_model_that_declines_everything_is_stopped(tokenizer, monkeypatch):
    looks = iter([0.1, 0.9])
    monkeypatch.setattr(
        "expunge.rl.rebo.look_at", lambda *a, **k: {"score": -(share := next(looks)), "refusals_boundary": share}
    )
    outcome, _ = run(policy(), SMALL, tokenizer)
    assert "90% of the neighbours' dev questions are declined (10% at the start)" in outcome.ended
    assert outcome.best_update == 0


def test_an_update_asks_both_sides_and_repeats_nothing_within_a_pass():
    asked = [q for update in range(5) for q in batch_of(SIDES, 4, 0.5, 0, update)]
    for forget in (True, False):
        side = [q.prompt for q in asked if q.row.forget == forget]
        assert len(side) == 10 and len(set(side)) == 10
    assert batch_of(SIDES, 4, 0.5, 0, 2) == batch_of(SIDES, 4, 0.5, 0, 2) != batch_of(SIDES, 4, 0.5, 1, 2)
    assert all(q.row.forget for q in batch_of(SIDES, 4, 1.0, 0, 0))


def test_several_passes_reuse_the_samples_with_their_old_probabilities(tokenizer):
    _, one = run(policy(), replace(SMALL, updates=1), tokenizer)
    _, two = run(policy(), replace(SMALL, updates=1, passes=2, clip=Clip(low=1e-6, high=1e-6, kl=0.0)), tokenizer)
    assert one[1]["reward_forget"] == two[1]["reward_forget"]
    assert two[1]["loss"] != pytest.approx(one[1]["loss"], rel=1e-3)
