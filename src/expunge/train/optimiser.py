"""AdamW with float32 master copies of what trains in a lower precision.

In bfloat16 a weight of size 1 cannot take a step smaller than 0.004; with lr 1e-6 most steps would
be lost. The master copy takes them all and is rounded into the model after each step."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class MasterAdamW:
    """AdamW over named parameters; masters are the parameters themselves where these are float32."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], lr: float, weight_decay: float = 0.01):
        self.parameters = dict(parameters)
        self.masters = {
            name: p if p.dtype == torch.float32 else p.detach().float().requires_grad_(True)
            for name, p in self.parameters.items()
        }
        self.adamw = torch.optim.AdamW(self.masters.values(), lr=lr, weight_decay=weight_decay, fused=True)

    def step(self, lr: float | None = None, max_norm: float | None = None) -> float | None:
        """One update, then gradients are cleared; returns the gradient norm if it was limited."""
        for name, master in self.masters.items():
            parameter = self.parameters[name]
            if master is not parameter:
                master.grad = None if parameter.grad is None else parameter.grad.float()
        norm = None
        if max_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.masters.values(), max_norm).item()
        for group in self.adamw.param_groups:
            group["lr"] = group["lr"] if lr is None else lr
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.grad = None
                if self.masters[name] is not parameter:
                    parameter.copy_(self.masters[name])
        return norm

    def state(self) -> dict[str, Tensor]:
        """Masters and moments as flat named tensors, for a safetensors file."""
        out = {}
        for name, master in self.masters.items():
            out[f"master.{name}"] = master.detach()
            for key, value in self.adamw.state.get(master, {}).items():
                out[f"{key}.{name}"] = value
        return out

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state` gave; training goes on as if it had never stopped."""
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(tensors[f"master.{name}"])
                self.parameters[name].copy_(master)
                if f"step.{name}" in tensors:
                    self.adamw.state[master] = {
                        key: tensors[f"{key}.{name}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")
                    }
