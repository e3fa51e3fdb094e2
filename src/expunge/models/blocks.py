"""The lower part of a decoder: embedding and blocks 0..k, and nothing above.

What the representation methods need of a model: hidden states after block k, gradients for a few
named matrices. Blocks below the first trained matrix never change: they run once, without gradient,
for the updated and for the frozen model; the frozen model is the saved copies of what trains."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError

# Families whose decoder is embedding -> layers -> norm, accepts hidden states as inputs_embeds
# unchanged, takes a four-dimensional attention mask, and whose logits are the head's output as it is
# (Granite and Gemma 2 scale or cap, Cohere scales). To add one: check these four things, add its
# model_type, and run tests/invariant over it.
KNOWN = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "olmo3", "phi3", "smollm3", "stablelm", "gemma3_text")


def read_config(folder: str | Path) -> Any:
    """Configuration of a model folder. Raises UserError for one that the library cannot read."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"{folder}: config.json cannot be read: {reason}") from None


def check_known(config: Any, source: object) -> None:
    """Raises UserError for an architecture that is not in the table."""
    if config.model_type not in KNOWN:
        raise UserError(
            f"{source}: architecture {config.model_type!r} is not known; known: {', '.join(KNOWN)}. "
            "See the table in expunge/models/blocks.py for what it takes to add one."
        )


def check_block(block: int, layers: int) -> None:
    if not 0 <= block < layers:
        raise UserError(f"block {block} is out of range: this model has blocks 0 to {layers - 1}.")


def load_prefix(folder: str | Path, block: int, dtype: torch.dtype = torch.float32) -> Any:
    """Embedding and blocks 0..block of a checkpoint; weights above are never read.

    Raises UserError for a block that the model does not have or an unknown architecture."""
    from transformers import AutoModel

    config = read_config(folder)
    check_known(config, folder)
    check_block(block, config.num_hidden_layers)
    config.num_hidden_layers = block + 1
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: block + 1]
    decoder = AutoModel.from_pretrained(folder, config=config, dtype=dtype, use_safetensors=True)
    decoder.norm = nn.Identity()
    return decoder.eval().requires_grad_(False)


def select(decoder: Any, pattern: str, blocks: Sequence[int]) -> list[str]:
    """Names (``layers.5.mlp.down_proj.weight``) of the parameters of ``blocks`` that match ``pattern``.

    The pattern is a regular expression searched in the block-relative name. Raises UserError when a
    block is not there or nothing matches."""
    for block in blocks:
        check_block(block, len(decoder.layers))
    names = [
        f"layers.{block}.{name}"
        for block in sorted(blocks)
        for name, _ in decoder.layers[block].named_parameters()
        if re.search(pattern, name)
    ]
    if not names:
        known = ", ".join(name for name, _ in decoder.layers[0].named_parameters())
        raise UserError(f"no parameter matches {pattern!r} in blocks {list(blocks)}. A block has: {known}.")
    return names


@dataclass(frozen=True)
class Split:
    """Hidden states of one batch: of the updated model (with gradient), of the frozen one if asked for."""

    updated: Tensor
    reference: Tensor | None


class SplitDecoder:
    """A truncated decoder cut before the first block that holds a trained matrix."""

    def __init__(self, decoder: Any, trained: Sequence[str]):
        self.decoder = decoder
        first = min(int(name.split(".")[1]) for name in trained)
        self.lower = _view(decoder, 0, first) if first else None
        self.upper = _view(decoder, first, len(decoder.layers))
        self.parameters = {name: decoder.get_parameter(name) for name in trained}
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self._frozen = {_shift(name, first): p.detach().clone() for name, p in self.parameters.items()}

    def __call__(self, ids: Tensor, mask: Tensor, *, reference: bool) -> Split:
        """ids, mask: (batch, tokens), padding on either side. Hidden states: (batch, tokens, hidden)."""
        with torch.no_grad():
            states = self._below(ids, mask)
            frozen = self._above(states, mask, self._frozen) if reference else None
        return Split(self._above(states, mask, None), frozen)

    @torch.no_grad()
    def original(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states of the frozen model alone."""
        return self._above(self._below(ids, mask), mask, self._frozen)

    def _below(self, ids: Tensor, mask: Tensor) -> Tensor:
        if self.lower is None:
            return self.decoder.embed_tokens(ids)
        return self.lower(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state

    def _above(self, states: Tensor, mask: Tensor, weights: dict[str, Tensor] | None) -> Tensor:
        inputs = {"inputs_embeds": states, "attention_mask": mask, "use_cache": False}
        if weights is None:
            return self.upper(**inputs).last_hidden_state
        return torch.func.functional_call(self.upper, weights, kwargs=inputs).last_hidden_state


def _view(decoder: Any, start: int, stop: int) -> Any:
    """The decoder with some of its blocks only; modules and weights are shared."""
    view = copy.copy(decoder)
    view._modules = dict(decoder._modules)
    view.layers = nn.ModuleList(list(decoder.layers)[start:stop])
    view.config = copy.copy(decoder.config)
    view.config.num_hidden_layers = stop - start
    if getattr(view.config, "layer_types", None):
        view.config.layer_types = view.config.layer_types[start:stop]
    return view


def _shift(name: str, first: int) -> str:
    _, block, rest = name.split(".", 2)
    return f"layers.{int(block) - first}.{rest}"
