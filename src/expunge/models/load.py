"""Find a model (embedded alias, local folder or hub id) and load it in a plain, safe way."""

from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..files import content_hash, file_hash, read_json
from . import embedded

INDEX = "model.safetensors.index.json"
DTYPES = ("float32", "bfloat16")
WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "README.md", "LICENSE*"]  # files of a hub model


def resolve(source: str) -> Path:
    """Folder of a model; embedded aliases are prepared and hub ids downloaded on first use.

    Raises UserError when it is none of the three, or the hub cannot be reached."""
    if source in embedded.EMBEDDED:
        return embedded.get(source)
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise UserError(f"{folder}: there is no config.json; expected a model folder as save_pretrained writes it.")
        return folder
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(
            f"unknown model {source!r}: not an embedded model, not a folder, not a hub id (owner/name). "
            f"{nearest(source, embedded.EMBEDDED)}"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=WANTED))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(
            f"cannot fetch {source!r} from the hub: {type(error).__name__}: {reason}. "
            "Check the name and the network (a gated model needs HF_TOKEN), or give a local folder."
        ) from None


def quiet() -> None:
    """No load reports and no second progress bars from transformers."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load(folder: Path, dtype: str = "float32", device: str | None = None) -> tuple[Any, Any]:
    """Causal model in evaluation mode without gradients, on ``device`` (the GPU if there is one), and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    from .upcast import fit_processor

    quiet()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), use_safetensors=True)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).eval().requires_grad_(False)
    fit_processor(model)
    return model, load_tokenizer(folder)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer; a missing padding token becomes the end token. Raises UserError if there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the libraries raise bare ones for a broken tokenizer.json
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(f"{folder}: the tokenizer cannot be loaded: {reason}") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def weights_of(folder: Path) -> list[Path]:
    """The safetensors shards of a model folder: model.safetensors, else those that its index names, else all there are.

    Raises UserError if there are none, or one is damaged or missing."""
    from safetensors import SafetensorError, safe_open

    if is_sharded(folder):
        shards = sorted(set(shards_by_name(folder).values()))
    else:
        shards = list(folder.glob("model.safetensors")) or sorted(folder.glob("*.safetensors"))
    if not shards:
        raise UserError(
            f"{folder}: there are no safetensors weights; convert the model first (pickles are not loaded)."
        )
    for path in shards:
        try:
            safe_open(path, framework="pt")  # compares the header with the size of the file
        except SafetensorError as error:
            raise UserError(f"{path} is damaged ({error}). Fetch the model again.") from None
    return shards


def is_sharded(folder: Path) -> bool:
    """Are its weights the files that an index names? A model.safetensors beside it goes before, as in transformers."""
    return (folder / INDEX).exists() and not (folder / "model.safetensors").exists()


def shards_by_name(folder: Path) -> dict[str, Path]:
    """Name of each tensor -> its file, by the index of a sharded checkpoint.

    Raises UserError for an index that names no files, and if a file is missing."""
    index = read_json(folder / INDEX)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise UserError(
            f"{folder / INDEX}: found no weight_map that gives a file for each tensor; fetch the model again."
        )
    places = {name: folder / shard for name, shard in shards.items()}
    if missing := sorted({path.name for path in places.values() if not path.exists()}):
        raise UserError(f"{folder}: {INDEX} names {', '.join(missing)}, which is not there. Fetch it.")
    return places


def checkpoint_dtype(folder: Path) -> Any:
    """The torch dtype that the checkpoint's weights are stored in; float32 if its config does not say."""
    import torch
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder).dtype or torch.float32


def model_hash(folder: Path) -> str:
    """Hash of the weights' content; it names the base of a delta and of a cached result."""
    return content_hash([_hash_once(path, path.stat().st_size, path.stat().st_mtime_ns) for path in weights_of(folder)])


@cache
def _hash_once(path: Path, size: int, changed: int) -> str:
    """A run asks for the same hash several times; a file that has changed is read again."""
    return file_hash(path)
