"""What products of a policy are computed in, and its weights as sampling has them quickest.

A processor with units for bfloat16 multiplies several times as fast by them; what is sampled then follows the
distribution of the rounded model, and whose log-probabilities those are has to be known to the loss. In float32, MKL
lays out a matrix anew in each product, which at 64 rows takes a fifth of its time; a decoder that reads one token of
each reply at a step can have it done once for all steps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..memory import SMALL
from ..models.upcast import bfloat16_units

WORTH = 32  # products: fewer do not earn the layout
ComputeDtype = Literal["auto", "model", "bfloat16"]


def compute_dtype(model: Any, wish: ComputeDtype) -> torch.dtype | None:
    """What products of ``model`` are computed in, None for the model as it is. ``auto``: bfloat16 for a small float32
    model where the processor has units for it."""
    small = model.dtype == torch.float32 and model.num_parameters() <= SMALL
    lower = wish == "bfloat16" or (wish == "auto" and small and multiplies_bfloat16(model.device))
    return torch.bfloat16 if lower and model.dtype != torch.bfloat16 else None


def multiplies_bfloat16(device: torch.device) -> bool:
    """Has the device units for products of bfloat16 matrices?"""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and "AMX" in (bfloat16_units() or [])  # of which an older PyTorch tells nothing


@contextmanager
def rounded(model: Any, dtype: torch.dtype) -> Iterator[None]:
    """Inside, the parameters are in ``dtype``; afterwards they are what they were, and in the same memory.

    A copy of them is in memory, and what is done to them inside is lost."""
    kept = [(p, p.data) for p in model.parameters() if p.is_floating_point() and p.dtype != dtype]
    try:
        for parameter, data in kept:
            parameter.data = data.to(dtype)
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


@contextmanager
def packed(model: Any, rows: int, products: int) -> Iterator[None]:
    """Inside, the linear layers of a small float32 model on CPU multiply ``rows`` rows by weights laid out beforehand,
    and any other number as ever; nothing changes where fewer than WORTH ``products`` are to come.

    Weights must not change inside. A second copy of them is in memory."""
    layers: list[nn.Linear] = []
    if products >= WORTH and available() and model.num_parameters() <= SMALL:
        layers = [layer for layer in model.modules() if type(layer) is nn.Linear and _fits(layer.weight)]
    try:
        for layer in layers:
            layer.forward = _product(layer, rows)  # type: ignore[method-assign,assignment]
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def available() -> bool:
    """Does this PyTorch have MKL with its packed products?"""
    return torch.backends.mkl.is_available() and hasattr(torch.ops.mkl, "_mkl_linear")


def _fits(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _product(layer: nn.Linear, rows: int) -> Callable[[Tensor], Tensor]:
    weight = layer.weight.detach()
    layout = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)

    def forward(states: Tensor) -> Tensor:
        if states.numel() != rows * weight.shape[1]:
            return nn.functional.linear(states, weight, layer.bias)
        product: Tensor = torch.ops.mkl._mkl_linear(states, layout, weight, layer.bias, rows)
        return product

    return forward
