"""The one loop of the gradient methods: epochs of examples, a loss that sums over examples, AdamW with float32 masters.

A step works on ``batch_size`` examples, which are a function of the epochs' lists and the step's number. They are cut
into pieces, over processes and in each, and every piece's loss is divided by the weight of the whole step: so one
piece of 8 examples, 8 pieces of one, and two processes with 4 each are the same step.

Several processes: each has a copy of the model and gradients are summed once a step, or the model is split
(sharding.py); accelerate's launcher says which (processes.py)."""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from ..memory import keep_freed_memory
from ..strict import at_least
from .optimiser import MasterAdamW
from .processes import Processes, processes
from .sharding import restore, shard
from .state import interruptible, load_state, save_state

T = TypeVar("T")
Loss = Callable[[Any, Sequence[T]], tuple[Tensor, dict[str, Tensor]]]
"""Model and examples -> the sum of their losses, and its named parts as sums."""


@dataclass(frozen=True)
class Training:
    """How long, how fast and in what pieces. ``batch_size`` counts the examples of one step of the optimiser."""

    epochs: int = at_least(1, 7)
    stop_after: int | None = at_least(0, None)
    """End after this many epochs of a schedule made for all of them; 0: no training at all."""
    lr: float = at_least(0, 3e-4)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    batch_size: int = at_least(1, 8)
    accumulate: int = at_least(1, 1)
    """In how many pieces a step is computed: more need less memory for the same numbers."""
    warmup_steps: int = at_least(0, 10)
    weight_decay: float = at_least(0, 0.01)
    max_grad_norm: float = at_least(0, 1.0)
    """0: no limit."""
    first_block: int = at_least(0, 0)
    """Blocks below this one, and the embedding unless this is 0, stay as they are."""
    tree_tokens: int = at_least(1, 512)
    checkpointing: bool = False
    """Compute the blocks' states again on the way back: less memory, a third more time."""
    save_every: int = at_least(0, 0)
    """Steps between saved states; 0: only when interrupted."""


def learning_rate(settings: Training, step: int, steps: int) -> float:
    """Of one step: linear warm-up times the schedule, which ends at 0 unless it is constant."""
    left = 1 - step / steps
    fall = {"linear": left, "cosine": (1 + math.cos(math.pi * (1 - left))) / 2, "constant": 1.0}[settings.schedule]
    return settings.lr * min(1.0, (step + 1) / max(1, settings.warmup_steps)) * fall


def freeze_below(model: Any, first_block: int) -> dict[str, nn.Parameter]:
    """Leave a gradient only to the blocks from ``first_block`` on (0: to everything); return them by name."""
    model.requires_grad_(first_block == 0)
    if first_block:
        for layer in model.get_decoder().layers[first_block:]:
            layer.requires_grad_(True)
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def pieces(examples: Sequence[T], count: int) -> list[Sequence[T]]:
    """The examples in order, in ``count`` pieces as even as can be; some are empty where there are too few."""
    ends = [len(examples) * number // count for number in range(count + 1)]
    return [examples[start:end] for start, end in zip(ends, ends[1:], strict=False)]


def pieces_here(examples: Sequence[T], accumulate: int, together: Processes) -> list[Sequence[T]]:
    """This process's pieces of a step: as many in each process, so that all meet in every exchange.

    A process has an empty one where the examples do not suffice; one process alone never has."""
    most = -(-len(examples) // together.count)
    return pieces(pieces(examples, together.count)[together.rank], min(accumulate, most))


def train(
    model: Any,
    epochs: Sequence[Sequence[T]],
    loss: Loss[T],
    settings: Training,
    *,
    tokens: Callable[[T], int],
    weight: Callable[[T], float] = lambda _: 1.0,
    seed: int = 0,
    stage: str,
    checkpoint: Path | None = None,
    log: Callable[[dict[str, Any]], None] = lambda row: None,
    trains: Mapping[str, nn.Parameter] | None = None,
) -> None:
    """Train in place on prepared epochs, by the mean of the loss over the ``weight`` of a step's examples.

    ``loss`` works with the model that it is given, which may be a split twin of this one, and runs it equally often
    whatever the examples. ``tokens``: how many an example has, for the log. ``trains``: the parameters that train, by
    their names in the model, such as adapters; None: the blocks from ``first_block`` on. With ``checkpoint``, an
    interrupted run leaves its state there and the next call goes on from it; who has saved the result removes it.
    Random numbers are a function of seed, step and process. Of several processes, which all call this alike, the
    first logs and saves; all end with the whole model."""
    together = processes()
    keep_freed_memory(model.num_parameters())
    parameters = _trained(model, settings, trains)
    model.train()
    if together.count > 1:
        for p in parameters.values():
            torch.distributed.broadcast(p.data, 0)
    shards = shard(model, together.reshard) if together.sharded else None
    call: Callable[..., Any] = shards or (lambda work: work(model))
    if shards:
        split = dict(shards.model.named_parameters())
        parameters = {name: split[name] for name in parameters}
    optimiser = MasterAdamW(parameters, settings.lr, settings.weight_decay, split=together.sharded)
    size = settings.batch_size
    batches = [epoch[start : start + size] for epoch in epochs for start in range(0, len(epoch), size)]
    last = sum(-(-len(epoch) // size) for epoch in epochs[: settings.stop_after])
    done, _, _ = load_state(checkpoint, optimiser)
    with interruptible() as interrupted, _recomputing(shards.model if shards else model, settings.checkpointing):
        for step in range(done, last):
            started = time.perf_counter()
            _seed((seed * 1_000_003 + step) * together.count + together.rank)
            whole = sum(weight(example) for example in batches[step])
            parts = pieces_here(batches[step], settings.accumulate, together)
            found = _backward(call, loss, parts, batches[step][:1], whole, together)
            if together.count > 1 and not shards:
                _sum_gradients(parameters, together)
            lr = learning_rate(settings, step, len(batches))
            norm = optimiser.step(lr, settings.max_grad_norm or None)
            if together.first:
                log(
                    {
                        "stage": stage,
                        "step": step,
                        "steps": last,
                        "loss": found.pop("loss"),
                        "parts": found | ({} if norm is None else {"grad_norm": norm}),
                        "lr": lr,
                        "tokens": sum(map(tokens, batches[step])),
                        "seconds": time.perf_counter() - started,
                    }
                )
            stop = together.any(interrupted())
            if checkpoint and (stop or (settings.save_every and (step + 1) % settings.save_every == 0)):
                save_state(checkpoint, optimiser, step + 1)
                together.wait()
            if stop:
                raise KeyboardInterrupt
    if shards:
        restore(model, shards)
    model.eval().requires_grad_(False)


def _trained(model: Any, settings: Training, trains: Mapping[str, nn.Parameter] | None) -> dict[str, nn.Parameter]:
    """What trains, by name; nothing else keeps a gradient."""
    if trains is None:
        return freeze_below(model, settings.first_block)
    model.requires_grad_(False)
    for p in trains.values():
        p.requires_grad_(True)
    return dict(trains)


@contextmanager
def _recomputing(model: Any, wanted: bool) -> Iterator[None]:
    """Inside, a block keeps its input alone and is computed again on the way back.

    The library's own switch also lets a gradient through everything below, frozen or not, and is not undone."""
    layers = model.get_decoder().layers if wanted else []
    for layer in layers:
        layer.forward = partial(recomputed, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _seed(number: int) -> None:
    random.seed(number)
    torch.manual_seed(number)


def _backward(
    call: Callable[..., Any],
    loss: Loss[T],
    parts: Sequence[Sequence[T]],
    stand_in: Sequence[T],
    whole: float,
    together: Processes,
) -> dict[str, float]:
    """Add the gradient of this process's pieces; the step's loss and its parts over all processes.

    An empty piece is computed with ``stand_in`` and counts nothing: the other processes wait for it."""
    found: dict[str, Tensor] = {}
    gain = together.count if together.sharded else 1  # a split model's gradients arrive as means over processes
    for part in parts:
        examples = part or stand_in
        total, named = call(lambda model, examples=examples: loss(model, examples))
        counts = float(bool(part))
        (total * (counts * gain) / whole).backward()
        for name, value in {"loss": total, **named}.items():
            found[name] = found.get(name, 0.0) + value.detach().float() * counts
    sums = together.total([value.item() / whole for value in found.values()])
    return dict(zip(found, sums, strict=True))


def _sum_gradients(parameters: Mapping[str, nn.Parameter], together: Processes) -> None:
    """Over processes, one matrix after the other; what has no gradient anywhere keeps none."""
    present = together.total([p.grad is not None for p in parameters.values()])
    for p, somewhere in zip(parameters.values(), present, strict=True):
        if somewhere:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            torch.distributed.all_reduce(p.grad)
