"""ReBO on a Ray cluster: a recipe's stage as a folder that runs under verl 0.9.1 (arXiv 2409.19256).

verl is not imported and not needed here: it wants an environment of its own. What it can not do as the recipe
asks is refused; what it does otherwise stands in the folder's README.md.

The training file holds the questions of each update, one batch after the other, so that verl reads the same batches
as the engines of this package, with both sides of the boundary in each."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..data.rwku import load_target
from ..errors import UserError
from ..files import read_json, write_text, writing_folder
from ..recipe import Drill, ReBO, Recipe
from ..strict import to_dict
from .questions import Question, Split, boundary_rows, check_halves, chosen, make_questions, name_of
from .rebo import RL, batch_of
from .verl_texts import MANAGER, readme_file, reward_file, run_file

Value = bool | int | float | str | tuple[str, ...]
ESTIMATORS = {"grpo": "grpo", "rloo": "rloo", "reinforce_pp": "reinforce_plus_plus", "ppo": "gae"}
CRITIC_LR = 1e-5  # verl's own: its critic is a whole model, not the recipe's linear head
UNCLIPPED = 1e6  # rewards lie in [0, 1], so no value ever moves that far
UNLIMITED = 1e9  # where the recipe has 0, no limit: verl would clip every gradient to 0
TEMPLATE_TOKENS = 256  # room for what a chat template puts around a question
PLAIN = re.compile(r"[a-z][a-z_-]*")
READ_OTHERWISE = {"true", "false", "null", "nan", "inf"}


class Setting(NamedTuple):
    """One setting: its key in the recipe ("" where the recipe has none), its key in verl, its value."""

    ours: str
    theirs: str
    value: Value


@dataclass(frozen=True)
class Run:
    """What is exported: the stage, its place in the recipe, its questions."""

    recipe: Recipe
    place: int
    stage: ReBO
    asked: Split

    @property
    def train(self) -> list[Question]:
        """The questions of all updates in order."""
        rl = self.stage.rl
        asked, seed = self.asked.train, self.recipe.seed
        batches = [batch_of(asked, rl.prompts, rl.forget_share, seed, update) for update in range(rl.updates)]
        return [question for batch in batches for question in batch]


def export(recipe: Recipe, out: Path, *, answers: Path | None = None, rs: Path | None = None) -> Path:
    """Write the folder. ``answers``: answers.json of a run folder, where the questions ask for the model's own;
    ``rs``: the checkpoint that ReBO starts from, otherwise MODEL in the environment of run.sh says it.

    Raises UserError for a recipe without ReBO or one that verl can not follow, and for a folder with files in it."""
    out = Path(out).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there and not an empty folder; choose another --out, or remove it.")
    if rs is not None and not (Path(rs) / "config.json").is_file():
        raise UserError(f"--rs {rs}: found no config.json there; expected the folder of a model (see expunge apply).")
    arrow = _pyarrow()
    place, stage = _find_stage(recipe)
    run = Run(recipe, place, stage, _questions(recipe, answers))
    settings = mapped(run)
    with writing_folder(out) as folder:
        for name, questions in (("train", run.train), ("dev", run.asked.dev)):
            _write_parquet(arrow, folder / f"{name}.parquet", name, questions)
        write_text(folder / "reward.py", reward_file(stage.rl.reward))
        write_text(folder / "manager.py", MANAGER)
        overrides = [shlex.quote(f"{s.theirs}={literal(s.value)}") for s in settings]
        write_text(folder / "run.sh", run_file(recipe.name, overrides, rs, critic=stage.rl.algorithm == "ppo"))
        (folder / "run.sh").chmod(0o755)
        if place:
            write_text(folder / "start.yaml", _start_recipe(recipe, place))
        table = [(ours, theirs, literal(value)) for ours, theirs, value in settings]
        write_text(folder / "README.md", readme_file(recipe, place, stage.rl, rs, table))
    return out


def mapped(run: Run) -> list[Setting]:
    """The recipe in verl's keys; what depends on the machine is in run.sh."""
    rl, seed = run.stage.rl, run.recipe.seed
    actor, rollout, model = (f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "model"))
    prompt_tokens = _prompt_tokens([*run.asked.train, *run.asked.dev])
    packed = max(16384, prompt_tokens + rl.max_new_tokens)
    out = [
        Setting("rl.algorithm", "algorithm.adv_estimator", ESTIMATORS[rl.algorithm]),
        Setting("", "algorithm.norm_adv_by_std_in_grpo", True),
        Setting("", "algorithm.use_kl_in_reward", False),
        Setting("", "algorithm.gamma", 1.0),
        Setting("rl.updates", "trainer.total_training_steps", rl.updates),
        Setting("", "trainer.total_epochs", 1),
        Setting("rl.dev_every", "trainer.test_freq", rl.dev_every),
        Setting("rl.dev_every", "trainer.save_freq", rl.dev_every),
        Setting("", "trainer.val_before_train", True),
        Setting("", "trainer.project_name", "expunge"),
        Setting("name", "trainer.experiment_name", run.recipe.name),
        Setting("", "trainer.logger", ("console",)),
        Setting("rl.prompts", "data.train_batch_size", rl.prompts),
        Setting("", "data.shuffle", False),
        Setting("", "data.max_prompt_length", prompt_tokens),
        Setting("rl.max_new_tokens", "data.max_response_length", rl.max_new_tokens),
        Setting("rl.rollouts", f"{rollout}.n", rl.rollouts),
        Setting("rl.temperature", f"{rollout}.temperature", rl.temperature),
        Setting("", f"{rollout}.top_p", 1.0),
        Setting("", f"{rollout}.top_k", -1),
        Setting("seed", f"{rollout}.seed", seed),
        Setting("", f"{rollout}.val_kwargs.do_sample", False),
        Setting("", f"{rollout}.val_kwargs.temperature", 0),
        Setting("", f"{rollout}.val_kwargs.n", 1),
        Setting("rl.prompts", f"{actor}.ppo_mini_batch_size", rl.prompts),
        Setting("rl.passes", f"{actor}.ppo_epochs", rl.passes),
        Setting("", f"{actor}.use_dynamic_bsz", True),
        Setting("", f"{actor}.ppo_max_token_len_per_gpu", packed),
        Setting("", f"{actor}.policy_loss.loss_mode", "vanilla"),
        Setting("", f"{actor}.loss_agg_mode", "token-mean"),
        Setting("", f"{actor}.entropy_coeff", 0),
        Setting("rl.clip.low", f"{actor}.clip_ratio_low", rl.clip.low),
        Setting("rl.clip.high", f"{actor}.clip_ratio_high", rl.clip.high),
        Setting("rl.clip.dual", f"{actor}.clip_ratio_c", rl.clip.dual),
        Setting("rl.clip.kl", f"{actor}.use_kl_loss", rl.clip.kl > 0),
        Setting("rl.clip.kl", f"{actor}.kl_loss_coef", rl.clip.kl),
        Setting("", f"{actor}.kl_loss_type", "low_var_kl"),
        Setting("rl.lr", f"{actor}.optim.lr", rl.lr),
        Setting("", f"{actor}.optim.lr_scheduler_type", "constant"),
        Setting("", f"{actor}.optim.lr_warmup_steps_ratio", 0.0),
        Setting("rl.weight_decay", f"{actor}.optim.weight_decay", rl.weight_decay),
        # Not actor.grad_clip: it stands in verl's configuration too, but nothing reads it.
        Setting("rl.max_grad_norm", f"{actor}.optim.clip_grad", rl.max_grad_norm or UNLIMITED),
    ]
    if lora := run.stage.lora:
        out += [
            Setting("lora.rank", f"{model}.lora_rank", lora.rank),
            Setting("lora.alpha", f"{model}.lora_alpha", int(lora.alpha)),
            Setting("lora.targets", f"{model}.target_modules", lora.targets or "all-linear"),
            Setting("", f"{model}.exclude_modules", "lm_head"),
        ]
    if rl.algorithm == "ppo":
        out += [
            Setting("rl.smoothing", "algorithm.lam", rl.smoothing),
            Setting("", "critic.optim.lr", CRITIC_LR),
            Setting("", "critic.cliprange_value", UNCLIPPED),
            Setting("", "critic.ppo_max_token_len_per_gpu", 2 * packed),
        ]
    return out


def literal(value: Value) -> str:
    """A value as Hydra reads it back, whatever is in it.

    >>> literal(True), literal(2e-6), literal("grpo"), literal(("q_proj", 'a"b'))
    ('true', '2e-06', 'grpo', '[q_proj,"a\\\\"b"]')"""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{','.join(literal(item) for item in value)}]"
    if not isinstance(value, str):
        return repr(value)
    if PLAIN.fullmatch(value) and value not in READ_OTHERWISE:
        return value
    quoted = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value)
    return '"' + quoted.replace("${", "\\${") + '"'


def _find_stage(recipe: Recipe) -> tuple[int, ReBO]:
    """Place and settings of the ReBO stage. Raises UserError where verl would train something else."""
    found = [(i, stage) for i, stage in enumerate(recipe.unlearn) if isinstance(stage, ReBO)]
    if not found:
        methods = ", ".join(stage.method for stage in recipe.unlearn)
        raise UserError(f"{recipe.name}: unlearn holds {methods}; expected a stage of the method rebo to export.")
    place, stage = found[0]
    at = "unlearn" if len(recipe.unlearn) == 1 else f"unlearn.{place}"
    if after := [later.method for later in recipe.unlearn[place + 1 :] if not isinstance(later, Drill)]:
        raise UserError(
            f"unlearn: {after[0]} comes after rebo, and the exported run ends with it. Leave {after[0]} out."
        )
    if others := sorted(set(recipe.questions.wordings) - {"bare"}):
        raise UserError(
            f"questions.wordings: found {', '.join(others)}; verl begins every reply itself and can not put a start "
            "into the model's mouth, expected bare alone. Say --set 'questions.wordings=[bare]' to go without them."
        )
    if stage.reference == "original":
        raise UserError(
            f"{at}.reference: found original; verl's reference is the model it starts from. "
            f"Say --set {at}.reference=start to hold to that one."
        )
    _check_numbers(stage.rl, at, stage)
    return place, stage


def _check_numbers(rl: RL, at: str, stage: ReBO) -> None:
    if rl.first_block:
        raise UserError(
            f"{at}.rl.first_block: found {rl.first_block}; verl trains all blocks. "
            f"Say --set {at}.rl.first_block=0 to train them all."
        )
    if stage.lora and stage.lora.alpha != int(stage.lora.alpha):
        raise UserError(f"{at}.lora.alpha: found {stage.lora.alpha}; verl takes whole numbers.")


def _questions(recipe: Recipe, answers: Path | None) -> Split:
    """The questions that the package's own engines would ask, in their order."""
    asking, seed = recipe.questions, recipe.seed
    target = load_target(recipe.target) if recipe.target else None
    rows = boundary_rows(asking, target)
    name = name_of(rows, target)
    check_halves(rows, asking)
    if asking.facts:
        raise UserError(
            f"questions.facts: found {asking.facts}; the export asks the rows alone. Say --set questions.facts=0."
        )
    train, dev = chosen(rows, asking, dev=False), chosen(rows, asking, dev=True)
    own: dict[str, str] = {}
    if asking.answers == "own":
        own = _own_answers(answers, {row.prompt for row in [*train, *dev]})
    elif answers is not None:
        raise UserError(f"--answers {answers}: questions.answers is gold, so nothing would read it; leave it out.")
    return Split(make_questions(train, asking, own, name, seed), make_questions(dev, asking, own, name, seed + 1))


def _own_answers(path: Path | None, asked: set[str]) -> dict[str, str]:
    if path is None:
        raise UserError(
            "questions.answers: found own, and the export asks no model. Give --answers FILE, the answers.json that "
            "`expunge run` writes into the run folder before it trains, or --set questions.answers=gold."
        )
    found = read_json(path)
    if not isinstance(found, dict) or not all(isinstance(answer, str) for answer in found.values()):
        raise UserError(f"{path}: expected a mapping of questions to answers, as `expunge run` writes answers.json.")
    if missing := sorted(asked - set(found)):
        raise UserError(
            f"{path}: no answer to {len(missing)} of {len(asked)} questions, such as {missing[0]!r}. "
            "Take the answers.json of a run with the same questions."
        )
    return found


def _prompt_tokens(questions: Sequence[Question]) -> int:
    """A limit that no question reaches: verl cuts longer ones without a word. A token is a byte or more."""
    longest = max(len(q.prompt.encode()) for q in questions)
    return max(512, -(-(longest + TEMPLATE_TOKENS) // 128) * 128)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError("writing parquet needs pyarrow; pip install 'expunge[data]'") from None
    return pyarrow


def _write_parquet(arrow: Any, path: Path, split: str, questions: Sequence[Question]) -> None:
    """Rows of verl's RL schema; what the reward needs beside the gold answer is in ``extra_info``."""
    text = arrow.string()
    info = {"index": arrow.int64(), "split": text, "forget": arrow.bool_(), "question": text, "target": text}
    schema = arrow.schema(
        {
            "data_source": text,
            "prompt": arrow.list_(arrow.struct({"role": text, "content": text})),
            "ability": text,
            "reward_model": arrow.struct({"style": text, "ground_truth": text}),
            "extra_info": arrow.struct({**info, "aliases": arrow.list_(text)}),
        }
    )
    rows = [
        {
            "data_source": "expunge/forget" if q.row.forget else "expunge/boundary",
            "prompt": [{"role": "user", "content": q.prompt}],
            "ability": "unlearning",
            "reward_model": {"style": "rule", "ground_truth": q.row.answer},
            "extra_info": {
                "index": index,
                "split": split,
                "forget": q.row.forget,
                "question": q.row.question,
                "target": q.row.target,
                "aliases": list(q.row.aliases),
            },
        }
        for index, q in enumerate(questions)
    ]
    arrow.parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), path)


def _start_recipe(recipe: Recipe, place: int) -> str:
    """The stages before ReBO as a recipe that leaves a whole checkpoint."""
    import yaml

    start = replace(recipe, name=f"{recipe.name}-start", unlearn=recipe.unlearn[:place], goals=(), full_checkpoint=True)
    return yaml.safe_dump(to_dict(start), sort_keys=False, allow_unicode=True, width=120)
