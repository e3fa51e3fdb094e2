"""Weights laid out once for many products of the same number of rows.

MKL lays out a matrix anew in each product, which at 64 rows takes a fifth of its time. A decoder that reads one token
of each reply at a step can have it done once for all steps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..memory import SMALL

WORTH = 32  # products: fewer do not earn the layout


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
