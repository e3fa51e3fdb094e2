"""The loop of the representation methods: a truncated decoder, a few matrices, a delta.

Several forget corpora ("topics") take turns, each with its own streams, direction and settings: step k
works on topic k mod their number, as in RMU's release."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..data.streams import Batch, Stream
from ..errors import UserError
from ..losses import masked_cosine
from ..memory import keep_freed_memory
from ..methods import METHODS, control_batches, reference_streams
from ..methods.misdirection import Misdirection, Seen
from ..models.blocks import select
from ..models.cache import PrefixCache
from ..models.prefix import SplitDecoder
from ..strict import at_least
from .optimiser import MasterAdamW
from .state import interruptible, load_state, save_state


@dataclass(frozen=True)
class Steps:
    """How long and how fast; ``batch_size`` counts texts of each stream."""

    steps: int = at_least(1, 100)
    lr: float = at_least(0, 5e-4)
    batch_size: int = at_least(1, 4)
    weight_decay: float = at_least(0, 0.01)
    save_every: int = at_least(1, 50)
    masters: bool = True
    """Take steps in float32 copies of what trains in bfloat16; most steps of the published size are lost without."""
    prefix_cache: Literal["off", "memory", "disk"] = "off"
    """Keep what lies below the first trained matrix for when a text comes again (epochs, sweeps)."""
    prefix_cache_dtype: Literal["bfloat16"] | None = None
    """What it is kept in, if not the model's own: half the space of float32, rounded."""


@dataclass(frozen=True)
class Topic:
    """One forget corpus with what is held beside it."""

    name: str
    streams: Mapping[str, Stream]
    settings: Misdirection


@dataclass(frozen=True)
class Outcome:
    """Trained matrices by name relative to the decoder, in the model's dtype; length of each topic's control; share of
    the matrices' entries that are no longer what they were."""

    matrices: dict[str, Tensor]
    steering_length: dict[str, float]
    changed: float


@dataclass(frozen=True)
class Step:
    """One evaluation of the objective: total, weighted parts, cosines of updated to original."""

    loss: float
    parts: dict[str, float]
    cosines: dict[str, float]


def accumulate(
    split: SplitDecoder,
    batches: Mapping[str, Batch],
    control: Tensor,
    settings: Any,
    method: str = "r2mu",
    *,
    reflect: Callable[[Tensor, Tensor], Tensor] | None = None,
    **more: Any,
) -> Step:
    """Add the objective's gradient to the trained matrices, stream by stream: the loss is a sum over streams, and
    so only one stream's states are in memory at a time.

    ``reflect`` gives RTP the probability of reflection tokens from hidden states and mask; ``more`` is what the
    losses of some methods take beside."""
    parts, cosines = {}, {}
    for stream, batch in batches.items():
        states = split(batch.ids, batch.mask, reference=stream in reference_streams(method))
        reference = {}
        if states.reference is not None:
            reference[stream] = states.reference
            cosines[f"{stream}_cosine"] = masked_cosine(states.updated.detach(), states.reference, batch.counted).item()
        if reflect and stream == "forget":
            more["reflection"] = reflect(states.updated, batch.mask)
        loss, found = METHODS[method].loss(
            {stream: states.updated}, reference, {stream: batch.counted}, control, settings, **more
        )
        loss.backward()
        more.pop("reflection", None)
        parts.update({name: part.item() for name, part in found.items()})
    return Step(sum(parts.values()), parts, cosines)


def make_control(split: SplitDecoder, topic: Topic, method: str, generator: torch.Generator, device: Any) -> Tensor:
    """What the topic's steered streams are drawn to. Shape (hidden,). Raises UserError if that is 0, no direction."""
    seen = {}
    for name, count in control_batches(method).items():
        batches = [topic.streams[name].batch(k).to(device) for k in range(count)]
        seen[name] = [Seen(split.original(batch.ids, batch.mask), batch.counted, batch.mask) for batch in batches]
    control: Tensor = METHODS[method].control(topic.settings, seen, generator)
    if not control.any():
        what = f"topic {topic.name!r}: " if topic.name else ""
        raise UserError(
            f"{what}the vector that {method} steers by is 0: found no difference and no length to make it from. Check "
            "the sources of the streams (other texts in unknown than in forget) and unlearn.settings.steering."
        )
    return control


def unlearn(
    decoder: Any,
    topics: Sequence[Topic],
    loop: Steps,
    *,
    method: str = "r2mu",
    seed: int = 0,
    checkpoint: Path | None = None,
    cache: PrefixCache | None = None,
    reflect: Callable[[Tensor, Tensor], Tensor] | None = None,
    log: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Outcome:
    """Train the named matrices of a truncated decoder in place.

    Streams of weight 0 are not read. With ``checkpoint``, an interrupted run goes on from there. ``reflect``
    gives RTP the probability of reflection tokens from hidden states and mask. Raises UserError, before the first
    step, where a cache on disk has no room for what the steps will see."""
    keep_freed_memory(decoder.num_parameters())
    settings = topics[0].settings
    device = decoder.embed_tokens.weight.device
    names = select(decoder, settings.train, settings.train_blocks, settings.legacy_param_index)
    split = SplitDecoder(decoder, names, cache)
    if cache:
        cache.check_space(_to_keep(split, topics, loop, method), split.dtype)
    generator = torch.Generator().manual_seed(seed)
    controls = [make_control(split, topic, method, generator, device) for topic in topics]
    optimiser = MasterAdamW(split.parameters, loop.lr, loop.weight_decay, masters=loop.masters)
    done, _, _ = load_state(checkpoint, optimiser)
    with interruptible() as interrupted:
        for step in range(done, loop.steps):
            started = time.perf_counter()
            turn, which = divmod(step, len(topics))
            topic = topics[which]
            active = [name for name, weight in topic.settings.weights().items() if weight]
            batches = {name: topic.streams[name].batch(turn).to(device) for name in active}
            more = _extras(method, seed, step, reflect)
            now = accumulate(split, batches, controls[which], topic.settings, method, **more)
            optimiser.step()
            log(
                {
                    "stage": method,
                    "step": step,
                    "steps": loop.steps,
                    **({"topic": topic.name} if len(topics) > 1 else {}),
                    "loss": now.loss,
                    "parts": now.parts,
                    **now.cosines,
                    "lr": loop.lr,
                    "tokens": sum(int(batch.mask.sum()) for batch in batches.values()),
                    "seconds": time.perf_counter() - started,
                }
            )
            if checkpoint and (interrupted() or (step + 1) % loop.save_every == 0):
                save_state(checkpoint, optimiser, step + 1)
            if interrupted():
                raise KeyboardInterrupt
    lengths = {topic.name: control.norm().item() for topic, control in zip(topics, controls, strict=True)}
    return Outcome({name: p.detach() for name, p in split.parameters.items()}, lengths, split.changed())


def _to_keep(split: SplitDecoder, topics: Sequence[Topic], loop: Steps, method: str) -> dict[tuple[int, ...], int]:
    """Texts that the steps will see, by token ids, and how many numbers a prefix cache keeps of each token."""
    turns, out = -(-loop.steps // len(topics)), dict[tuple[int, ...], int]()
    for topic in topics:
        for name, weight in topic.settings.weights().items():
            if weight:
                width = split.width(reference=name in reference_streams(method))
                out |= {ids: max(width, out.get(ids, 0)) for ids in topic.streams[name].seen(turns)}
    return out


def _extras(method: str, seed: int, step: int, reflect: Any) -> dict[str, Any]:
    """What the losses of some methods take beside states; noise is a function of seed and step, for resuming."""
    if method == "rna":
        return {"generator": torch.Generator().manual_seed(seed * 1_000_003 + step)}
    return {"reflect": reflect} if method == "rtp" else {}
