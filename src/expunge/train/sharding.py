"""A model split over processes by torch's fully_shard (FSDP2), while the caller's own model stays what it is.

Hidden states and logits are asked of a model's parts (`get_decoder`, the head), which fully_shard's hooks on the whole
model do not see. So the twin that is split stands inside one module, and every loss is computed within that module's
forward pass. The twin shares the caller's parameters until they are split; theirs are then empty until `restore`."""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Shards(nn.Module):
    """Calls a function with the split model."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[Any], Any]) -> Any:
        return work(self.model)


def shard(model: Any, reshard: bool) -> Shards:
    """Split every parameter over all processes, block by block; the caller's are left empty.

    ``reshard``: free a block's whole parameters after the forward pass and gather them again on the way back."""
    from torch.distributed.fsdp import fully_shard

    own = dict(model.named_parameters())
    twin = copy.deepcopy(model, {id(p): p for p in own.values()})
    shards = Shards(twin)
    for layer in twin.get_decoder().layers:
        fully_shard(layer, reshard_after_forward=reshard)
    fully_shard(shards)
    for p in own.values():
        p.data = p.data.new_empty(0)
    return shards


def restore(model: Any, shards: Shards) -> None:
    """Gather the whole parameters back into the caller's model; all processes have to call it."""
    split: dict[str, Any] = dict(shards.model.named_parameters())
    for name, p in model.named_parameters():
        p.data = split[name].full_tensor().clone()  # what is gathered may lie in larger, padded memory


def whole(local: Tensor, split: Any) -> Tensor:
    """The whole of what each process holds a part of, divided as the parameter ``split``."""
    from torch.distributed.tensor import DTensor

    parts = DTensor.from_local(local, split.device_mesh, split.placements, shape=split.shape, stride=split.stride())
    return parts.full_tensor()


def part_of(whole: Tensor, split: Any) -> Tensor:
    """This process's part of a whole tensor, divided as the parameter ``split``."""
    parts = whole.chunk(split.device_mesh.size())
    rank = split.device_mesh.get_local_rank()
    return parts[rank] if rank < len(parts) else whole[:0]
