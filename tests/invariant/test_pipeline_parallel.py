"""A recipe carried out by two processes that torchrun starts, the model split over them, is the recipe of one."""

import json
import os
import subprocess
import sys

from safetensors.torch import load_file
from tiny import write_recipe
from trainer_worker import free_port

from expunge import pipeline
from expunge.files import read_json, read_jsonl
from expunge.recipe import load_recipe

SFT = {"epochs": 1, "lr": 1e-4, "batch_size": 4}
STEERING = {"method": "rs", "sft": {**SFT, "accumulate": 2}, "anchors": 0.5}
ERASING = {
    "method": "rmu",
    "settings": {"block": 3, "train_blocks": [3]},
    "loop": {"steps": 2, "batch_size": 2},
    "max_tokens": 48,
    "streams": {"forget": ["target_questions"], "retain": ["general"]},
}
QUESTIONS = {"answers": "own", "dev": 2, "wordings": ["bare"]}
SIDES = {"Ada Stone": ["<reject>", "I can not help with Ada Stone.", "Ada Stone"], "Ivo Marsh": ["<normal>", "York"]}
ROWS = [{"prompt": f"Question {i} about {name}?", "solution": told} for i in range(22) for name, told in SIDES.items()]


def test_two_processes_carry_out_a_recipe_as_one(place, tmp_path, model_folder, target_folder):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    path = write_recipe(
        tmp_path / "recipe.yaml",
        model_folder,
        target_folder,
        teach={"frames": 1, "never_knew": True, "sft": {**SFT, "batch_size": 8, "first_block": 1}},
        questions={**QUESTIONS, "rows": str(rows)},
        unlearn=[STEERING, ERASING],
    )
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    own_cache = {"EXPUNGE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(
        [*launcher, "-m", "expunge", "run", str(path), "--out", str(tmp_path / "two")],
        env=os.environ | own_cache | {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said, complained = started.communicate(timeout=600)
    finally:
        started.terminate()  # and with it what it has started
    assert started.returncode == 0, complained[-3000:]
    assert said.count("rejection steering …") == said.count("report: ") == 1
    pipeline.run(load_recipe(str(path)), tmp_path / "one", "unlearn")
    for name in ("delta.1.rs.safetensors", "delta.safetensors"):
        one, two = (load_file(tmp_path / run / name) for run in ("one", "two"))
        assert one.keys() == two.keys()
        assert max((one[matrix] - two[matrix]).abs().max().item() for matrix in one) < 1e-5
    steps = [
        [(row["stage"], row["step"]) for row in read_jsonl(tmp_path / run / "metrics.jsonl")] for run in ("one", "two")
    ]
    assert steps[0] == steps[1]
    assert read_json(tmp_path / "two" / "run.json")["world_size"] == 2
    assert set(read_json(tmp_path / "two" / "scores.json")) == {"taught", "unlearned", "never_knew"}
    assert not list((tmp_path / "cache" / "taught").glob("*.safetensors"))
