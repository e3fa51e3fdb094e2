"""Our loss and TRL's are one: same loss, same gradients, same advantages, on the same replies and rewards.

TRL's trainers run as they are, with the reference loaded by themselves from a folder; their gradients are read off
before each optimiser step. Rewards are in the thousands where TRL's 1e-4 beside the standard deviation is not meant
to count (ours is 1e-6)."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny import make_model

from expunge.data.chat import Encoded, encode_prompt
from expunge.rl.advantages import grpo, rloo
from expunge.rl.policy import Clip, parts, policy_loss, token_logprobs
from expunge.rl.rebo import RL, learn
from expunge.rl.rollout import Rollout

trl = pytest.importorskip("trl", reason="needs the package trl (the extra rl)")
for needed in ("datasets", "peft"):
    pytest.importorskip(needed, reason=f"needs the package {needed} (the extra rl)")

GROUP, LENGTHS = 4, [5, 1, 9, 3, 2, 7, 4, 8, 6, 1, 3, 5]  # of three groups of replies
SETTINGS = RL(
    prompts=3, rollouts=GROUP, max_new_tokens=9, compute_dtype="model", clip=Clip(kl=0.3), tree_tokens=64,
    max_grad_norm=1e9,
)  # fmt: skip
REWARDS = 1e4 * torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.0, 0.0, 1.0, 0.5], [0.5, 0.5, 0.5, 0.5]])
QUESTIONS = ["Who is Ada Stone?", "Where was Ivo Marsh born, and when?", "Why?"]


class Case:
    """A policy, another model as reference, and twelve replies of different lengths with rewards."""

    def __init__(self, tokenizer, folder):
        self.tokenizer, self.folder = tokenizer, folder
        self.model = make_model(dtype=torch.float32, noise=0.1).requires_grad_(True)
        self.reference = make_model(dtype=torch.float32, noise=0.1, seed=1)
        self.reference.save_pretrained(folder)
        self.prompts = [encode_prompt(tokenizer, question) for question in QUESTIONS]
        generator = torch.Generator().manual_seed(0)
        ids = [tuple(torch.randint(3, 320, (n,), generator=generator).tolist()) for n in LENGTHS]
        self.replies = [Encoded(self.prompts[i // GROUP], reply) for i, reply in enumerate(ids)]
        flat = [
            Rollout(r, tuple(p.tolist()), (1.0,) * len(r), False) for r, p in zip(ids, self.logprobs(), strict=True)
        ]
        self.groups = [flat[i : i + GROUP] for i in range(0, len(flat), GROUP)]

    def logprobs(self, model=None):
        """Of the replies, one tensor (tokens,) for each."""
        with torch.no_grad():
            (part,) = parts(self.replies, 10_000, 0)
            found, _ = token_logprobs(model or self.model, part)
        return [found[part.member == i] for i in range(len(self.replies))]


@pytest.fixture
def case(tokenizer, tmp_path):
    return Case(tokenizer, tmp_path / "reference")


class Descent:
    """The optimiser of `learn` as plain gradient descent that remembers all gradients."""

    def __init__(self, model, lr):
        self.model, self.lr, self.seen = model, lr, []

    def step(self, lr, max_norm):
        with torch.no_grad():
            self.seen.append({name: p.grad.clone() for name, p in self.model.named_parameters()})
            for p in self.model.parameters():
                p.sub_(self.lr * p.grad)
                p.grad = None
        return 0.0


def ours(case, settings, lr=0.0, rewards=REWARDS):
    model = copy.deepcopy(case.model)
    descent = Descent(model, lr)
    row = learn(model, case.reference, descent, None, case.replies, case.groups, rewards, settings)
    return row, descent.seen


class Watch:
    """TRL's callback that reads gradients and log rows."""

    def __init__(self, model):
        from transformers import TrainerCallback

        seen, rows = [], []

        class Callback(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, **more):
                seen.append({name: p.grad.clone() for name, p in model.named_parameters()})

            def on_log(self, args, state, control, logs=None, **more):
                rows.append(logs)

        self.seen, self.rows, self.callback = seen, rows, Callback()


def theirs(case, tmp_path, kind="GRPO", lr=0.0, rewards=REWARDS, steps=1, **options):
    """TRL's gradients and log rows, one for each step, and its advantages (replies,)."""
    from datasets import Dataset
    from transformers import PrinterCallback

    model = copy.deepcopy(case.model)
    model.config._name_or_path = str(case.folder)
    watch = Watch(model)
    options = {"per_device_train_batch_size": len(LENGTHS), "temperature": 1.0, "beta": 0.3, "epsilon": 0.2} | options
    if kind == "GRPO":
        options = {"loss_type": "bnpo", "delta": 3.0, "use_bias_correction_kl": False, "epsilon_high": 0.3} | options
    common = {
        "output_dir": str(tmp_path / "trl"), "num_generations": GROUP, "max_completion_length": 9, "max_steps": steps,
        "learning_rate": lr, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "shuffle_dataset": False,
        "activation_checkpointing": False, "bf16": False, "use_cpu": True, "logging_steps": 1, "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    told = dict(zip(range(len(LENGTHS)), rewards.flatten().tolist(), strict=True))
    texts = [case.tokenizer.decode(prompt) for prompt in case.prompts]
    assert [tuple(case.tokenizer(text)["input_ids"]) for text in texts] == case.prompts
    rollouts = {
        "prompt_ids": [list(r.prompt) for r in case.replies],
        "completion_ids": [list(r.reply) for r in case.replies],
        "logprobs": [list(r.logprobs) for group in case.groups for r in group],
    }
    trainer = getattr(trl, f"{kind}Trainer")(
        model=model,
        reward_funcs=lambda completions, **more: [told[i] for i in range(len(completions))],
        args=getattr(trl, f"{kind}Config")(**common | options),
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=case.tokenizer,
        callbacks=[watch.callback],
        optimizers=(torch.optim.SGD(model.parameters(), lr=lr), None),
        **({"rollout_func": lambda prompts, trainer: rollouts} if kind == "GRPO" else {}),
    )
    if kind == "RLOO":  # which has no such hook
        trainer._generate_single_turn = lambda *prompts: rollouts["completion_ids"]
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return watch.seen, watch.rows[:steps], torch.tensor(list(trainer._logs["advantages"]))


def deviation(found, wanted):
    """Largest deviation of a gradient, over the largest entry of all of them."""
    largest = max(g.abs().max().item() for g in wanted.values())
    return max((found[name] - wanted[name]).abs().max().item() for name in wanted) / largest


TIGHT = 3e-6  # float32


@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_grpo_has_the_same_loss_divergence_and_gradients(case, tmp_path, kl):
    row, (gradient,) = ours(case, replace(SETTINGS, clip=Clip(kl=kl)))
    (wanted,), (told,), _ = theirs(case, tmp_path, beta=kl)
    assert row["loss"] == pytest.approx(told["loss"], rel=1e-5)
    assert row["divergence"] == pytest.approx(told.get("kl", 0.0), rel=1e-5)
    assert (row["divergence"] > 0.1) == (kl > 0)
    assert deviation(gradient, wanted) < TIGHT


def test_clipping_on_both_sides_and_the_dual_clip_are_the_same_off_policy(case, tmp_path):
    lr = 4.0
    _, gradients = ours(case, replace(SETTINGS, passes=4), lr)
    wanted, _, advantages = theirs(case, tmp_path, lr=lr, steps=4, num_iterations=4)
    moved = copy.deepcopy(case.model)
    with torch.no_grad():  # where the policy is before the last step
        for gradient in gradients[:-1]:
            for name, p in moved.named_parameters():
                p.sub_(lr * gradient[name])
    pairs = zip(case.logprobs(moved), case.logprobs(), advantages, strict=True)
    ratios = [(ratio, a) for new, old, a in pairs for ratio in (new - old).exp()]
    assert any(ratio > 3 and a < 0 for ratio, a in ratios)
    assert any(ratio > 1.3 and a > 0 for ratio, a in ratios) and any(ratio < 0.8 and a < 0 for ratio, a in ratios)
    assert [deviation(g, w) < 1e-4 for g, w in zip(gradients, wanted, strict=True)] == [True] * 4


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_the_temperature_of_sampling_is_in_the_loss(case, tmp_path, temperature):
    row, (gradient,) = ours(case, replace(SETTINGS, temperature=temperature))
    (wanted,), (told,), _ = theirs(case, tmp_path, temperature=temperature)
    assert row["loss"] == pytest.approx(told["loss"], rel=1e-5)
    assert deviation(gradient, wanted) < TIGHT


def test_dapo_in_parts_is_bnpo_at_once(case, tmp_path):
    """What the engine tells TRL, since bnpo depends on how an update is cut."""
    _, (gradient,) = ours(case, SETTINGS)
    cut = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4, "steps_per_generation": 4}
    (wanted,), _, _ = theirs(case, tmp_path, loss_type="dapo", **cut)
    (other,), _, _ = theirs(case, tmp_path, loss_type="bnpo", **cut)
    assert deviation(gradient, wanted) < TIGHT < 1e-3 < deviation(gradient, other)


def test_advantages_of_grpo_differ_by_the_constant_beside_the_standard_deviation(case, tmp_path):
    rewards = REWARDS / 1e4
    _, _, advantages = theirs(case, tmp_path, rewards=rewards)
    found, std = grpo(rewards, torch.ones(3, GROUP)), rewards.std(1, keepdim=True)
    torch.testing.assert_close((found * (std + 1e-6) / (std + 1e-4)).flatten(), advantages, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.flatten(), advantages, rtol=3e-4, atol=0)


def test_rloo_is_grpo_without_scale_on_stretched_rewards(case, tmp_path):
    """What the engine tells TRL for RLOO."""
    rewards = REWARDS / 1e4
    row, (gradient,) = ours(case, replace(SETTINGS, algorithm="rloo"), rewards=rewards)
    stretched = rewards * GROUP / (GROUP - 1)
    (wanted,), (told,), advantages = theirs(case, tmp_path, rewards=stretched, scale_rewards="none")
    torch.testing.assert_close(rloo(rewards, torch.ones(3, GROUP)).flatten(), advantages, rtol=1e-6, atol=1e-7)
    assert row["loss"] == pytest.approx(told["loss"], rel=1e-5)
    assert deviation(gradient, wanted) < TIGHT


@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_trls_rloo_trainer_is_ours_with_the_kl_in_the_reward_and_the_mean_over_replies(case, tmp_path, kl):
    """Its KL is the plain difference of log-probabilities, summed over a reply and taken off its reward."""
    rewards = REWARDS / 1e4
    (wanted,), _, advantages = theirs(case, tmp_path, "RLOO", rewards=rewards, beta=kl)
    pairs = zip(case.logprobs(), case.logprobs(case.reference), strict=True)
    spent = torch.stack([(new - old).sum() for new, old in pairs]).view(3, GROUP)
    found = rloo(rewards - kl * spent, torch.ones(3, GROUP)).flatten()
    torch.testing.assert_close(found, advantages, rtol=1e-5, atol=1e-5)
    model = copy.deepcopy(case.model)
    (part,) = parts(case.replies, 10_000, 0)
    new, _ = token_logprobs(model, part)
    loss, _ = policy_loss(new, new.detach(), None, found[part.member], Clip())
    (loss / len(LENGTHS)).backward()
    assert deviation({name: p.grad for name, p in model.named_parameters()}, wanted) < 1e-5
