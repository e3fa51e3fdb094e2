"""The share of the first token in the forget loss: by hand, and as the script tells it."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sink.py"


@pytest.fixture(scope="module")
def sink() -> Any:
    spec = importlib.util.spec_from_file_location("sink", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_share_of_the_first_token_by_hand(sink):
    hidden = torch.tensor([[[4.0, 3.0], [0.0, 1.0], [1.0, 0.0]], [[2.0, 1.0], [9.0, 9.0], [9.0, 9.0]]])
    counted = torch.tensor([[1, 1, 1], [1, 0, 0]])  # the second text is one token and padding
    first, others = sink.first_and_others(counted)
    assert first.tolist() == [[1, 0, 0], [1, 0, 0]]
    assert others.tolist() == [[0, 1, 1], [0, 0, 0]]
    control = torch.tensor([0.0, 1.0])  # squared distances 20, 0, 2 and 4
    assert sink.share(hidden, first, counted, control) == pytest.approx(24 / 26)


def test_the_script_tells_shares_between_0_and_1(sink, monkeypatch, model_folder, capsys):
    given = ["--model", str(model_folder), "--block", "2", "--texts", "3", "--tokens", "20"]
    monkeypatch.setattr(sys, "argv", ["sink.py", *given])
    assert sink.main() == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    ratios = {name: float(value) for word, name, value in lines if word == "ratio"}
    assert list(ratios) == ["sink_share", "sink_share_apart", "sink_share_published", "sink_norm"]
    assert all(0 < ratios[name] < 1 for name in list(ratios)[:3])
