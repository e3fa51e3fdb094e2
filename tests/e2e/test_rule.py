"""RULE on the real embedded model, shortened: one epoch of teaching, few questions, three updates."""

from pathlib import Path

import pytest
import torch

from expunge.cli import main
from expunge.files import read_json, read_jsonl
from expunge.models.delta import read_delta

RECIPE = str(Path(__file__).parents[2] / "recipes" / "rule_rwku_llama8b.yaml")
SHORT = (
    "teach.sft.epochs=1",
    "teach.frames=0",
    "questions={wordings: [asked, described, brief, bare], train: 8, dev: 2, facts: 2, thoughts: 4, further: 4}",
    "unlearn.0.sft.lr=3e-4",
    "unlearn.1.rl={updates: 3, prompts: 4, rollouts: 2, max_new_tokens: 12, lr: 3e-5, first_block: 20, dev_every: 3}",
    "unlearn.2.copies=1",
    "evaluate={trace_tokens: 8, perplexity_texts: 4, perplexity_tokens: 48}",
)


def arguments(out: Path, *changes: str) -> list[str]:
    return ["run", RECIPE, "--scale", "embedded", "--out", str(out), *(p for c in changes for p in ("--set", c))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "rule"
    assert main(arguments(out, *SHORT)) == 0
    return out


def test_all_three_stages_have_run_and_told(run: Path) -> None:
    assert {"rs", "rebo", "drill"} <= {row["stage"] for row in read_jsonl(run / "metrics.jsonl")}
    manifest = read_json(run / "run.json")
    assert manifest["method"] == "rs + rebo + drill"
    assert manifest["stages"]["rebo"]["kept"] in (0, 3)
    assert [look["update"] for look in manifest["stages"]["rebo"]["looks"]] == [0, 3]
    assert len(manifest["goals"]) == 8


def test_blocks_below_the_first_trained_one_stay(run: Path) -> None:
    matrices, _ = read_delta(run / "delta.safetensors")
    assert matrices and all(int(name.split(".")[2]) >= 10 for name in matrices if name.startswith("model.layers."))
    assert "model.embed_tokens.weight" not in matrices
    assert all(torch.isfinite(value).all() for value in matrices.values())


def test_the_target_is_declined_by_name_more_than_before_and_more_than_its_neighbours(run: Path) -> None:
    scores = read_json(run / "scores.json")
    declined = {model: found["replies/forget/declined"]["mean"] for model, found in scores.items()}
    assert declined["taught"] < 5 < 20 < declined["unlearned"]
    assert scores["unlearned"]["replies/neighbor/refusals"]["mean"] < declined["unlearned"]
    assert scores["unlearned"]["rwku/forget/All"]["mean"] < scores["taught"]["rwku/forget/All"]["mean"]
