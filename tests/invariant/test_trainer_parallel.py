"""Two processes, each with a copy of the model or with half of it, end where one process ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trainer_worker import CASES, INTERRUPT_AT, INTERRUPTED, free_port, learn

WORKER = Path(__file__).parents[1] / "trainer_worker.py"
PROCESSES = 2


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave behind, started as a launcher does it on one machine without a GPU."""
    folder = tmp_path_factory.mktemp("results")
    common = {"WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder)],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(PROCESSES)
    ]
    try:
        for process in started:
            said, _ = process.communicate(timeout=600)
            assert process.returncode == 0, said[-3000:]
    finally:
        for process in started:
            process.kill()
    return folder


@pytest.fixture(params=["copied", "split"])
def folder(request: pytest.FixtureRequest, results: Path) -> Path:
    return results / request.param


def distance(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    return max((one[name].float() - two[name].float()).abs().max().item() for name in two)


def movement(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """Mean change of a weight."""
    return torch.cat([(one[name].float() - two[name].float()).abs().flatten() for name in two]).mean().item()


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one(folder, case):
    model, rows = learn(**CASES[case])
    ours = model.state_dict()
    theirs, also = (load_file(folder / f"{case}.{rank}.safetensors") for rank in range(PROCESSES))
    rounding = 4e-3 if "bfloat16" in case else 1e-5  # of eight bits, one is that much
    if "bfloat16" in case:  # gradients are sums of rounded parts, and a weight is its master rounded
        before = learn(**CASES[case], epochs=[])[0].state_dict()
        assert movement(ours, theirs) < 0.05 * movement(before, theirs)
    else:
        assert distance(ours, theirs) < 1e-5
    assert distance(theirs, also) == 0
    logged = json.loads((folder / f"{case}.0.json").read_text())
    assert [row["step"] for row in logged] == [row["step"] for row in rows]
    for one, two in zip(rows, logged, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=rounding)
        assert two["parts"]["grad_norm"] == pytest.approx(one["parts"]["grad_norm"], rel=2 * rounding)
    assert json.loads((folder / f"{case}.1.json").read_text()) == []  # the first process alone logs


def test_interrupted_in_one_process_all_stop_and_go_on_to_the_same_numbers(folder):
    whole = load_file(folder / f"{INTERRUPTED}.0.safetensors")
    for rank in range(PROCESSES):
        assert distance(whole, load_file(folder / f"resumed.{rank}.safetensors")) == 0


def test_what_two_processes_saved_one_process_resumes(folder):
    model, rows = learn(**CASES[INTERRUPTED], checkpoint=folder / "state.safetensors")
    assert [row["step"] for row in rows] == [INTERRUPT_AT + 1]
    assert distance(model.state_dict(), load_file(folder / f"{INTERRUPTED}.0.safetensors")) < 1e-5
