"""The R2MU objective on tensors small enough to work out by hand."""

import pytest
import torch

from expunge.methods import METHODS
from expunge.methods.misdirection import Seen, direction, steering_length, steers
from expunge.methods.r2mu import R2MU, STREAMS, loss

CONTROL = torch.tensor([3.0, 4.0])  # c = 5, u = (0.6, 0.8)
HIDDEN = {
    "forget": torch.tensor([[[3.0, 4.0], [1.0, 4.0]]]),  # squared errors: 0, (4 + 0) / 2
    "retain": torch.tensor([[[1.0, 1.0], [9.0, 9.0]]]),
    "trace": torch.tensor([[[0.0, 0.0], [5.0, 5.0]]]),  # squared errors: (9 + 16) / 2, (4 + 1) / 2
    "reasoning": torch.tensor([[[2.0, 0.0], [0.0, 2.0]]]),
}
REFERENCE = {
    "retain": torch.tensor([[[1.0, 3.0], [0.0, 0.0]]]),  # squared errors: 4 / 2, not counted
    "reasoning": torch.tensor([[[0.0, 0.0], [0.0, 0.0]]]),  # squared errors: 4 / 2, 4 / 2
}
MASK = {
    "forget": torch.tensor([[1, 1]]),
    "retain": torch.tensor([[1, 0]]),
    "trace": torch.tensor([[1, 1]]),
    "reasoning": torch.tensor([[1, 1]]),
}
PLAIN = {"forget": 1.0, "retain": 2.0, "trace": 7.5, "reasoning": 2.0}
SETTINGS = R2MU(retain=10.0, trace=2.0, reasoning=3.0)


def test_each_part_and_the_total_by_hand():
    total, parts = loss(HIDDEN, REFERENCE, MASK, CONTROL, SETTINGS)
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(
        {"forget": 1.0, "retain": 20.0, "trace": 15.0, "reasoning": 6.0}
    )
    assert total.item() == pytest.approx(42.0)


def test_relative_divides_by_the_squared_steering_length_over_the_hidden_size():
    _, parts = loss(HIDDEN, REFERENCE, MASK, CONTROL, R2MU(retain=1.0, relative=True))
    # hidden size 2, c^2 = 25
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(
        {name: value * 2 / 25 for name, value in PLAIN.items()}
    )


def test_relative_loss_does_not_depend_on_the_scale_of_the_model():
    settings = R2MU(relative=True)
    bigger = [{name: 7 * states for name, states in group.items()} for group in (HIDDEN, REFERENCE)]
    small, _ = loss(HIDDEN, REFERENCE, MASK, CONTROL, settings)
    big, _ = loss(*bigger, MASK, 7 * CONTROL, settings)
    assert big.item() == pytest.approx(small.item(), rel=1e-5)


def test_rmu_is_the_first_two_terms_and_the_others_are_not_asked_for():
    rmu = R2MU(retain=10.0, trace=0.0, reasoning=0.0)
    two = {name: HIDDEN[name] for name in ("forget", "retain")}
    total, parts = loss(two, {"retain": REFERENCE["retain"]}, MASK, CONTROL, rmu)
    assert set(parts) == {"forget", "retain"}
    assert total.item() == pytest.approx(21.0)


def test_a_term_of_weight_zero_adds_nothing_and_pulls_nowhere():
    hidden = {name: states.clone().requires_grad_(True) for name, states in HIDDEN.items()}
    total, parts = loss(hidden, REFERENCE, MASK, CONTROL, R2MU(retain=10.0, trace=0.0, reasoning=0.0))
    total.backward()
    assert parts["trace"].item() == parts["reasoning"].item() == 0
    assert hidden["trace"].grad.abs().max() == hidden["reasoning"].grad.abs().max() == 0
    assert hidden["forget"].grad.abs().max() > 0


def test_gradient_of_the_forget_term_points_from_the_control_to_the_hidden_state():
    hidden = {"forget": HIDDEN["forget"].clone().requires_grad_(True)}
    loss(hidden, {}, MASK, CONTROL, SETTINGS)[0].backward()
    # d/dh of mean over 2 tokens and 2 dimensions: 2 (h - c u) / 4
    assert torch.allclose(hidden["forget"].grad, (HIDDEN["forget"] - CONTROL) / 2)


def test_forget_and_trace_are_steered_and_the_others_held():
    assert [name for name in STREAMS if steers(name)] == ["forget", "trace"]
    assert METHODS["r2mu"].STREAMS == STREAMS
    assert set(SETTINGS.weights()) == set(STREAMS)


@pytest.mark.parametrize("size", [2, 64, 4096])
def test_direction_is_positive_and_of_unit_length(size):
    u = direction(size, torch.Generator().manual_seed(3))
    assert u.shape == (size,)
    assert u.dtype == torch.float32
    assert (u >= 0).all()
    assert u.norm().item() == pytest.approx(1.0, abs=1e-5)


def test_direction_follows_the_seed():
    drawn = [direction(16, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_entries_of_the_direction_are_uniform_and_not_normal():
    u = direction(100_000, torch.Generator().manual_seed(0))
    # uniform on [0, 1): mean / root mean square = sqrt(3) / 2; absolute normals would give 0.798
    assert (u.mean() / u.square().mean().sqrt()).item() == pytest.approx(3**0.5 / 2, abs=5e-3)


def test_steering_length_as_given_or_from_the_counted_forget_states():
    hidden = torch.tensor([[[300.0, 400.0], [3.0, 4.0], [0.0, 15.0]]])
    mask, tokens = torch.tensor([[0, 1, 1]]), torch.tensor([[1, 1, 1]])
    assert steering_length(R2MU(steering=6.5), Seen(hidden, mask, tokens)) == 6.5
    assert steering_length(R2MU(steering="adaptive", steering_factor=3.0), Seen(hidden, mask, tokens)) == pytest.approx(
        30.0
    )
