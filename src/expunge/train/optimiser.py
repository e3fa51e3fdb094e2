"""AdamW with float32 master copies of what trains in a lower precision.

In bfloat16 a weight of size 1 cannot take a step smaller than 0.004; with lr 1e-6 most steps would
be lost. The master copy takes them all and is rounded into the model after each step.

Of parameters that are split over processes, each process has the masters and moments of its own part."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .processes import processes
from .sharding import part_of, whole


class MasterAdamW:
    """AdamW over named parameters; masters are the parameters themselves where these are float32.

    ``split``: the parameters are those of a model that :func:`expunge.train.sharding.shard` divided."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        lr: float,
        weight_decay: float = 0.01,
        *,
        split: bool = False,
        masters: bool = True,
    ):
        """Without ``masters`` steps are taken in the parameters' own precision, as released code does."""
        self.parameters = dict(parameters)
        self.split = split
        self.masters = {
            name: p
            if not split and (p.dtype == torch.float32 or not masters)
            else self._here(p).detach().float().requires_grad_(True)
            for name, p in self.parameters.items()
        }
        own = any(self.masters[name] is not p for name, p in self.parameters.items())
        # With masters, one matrix after the other: only one float32 gradient is in memory at a time.
        groups = [[name] for name in self.parameters] if own else [list(self.parameters)]
        self.groups = [
            (names, torch.optim.AdamW([self.masters[n] for n in names], lr=lr, weight_decay=weight_decay, fused=True))
            for names in groups
        ]

    def step(self, lr: float | None = None, max_norm: float | None = None) -> float | None:
        """One update, then gradients are cleared; returns the gradient norm if it was limited."""
        norm, scale = None, 1.0
        if max_norm is not None:
            norm = _norm([self._here(p.grad) for p in self.parameters.values() if p.grad is not None])
            if self.split:
                norm = processes().total([norm**2])[0] ** 0.5
            scale = min(1.0, max_norm / (norm + 1e-6))
        for names, adamw in self.groups:
            for name in names:
                self._take_gradient(name, scale)
            for group in adamw.param_groups:
                group["lr"] = group["lr"] if lr is None else lr
            adamw.step()
            adamw.zero_grad(set_to_none=True)
            with torch.no_grad():
                for name in names:
                    self.parameters[name].grad = None
                    if self.masters[name] is not self.parameters[name]:
                        self._here(self.parameters[name]).copy_(self.masters[name])
        return norm

    def _here(self, tensor: Any) -> Tensor:
        """This process's part of a parameter or gradient; it shares its memory."""
        part: Tensor = tensor.to_local() if self.split else tensor
        return part

    def _take_gradient(self, name: str, scale: float) -> None:
        parameter, master = self.parameters[name], self.masters[name]
        if parameter.grad is None:
            return
        if master is not parameter:
            master.grad = self._here(parameter.grad).float()
            parameter.grad = None
        if scale < 1.0 and master.grad is not None:
            master.grad.mul_(scale)

    def state(self) -> dict[str, Tensor]:
        """Masters and moments as flat named tensors, for a safetensors file; whole ones, whatever is split.

        Of a split model all processes have to ask for it, and the first alone gets it."""
        out: dict[str, Tensor] = {}
        for names, adamw in self.groups:
            for name in names:
                master = self.masters[name]
                for key, value in {"master": master.detach(), **adamw.state.get(master, {})}.items():
                    if self.split and value.dim():
                        value = whole(value, self.parameters[name]).cpu()
                    if not self.split or processes().first:
                        out[f"{key}.{name}"] = value
        return out

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state` gave; training goes on as if it had never stopped."""
        with torch.no_grad():
            for names, adamw in self.groups:
                for name in names:
                    master, parameter = self.masters[name], self.parameters[name]
                    master.copy_(self._part(tensors[f"master.{name}"], parameter))
                    self._here(parameter).copy_(master)
                    if f"step.{name}" in tensors:
                        adamw.state[master] = {
                            key: self._part(tensors[f"{key}.{name}"], parameter).to(master.device, copy=True)
                            for key in ("step", "exp_avg", "exp_avg_sq")
                        }

    def _part(self, tensor: Tensor, parameter: nn.Parameter) -> Tensor:
        """This process's part of a whole tensor; the number of steps, of shape (), is not split."""
        return part_of(tensor, parameter) if self.split and tensor.dim() else tensor


def _norm(gradients: Sequence[Tensor]) -> float:
    """Total L2 norm, in float32."""
    return torch.stack([g.float().norm() for g in gradients]).norm().item()
