"""Rollouts: many sampled replies to each of a few prompts, without the waste of a general generator.

A batch row is a prompt, and the replies of its group are further queries of that row, told apart by the
attention mask: a prompt is computed and kept once for its group, and what prompts begin with in common once for
all. Keys and values go into a block made beforehand and are never copied for the heads that share them, finished
replies are not computed on, and a token is drawn by inverting the distribution function, one random number for each,
from the full distribution."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ..evals.generate import end_tokens
from ..prefix_tree import Tree, collate
from .sampling_weights import packed, rounded

BLOCK = 256  # tokens of the vocabulary that are summed before the exact place is looked for
GROUPED = "expunge_grouped"  # attention by _grouped
PROMPT, NOBODY = -1, -2  # owners of a column that are no reply: seen by all, seen by none


@dataclass(frozen=True)
class Rollout:
    """One sampled reply. ``ids`` end with the end token if ``closed``; ``logprobs`` and ``entropies`` in nats, one
    for each token, under the distribution it was drawn from."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]
    closed: bool


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Token ids (rows,) from logits (rows, vocabulary), exactly as distributed, given ``uniform`` (rows,) in [0, 1)."""
    return invert((logits - logits.amax(-1, keepdim=True)).exp(), uniform)


def invert(weight: Tensor, uniform: Tensor) -> Tensor:
    """The same from unnormalised probabilities, in two steps: the block of the vocabulary, then the token in it, with
    sums in float64."""
    if short := -weight.shape[-1] % BLOCK:
        weight = torch.nn.functional.pad(weight, (0, short))
    blocks = weight.unflatten(-1, (-1, BLOCK))
    sums = blocks.sum(-1, dtype=torch.float64)
    below = sums.cumsum(-1)
    point = uniform.double() * below[:, -1]
    block = torch.searchsorted(below, point[:, None], right=True).clamp(max=below.shape[-1] - 1)
    rest = point[:, None] - (below.gather(-1, block) - sums.gather(-1, block))
    inside = blocks[torch.arange(len(weight), device=weight.device), block[:, 0]].double().cumsum(-1)
    place = torch.searchsorted(inside, rest.clamp(min=0), right=True)
    # Rounding may point past the last token of a block: take the last one that has any weight.
    last = (inside < inside[:, -1:]).sum(-1, keepdim=True)
    token = block * BLOCK + torch.minimum(place, last)
    return token[:, 0]


def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[tuple[int, ...]],
    rollouts: int,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    on_done: Callable[[int], None] | None = None,
) -> list[list[Rollout]]:
    """``rollouts`` replies to each prompt; greedy ones with temperature 0. A function of its arguments alone.

    With ``dtype`` replies and log-probabilities are those of the model with its weights rounded to it. ``on_done`` is
    called with the number of replies that have just been finished."""
    uniform = torch.rand(
        (max_new_tokens, len(prompts), rollouts),
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    ).to(model.device)
    with (
        _shared_heads(model),
        rounded(model, dtype) if dtype else nullcontext(),
        packed(model, len(prompts) * rollouts, max_new_tokens),
    ):
        return _Sampler(model, end_tokens(model, tokenizer), temperature).run(prompts, rollouts, uniform, on_done)


def _rollout(tokens: Sequence[tuple[int, float, float]], closed: bool) -> Rollout:
    ids, logprobs, entropies = zip(*tokens, strict=True)
    return Rollout(ids, logprobs, entropies, closed)


def _grouped(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **more: Any
) -> tuple[Tensor, None]:
    """Attention with heads that share keys and values as further queries of these; the library's own copies keys and
    values for each head.

    query: (rows, heads, queries, size); key, value: (rows, shared heads, columns, size); attention_mask: (rows, 1,
    queries, columns), or already for the further queries too."""
    if more.get("softcap") is not None:
        raise ValueError("this attention has no softcap; load the model with attn_implementation='eager'")
    heads, queries = query.shape[1:3]
    shared = heads // key.shape[1]
    wide = query.reshape(len(query), key.shape[1], shared * queries, -1)
    mask = attention_mask if attention_mask.shape[2] == wide.shape[2] else attention_mask.repeat(1, 1, shared, 1)
    if mask.is_floating_point():
        mask = mask.to(query.dtype)  # which is another one under autocast
    out = torch.nn.functional.scaled_dot_product_attention(wide, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(len(query), heads, queries, -1).transpose(1, 2).contiguous(), None


@contextmanager
def _shared_heads(model: Any) -> Iterator[None]:
    """Inside, a model that computes plain attention by PyTorch's kernel computes it by :func:`_grouped`."""
    AttentionInterface.register(GROUPED, _grouped)
    kept = model.config._attn_implementation
    if kept == "sdpa":
        model.config._attn_implementation = GROUPED
    try:
        yield
    finally:
        model.config._attn_implementation = kept


class _Block(DynamicLayer):
    """Keys and values of one layer in a block that is filled from the left."""

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity, self.length = capacity, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.length:
            rows, heads, _, size = key_states.shape
            self.keys = key_states.new_empty((rows, heads, self.capacity, size))
            self.values = value_states.new_empty((rows, heads, self.capacity, value_states.shape[-1]))
            self.is_initialized = True
        end = self.length + key_states.shape[-2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length


class _Sampler:
    def __init__(self, model: Any, ends: set[int], temperature: float):
        self.model, self.ends, self.temperature = model, ends, temperature
        config = model.config.get_text_config()
        grouped = model.config._attn_implementation == GROUPED
        self.repeats = config.num_attention_heads // config.num_key_value_heads if grouped else 1

    @torch.inference_mode()
    def run(
        self,
        prompts: Sequence[tuple[int, ...]],
        rollouts: int,
        uniform: Tensor,
        on_done: Callable[[int], None] | None,
    ) -> list[list[Rollout]]:
        device = self.model.device
        width, steps = max(len(p) for p in prompts), len(uniform)
        self.cache = Cache(
            layers=[_Block(width + steps * rollouts) for _ in range(self.model.config.num_hidden_layers)]
        )
        self.owner = torch.full((len(prompts), width), NOBODY, device=device)
        logits = self._read(prompts, width)
        written: list[list[list[tuple[int, float, float]]]] = [[[] for _ in range(rollouts)] for _ in prompts]
        closed = [[False] * rollouts for _ in prompts]
        # Rows of the batch are prompts with a living reply; live[row] are the numbers of its living replies.
        rows = list(range(len(prompts)))
        live = [list(range(rollouts)) for _ in prompts]
        logits = logits.repeat_interleave(rollouts, 0)
        for step in range(steps):
            places = [(row, reply) for row, replies in zip(rows, live, strict=True) for reply in replies]
            index = torch.tensor(places, device=device)
            drawn = self._draw(logits, uniform[step][index[:, 0], index[:, 1]])
            still: dict[int, list[tuple[int, int]]] = {row: [] for row in rows}
            for (row, reply), (token, logprob, entropy) in zip(places, drawn, strict=True):
                written[row][reply].append((token, logprob, entropy))
                if token in self.ends:
                    closed[row][reply] = True
                else:
                    still[row].append((reply, token))
            if on_done:
                on_done(len(places) - sum(map(len, still.values())))
            kept = [i for i, row in enumerate(rows) if still[row]]
            if not kept or step + 1 == steps:
                break
            if len(kept) < len(rows):
                self._keep(torch.tensor(kept, device=device))
                rows = [rows[i] for i in kept]
            live = [[reply for reply, _ in still[row]] for row in rows]
            logits = self._step([still[row] for row in rows], [len(prompts[row]) + step for row in rows])
        if on_done:
            on_done(sum(not c for group in closed for c in group))
        return [
            [_rollout(tokens, closed[row][reply]) for reply, tokens in enumerate(group)]
            for row, group in enumerate(written)
        ]

    def _read(self, prompts: Sequence[tuple[int, ...]], width: int) -> Tensor:
        """Read the prompts as one tree, what they begin with in common once; logits (prompts, vocabulary) of the first
        new token."""
        tree = Tree()
        paths = [tree.add(prompt, len(prompt)) for prompt in prompts]
        inputs = {name: value.to(self.owner.device) for name, value in collate([tree], 0).inputs().items()}
        read = DynamicCache()  # without the model's config, whose sliding layers would drop nodes of a large tree
        states = self.model.get_decoder()(**inputs, past_key_values=read, use_cache=True).last_hidden_state[0]
        nodes = torch.zeros_like(self.owner)
        for row, path in enumerate(paths):  # on the left, so that all end together
            nodes[row, width - len(path) :] = torch.tensor(path, device=nodes.device)
            self.owner[row, width - len(path) :] = PROMPT
        for own, layer in zip(self.cache.layers, read.layers, strict=True):
            own.update(*(part[0][:, nodes].transpose(0, 1) for part in (layer.keys, layer.values)))
        return self._logits(states[nodes[:, -1]])

    def _step(self, live: list[list[tuple[int, int]]], positions: list[int]) -> Tensor:
        """Read the last token of each living reply; logits (living replies, vocabulary) in order."""
        device, most = self.owner.device, max(map(len, live))
        ids = torch.zeros((len(live), most), dtype=torch.long)
        who = torch.full((len(live), most), NOBODY)
        for row, replies in enumerate(live):
            for place, (reply, token) in enumerate(replies):
                ids[row, place], who[row, place] = token, reply
        ids, who = ids.to(device), who.to(device)
        before = self.owner.shape[1]
        self.owner = torch.cat([self.owner, who], 1)
        mask = (self.owner[:, None] == PROMPT) | (self.owner[:, None] == who[:, :, None])
        mask[:, :, before:] |= torch.eye(most, dtype=torch.bool, device=device)
        at = torch.tensor(positions, device=device)[:, None].expand(-1, most)
        # For all layers at once: in numbers, and repeated where heads are queries.
        added = torch.zeros(mask.shape, dtype=self.model.dtype, device=device).masked_fill_(~mask, float("-inf"))
        return self._logits(self._states(ids, at, added.repeat(1, self.repeats, 1))[who != NOBODY])

    def _states(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self.model.get_decoder()(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        return states

    def _logits(self, states: Tensor) -> Tensor:
        logits: Tensor = self.model.get_output_embeddings()(states).float()
        return logits if self.temperature in (0.0, 1.0) else logits / self.temperature

    def _draw(self, logits: Tensor, uniform: Tensor) -> list[tuple[int, float, float]]:
        """A token for each row, its log-probability and the entropy of what it was drawn from."""
        logits = logits - logits.amax(-1, keepdim=True)
        weight = logits.exp()
        token = invert(weight, uniform) if self.temperature else logits.argmax(-1)
        total = weight.sum(-1)
        logprob = logits.gather(-1, token[:, None])[:, 0] - total.log()
        expected = torch.linalg.vecdot(weight, logits) / total
        return list(zip(token.tolist(), logprob.tolist(), (total.log() - expected).tolist(), strict=True))

    def _keep(self, rows: Tensor) -> None:
        """Drop the prompts whose replies are all finished."""
        self.owner = self.owner[rows]
        for layer in self.cache.layers:
            layer.batch_select_indices(rows)
