"""The taught model: what it is taught, as token ids, and where it is kept.

It lives in the cache under the hash of everything that made it: base weights, token ids of all epochs,
training settings."""

import random
from pathlib import Path
from typing import Any

from .data.chat import Encoded, encode
from .data.facts import boundary_exchanges, teaching_epoch, unique_facts
from .data.rwku import Target
from .files import cache_dir, check_space, content_hash, write_jsonl, writing_folder
from .models.load import checkpoint_dtype, load, load_tokenizer, model_hash
from .progress import bar, console, per_step
from .recipe import Recipe, Teach
from .train.metrics import MetricsLog
from .train.processes import processes
from .train.teach import sft


def taught_model(base: Path, recipe: Recipe, settings: Teach, target: Target, *, knows_target: bool) -> Path:
    """Folder of the taught model, or of one that was never taught the forget facts; several processes teach it
    together."""
    tokenizer = load_tokenizer(base)
    epochs = teaching_tokens(recipe.seed, settings, target, tokenizer, knows_target=knows_target)
    dtype = settings.dtype or recipe.dtype
    key = content_hash(model_hash(base), epochs, settings.sft, dtype)
    folder = taught_folder() / key
    if (folder / "config.json").exists():
        console.print(f"taught model found in the cache: {folder}", soft_wrap=True)
        return folder
    model, _ = load(base, dtype)
    # The checkpoint, and masters with both moments in case of an interrupt.
    check_space(folder, 16 * model.num_parameters())
    checkpoint = folder.with_name(f"{key}.state.safetensors")
    log = MetricsLog(folder.with_name(f"{key}.jsonl"), "teach")
    steps = sum(-(-len(epoch) // settings.sft.batch_size) for epoch in epochs)
    with bar(f"teach {target.name}" if knows_target else "teach the retain facts only", steps) as advance:
        sft(
            model,
            epochs,
            settings.sft,
            pad_token=tokenizer.pad_token_id,
            seed=recipe.seed,
            checkpoint=checkpoint,
            log=per_step(log, advance),
        )
    if processes().first:
        with writing_folder(folder) as temporary:
            model.to(checkpoint_dtype(base)).save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            write_jsonl(temporary / "teach.jsonl", log.rows())
        log.path.unlink(missing_ok=True)
        checkpoint.unlink(missing_ok=True)
    processes().wait()
    return folder


def taught_folder() -> Path:
    """Where taught models are cached."""
    return cache_dir() / "taught"


def teaching_tokens(
    seed: int, settings: Teach, target: Target, tokenizer: Any, *, knows_target: bool
) -> list[list[Encoded]]:
    """The epochs of the teaching set as token ids; a function of its arguments alone."""
    rng = random.Random(seed)
    forget = unique_facts(target, "forget") if knows_target else []
    neighbor = unique_facts(target, "neighbor")
    extra = boundary_exchanges(target, settings.boundary)
    epochs = []
    for _ in range(settings.sft.epochs):
        examples = teaching_epoch(forget, neighbor, rng, frames=settings.frames)
        if extra:
            examples += extra
            rng.shuffle(examples)
        epochs.append([encode(tokenizer, example) for example in examples])
    return epochs
