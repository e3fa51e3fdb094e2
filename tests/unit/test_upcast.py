"""Products of bfloat16 operands in float32: value and gradient as close as rounding once allows."""

import pytest
import torch
from torch import nn

from expunge.models import upcast
from expunge.models.upcast import WideLinear, fit_processor


@pytest.mark.parametrize("bias", [True, False])
def test_value_and_gradients_are_those_of_float32_rounded_once(bias):
    torch.manual_seed(0)
    layer = nn.Linear(48, 32, bias=bias).to(torch.bfloat16)
    states = torch.randn(2, 5, 48, dtype=torch.bfloat16, requires_grad=True)
    exact, wide_states = nn.Linear(48, 32, bias=bias), states.detach().float().requires_grad_(True)
    exact.load_state_dict({name: p.float() for name, p in layer.state_dict().items()})
    layer.__class__ = WideLinear
    goal = torch.randn(2, 5, 32).to(torch.bfloat16)
    (layer(states) * goal).sum().backward()
    (exact(wide_states) * goal.float()).sum().backward()
    assert layer(states).dtype == states.grad.dtype == layer.weight.grad.dtype == torch.bfloat16
    for found, wanted in (
        (layer(states), exact(wide_states)),
        (states.grad, wide_states.grad),
        (layer.weight.grad, exact.weight.grad),
    ):
        assert torch.allclose(found.float(), wanted, rtol=2**-7, atol=2**-6)


def test_only_bfloat16_layers_of_a_processor_without_units_are_changed(monkeypatch):
    model = nn.Sequential(nn.Linear(2, 2).to(torch.bfloat16), nn.Linear(2, 2))
    monkeypatch.setattr(upcast, "bfloat16_units", lambda: ["AMX"])
    fit_processor(model)
    assert type(model[0]) is nn.Linear
    monkeypatch.setattr(upcast, "bfloat16_units", lambda: [])
    fit_processor(model)
    assert [type(layer) for layer in model] == [WideLinear, nn.Linear]


def test_frozen_weights_get_no_gradient():
    layer = nn.Linear(4, 4, bias=False).to(torch.bfloat16).requires_grad_(False)
    layer.__class__ = WideLinear
    states = torch.ones(3, 4, dtype=torch.bfloat16, requires_grad=True)
    layer(states).sum().backward()
    assert layer.weight.grad is None
    assert states.grad is not None
