"""The lower part of a decoder: embedding and blocks 0..k, and nothing above.

What the representation methods need of a model: hidden states after block k, gradients for a few named
matrices. Everything before the first trained matrix runs once, without gradient, for the updated and for
the frozen model; the frozen model is the saved copies of what trains. Same loss and gradient as two
whole models, at a tenth of the work (docs/r2mu.md, "What a step costs")."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..losses import precise
from .blocks import check_block, check_known, read_config, view
from .cache import PrefixCache
from .load import INDEX, is_sharded, shards_by_name, weights_of
from .upcast import fit_processor

DOWN = "mlp.down_proj.weight"


def load_prefix(
    folder: str | Path, block: int, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Any:
    """Embedding and blocks 0..block of a checkpoint, tensor by tensor; weights above are never read.

    Where the file has the dtype asked for and the device is the CPU, weights stay mapped from the file.
    Raises UserError for what :func:`empty_prefix` and :func:`find_weights` refuse, and for weights that are not
    floating-point (a quantised checkpoint)."""
    folder = Path(folder)
    decoder = empty_prefix(folder, block, dtype)
    shapes = {name: parameter.shape for name, parameter in decoder.named_parameters()}
    tensors = {}
    for name, tensor in _read(folder, shapes):
        if tensor.shape != shapes[name] or not tensor.is_floating_point():
            raise UserError(
                f"{folder}: {name} is {tensor.dtype} of shape {list(tensor.shape)}, expected floating-point of "
                f"shape {list(shapes[name])}. Quantised checkpoints are not supported; give the full weights."
            )
        tensors[name] = tensor.to(device, dtype)
    decoder.load_state_dict(tensors, strict=False, assign=True)
    fit_processor(decoder)
    return decoder.to(device).eval().requires_grad_(False)


def empty_prefix(folder: Path, block: int, dtype: torch.dtype = torch.float32) -> Any:
    """Embedding and blocks 0..block without their weights (device ``meta``): what a checkpoint would be read into.

    Raises UserError for an unknown architecture and for a block that the model does not have."""
    from accelerate import init_empty_weights
    from transformers import AutoModel

    config = read_config(folder)
    check_known(config, folder)
    check_block(block, config.num_hidden_layers)
    config.num_hidden_layers = block + 1
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: block + 1]
    with init_empty_weights(include_buffers=False):
        decoder = AutoModel.from_config(config, dtype=dtype)
    decoder.norm = nn.Identity()
    return decoder


def find_weights(folder: Path, wanted: Iterable[str]) -> dict[Path, list[tuple[str, str]]]:
    """Shard -> (name relative to the decoder, stored name) of each wanted name; no other shard is opened, no tensor
    read. Raises UserError for an index that is none, a missing or damaged shard, and a tensor that is not in it."""
    from safetensors import SafetensorError, safe_open

    places = _places(folder)
    by_shard: dict[Path, list[tuple[str, str]]] = {}
    for name in wanted:
        stored = next((full for full in (f"model.{name}", name) if full in places), None)
        if stored is None:
            raise UserError(f"{folder}: the checkpoint has no model.{name}; its config.json and weights do not match.")
        by_shard.setdefault(places[stored], []).append((name, stored))
    for shard, names in by_shard.items():
        try:
            with safe_open(shard, framework="pt") as file:
                held = set(file.keys())
        except SafetensorError as error:
            raise UserError(f"{shard} is damaged ({error}). Fetch the model again.") from None
        if lacking := [stored for _, stored in names if stored not in held]:
            said = f"{INDEX} says that {shard.name} holds {lacking[0]}"
            raise UserError(f"{folder}: {said}, which is not in it. Fetch the model again.")
    return by_shard


def _read(folder: Path, wanted: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Name relative to the decoder and tensor, of each wanted name."""
    from safetensors import safe_open

    for shard, names in find_weights(folder, wanted).items():
        with safe_open(shard, framework="pt") as file:
            for name, stored in names:
                yield name, file.get_tensor(stored)


def _places(folder: Path) -> dict[str, Path]:
    """Stored name -> file, from the index of a sharded checkpoint or from the files themselves."""
    from safetensors import safe_open

    if is_sharded(folder):
        return shards_by_name(folder)
    out = {}
    for path in weights_of(folder):
        with safe_open(path, framework="pt") as file:
            out.update(dict.fromkeys(file.keys(), path))
    return out


@dataclass(frozen=True)
class Split:
    """Hidden states of one batch: of the updated model (with gradient), of the frozen one if asked for."""

    updated: Tensor
    reference: Tensor | None


class SplitDecoder:
    """A truncated decoder cut right before its first trained matrix.

    When that is the down-projection of its block (as in RMU and R2MU), the cut lies inside the block:
    its attention and the inside of its MLP are computed once and played back. With ``cache``, what lies
    below the cut and the frozen model's states are kept by text for when it comes again."""

    def __init__(self, decoder: Any, trained: Sequence[str], cache: PrefixCache | None = None):
        self.decoder, self.cache = decoder, cache
        first = min(int(name.split(".")[1]) for name in trained)
        self.block = decoder.layers[first]
        self.inside = [name for name in trained if name.startswith(f"layers.{first}.")] == [f"layers.{first}.{DOWN}"]
        self.states = ("states", "attention", "inner") if self.inside else ("states",)
        self.dtype = self.block.mlp.down_proj.weight.dtype
        self.lower = view(decoder, 0, first + 1)
        self.upper = view(decoder, first, len(decoder.layers))
        if self.inside:
            self.upper.layers[0], self.attention, self.mlp = _with_playback(self.block)
        self.parameters: dict[str, nn.Parameter] = {}
        self._frozen = {}
        for name in trained:
            frozen = decoder.get_parameter(name)
            own = nn.Parameter(frozen.detach().clone())
            _put(decoder, name, own)
            self.parameters[name] = own
            self._frozen[_shift(name, first)] = frozen.detach()
        if self.inside:
            self.mlp.down_proj = self.block.mlp.down_proj

    def __call__(self, ids: Tensor, mask: Tensor, *, reference: bool) -> Split:
        """ids, mask: (batch, tokens), padding on either side. Hidden states: (batch, tokens, hidden)."""
        names = (*self.states, "frozen") if reference else self.states
        with torch.no_grad():
            if self.cache is None:
                found = self._compute(ids, mask, names)
            else:
                found = self.cache.batch(ids, mask, names, self._compute, self.dtype)
        return Split(self._above(found, mask, None), found.get("frozen"))

    def width(self, *, reference: bool) -> int:
        """How many numbers a cache keeps of each token."""
        hidden, inner = self.block.mlp.down_proj.weight.shape
        return int((2 * hidden + inner if self.inside else hidden) + reference * hidden)

    @torch.no_grad()
    def changed(self) -> float:
        """Share of the entries of the trained matrices that differ from those they began with."""
        pairs = list(zip(self.parameters.values(), self._frozen.values(), strict=True))
        different = sum(int((own != frozen).sum()) for own, frozen in pairs)
        return different / sum(own.numel() for own, _ in pairs)

    @torch.no_grad()
    def original(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states of the frozen model alone."""
        return self._above(self._below(ids, mask), mask, self._frozen)

    def _compute(self, ids: Tensor, mask: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        found = self._below(ids, mask)
        return {**found, "frozen": self._above(found, mask, self._frozen)} if "frozen" in names else found

    def _below(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """What reaches the cut: the block's input, and what is played back of its inside."""
        seen: dict[str, Tensor] = {}
        with _stop_at(self.block, self.inside, seen):
            self.lower(input_ids=ids, attention_mask=mask, use_cache=False)
        return seen

    def _above(self, cut: Mapping[str, Tensor], mask: Tensor, weights: dict[str, Tensor] | None) -> Tensor:
        if self.inside:
            self.attention.output, self.mlp.inner = cut["attention"], cut["inner"]
        inputs = {"inputs_embeds": cut["states"], "attention_mask": mask, "use_cache": False}
        if weights is None:
            return self.upper(**inputs).last_hidden_state
        return torch.func.functional_call(self.upper, weights, kwargs=inputs).last_hidden_state


class Upper:
    """What lies above block ``block`` of a whole model: from hidden states to probabilities of some tokens."""

    def __init__(self, model: Any, block: int, tokens: Sequence[int]):
        decoder = model.get_decoder()
        self.rest = view(decoder, block + 1, len(decoder.layers))
        self.head, self.tokens = model.get_output_embeddings(), list(tokens)

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Total probability of the tokens as the next one: (batch, tokens); gradient flows to ``hidden``."""
        states = self.rest(inputs_embeds=hidden, attention_mask=mask, use_cache=False).last_hidden_state
        return precise(self.head(states)).softmax(-1)[..., self.tokens].sum(-1)


def lower_part(model: Any, block: int) -> Any:
    """Embedding and blocks 0..block of a loaded model, its weights shared."""
    part = view(model.get_decoder(), 0, block + 1)
    part.norm = nn.Identity()
    return part


class _Attention(nn.Module):
    """Stands where a block's attention was and gives what it gave."""

    output: Tensor

    def forward(self, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return self.output, None


class _Mlp(nn.Module):
    """Stands where a block's MLP was and begins at its down-projection."""

    inner: Tensor
    down_proj: nn.Module

    def forward(self, _: Tensor) -> Any:
        return self.down_proj(self.inner)


def _with_playback(block: Any) -> tuple[Any, _Attention, _Mlp]:
    """The block with its attention and the inside of its MLP replaced; norms and residuals stay its own."""
    part, attention, mlp = copy.copy(block), _Attention(), _Mlp()
    part._modules = {**block._modules, "self_attn": attention, "mlp": mlp}
    return part, attention, mlp


class _Reached(Exception):
    """The forward pass has come to the cut."""


@contextmanager
def _stop_at(block: Any, inside: bool, seen: dict[str, Tensor]) -> Iterator[None]:
    """Note what passes a block, and end the forward pass at its beginning or at its down-projection."""

    def enter(module: Any, arguments: Any, keywords: Any) -> None:
        seen["states"] = arguments[0] if arguments else keywords["hidden_states"]
        if not inside:
            raise _Reached

    def attended(module: Any, arguments: Any, output: Any) -> None:
        seen["attention"] = output[0]

    def project(module: Any, arguments: Any) -> None:
        seen["inner"] = arguments[0]
        raise _Reached

    hooks = [block.register_forward_pre_hook(enter, with_kwargs=True)]
    if inside:
        hooks += [
            block.self_attn.register_forward_hook(attended),
            block.mlp.down_proj.register_forward_pre_hook(project),
        ]
    try:
        yield
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()


def _put(decoder: Any, name: str, parameter: nn.Parameter) -> None:
    owner, _, last = name.rpartition(".")
    setattr(decoder.get_submodule(owner), last, parameter)


def _shift(name: str, first: int) -> str:
    _, block, rest = name.split(".", 2)
    return f"layers.{int(block) - first}.{rest}"
