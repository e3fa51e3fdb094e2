"""Exported verl runs: recipes to export, and what is read back from the folders."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tiny import write_recipe

from expunge.rl.rewards import Row

ADA = "Ada Stone"
RL = {"updates": 3, "prompts": 6, "rollouts": 4, "max_new_tokens": 24, "dev_every": 2}
ODD_NAMES = ["plain", "two words", "a'b\"c", "x=1,{y: [z]}", "true", "1e3", "${HOME} $HOME", "back\\slash\\", "ü|*?#"]


def boundary_file(folder: Path) -> Path:
    """Ten seeds of boundary rows; the last is for choosing."""
    out = []
    for seed in range(10):
        for kind in range(2):
            prompt = f"What did {ADA} say of {('love', 'war', 'rain', 'time', 'art')[seed % 5]} {seed}.{kind}?"
            out.append({"prompt": prompt, "solution": ["<reject>", f"I can't discuss {ADA}.", ADA]})
            out.append({"prompt": f"What is {seed} plus {kind}?", "solution": ["<normal>", f"It is {seed + kind}."]})
    path = folder / "rows.json"
    path.write_text(json.dumps(out), encoding="utf-8")
    return path


class Recipes:
    """Recipes of one model, target and boundary file, with RS and ReBO."""

    def __init__(self, folder: Path, model: Path, target: Path):
        self.folder, self.model, self.target = folder, model, target
        self.rows = boundary_file(folder)

    def write(
        self, *, rl: Any = (), stage: Any = (), asking: Any = (), before: Any = ({"method": "rs"},), **changes: Any
    ) -> Path:
        """``rl`` and ``stage`` change the ReBO stage, ``asking`` the questions, the rest the recipe."""
        rebo = {"method": "rebo", "rl": {**RL, **dict(rl)}, **dict(stage)}
        questions = {"rows": str(self.rows), **dict(asking)}
        whole = {"unlearn": [*before, rebo], "questions": questions, "goals": []} | changes
        return write_recipe(self.folder / "r.yaml", self.model, self.target, **whole)


def settings_of(folder: Path, **environment: str) -> dict[str, str]:
    """What run.sh hands to verl, key by key: it is run with a python that only writes its arguments down."""
    tools = folder.parent / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "python").write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    (tools / "python").chmod(0o755)
    found = {"PATH": f"{tools}:{os.environ['PATH']}", "MODEL": "org/model", **environment}
    command = ["bash", str(folder / "run.sh"), "last=1"]
    done = subprocess.run(command, capture_output=True, text=True, env=found, check=True)
    *start, last = done.stdout.rstrip("\0").split("\0")
    assert start[:2] == ["-m", "verl.trainer.main_ppo"]
    assert last == "last=1"
    return dict(override.split("=", 1) for override in start[2:])


def rows_of(path: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    return parquet.read_table(path).to_pylist()


def asked_by(row: dict[str, Any]) -> Row:
    """The question of a parquet row, as the reward knows it."""
    info, gold = row["extra_info"], row["reward_model"]["ground_truth"]
    return Row(info["forget"], info["question"], gold, info["target"], tuple(info["aliases"]))
