"""The package's own step against recorded runs of the plain training loop: losses and matrices.

One run was recorded with the released R2MU code (a folder beside the checkout, skipped without it); the
others are recorded here by a loop that is as plain as it can be: two whole models, every gradient, padding
counted as the release does."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import HIDDEN, VOCABULARY, make_model, save_model

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / ".." / "shared" / "golden" / "r2mu_llama"
STREAMS = ("forget", "retain", "trace", "reasoning")
CASES = {
    "qwen2, attention output, left padding": ("qwen2", "self_attn.o_proj", "left", STREAMS),
    "qwen2 with window, attention output, right padding": ("qwen2-sliding", "self_attn.o_proj", "right", STREAMS),
    "qwen3, down projection": ("qwen3", "mlp.down_proj", "left", STREAMS),
    "mistral, no reasoning term": ("mistral-sliding", "mlp.down_proj", "left", ("forget", "retain", "trace")),
    "gemma3, plain RMU": ("gemma3_text", "mlp.gate_proj", "right", ("forget", "retain")),
}


@pytest.fixture(scope="module")
def parity() -> Any:
    spec = importlib.util.spec_from_file_location("parity", ROOT / "benchmarks" / "parity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_released_training_loop_is_reproduced(parity):
    if not RECORDED.is_dir():
        pytest.skip(f"no recorded run at {RECORDED}")
    worst_loss, worst_matrix = parity.replay(RECORDED)
    assert worst_loss <= 1e-5
    assert worst_matrix <= 1e-4


def record(folder: Path, family: str, matrix: str, side: str, streams: tuple[str, ...]) -> Path:
    """Six steps of the plain loop on random texts, in the format of the recorded folder."""
    layer, updated_layers, steps, size, lr = 3, (1, 2, 3), 6, 3, 4e-3
    retain_weight, reasoning_weight = 1.7, 0.8
    lengths = {"forget": 12, "retain": 12, "trace": 9, "reasoning": 7}
    updated, frozen = (make_model(family, torch.float32, noise=0.1) for _ in range(2))
    save_model(folder / "model", updated)
    generator = torch.Generator().manual_seed(11)
    tokens = {
        name: [
            torch.randint(3, VOCABULARY, (int(torch.randint(2, 15, (1,), generator=generator)),), generator=generator)
            for _ in range(steps * size)
        ]
        for name in streams
    }
    control = 6.5 * torch.nn.functional.normalize(torch.rand(HIDDEN, generator=generator), dim=0)
    names = [f"model.layers.{i}.{matrix}.weight" for i in updated_layers]
    parameters = [updated.get_parameter(name).requires_grad_(True) for name in names]
    before = [p.detach().clone() for p in parameters]
    adamw = torch.optim.AdamW(parameters, lr=lr)

    def hidden(model: Any, rows: list[torch.Tensor]) -> torch.Tensor:
        width = max(len(row) for row in rows)
        ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
            ids[i, place], mask[i, place] = row, 1
        return model(ids, attention_mask=mask, output_hidden_states=True).hidden_states[layer + 1]

    recorded = []
    for step in range(steps):
        batch = {name: [row[: lengths[name]] for row in tokens[name][step * size :][:size]] for name in streams}
        mse = torch.nn.functional.mse_loss
        losses = {}
        for name, rows in batch.items():
            states = hidden(updated, rows)
            if name in ("forget", "trace"):
                losses[name] = mse(states, control.expand_as(states))
            else:
                weight = retain_weight if name == "retain" else reasoning_weight
                losses[name] = weight * mse(states, hidden(frozen, rows))
        total = sum(losses.values())
        adamw.zero_grad()
        total.backward()
        adamw.step()
        keys = {"forget": "forget_loss", "retain": "weighted_retain_loss"}
        recorded.append(
            {"loss": total.item()} | {keys.get(name, f"{name}_loss"): loss.item() for name, loss in losses.items()}
        )
    assert recorded[-1]["forget_loss"] < recorded[0]["forget_loss"]
    assert all(not torch.equal(p, old) for p, old in zip(parameters, before, strict=True))

    save_file({"control": control}, folder / "control.safetensors")
    save_file({n: p.detach().clone() for n, p in zip(names, parameters, strict=True)}, folder / "updated.safetensors")
    (folder / "tokens.json").write_text(json.dumps({name: [r.tolist() for r in rows] for name, rows in tokens.items()}))
    settings = {
        "batch_size": size,
        "steps": steps,
        "layer": layer,
        "updated_parameters": names,
        "retain_weight": retain_weight,
        "reasoning_weight": reasoning_weight,
        "lr": lr,
        "max_length": lengths,
        "padding": f"{side}; padding positions are included in every mean",
        "dtype": "float32",
        "pad_token_id": 0,
    }
    (folder / "expected.json").write_text(json.dumps({"hyperparameters": settings, "steps": recorded}))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_other_architectures_and_matrices_follow_the_plain_loop(parity, tmp_path, case):
    worst_loss, worst_matrix = parity.replay(record(tmp_path, *CASES[case]))
    assert worst_loss <= 1e-5
    assert worst_matrix <= 1e-4


@pytest.mark.parametrize("key", ["forget_loss", "weighted_retain_loss", "trace_loss", "reasoning_loss", "loss"])
def test_a_loss_that_is_off_is_noticed(parity, tmp_path, capsys, key):
    record(tmp_path, "llama", "mlp.down_proj", "left", STREAMS)
    assert parity.main([str(tmp_path)]) == 0
    expected = json.loads((tmp_path / "expected.json").read_text())
    expected["steps"][4][key] *= 1.001
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    assert parity.main([str(tmp_path)]) == 1
    assert "largest deviation of a loss" in capsys.readouterr().out


def test_a_matrix_that_is_off_is_noticed(parity, tmp_path):
    record(tmp_path, "llama", "mlp.down_proj", "left", STREAMS)
    matrices = load_file(tmp_path / "updated.safetensors")
    matrices["model.layers.2.mlp.down_proj.weight"] += 1e-4
    save_file(matrices, tmp_path / "updated.safetensors")
    assert parity.main([str(tmp_path)]) == 1


def test_bad_input_gives_one_line_and_exit_code_two(parity, tmp_path, capsys):
    assert parity.main([str(tmp_path)]) == 2
    assert "there is no model" in capsys.readouterr().err
    assert parity.main([]) == 2
    assert parity.main(["--help"]) == 0
