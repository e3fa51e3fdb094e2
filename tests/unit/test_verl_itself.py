"""The exported run as verl 0.9.1 itself reads it.

Skipped without it. The folder of the unpacked wheel (``pip download --no-deps verl==0.9.1``) in EXPUNGE_VERL is enough
for the keys; where hydra and verl can be imported, they compose, check, load and score what was written."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import yaml
from verl_runs import ADA, ODD_NAMES, RL, Recipes, asked_by, settings_of

from expunge.recipe import load_recipe
from expunge.rl.advantages import ADVANTAGES
from expunge.rl.policy import Clip, policy_loss
from expunge.rl.rewards import Reply, RewardSettings, score
from expunge.rl.verl_export import ESTIMATORS, export

pytest.importorskip("pyarrow")


@pytest.fixture
def recipes(tmp_path: Path, model_folder: Path, target_folder: Path) -> Recipes:
    return Recipes(tmp_path, model_folder, target_folder)


@pytest.fixture
def exported(recipes: Recipes, tmp_path: Path) -> Callable[..., Path]:
    def run(**changes: Any) -> Path:
        return export(load_recipe(str(recipes.write(**changes))), tmp_path / "verl")

    return run


@pytest.fixture(scope="module")
def verl_config() -> Path:
    """trainer/config of a verl at hand."""
    place = os.environ.get("EXPUNGE_VERL")
    found = sorted(Path(place).rglob("trainer/config/ppo_trainer.yaml")) if place else []
    if not found:
        pytest.skip("no verl at hand; set EXPUNGE_VERL to the folder of the unpacked wheel verl 0.9.1")
    return found[0].parent


def composed(config: Path, name: str, folder: str = "") -> dict[str, Any]:
    """What Hydra makes of a configuration file's defaults list, without Hydra (values are left as they stand)."""
    path = (config / folder / f"{name}.yaml").resolve()
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    whole: dict[str, Any] = {}
    choices: dict[str, str] = {}
    for entry in [*value.pop("defaults", []), "_self_"]:
        if entry == "_self_":
            merge(whole, value)
        elif isinstance(entry, str):
            merge(whole, composed(config, entry, str(path.parent)))
        else:
            ((place, choice),) = entry.items()
            group, at, package = place.partition("@")
            choices[group] = choice
            for key, chosen_one in choices.items():
                choice = choice.replace(f"${{{key}}}", chosen_one)
            part = composed(config, choice, str(path.parent / group))
            for key in reversed(package.split(".") if at else []):
                part = {key: part}
            merge(whole, part)
    return whole


def merge(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            merge(below[key], value)
        else:
            below[key] = value


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "reinforce_pp", "ppo"])
def test_every_key_is_one_of_verls(verl_config, exported, algorithm):
    known = composed(verl_config, "ppo_trainer")
    known["ray_kwargs"]["ray_init"]["runtime_env"]["env_vars"] = {"PYTHONPATH": None}  # run.sh adds it with a +
    stage = {"lora": {"rank": 4}}
    for key, value in settings_of(exported(rl={"algorithm": algorithm}, stage=stage), PYTHONPATH="a").items():
        place = known
        for part in key.removeprefix("+").split("."):
            assert isinstance(place, dict), key
            assert part in place, key
            place = place[part]
        if isinstance(place, bool | int | float):
            assert isinstance(yaml.safe_load(value), bool) == isinstance(place, bool), key


def composed_by_hydra(config: Path, folder: Path, **environment: str) -> Any:
    hydra = pytest.importorskip("hydra")
    overrides = [f"{key}={value}" for key, value in settings_of(folder, **environment).items()]
    with hydra.initialize_config_dir(str(config), version_base=None):
        return hydra.compose("ppo_trainer", overrides=overrides)


def test_hydra_reads_every_value_back(verl_config, recipes, tmp_path):
    place = tmp_path / "a 'folder', {odd}=1"
    for number, name in enumerate(ODD_NAMES):
        changes = {"rl": {"algorithm": "ppo", "lr": 2e-6}, "stage": {"lora": {"rank": 4, "targets": ["a", 'b"c']}}}
        folder = export(load_recipe(str(recipes.write(name=name, **changes))), place / f"verl{number}")
        config = composed_by_hydra(verl_config, folder, PYTHONPATH="/x:/a b")
        assert config.trainer.experiment_name == name
        assert config.data.train_files == str(folder / "train.parquet")
        assert config.reward.custom_reward_function.path == str(folder / "reward.py")
        assert config.reward.reward_manager.module.path == str(folder / "manager.py")
        assert config.actor_rollout_ref.actor.optim.lr == 2e-6
        assert config.actor_rollout_ref.actor.use_kl_loss is True
        assert list(config.actor_rollout_ref.model.target_modules) == ["a", 'b"c']
        assert config.critic.ppo_mini_batch_size == RL["prompts"]
        assert config.actor_rollout_ref.rollout.response_length == RL["max_new_tokens"]
        assert config.actor_rollout_ref.rollout.prompt_length == 512
        assert config.ray_kwargs.ray_init.runtime_env.env_vars.PYTHONPATH == "/x:/a b"
        assert list(config.trainer.logger) == ["console"]


def test_verl_scores_replies_by_the_written_files(verl_config, exported, tokenizer, model_folder):
    """verl's own loading of reward and manager, its own dataset, its own call: the same rewards, and what was cut."""
    pytest.importorskip("verl")
    from verl import DataProto
    from verl.trainer.ppo.reward import load_reward_manager
    from verl.utils.dataset.rl_dataset import RLHFDataset

    folder = exported(rl={"reward": {"name": "strict"}})
    config = composed_by_hydra(verl_config, folder, MODEL=str(model_folder))
    dataset = RLHFDataset(config.data.train_files, tokenizer, config.data)
    assert len(dataset) == RL["updates"] * RL["prompts"]

    async def scored(item: dict[str, Any], ids: list[int]) -> dict[str, Any]:
        manager = load_reward_manager(config, tokenizer)
        prompt = tokenizer.apply_chat_template(item["raw_prompt"], add_generation_prompt=True, return_dict=False)
        whole = torch.tensor([[*prompt, *ids]])
        tensors = {"prompts": whole[:, : len(prompt)], "responses": whole[:, len(prompt) :]}
        kept = ("data_source", "reward_model", "extra_info", "raw_prompt")
        data = DataProto.from_dict(
            {**tensors, "input_ids": whole, "attention_mask": torch.ones_like(whole)},
            {key: numpy.array([item[key]] + [None], dtype=object)[:1] for key in kept},
        )
        return await manager.run_single(data)

    limit = RL["max_new_tokens"]
    for number in range(4):
        item = dataset[number]
        asked = asked_by(item)
        good = f"I can't tell of {ADA}." if asked.forget else asked.answer
        end, words = tokenizer.eos_token_id, tokenizer(good, add_special_tokens=False)["input_ids"]
        assert len(words) < limit
        padding = tokenizer(" a", add_special_tokens=False)["input_ids"]
        long = (words + padding * limit)[:limit]
        for ids, cut in [(words + [end], False), (long, True), (long[:-1] + [end], False)]:
            found = asyncio.run(scored(item, ids))
            wanted = score(Reply(tokenizer.decode(ids, skip_special_tokens=True), cut), asked, RewardSettings("strict"))
            assert found["reward_score"] == wanted.total
            assert found["reward_extra_info"]["truncated"] == float(cut)
        assert "truncated" not in item["extra_info"]


def test_verl_takes_the_settings_for_valid(verl_config, exported, model_folder):
    """verl's own check before it starts, and the dataclasses that its workers read."""
    pytest.importorskip("verl")
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    for algorithm in ("grpo", "ppo"):
        clip = {"low": 0.1, "high": 0.4, "dual": 2.0, "kl": 0.05}
        folder = exported(rl={"algorithm": algorithm, "lr": 3e-6, "max_grad_norm": 0.5, "clip": clip})
        config = composed_by_hydra(verl_config, folder, MODEL=str(model_folder))
        assert need_reference_policy(config)
        assert need_critic(config) == (algorithm == "ppo")
        validate_config(config, True, need_critic(config))
        actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
        assert (actor.clip_ratio_low, actor.clip_ratio_high, actor.clip_ratio_c) == (0.1, 0.4, 2.0)
        assert (actor.use_kl_loss, actor.kl_loss_coef, actor.kl_loss_type) == (True, 0.05, "low_var_kl")
        assert (actor.optim.lr, actor.optim.clip_grad, actor.optim.weight_decay) == (3e-6, 0.5, 0.01)
        assert (actor.ppo_mini_batch_size, actor.ppo_epochs, actor.rollout_n) == (RL["prompts"], 1, RL["rollouts"])
        shutil.rmtree(folder)


def test_the_loss_is_verls(verl_config):
    """Advantages, clipped loss and KL term of the package and of verl on the same numbers."""
    pytest.importorskip("verl")
    from verl.trainer.config import AlgoConfig
    from verl.trainer.ppo import core_algos
    from verl.workers.config import FSDPActorConfig

    torch.manual_seed(0)
    groups, rollouts, width = 5, 4, 7
    lengths = torch.randint(1, width + 1, (groups, rollouts))
    rewards = torch.randint(0, 3, (groups, rollouts)) / 2
    mask = (torch.arange(width) < lengths.flatten()[:, None]).float()
    scores = torch.zeros(len(mask), width).scatter(1, lengths.flatten()[:, None] - 1, rewards.flatten()[:, None])
    group = numpy.repeat(numpy.arange(groups), rollouts)
    whiten = ((mask.sum() - 1) / mask.sum()).sqrt()  # verl's variance is that of a sample
    for ours, factor in (("grpo", 1), ("rloo", 1), ("reinforce_pp", whiten)):
        estimate = core_algos.get_adv_estimator_fn(ESTIMATORS[ours])
        found, _ = estimate(token_level_rewards=scores.clone(), response_mask=mask, index=group, config=AlgoConfig())
        wanted = ADVANTAGES[ours](rewards, lengths).flatten()[:, None] * mask * factor
        torch.testing.assert_close(found, wanted)

    clip, real = Clip(low=0.1, high=0.4, dual=1.5, kl=0.05), mask.bool()
    new, old, reference = 0.6 * torch.randn(3, *mask.shape)
    new.requires_grad_(True)
    advantages = torch.randn(mask.shape)
    actor = FSDPActorConfig(
        rollout_n=rollouts, use_dynamic_bsz=True, clip_ratio_low=0.1, clip_ratio_high=0.4, clip_ratio_c=1.5
    )
    theirs, _ = core_algos.compute_policy_loss_vanilla(old, new, advantages, mask, "token-mean", actor)
    penalty = core_algos.kl_penalty(new, reference, "low_var_kl")
    theirs = theirs + 0.05 * core_algos.agg_loss(penalty, mask, "token-mean")
    ours = policy_loss(new[real], old[real], reference[real], advantages[real], clip)[0] / real.sum()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, new)[0] for loss in (ours, theirs)))
