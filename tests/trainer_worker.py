"""One of several processes that train together; the others run the same. Results go to a folder, by case and rank:
first with a copy of the model in each process, then with the model split over them.

RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29511 python tests/trainer_worker.py FOLDER"""

import json
import os
import random
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from tiny import make_model

from expunge.data.chat import Encoded
from expunge.train.lora import LoRA, add_lora
from expunge.train.processes import joined, processes
from expunge.train.teach import SFT, sft

COMMON = {"lr": 3e-4, "batch_size": 4, "warmup_steps": 2}
# Epochs of five exchanges in batches of four: every other step has one exchange, fewer than there are processes.
CASES: dict[str, dict[str, Any]] = {
    "plain": {"settings": SFT(**COMMON)},
    "tied": {"settings": SFT(**COMMON, weighting="token"), "family": "llama-tied"},
    "accumulate": {"settings": SFT(**{**COMMON, "batch_size": 5}, accumulate=2)},
    "frozen": {"settings": SFT(**COMMON, first_block=3)},
    "checkpointing": {"settings": SFT(**COMMON, checkpointing=True, first_block=1)},
    "bfloat16": {"settings": SFT(**COMMON), "dtype": torch.bfloat16},
    "lora": {"settings": SFT(**COMMON), "lora": LoRA(rank=1)},
    "lora-bfloat16": {"settings": SFT(**COMMON, checkpointing=True), "lora": LoRA(rank=2), "dtype": torch.bfloat16},
}
INTERRUPTED = "plain"
INTERRUPT_AT = 2


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def lessons() -> list[list[Encoded]]:
    rng = random.Random(1)

    def exchange() -> Encoded:
        return Encoded((5, 6, rng.randint(3, 50)), tuple(rng.choices(range(3, 300), k=rng.randint(1, 5))))

    return [[exchange() for _ in range(5)] for _ in range(2)]


def learn(
    settings: SFT,
    family: str = "llama",
    dtype: torch.dtype = torch.float32,
    lora: LoRA | None = None,
    interrupt_at: int | None = None,
    epochs: Sequence[Sequence[Encoded]] | None = None,
    **options: Any,
) -> tuple[Any, list[dict[str, Any]]]:
    """A tiny model after training, and the rows of its log."""
    model = make_model(family, dtype=dtype, noise=0.05)
    rows: list[dict[str, Any]] = []
    if lora:
        add_lora(model, lora, seed=0)
        options["trains"] = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def log(row: dict[str, Any]) -> None:
        rows.append(row)
        if row["step"] == interrupt_at:
            os.kill(os.getpid(), signal.SIGTERM)

    sft(model, lessons() if epochs is None else epochs, settings, pad_token=0, log=log, **options)
    return model, rows


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    rank = processes().rank
    for name, case in CASES.items():
        model, rows = learn(**case)
        save_model(model, str(folder / f"{name}.{rank}.safetensors"))
        (folder / f"{name}.{rank}.json").write_text(json.dumps(rows))
    state = folder / "state.safetensors"
    with suppress(KeyboardInterrupt):
        learn(**CASES[INTERRUPTED], checkpoint=state, interrupt_at=INTERRUPT_AT)
        raise AssertionError("training went on after the first process was interrupted")
    model, _ = learn(**CASES[INTERRUPTED], checkpoint=state)
    save_model(model, str(folder / f"resumed.{rank}.safetensors"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, switch in {"copied": "false", "split": "true"}.items():
        os.environ |= {"ACCELERATE_USE_FSDP": switch, "FSDP_VERSION": "2"}
        joined.cache_clear()
        main(Path(sys.argv[1]) / name)
