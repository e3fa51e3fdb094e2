"""AdamW with float32 masters: the library's AdamW in float32, nothing lost in bfloat16, whole state."""

import pytest
import torch
from torch import nn

from expunge.train.optimiser import MasterAdamW
from expunge.train.state import load_state, save_state


def parameters(dtype: torch.dtype) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(5, 7, generator=generator).to(dtype)) for name in ("a", "b")}


def set_gradients(named: dict[str, nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in named.values():
        parameter.grad = torch.randn(5, 7, generator=generator).to(parameter.dtype)


def train(optimiser: MasterAdamW, steps: range, **options: float) -> list[float | None]:
    norms = []
    for step in steps:
        set_gradients(optimiser.parameters, step)
        norms.append(optimiser.step(**options))
    return norms


def test_in_float32_it_is_the_librarys_adamw():
    ours, theirs = parameters(torch.float32), parameters(torch.float32)
    optimiser = MasterAdamW(ours, lr=1e-2, weight_decay=0.1)
    reference = torch.optim.AdamW(theirs.values(), lr=1e-2, weight_decay=0.1)
    train(optimiser, range(10))
    for step in range(10):
        set_gradients(theirs, step)
        reference.step()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-6)
        assert not torch.equal(ours[name], parameters(torch.float32)[name])


def test_the_first_step_by_hand():
    weight = nn.Parameter(torch.tensor([2.0]))
    weight.grad = torch.tensor([0.25])
    MasterAdamW({"w": weight}, lr=0.1, weight_decay=0.5).step()
    # decay 2 (1 - 0.1 x 0.5) = 1.9, then lr x g / (|g| + eps) = 0.1
    assert weight.item() == pytest.approx(1.8, abs=1e-6)


def test_learning_rate_of_a_step_and_limited_gradient_norm():
    named = {"w": nn.Parameter(torch.tensor([3.0, 4.0]))}
    optimiser = MasterAdamW(named, lr=1.0, weight_decay=0.0)
    named["w"].grad = torch.tensor([6.0, 8.0])
    assert optimiser.step(lr=0.5, max_norm=1.0) == pytest.approx(10.0)
    # the first step of Adam is lr x sign(g), whatever the gradient's length
    assert named["w"].tolist() == pytest.approx([2.5, 3.5], abs=1e-5)
    moment = optimiser.state()["exp_avg.w"]
    assert moment.tolist() == pytest.approx([0.06, 0.08], rel=1e-4)  # of the gradient limited to length 1


def test_gradients_are_cleared_after_a_step():
    for dtype in (torch.float32, torch.bfloat16):
        named = parameters(dtype)
        optimiser = MasterAdamW(named, lr=1e-3)
        train(optimiser, range(1))
        assert all(p.grad is None for p in named.values())
        assert all(p.grad is None for p in optimiser.masters.values())


def test_tiny_steps_survive_in_bfloat16_through_the_masters_and_are_lost_without():
    lr, steps = 1e-6, 200

    def ones() -> dict[str, nn.Parameter]:
        return {"w": nn.Parameter(torch.ones(4, dtype=torch.bfloat16))}

    def one_step(named: dict[str, nn.Parameter], step) -> None:
        named["w"].grad = torch.ones(4, dtype=torch.bfloat16)
        step()

    ours, plain = ones(), ones()
    optimiser, adamw = MasterAdamW(ours, lr, 0.0), torch.optim.AdamW(plain.values(), lr=lr, weight_decay=0.0)
    for _ in range(steps):
        one_step(ours, optimiser.step)
        one_step(plain, adamw.step)
    assert torch.equal(plain["w"], torch.ones(4, dtype=torch.bfloat16))
    master = optimiser.state()["master.w"]
    assert master.dtype == torch.float32
    assert torch.allclose(master, torch.full((4,), 1 - lr * steps), rtol=0, atol=2e-5)  # float32 rounds each step

    for _ in range(4000):  # far enough for bfloat16 to show: 1 - 0.0042
        one_step(ours, optimiser.step)
        one_step(plain, adamw.step)
    assert torch.equal(plain["w"], torch.ones(4, dtype=torch.bfloat16))
    assert (ours["w"] < 1).all()
    assert torch.equal(ours["w"], optimiser.state()["master.w"].bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_state_goes_on_as_if_never_stopped(tmp_path, dtype):
    whole = MasterAdamW(parameters(dtype), lr=1e-2)
    train(whole, range(8))

    first = MasterAdamW(parameters(dtype), lr=1e-2)
    train(first, range(3))
    save_state(tmp_path / "state.safetensors", first, 3)
    second = MasterAdamW(parameters(dtype), lr=1e-2)
    assert load_state(tmp_path / "state.safetensors", second) == (3, {}, "")
    train(second, range(3, 8))

    for name in ("a", "b"):
        assert torch.equal(second.parameters[name], whole.parameters[name])
        assert torch.equal(second.masters[name], whole.masters[name])


def test_without_a_saved_state_training_starts_at_step_zero(tmp_path):
    optimiser = MasterAdamW(parameters(torch.float32), lr=1e-2)
    assert load_state(tmp_path / "none.safetensors", optimiser)[0] == 0
    assert torch.equal(optimiser.parameters["a"], parameters(torch.float32)["a"])


def test_state_before_the_first_step_can_be_saved_and_loaded(tmp_path):
    save_state(tmp_path / "s.safetensors", MasterAdamW(parameters(torch.bfloat16), lr=1e-2), 0)
    optimiser = MasterAdamW(parameters(torch.bfloat16), lr=1e-2)
    assert load_state(tmp_path / "s.safetensors", optimiser)[0] == 0
    whole = MasterAdamW(parameters(torch.bfloat16), lr=1e-2)
    train(optimiser, range(2))
    train(whole, range(2))
    assert torch.equal(optimiser.parameters["b"], whole.parameters["b"])


def test_without_masters_a_small_step_of_bfloat16_is_lost():
    def after(masters):
        weight = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
        optimiser = MasterAdamW({"w": weight}, lr=1e-4, weight_decay=0.0, masters=masters)
        for _ in range(100):
            weight.grad = torch.ones_like(weight)
            optimiser.step()
        return weight.detach().float()

    assert after(False).tolist() == [1.0] * 4
    # 100 steps of 1e-4 come to 0.01, of which bfloat16 keeps the nearest of its steps of 1/256
    torch.testing.assert_close(after(True), torch.full((4,), 1 - 0.01), rtol=0, atol=1 / 256)
