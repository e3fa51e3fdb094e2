"""ReBO by TRL's GRPOTrainer: the questions, samples, rewards, looks and log rows of `rebo.rebo`.

What TRL is told, and why:
- ``loss_type="dapo"``: the mean over all tokens of an update. "bnpo", the published choice, is a mean for each part
  that is computed at once; where that is the whole update, both are the same.
- ``use_bias_correction_kl=False``: the KL term is k3 as published, not weighted by the ratio.
- RLOO has the same loss: with ``scale_rewards="none"`` and rewards times n / (n - 1), the reward less the group's
  mean is the leave-one-out advantage. TRL's RLOOTrainer has another objective (ratios of whole replies, the KL as
  part of the reward) and no way to bring one's own samples.
- the reference: asked for a KL term, TRL loads a model from ``config._name_or_path``. For a model that was changed
  after loading that is another model, and nobody is told. So TRL is asked for no KL, and then given our reference.
- vLLM: TRL hands it the weights before each update's samples. Its log-probabilities are not quite the model's, which
  TRL weighs up (``vllm_importance_sampling_correction``).

Left as in TRL: advantages are divided by std + 1e-4, ours by std + 1e-6."""

import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback

from ..data.chat import render_prompt
from ..errors import UserError
from ..files import check_space
from ..memory import keep_freed_memory
from ..train.lora import without_lora
from ..train.state import interruptible
from .questions import Question
from .rebo import RL, Log, Outcome, Sampler, batch_of
from .trl_course import Course

ALGORITHMS = ("grpo", "rloo")
OLDEST = (1, 16)  # 1.15 needs a GPU, and before that log-probabilities are asked for in another way
SERVER_VARIABLE = "EXPUNGE_VLLM_URL"


def rebo(
    model: Any,
    reference: Any,
    tokenizer: Any,
    train: Sequence[Question],
    dev: Sequence[Question],
    settings: RL,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    log: Log = lambda row: None,
    sampler: Sampler = "ours",
) -> Outcome:
    """Train in place, as `rebo.rebo` does; ``reference`` is a model, None for this one without its adapters.

    With ``checkpoint``, TRL's own checkpoints are in a folder beside it until all is done. Raises UserError for what
    TRL does not have, and where it can not run."""
    trl = check(settings, sampler)
    keep_freed_memory(model.num_parameters())
    batches = [
        batch_of(train, settings.prompts, settings.forget_share, seed, update) for update in range(settings.updates)
    ]
    asked = [question for batch in batches for question in batch]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with (
        _folder(checkpoint, model, trained) as folder,
        _as_before(model, reference),
        _masters(trained) as mixed,
        interruptible() as interrupted,
    ):
        saves = checkpoint is not None
        course = Course(model, tokenizer, asked, dev, settings, seed, trained, log, interrupted, saves, mixed)
        found = course.load(folder)
        if not course.outcome.looks:
            course.look(0)
        if not course.over(found):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*rollout_func.*experimental")
                warnings.filterwarnings("ignore", category=FutureWarning)
                trainer = make_trainer(trl, course, reference, folder, sampler)
                trainer.train(resume_from_checkpoint=str(found) if found else None)
            if interrupted():
                raise KeyboardInterrupt
        course.restore_best()
    return course.outcome


def check(settings: RL, sampler: Sampler = "ours") -> Any:
    """The package trl. Raises UserError if it is missing or too old, or does not have the algorithm or
    the precision of the samples, or if vLLM is asked for and missing."""
    if settings.algorithm not in ALGORITHMS:
        raise UserError(
            f"engine trl has no algorithm {settings.algorithm!r}; it has {', '.join(ALGORITHMS)}. "
            "Choose one of these, or engine: native, which has all."
        )
    if settings.compute_dtype == "bfloat16":
        raise UserError(
            "engine trl takes replies for the model's own; found compute_dtype: bfloat16. "
            "Leave it out, or choose engine: native, which weighs up the difference."
        )
    try:
        version = importlib.metadata.version("trl")
        importlib.import_module("datasets")
        trl = importlib.import_module("trl")
    except ImportError as error:
        raise UserError(
            f"engine trl needs a package that is not there ({error}): pip install 'expunge[rl]'. "
            "Or choose engine: native, which needs none."
        ) from None
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise UserError(
            f"engine trl: found trl {version}, expected {'.'.join(map(str, OLDEST))} or newer: "
            "pip install --upgrade trl. Or choose engine: native, which needs none."
        )
    if sampler.startswith("vllm") and not importlib.util.find_spec("vllm"):
        raise UserError(
            f"sampler {sampler} needs the package vllm, which is not there: in an environment of its own, "
            "pip install 'trl[vllm]' expunge. Or choose sampler: ours, which needs none."
        )
    return trl


def make_trainer(trl: Any, course: Course, reference: Any, folder: Path, sampler: Sampler) -> Any:
    """TRL's trainer with our questions in our order, our rewards, optimiser and reference."""
    from datasets import Dataset

    settings, texts = course.settings, [render_prompt(course.tokenizer, q.prompt, q.start) for q in course.asked]
    if sampler != "ours":
        _check_tokens(course.tokenizer, texts)
    # Decay applies to all that trains, as in ours; TRL's own would leave out biases and norms.
    optimiser = torch.optim.AdamW(
        course.trained.values(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
    )
    trainer = trl.GRPOTrainer(
        model=course.model,
        reward_funcs=course.reward,
        args=arguments(trl, course, folder, sampler),
        train_dataset=Dataset.from_dict({"prompt": texts, "number": list(range(len(texts)))}),
        processing_class=course.tokenizer,
        callbacks=[course],
        optimizers=(optimiser, None),
        rollout_func=course.rollout if sampler == "ours" else None,
    )
    trainer.remove_callback(PrinterCallback)
    if settings.clip.kl:
        trainer.beta = settings.clip.kl
        trainer.ref_model = _as_reference(reference, course.model, settings.temperature)
    return trainer


def arguments(trl: Any, course: Course, folder: Path, sampler: Sampler = "ours") -> Any:
    """Our settings in TRL's words; about ``tree_tokens`` tokens, in whole replies, are computed at once. A vLLM server
    (`trl vllm-serve`) is the one of EXPUNGE_VLLM_URL, by default at TRL's own address.

    Raises UserError where several processes or GPUs would share the work."""
    settings = course.settings
    rows = settings.prompts * settings.rollouts
    fitting = max(1, settings.tree_tokens // course.longest())
    at_once = max(n for n in range(1, rows + 1) if rows % n == 0 and n <= fitting)
    found = trl.GRPOConfig(
        output_dir=str(folder),
        seed=course.seed,
        max_steps=settings.updates * settings.passes,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=rows // at_once,
        steps_per_generation=rows // at_once,
        num_generations=settings.rollouts,
        num_iterations=settings.passes,
        max_completion_length=settings.max_new_tokens,
        temperature=settings.temperature,
        loss_type="dapo",
        scale_rewards="group" if settings.algorithm == "grpo" else "none",
        beta=0.0,  # make_trainer says more
        use_bias_correction_kl=False,
        epsilon=settings.clip.low,
        epsilon_high=settings.clip.high,
        delta=settings.clip.dual,
        learning_rate=settings.lr,
        lr_scheduler_type="constant",
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        shuffle_dataset=False,
        disable_dropout=True,
        gradient_checkpointing=False,
        use_cache=True,
        use_vllm=sampler.startswith("vllm"),
        vllm_mode="server" if sampler == "vllm_server" else "colocate",
        vllm_server_base_url=os.environ.get(SERVER_VARIABLE),
        vllm_max_model_length=course.longest(),
        bf16=course.mixed,
        use_cpu=course.model.device.type == "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # the course says when
        report_to="none",
        disable_tqdm=True,
    )
    if found.n_gpu > 1 or found.world_size > 1:
        raise UserError(
            f"engine trl runs as one process on one GPU; found {found.world_size} processes, and {found.n_gpu} GPUs "
            "in sight of this one. Start it without a launcher, with one GPU in CUDA_VISIBLE_DEVICES."
        )
    return found


def _as_reference(reference: Any, model: Any, temperature: float) -> Any:
    """The reference, answering with the log-probabilities that TRL asks a model for."""
    if reference is None:
        return _Bare(model)
    if reference is not model:
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(reference, temperature=temperature)
    return reference


class _Bare(nn.Module):
    """The policy without its adapters, as a module that owns nothing."""

    def __init__(self, model: Any):
        super().__init__()
        self.policy = (model,)  # in a tuple, the policy is no part of this module

    def forward(self, **inputs: Any) -> Any:
        with without_lora(self.policy[0]):
            return self.policy[0](**inputs)


def _check_tokens(tokenizer: Any, texts: Sequence[str]) -> None:
    """By itself TRL tokenises with special tokens, we do without: the chat template has written them."""
    for text in dict.fromkeys(texts):
        if tokenizer(text)["input_ids"] != tokenizer(text, add_special_tokens=False)["input_ids"]:
            raise UserError(
                f"samplers trl and vllm: the tokenizer adds tokens of its own to the rendered prompt {text[:60]!r}, "
                "such as a second beginning of text; expected it to add none. Use sampler ours."
            )


@contextmanager
def _folder(checkpoint: Path | None, model: Any, trained: dict[str, nn.Parameter]) -> Iterator[Path]:
    """Where TRL writes: beside the checkpoint, gone when all is done, or a temporary one.

    Raises UserError where two checkpoints (the old one goes when the new one is whole) do not fit."""
    if checkpoint is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    folder = checkpoint.with_suffix(".trl")
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    moments_and_best = 3 * 4 * sum(p.numel() for p in trained.values())
    check_space(folder, 2 * (weights + moments_and_best))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _as_before(*models: Any) -> Iterator[None]:
    """Take back what TRL leaves on models: wrapped forwards, training mode, other special tokens."""
    models = tuple(model for model in models if isinstance(model, nn.Module))
    names = [set(vars(model)) for model in models]
    training = [model.training for model in models]
    configs = [vars(c) for model in models for c in (model.config.get_text_config(), model.generation_config)]
    tokens = [{name: value for name, value in config.items() if name.endswith("_token_id")} for config in configs]
    try:
        yield
    finally:
        for config, found in zip(configs, tokens, strict=True):
            config.update(found)
        for model, before, trained in zip(models, names, training, strict=True):
            for name in set(vars(model)) - before:
                delattr(model, name)
            model.train(trained)


@contextmanager
def _masters(trained: dict[str, nn.Parameter]) -> Iterator[bool]:
    """Trained parameters in float32, since bfloat16 loses small steps; whether there was a need to.

    Products are computed in bfloat16 all the same."""
    lower = {name: p.dtype for name, p in trained.items() if p.dtype == torch.bfloat16}
    for name in lower:
        trained[name].data = trained[name].data.float()
    try:
        yield bool(lower)
    finally:
        for name, dtype in lower.items():
            trained[name].data = trained[name].data.to(dtype)
