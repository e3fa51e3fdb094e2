"""What is known of decoder architectures: which families, their blocks, the names of their matrices."""

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

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


def select(decoder: Any, pattern: str, blocks: Sequence[int], legacy_index: int | None = None) -> list[str]:
    """Names (``layers.5.mlp.down_proj.weight``) of the parameters of ``blocks`` that match ``pattern``.

    The pattern is a regular expression searched in the block-relative name; ``legacy_index`` takes the
    parameter at that place of each block's list instead. Raises UserError when a block is not there or
    nothing matches."""
    for block in blocks:
        check_block(block, len(decoder.layers))
    names = [
        f"layers.{block}.{name}"
        for block in sorted(blocks)
        for place, (name, _) in enumerate(decoder.layers[block].named_parameters())
        if (re.search(pattern, name) if legacy_index is None else place == legacy_index)
    ]
    if not names:
        known = ", ".join(name for name, _ in decoder.layers[0].named_parameters())
        what = repr(pattern) if legacy_index is None else f"place {legacy_index}"
        raise UserError(f"no parameter matches {what} in blocks {list(blocks)}. A block has: {known}.")
    return names


def view(decoder: Any, start: int, stop: int) -> Any:
    """The decoder with some of its blocks only; modules and weights are shared."""
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    part.layers = nn.ModuleList(list(decoder.layers)[start:stop])
    part.config = copy.copy(decoder.config)
    part.config.num_hidden_layers = stop - start
    if getattr(part.config, "layer_types", None):
        part.config.layer_types = part.config.layer_types[start:stop]
    return part
