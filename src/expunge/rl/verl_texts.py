"""The texts of an exported run: reward, reward manager, launch script, README (see verl_export.py)."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..recipe import Recipe
from .rebo import RL
from .rewards import RewardSettings

REWARD = '''\
"""The recipe's reward for verl; README.md says how verl finds it."""

from expunge.rl.refusals import detect
from expunge.rl.rewards import Reply, RewardSettings, Row, score

SETTINGS = {settings}


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """The reward of one reply to one row of train.parquet or dev.parquet, and what the log is to say of it.

    verl tells a reward function neither why a reply ended nor how many tokens it has: whether it was cut at the
    token limit is put into ``extra_info`` by manager.py. Without that manager no reply counts as cut."""
    if not extra_info:
        raise ValueError("found no extra_info; expected the column of that name of train.parquet or dev.parquet.")
    row = Row(
        forget=bool(extra_info["forget"]),
        question=extra_info["question"],
        answer=ground_truth,
        target=extra_info["target"],
        aliases=tuple(extra_info["aliases"]),
    )
    cut = bool(extra_info.get("truncated", False))
    total = score(Reply(solution_str, truncated=cut), row, SETTINGS).total
    refuses = detect(solution_str, row.names).refusal
    return {{"score": float(total), "refusal": float(refuses), "truncated": float(cut)}}
'''

MANAGER = '''\
"""verl's plain reward manager, which also says whether a reply was cut at the token limit."""

import numpy
from transformers import GenerationConfig
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager


class Manager(NaiveRewardManager):
    def __init__(self, config, tokenizer, compute_score, **more):
        super().__init__(config, tokenizer, compute_score, **more)
        self.limit = config.actor_rollout_ref.rollout.response_length
        self.ends = {tokenizer.eos_token_id}
        try:
            found = GenerationConfig.from_pretrained(config.actor_rollout_ref.model.path).eos_token_id
        except OSError:  # a model without generation settings
            found = None
        self.ends |= set(found) if isinstance(found, list) else set() if found is None else {found}

    async def run_single(self, data):
        data = data[-1:]  # as verl: the last turn is what counts
        reply = data[0].batch["responses"]
        length = int(data[0].batch["attention_mask"][-len(reply) :].sum())
        cut = length >= self.limit and int(reply[length - 1]) not in self.ends
        # A dict of its own: the rollouts of a group may share theirs.
        info = {**data[0].non_tensor_batch["extra_info"], "truncated": cut}
        data.non_tensor_batch["extra_info"] = numpy.array([info], dtype=object)
        return await super().run_single(data)
'''

RUN = """\
#!/usr/bin/env bash
# ReBO of the recipe {name} under verl 0.9.1; README.md tells the rest.
# From the environment: MODEL (the checkpoint to start from), NNODES, GPUS_PER_NODE, TENSOR_PARALLEL, ENGINE, and
# RAY_ADDRESS, which Ray reads itself. Arguments are further settings of verl and win over those below.
set -euo pipefail

here=$(cd -- "$(dirname -- "${{BASH_SOURCE[0]}}")" && pwd)
start={model}
model=${{MODEL:-$start}}
if [ -z "$model" ]; then
  echo "error: MODEL is not set; expected the folder of the model that ReBO starts from (see README.md)." >&2
  exit 2
fi
if [ -d "$model" ]; then model=$(cd -- "$model" && pwd); fi

text() {{ # a value as Hydra reads it back, whatever is in it
  local quote="'"
  printf "'%s'" "${{1//$quote/\\\\$quote}}"
}}

settings=(
{settings}
)
# Workers on other nodes find your own reward, or a checkout of Expunge, where this shell finds it.
if [ -n "${{PYTHONPATH:-}}" ]; then
  settings+=("+ray_kwargs.ray_init.runtime_env.env_vars.PYTHONPATH=$(text "$PYTHONPATH")")
fi

exec python -m verl.trainer.main_ppo "${{settings[@]}}" "$@"
"""

# What depends on the machine: bash expands these. The reward is under ``reward``: verl still has the older key without
# it, and its main program ignores that.
HERE = (
    'data.train_files=$(text "$here/train.parquet")',
    'data.val_files=$(text "$here/dev.parquet")',
    'reward.custom_reward_function.path=$(text "$here/reward.py")',
    "reward.custom_reward_function.name=compute_score",
    "reward.reward_manager.source=importlib",
    "reward.reward_manager.name=Manager",
    'reward.reward_manager.module.path=$(text "$here/manager.py")',
    'trainer.default_local_dir=$(text "$here/checkpoints")',
    "trainer.nnodes=${NNODES:-1}",
    "trainer.n_gpus_per_node=${GPUS_PER_NODE:-1}",
    "actor_rollout_ref.rollout.name=${ENGINE:-vllm}",
    "actor_rollout_ref.rollout.tensor_model_parallel_size=${TENSOR_PARALLEL:-1}",
    'actor_rollout_ref.model.path=$(text "$model")',
)
CRITIC = ('critic.model.path=$(text "$model")',)

README = """\
# {name}: ReBO under verl 0.9.1

Written by Expunge {version} from the recipe {name}: its ReBO stage (RULE, arXiv 2506.07171) for a Ray cluster. The
settings are checked against verl's own configuration files, not by a run on a cluster: watch the first updates.

| file | what |
|---|---|
| `train.parquet` | the questions of all {updates} updates in order, {prompts} each, both sides in each |
| `dev.parquet` | the questions by which a checkpoint is chosen; no benchmark probe is among them |
| `reward.py` | `compute_score`: the reward of `rl.reward`, `{reward}` |
| `manager.py` | verl's reward manager, which also tells the reward whether a reply was cut at the token limit |
| `run.sh` | the launch; further settings of verl as arguments |

## Environment
An environment of its own on every node: Python 3.11 or 3.12, verl 0.9.1 (transformers 5.5.3 or later, below 5.11, not
5.6.0), an inference engine, and Expunge, whose reward is called.

    pip install 'verl[vllm,fsdp]==0.9.1'
    pip install PATH_OF_A_CHECKOUT_OF_EXPUNGE

This folder and the checkpoint lie where every node sees them under the same path. A reward of your own
(`module:function`) has to be importable on every node; `run.sh` passes PYTHONPATH on.

## The model to start from
{start}

verl loads the policy and the reference of the KL term from this one path: both are this model, as in the recipe. With
`lora` the reference is the policy without its adapter, which is the same.

## Run
    ray start --head                      # or a cluster that is there: export RAY_ADDRESS=…
    MODEL=… NNODES=2 GPUS_PER_NODE=8 bash run.sh

| variable | default | what |
|---|---|---|
| `MODEL` | {default} | folder or hub id of the model to start from |
| `NNODES`, `GPUS_PER_NODE` | 1, 1 | size of the cluster |
| `TENSOR_PARALLEL` | 1 | GPUs that generate together |
| `ENGINE` | `vllm` | `vllm`, `sglang`, `trtllm` |
| `RAY_ADDRESS` | | read by Ray: a cluster to join; without it the one on this node, or a new one |

More loggers: `bash run.sh 'trainer.logger=[console,wandb]'`.
If `checkpoints/` holds any, the same command goes on from the last one.

## Choose and take out a checkpoint
Every {dev_every} updates verl answers `dev.parquet` greedily, logs `val-core/expunge/forget/reward/mean@1` and
`val-core/expunge/boundary/reward/mean@1` (also `val-aux/…/refusal`, `…/truncated`), and saves a checkpoint. Expunge
keeps the update with the best mean of the two, less the share of forget replies that state the answer. That share is 0
where forget rows have no answer, as with `questions.answers: gold`; verl does not log it, and keeps all checkpoints:
choose by the mean. Then

    python -m verl.model_merger merge --backend fsdp \\
        --local_dir checkpoints/global_step_N/actor --target_dir unlearned

## What maps to what
Keys without a row of the recipe are fixed, so that verl's loss is the recipe's: token mean, k3, no KL in the reward.

| recipe | verl | value |
|---|---|---|
{table}

## What verl does otherwise
| recipe | verl |
|---|---|
| wordings other than `bare` | refused by the export: verl can not begin a reply |
| `reference: original` | refused: the reference is the model it starts from |
| `rl.first_block` | refused unless 0: verl trains all blocks |
| a fractional `lora.alpha` | refused: verl takes whole numbers |
| `questions.facts` | refused unless 0: the rows alone are asked |
| `rl.forget_share` | in `train.parquet`, batch by batch: do not shuffle it |
| `rl.guard`, `rl.patience` | nothing stops a run early: watch `refusal` on the boundary side, and `truncated` |
| the best look is kept | all checkpoints are; see above |
| `rl.value_lr`, `rl.value_loss` (ppo) | the critic is a second model, all of it trained, at lr 1e-5 |
| `rl.max_grad_norm: 0`, no limit | a limit of 1e9: under 0 verl would scale every gradient to nothing |
| `rl.compute_dtype` | all is computed in bfloat16, whatever `dtype` is; no token is weighed by a difference |
| `rl.tree_tokens` | rows are packed up to `ppo_max_token_len_per_gpu` tokens |
| `rl.save_every` | a checkpoint every `rl.dev_every` updates |
| `dtype` | float32 weights, computed with in bfloat16, sampled from in bfloat16 |
| whitened advantages (reinforce_pp, ppo) | variance with n - 1 |
| `seed` | the same questions in the same order, other random numbers: replies differ from Expunge's own |
| the KL estimate | clipped at 10 |
| questions of any length | cut at `data.max_prompt_length`, which is longer than all of these |
"""

START = """\
The stages before ReBO ({methods}) are in `start.yaml`. Run them once, from where you would run the recipe (paths in it
count from there); the checkpoint is then in `runs/start/model`:

    expunge run THIS_FOLDER/start.yaml --out runs/start --until unlearn
    MODEL=runs/start/model bash THIS_FOLDER/run.sh"""
TAUGHT = """\
The recipe has no stage before ReBO: it starts from the taught model, a folder in the cache of models
(`$EXPUNGE_CACHE/taught/…`) once `expunge run RECIPE --until teach` is through."""
BARE = """\
The recipe has no stage before ReBO: MODEL is the recipe's model, `{model}` (`expunge model get` prints its folder)."""


def reward_file(settings: RewardSettings) -> str:
    return REWARD.format(settings=repr(settings))


def run_file(name: str, overrides: Sequence[str], rs: Path | None, *, critic: bool) -> str:
    """The launch script; ``overrides`` are quoted for the shell already."""
    lines = [f"  {override}" for override in overrides]
    lines += [f'  "{setting}"' for setting in (*HERE, *(CRITIC if critic else ()))]
    model = shlex.quote(str(rs.resolve())) if rs else ""
    return RUN.format(name=_one_line(name), model=model, settings="\n".join(lines))


def readme_file(recipe: Recipe, place: int, rl: RL, rs: Path | None, table: Sequence[tuple[str, str, str]]) -> str:
    """``place``: how many stages come before ReBO; ``table``: recipe key, verl key, value."""
    if place:
        start = START.format(methods=", ".join(before.method for before in recipe.unlearn[:place]))
    else:
        start = TAUGHT if recipe.teach else BARE.format(model=recipe.model)
    if place + 1 < len(recipe.unlearn):
        start += "\n\nThe drill that the recipe has after ReBO is no part of this run."
    return README.format(
        name=_one_line(recipe.name),
        version=__version__,
        updates=rl.updates,
        prompts=rl.prompts,
        reward=rl.reward.name,
        dev_every=rl.dev_every,
        start=start,
        default="the folder given to the export" if rs else "none: has to be set",
        table="\n".join(_table_row(*row) for row in table),
    )


def _table_row(ours: str, theirs: str, value: str) -> str:
    cells = (f"`{cell}`".replace("|", "\\|") if cell else "" for cell in (ours, theirs, _one_line(value)))
    return f"| {' | '.join(cells)} |"


def _one_line(text: str) -> str:
    return " ".join(text.split())
