"""One R2MU step: ours against a faithful re-statement of the released one, in one run.

    python benchmarks/r2mu_step.py                                    the embedded model
    python benchmarks/r2mu_step.py --shape llama8b --dtype bfloat16   random weights, one GPU
    python benchmarks/r2mu_step.py --shape small                      the same path, minutes on a CPU

The released step keeps two whole models, runs twelve full-depth forward passes (forget, retain, trace,
questions, solutions and solutions behind the opener, each through the updated and the frozen model), and
back-propagates into every weight of blocks 0 to 7 and the embedding, of which it uses three. Ours loads
blocks 0 to 7 and reads the four streams that are in the loss. Same batches, same dtype, same c u; the losses
of every step must agree, relatively: to 1e-5 in float32; in bfloat16, where the release rounds each term to
8 bits and trains without masters, to 2e-2. (Ours in bfloat16 against a float32 release is held to neither.)
Settings: R1-Distill-Llama-8B, WMDP (block 7, matrices 5 to 7, c = 6.5, gamma = 1.4, lr 7.5e-5, batch 4). Streams
are as long as the release lets them be: 512 tokens of forget texts, retain texts and questions, 150 of solutions,
114 of traces (opener and 100 tokens); ``--question-tokens`` shortens the questions, which cost the release two
passes and are not in the loss.

``float32`` and ``cached`` compare in --dtype; ``bf16`` is ours in bfloat16 with float32 masters and the
prefix cache, against the released step in --dtype. Peak memory of each is measured in a process of its own, over two
steps: in the second, Adam's moments lie beside the activations.
Ends with lines ``ratio NAME VALUE``; exit code 1 when losses disagree."""

import argparse
import gc
import json
import multiprocessing
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from expunge.data.streams import Batch
from expunge.files import write_json
from expunge.memory import keep_freed_memory
from expunge.methods.r2mu import R2MU
from expunge.models.cache import PrefixCache
from expunge.models.load import quiet, resolve
from expunge.models.prefix import SplitDecoder, load_prefix
from expunge.train.manifest import git_commit, machine, now, peak_memory_gb, versions
from expunge.train.optimiser import MasterAdamW
from expunge.train.unlearn import accumulate

BLOCK, TRAINED, C, RETAIN, LR = 7, (5, 6, 7), 6.5, 1.4, 7.5e-5
LENGTHS = {"forget": 512, "retain": 512, "trace": 114, "question": 512, "reasoning": 150, "opened": 150}
AGREEMENT = {"float32": 1e-5, "bfloat16": 2e-2}
IN_LOSS = ("forget", "retain", "trace", "reasoning")
SHAPES: dict[str, dict[str, Any]] = {
    "llama8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256},
    "small": {"hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 16, "vocab_size": 32064},
}
NAMES = [f"layers.{block}.mlp.down_proj.weight" for block in TRAINED]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--shape", choices=("embedded", *SHAPES), default="embedded")
    options.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options.add_argument("--steps", type=int, default=3, help="timed steps of each (default: 3)")
    options.add_argument("--batch-size", type=int, default=4)
    options.add_argument("--question-tokens", type=int, default=LENGTHS["question"])
    options.add_argument("--train-steps", type=int, default=0, help="also time a whole run of ours of so many steps")
    options.add_argument("--results", type=Path, help="JSON file to write figures and manifest to")
    options.add_argument("--model", type=Path, help="folder of sharded random weights (default: made and removed)")
    given = options.parse_args()
    lengths = LENGTHS | {"question": given.question_tokens}
    quiet()
    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder(given.shape, given.model or Path(scratch) / "model")
        report = compare(folder, given.dtype, given.steps, given.batch_size, lengths)
        report["peak_gb"] = {
            name: in_own_process(peak, folder, given.dtype, given.batch_size, lengths, name)
            for name in ("released", "ours")
        }
        if given.train_steps:
            report["train_seconds"] = train(folder, given.dtype, given.batch_size, lengths, given.train_steps)
    report |= {
        "command": shlex.join(["python", "benchmarks/r2mu_step.py", *sys.argv[1:]]),
        "commit": git_commit(),
        "created": now(),
        "shape": given.shape,
        "dtype": given.dtype,
        "batch_size": given.batch_size,
        "tokens": lengths,
        "machine": machine(),
        "versions": versions(),
    }
    for name, seconds in report["seconds"].items():
        print(f"{name:18} {seconds:8.3f} s a step")
    for name, gigabytes in report["peak_gb"].items():
        print(f"{name:18} {gigabytes:8.2f} GB at its peak")
    if given.train_steps:
        print(f"{given.train_steps} steps of ours, loading included: {report['train_seconds']:.1f} s")
    print(f"largest relative deviation of a loss: {report['deviation']:.1e}")
    if given.results:
        write_json(given.results, report)
    for name, ratio in report["ratios"].items():
        print(f"ratio {name} {ratio:.2f}")
    return int(not report["deviation"] <= AGREEMENT[given.dtype])  # what is no number agrees with nothing


def model_folder(shape: str, folder: Path) -> Path:
    """The embedded model, or random weights of a Llama's true shape in shards of 5 GB, drawn layer by layer."""
    if shape == "embedded":
        return resolve("smollm2")
    if not (folder / "config.json").exists():
        random_checkpoint(folder, SHAPES[shape])
    return folder


def random_checkpoint(folder: Path, shape: dict[str, Any], shard_bytes: int = 5 * 10**9) -> None:
    """A Llama checkpoint of random bfloat16 weights, one shard in memory at a time."""
    from accelerate import init_empty_weights
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, LlamaConfig

    heads = shape["hidden_size"] // 128
    config = LlamaConfig(
        num_attention_heads=heads, num_key_value_heads=max(1, heads // 4), dtype="bfloat16", tie_word_embeddings=False,
        max_position_embeddings=8192, rope_theta=500000.0, **shape,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with init_empty_weights():
        sizes = {name: p.shape for name, p in AutoModelForCausalLM.from_config(config).named_parameters()}
    generator = torch.Generator().manual_seed(0)
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if filled + 2 * size.numel() > shard_bytes and shards[-1]:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += 2 * size.numel()
    places = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {
            name: torch.ones(sizes[name], dtype=torch.bfloat16)
            if len(sizes[name]) == 1
            else torch.empty(sizes[name], dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
            for name in names
        }
        save_file(tensors, folder / file, {"format": "pt"})
        places.update(dict.fromkeys(names, file))
    total = sum(2 * size.numel() for size in sizes.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)


def batches(folder: Path, size: int, lengths: dict[str, int], device: str) -> dict[str, Batch]:
    """Random tokens of the model's vocabulary, no padding; ``lengths``: tokens of each stream's texts."""
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    generator = torch.Generator().manual_seed(1)
    out = {}
    for name, length in lengths.items():
        ids = torch.randint(5, vocabulary, (size, length), generator=generator)
        out[name] = Batch(ids, torch.ones_like(ids), torch.ones_like(ids)).to(device)
    return out


def control(hidden: int, device: str) -> torch.Tensor:
    u = torch.rand(hidden, generator=torch.Generator().manual_seed(2))
    return (C * u / u.norm()).to(device)


class Released:
    """The release's step: two whole models, twelve passes, gradients for all that lies below block 7's end."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: str):
        from transformers import AutoModelForCausalLM

        self.updated, self.frozen = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True).to(device) for _ in range(2)
        )
        self.updated.train()
        self.frozen.eval()
        self.parameters = [self.updated.model.get_parameter(name) for name in NAMES]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=LR)
        self.control = control(self.updated.config.hidden_size, device).to(dtype)

    def states(self, model: Any, batch: Batch, gradient: bool) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        hook = model.model.layers[BLOCK].register_forward_hook(lambda module, arguments, output: seen.append(output))
        with torch.set_grad_enabled(gradient):
            model(input_ids=batch.ids, attention_mask=batch.mask)
        hook.remove()
        return seen[0][0] if isinstance(seen[0], tuple) else seen[0]

    def step(self, given: dict[str, Batch]) -> float:
        updated = {name: self.states(self.updated, batch, True) for name, batch in given.items()}
        frozen = {name: self.states(self.frozen, batch, False) for name, batch in given.items()}
        distance = torch.nn.functional.mse_loss
        wanted = {name: self.control.expand_as(updated[name]) for name in ("forget", "trace")}
        loss = distance(updated["forget"], wanted["forget"])
        loss = loss + RETAIN * distance(updated["retain"], frozen["retain"])
        loss = loss + distance(updated["trace"], wanted["trace"])
        loss = loss + distance(updated["reasoning"], frozen["reasoning"])
        for name in given:  # logged, as the release does
            torch.nn.functional.cosine_similarity(updated[name], frozen[name], dim=-1).mean().item()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()


class Ours:
    """The package's own step."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: str, cached: bool = False):
        decoder = load_prefix(folder, BLOCK, dtype, device)
        self.split = SplitDecoder(decoder, NAMES, PrefixCache() if cached else None)
        self.optimiser = MasterAdamW(self.split.parameters, LR)
        self.control = control(decoder.config.hidden_size, device)
        self.settings = R2MU(retain=RETAIN)

    def step(self, given: dict[str, Batch]) -> float:
        read = {name: given[name] for name in IN_LOSS}
        loss = accumulate(self.split, read, self.control, self.settings).loss
        self.optimiser.step()
        return loss


def timed(step: Callable[[dict[str, Batch]], float], given: dict[str, Batch], count: int) -> tuple[float, list[float]]:
    """Median seconds of ``count`` steps after one to warm up (and to fill a cache), and all losses."""
    losses, seconds = [step(given)], []
    for _ in range(count):
        synchronise()
        started = time.perf_counter()
        losses.append(step(given))
        synchronise()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), losses


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def where() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def compare(folder: Path, dtype: str, count: int, size: int, lengths: dict[str, int]) -> dict[str, Any]:
    """The rival first, as it comes; what ours sets for the process does not reach it."""
    device, kind = where(), getattr(torch, dtype)
    given = batches(folder, size, lengths, device)
    seconds, losses = {}, {}
    makers: dict[str, Callable[[], Any]] = {
        "released": lambda: Released(folder, kind, device),
        "ours": lambda: Ours(folder, kind, device),
        "ours, cached": lambda: Ours(folder, kind, device, cached=True),
        "ours, bf16 cached": lambda: Ours(folder, torch.bfloat16, device, cached=True),
        "ours, bf16": lambda: Ours(folder, torch.bfloat16, device),
    }
    for name, make in makers.items():
        stepper = make()
        if name != "released":
            keep_freed_memory(stepper.split.decoder.num_parameters())
        seconds[name], losses[name] = timed(stepper.step, given, count)
        del stepper
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    rival = seconds["released"]
    deviations = [
        abs(a / b - 1)
        for name in ("ours", "ours, cached")
        for a, b in zip(losses[name], losses["released"], strict=True)
    ]
    ratios = {
        dtype: rival / seconds["ours"],
        "cached": rival / seconds["ours, cached"],
        "bf16": rival / seconds["ours, bf16 cached"],
        "bf16_uncached": rival / seconds["ours, bf16"],
    }
    deviation = torch.tensor(deviations, dtype=torch.float64).max().item()  # NaN if any is
    return {"seconds": seconds, "losses": losses, "deviation": deviation, "ratios": ratios}


def peak(folder: Path, dtype: str, size: int, lengths: dict[str, int], which: str) -> float:
    """Peak memory of two steps, GB: of the GPU's allocator, or of the process."""
    quiet()
    device = where()
    maker = Released if which == "released" else Ours
    stepper, given = maker(folder, getattr(torch, dtype), device), batches(folder, size, lengths, device)
    for _ in range(2):  # the optimiser's moments are there from the end of the first
        stepper.step(given)
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return peak_memory_gb()


def in_own_process(function: Callable[..., float], *arguments: Any) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def train(folder: Path, dtype: str, size: int, lengths: dict[str, int], steps: int) -> float:
    """Seconds of a whole run of ours, loading included."""
    started = time.perf_counter()
    device = where()
    stepper, given = Ours(folder, getattr(torch, dtype), device), batches(folder, size, lengths, device)
    for _ in range(steps):
        stepper.step(given)
    synchronise()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
