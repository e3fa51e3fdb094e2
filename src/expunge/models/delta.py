"""Deltas: the few matrices that unlearning changed, with the identity of the model they belong to."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import writing, writing_folder
from ..progress import console
from .load import INDEX, is_sharded, model_hash, weights_of

FORMAT = "expunge-delta-1"
OTHER_WEIGHTS = {
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data", ".data", ".ot",
    ".npz", ".tflite",
}  # fmt: skip
"""How files end that hold the weights of a model for other loaders."""


def save_delta(path: Path, matrices: Mapping[str, Any], *, base: Path, source: str, method: str, dtype: Any) -> None:
    """Write new values of named parameters (``model.layers.5.…``), rounded to the checkpoint's dtype."""
    from safetensors.torch import save_file

    header = {"format": FORMAT, "base": source, "base_hash": model_hash(base), "method": method}
    with writing(path) as temporary:
        save_file({name: m.detach().cpu().to(dtype).contiguous() for name, m in matrices.items()}, temporary, header)


def read_delta(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Matrices and header. Raises UserError for anything that is not a delta."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def read_header(path: Path) -> tuple[list[str], dict[str, str]]:
    """Names of the matrices, and header. Raises UserError for anything that is not a delta."""
    with _opened(path) as file:
        return list(file.keys()), file.metadata()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("format")
            if found != FORMAT:
                raise UserError(f"{path}: format {found!r}, expected {FORMAT!r}: this is not a delta.")
            yield file
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as a delta ({error}). Expected a file that a run wrote.") from None


def load_delta(model: Any, path: Path) -> None:
    """Put the delta's matrices into a loaded model, in place."""
    import torch

    matrices, _ = read_delta(path)
    with torch.no_grad():
        for name, value in matrices.items():
            model.get_parameter(name).copy_(value)


def apply_delta(base: Path, delta: Path, out: Path) -> None:
    """Write the full checkpoint base + delta to ``out``, one shard in memory at a time.

    Other files of the base are copied, but for weights in other formats, which still hold what was forgotten: these
    are left out, and a line says which. Raises UserError when the delta belongs to another base or ``out`` holds
    something already."""
    matrices, header = read_delta(delta)
    found = model_hash(base)
    if found != header["base_hash"]:
        raise UserError(
            f"{delta} belongs to {header['base']} (hash {header['base_hash']}), but {base} has hash {found}. "
            "Give the base that the run used."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; choose a new folder.")
    shards = weights_of(base)
    others = sorted(path for path in base.iterdir() if path.is_file() and path not in shards)
    left_out = [path for path in others if _holds_weights(path)]
    with writing_folder(out) as temporary:
        for path in others:
            if path not in left_out:
                shutil.copyfile(path, temporary / path.name)
        for shard in shards:
            _write_shard(shard, matrices, temporary / shard.name, delta)
        if matrices:
            raise UserError(f"{delta}: the base has no {', '.join(matrices)}.")
    if left_out:
        names = ", ".join(path.name for path in left_out)
        console.print(f"left out of {out}, as it holds what was forgotten: {names}", markup=False, soft_wrap=True)


def _holds_weights(path: Path) -> bool:
    """Is a file of a model folder, which is none of its shards, weights for another loader or the index of such?"""
    read = path.name == INDEX and is_sharded(path.parent)
    return path.suffix.lower() in OTHER_WEIGHTS or (path.name.endswith(".index.json") and not read)


def _write_shard(shard: Path, matrices: dict[str, Any], out: Path, delta: Path) -> None:
    """Write one shard with those of the matrices that are in it; they are taken out of ``matrices``."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(shard, framework="pt") as file:
        here = matrices.keys() & set(file.keys())
    if not here:
        shutil.copyfile(shard, out)
        return
    tensors = load_file(shard)
    for name in here:
        if matrices[name].shape != tensors[name].shape:
            shapes = f"{list(matrices[name].shape)} there, {list(tensors[name].shape)} in the base"
            raise UserError(f"{delta}: {name} has shape {shapes}.")
        tensors[name] = matrices.pop(name).to(tensors[name].dtype)
    save_file(tensors, out, {"format": "pt"})
