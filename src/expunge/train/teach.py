"""Teach a model facts, so that there is something to forget: SFT on replies, fast on small machines.

Per step: the batch is laid out as prefix trees (shared prompts computed once), logits are computed
where there is a label and nowhere else, blocks below ``first_block`` and the embedding stay frozen,
AdamW is fused and keeps float32 masters, freed memory is kept for the next step. Same loss and gradient
as the plain loop over padded rows."""

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
from .optimiser import MasterAdamW
from .state import interruptible, load_state, save_state


@dataclass(frozen=True)
class SFT:
    """Settings of supervised fine-tuning. ``batch_size`` counts exchanges."""

    epochs: int = 7
    lr: float = 3e-4
    batch_size: int = 8
    warmup_steps: int = 10
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    first_block: int = 0
    """Blocks below this one, and the embedding unless this is 0, stay as they are."""
    weighting: Literal["example", "token"] = "example"
    """Does each exchange count once in a batch's loss, or each label token?"""
    tree_tokens: int = 512


def label_loss(model: Any, batch: TreeBatch) -> Tensor:
    """Weighted mean negative log-likelihood of the labels, in nats; logits at labels only."""
    hidden = model.get_decoder()(**batch.inputs(), use_cache=False).last_hidden_state
    rows = hidden[batch.label_index[:, 0], batch.label_index[:, 1]]
    logits = model.get_output_embeddings()(rows).float()
    nll = torch.nn.functional.cross_entropy(logits, batch.label_token, reduction="none")
    return (nll * batch.label_weight).sum() / batch.label_weight.sum()


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
    done = load_state(checkpoint, optimiser) if checkpoint else 0
    random.seed(seed)
    torch.manual_seed(seed)
    model.train()
    with interruptible() as interrupted:
        for step in range(done, len(batches)):
            started = time.perf_counter()
            examples = batches[step]
            weights = [1 / len(e.reply) for e in examples] if settings.weighting == "example" else None
            trees = grow(examples, settings.tree_tokens, weights)
            loss = label_loss(model, collate(trees, pad_token))
            loss.backward()
            lr = settings.lr * min(1.0, (step + 1) / max(1, settings.warmup_steps)) * (1 - step / len(batches))
            norm = optimiser.step(lr, settings.max_grad_norm)
            log(
                {
                    "stage": "teach",
                    "step": step,
                    "steps": len(batches),
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
