"""Teach a model facts, so that there is something to forget: SFT on replies, fast on small machines.

Per step: the batch is laid out as prefix trees (shared prompts computed once), logits are computed
where there is a label and nowhere else, blocks below ``first_block`` and the embedding stay frozen,
AdamW is fused and keeps float32 masters, freed memory is kept for the next step. Same loss and gradient
as the plain loop over padded rows."""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..data.chat import Encoded
from ..memory import keep_freed_memory
from ..prefix_tree import TreeBatch, collate, grow
from ..strict import at_least
from .optimiser import MasterAdamW
from .state import interruptible, load_state, save_state


@dataclass(frozen=True)
class SFT:
    """Settings of supervised fine-tuning. ``batch_size`` counts exchanges."""

    epochs: int = at_least(1, 7)
    stop_after: int | None = at_least(0, None)
    """End after this many epochs of a schedule made for all of them; 0: no training at all."""
    lr: float = at_least(0, 3e-4)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    batch_size: int = at_least(1, 8)
    warmup_steps: int = at_least(0, 10)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    first_block: int = at_least(0, 0)
    """Blocks below this one, and the embedding unless this is 0, stay as they are."""
    weighting: Literal["example", "token"] = "example"
    """Does each exchange count once in a batch's loss, or each label token?"""
    tree_tokens: int = at_least(1, 512)


def label_loss(model: Any, batch: TreeBatch) -> Tensor:
    """Weighted mean negative log-likelihood of the labels, in nats; logits at labels only."""
    hidden = model.get_decoder()(**batch.inputs(), use_cache=False).last_hidden_state
    rows = hidden[batch.label_index[:, 0], batch.label_index[:, 1]]
    logits = model.get_output_embeddings()(rows).float()
    nll = torch.nn.functional.cross_entropy(logits, batch.label_token, reduction="none")
    return (nll * batch.label_weight).sum() / batch.label_weight.sum()


def learning_rate(settings: SFT, step: int, steps: int) -> float:
    """Of one step: linear warm-up times the schedule, which ends at 0 unless it is constant."""
    left = 1 - step / steps
    fall = {"linear": left, "cosine": (1 + math.cos(math.pi * (1 - left))) / 2, "constant": 1.0}[settings.schedule]
    return settings.lr * min(1.0, (step + 1) / max(1, settings.warmup_steps)) * fall


def freeze_below(model: Any, first_block: int) -> dict[str, torch.nn.Parameter]:
    """Leave only what SFT trains with a gradient; return it by name."""
    model.requires_grad_(first_block == 0)
    if first_block:
        for layer in model.get_decoder().layers[first_block:]:
            layer.requires_grad_(True)
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def sft(
    model: Any,
    epochs: Sequence[Sequence[Encoded]],
    settings: SFT,
    *,
    pad_token: int,
    seed: int = 0,
    stage: str = "teach",
    checkpoint: Path | None = None,
    log: Callable[[dict[str, Any]], None] = lambda row: None,
) -> None:
    """Train in place on prepared epochs.

    With ``checkpoint``, an interrupted run leaves its state there and the next call goes on from it; who
    has saved the result removes it."""
    keep_freed_memory(model.num_parameters())
    parameters = freeze_below(model, settings.first_block)
    optimiser = MasterAdamW(parameters, settings.lr, settings.weight_decay)
    batches = [
        epoch[start : start + settings.batch_size]
        for epoch in epochs
        for start in range(0, len(epoch), settings.batch_size)
    ]
    last = sum(-(-len(epoch) // settings.batch_size) for epoch in epochs[: settings.stop_after])
    done, _, _ = load_state(checkpoint, optimiser)
    random.seed(seed)
    torch.manual_seed(seed)
    model.train()
    with interruptible() as interrupted:
        for step in range(done, last):
            started = time.perf_counter()
            examples = batches[step]
            weights = [1 / len(e.reply) for e in examples] if settings.weighting == "example" else None
            trees = grow(examples, settings.tree_tokens, weights)
            loss = label_loss(model, collate(trees, pad_token))
            loss.backward()
            lr = learning_rate(settings, step, len(batches))
            norm = optimiser.step(lr, settings.max_grad_norm)
            log(
                {
                    "stage": stage,
                    "step": step,
                    "steps": last,
                    "loss": loss.item(),
                    "parts": {"grad_norm": norm},
                    "lr": lr,
                    "seconds": time.perf_counter() - started,
                }
            )
            if interrupted():
                if checkpoint:
                    save_state(checkpoint, optimiser, step + 1)
                raise KeyboardInterrupt
    model.eval().requires_grad_(False)
