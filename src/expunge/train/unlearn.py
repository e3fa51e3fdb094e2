"""The loop of the representation methods (RMU, R2MU): a truncated decoder, a few matrices, a delta."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.streams import Batch, Stream
from ..losses import masked_cosine
from ..memory import keep_freed_memory
from ..methods import r2mu
from ..models.blocks import SplitDecoder, select
from .optimiser import MasterAdamW
from .state import interruptible, load_state, save_state


@dataclass(frozen=True)
class Steps:
    """How long and how fast; ``batch_size`` counts texts of each stream."""

    steps: int = 100
    lr: float = 5e-4
    batch_size: int = 4
    weight_decay: float = 0.01
    save_every: int = 50


@dataclass(frozen=True)
class Outcome:
    """Trained matrices by name relative to the decoder, in the model's dtype; c as it was used."""

    matrices: dict[str, Tensor]
    steering_length: float


def step_loss(
    split: SplitDecoder, batches: Mapping[str, Batch], control: Tensor, settings: r2mu.R2MU
) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
    """One evaluation of the objective: total, weighted parts, and cosines of updated to original."""
    hidden, reference, cosines = {}, {}, {}
    for stream, batch in batches.items():
        states = split(batch.ids, batch.mask, reference=not r2mu.steers(stream))
        hidden[stream] = states.updated
        if states.reference is not None:
            reference[stream] = states.reference
            cosines[f"{stream}_cosine"] = masked_cosine(states.updated.detach(), states.reference, batch.counted).item()
    masks = {stream: batch.counted for stream, batch in batches.items()}
    total, parts = r2mu.loss(hidden, reference, masks, control, settings)
    return total, parts, cosines


def unlearn(
    decoder: Any,
    streams: Mapping[str, Stream],
    settings: r2mu.R2MU,
    loop: Steps,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    log: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Outcome:
    """Train the named matrices of a truncated decoder in place.

    Streams of weight 0 are not read. With ``checkpoint``, an interrupted run goes on from there."""
    keep_freed_memory()
    split = SplitDecoder(decoder, select(decoder, settings.train, settings.train_blocks))
    active = {name: streams[name] for name, weight in settings.weights().items() if weight}
    generator = torch.Generator().manual_seed(seed)
    u = r2mu.direction(decoder.config.hidden_size, generator)
    first = streams["forget"].batch(0)
    length = r2mu.steering_length(settings, split.original(first.ids, first.mask), first.counted)
    optimiser = MasterAdamW(split.parameters, loop.lr, loop.weight_decay)
    done = load_state(checkpoint, optimiser) if checkpoint else 0
    with interruptible() as interrupted:
        for step in range(done, loop.steps):
            started = time.perf_counter()
            batches = {name: stream.batch(step) for name, stream in active.items()}
            total, parts, cosines = step_loss(split, batches, length * u, settings)
            total.backward()
            optimiser.step()
            log(
                {
                    "stage": "unlearn",
                    "step": step,
                    "steps": loop.steps,
                    "loss": total.item(),
                    "parts": {name: part.item() for name, part in parts.items()},
                    **cosines,
                    "lr": loop.lr,
                    "seconds": time.perf_counter() - started,
                }
            )
            if checkpoint and (interrupted() or (step + 1) % loop.save_every == 0):
                save_state(checkpoint, optimiser, step + 1)
            if interrupted():
                raise KeyboardInterrupt
    return Outcome({name: p.detach().clone() for name, p in split.parameters.items()}, length)
