"""Batched greedy generation: prompts sorted by length, what a batch begins with in common computed
once, finished rows dropped. In float32 the tokens equal those of one-prompt-at-a-time decoding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache


@dataclass(frozen=True)
class Generation:
    """New token ids (without the end token) and whether the model ended by itself."""

    ids: tuple[int, ...]
    text: str
    closed: bool


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[tuple[int, ...]],
    *,
    max_new_tokens: int,
    stop_at_newline: bool = False,
    batch_size: int = 64,
    on_done: Callable[[int], None] | None = None,
) -> list[Generation]:
    """Greedy continuations in the order of ``prompts``.

    A reply ends at the end-of-turn token, at ``max_new_tokens``, or before a newline if so asked.
    ``on_done`` is called with the number of prompts that have just been finished."""
    results: dict[int, Generation] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = _decode(model, tokenizer, [prompts[i] for i in chosen], max_new_tokens, stop_at_newline, on_done)
        for i, (ids, closed) in zip(chosen, batch, strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True)
            if stop_at_newline:
                text = text.split("\n")[0]
            results[i] = Generation(tuple(ids), text, closed)
    return [results[i] for i in range(len(prompts))]


def common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """Length of what all prompts begin with, leaving each at least one token of its own."""
    shortest = min(len(p) for p in prompts) - 1
    first = prompts[0]
    for position in range(shortest):
        if any(p[position] != first[position] for p in prompts):
            return position
    return shortest


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The tokenizer's end token, and those of the model's generation settings: some chat models end
    their turn by a token of its own."""
    also = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(also if isinstance(also, list) else [] if also is None else [also])}


@torch.inference_mode()
def _decode(
    model: Any,
    tokenizer: Any,
    prompts: list[tuple[int, ...]],
    max_new_tokens: int,
    stop_at_newline: bool,
    on_done: Callable[[int], None] | None,
) -> list[tuple[list[int], bool]]:
    device = model.device
    ends = end_tokens(model, tokenizer)
    shared = common_prefix(prompts)
    cache = DynamicCache(config=model.config)
    if shared:
        prefix = torch.tensor([prompts[0][:shared]], device=device)
        model(prefix, past_key_values=cache, logits_to_keep=1)
        cache.batch_repeat_interleave(len(prompts))
    own = [p[shared:] for p in prompts]
    width = max(len(p) for p in own)
    ids = torch.full((len(own), width), tokenizer.pad_token_id, device=device)
    mask = torch.zeros((len(own), shared + width), dtype=torch.long, device=device)
    mask[:, :shared] = 1
    for row, tokens in enumerate(own):  # on the left, so that all rows end together
        ids[row, width - len(tokens) :] = torch.tensor(tokens, device=device)
        mask[row, shared + width - len(tokens) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]

    out: list[list[int]] = [[] for _ in prompts]
    closed = [False] * len(prompts)
    alive = list(range(len(prompts)))
    for step in range(max_new_tokens):
        logits = model(
            ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
        ).logits[:, -1]
        tokens = logits.argmax(-1)
        keep = []
        for row, token in enumerate(tokens.tolist()):
            index = alive[row]
            if token in ends:
                closed[index] = True
                continue
            out[index].append(token)
            if stop_at_newline and "\n" in tokenizer.decode([token]):
                closed[index] = True
                continue
            keep.append(row)
        last = not keep or step + 1 == max_new_tokens
        if on_done:
            on_done(len(alive) - (0 if last else len(keep)))
        if last:
            break
        if len(keep) < len(alive):
            rows = torch.tensor(keep, device=device)
            cache.batch_select_indices(rows)
            mask, positions, tokens = mask[rows], positions[rows], tokens[rows]
            alive = [alive[row] for row in keep]
        ids = tokens[:, None]
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], 1)
        positions = positions[:, -1:] + 1
    return list(zip(out, closed, strict=True))
