"""Teach a model facts, so that there is something to forget: SFT on replies, fast on small machines.

Per step: the batch is laid out as prefix trees (shared prompts computed once), logits are computed
where there is a label and nowhere else, blocks below ``first_block`` and the embedding stay frozen,
AdamW is fused and keeps float32 masters, freed memory is kept for the next step. Same loss and gradient
as the plain loop over padded rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..data.chat import Encoded
from ..prefix_tree import TreeBatch, collate, grow
from .trainer import Training, train


@dataclass(frozen=True)
class SFT(Training):
    """Settings of supervised fine-tuning. ``batch_size`` counts exchanges."""

    weighting: Literal["example", "token"] = "example"
    """Does each exchange count once in a batch's loss, or each label token?"""


def label_nll(model: Any, batch: TreeBatch) -> Tensor:
    """Negative log-likelihood of each label, in nats (labels,); logits at labels only."""
    device = model.device
    inputs = {name: value.to(device) for name, value in batch.inputs().items()}
    hidden = model.get_decoder()(**inputs, use_cache=False).last_hidden_state
    index = batch.label_index.to(device)
    logits = model.get_output_embeddings()(hidden[index[:, 0], index[:, 1]]).float()
    return torch.nn.functional.cross_entropy(logits, batch.label_token.to(device), reduction="none")


def label_loss(model: Any, batch: TreeBatch) -> Tensor:
    """Weighted mean negative log-likelihood of the labels, in nats."""
    weight = batch.label_weight.to(model.device)
    return (label_nll(model, batch) * weight).sum() / weight.sum()


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
    trains: Mapping[str, nn.Parameter] | None = None,
) -> None:
    """Train in place on prepared epochs: see :func:`expunge.train.trainer.train`."""
    by_example = settings.weighting == "example"

    def loss(model: Any, examples: Sequence[Encoded]) -> tuple[Tensor, dict[str, Tensor]]:
        weights = [1 / len(e.reply) for e in examples] if by_example else None
        batch = collate(grow(examples, settings.tree_tokens, weights), pad_token)
        return (label_nll(model, batch) * batch.label_weight.to(model.device)).sum(), {}

    def weight(example: Encoded) -> float:
        """Of its labels: a first token that nothing stands before cannot be predicted."""
        labels = min(len(example.reply), len(example.ids) - 1)
        return labels / len(example.reply) if by_example else labels

    train(
        model,
        epochs,
        loss,
        settings,
        tokens=lambda example: len(example.ids),
        weight=weight,
        seed=seed,
        stage=stage,
        checkpoint=checkpoint,
        log=log,
        trains=trains,
    )
