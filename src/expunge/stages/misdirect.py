"""The stage of the representation methods: streams from sources, the lower part of the model, the loop."""

import math
from typing import Any

import torch

from ..data.sources import Material, texts, written_here
from ..data.streams import Stream, Text, count_tokens, tokenise
from ..errors import UserError
from ..files import cache_dir, content_hash, file_hash, read_jsonl, write_json, write_jsonl
from ..methods import METHODS, control_batches
from ..methods.misdirection import steers
from ..methods.rtp import token_ids
from ..models.blocks import check_block, select
from ..models.cache import PrefixCache
from ..models.delta import read_delta
from ..models.load import load_tokenizer, model_hash
from ..models.prefix import Upper, empty_prefix, find_weights, load_prefix, lower_part
from ..progress import bar, per_step
from ..recipe import Misdirect
from ..run_folder import told_name
from ..train.metrics import MetricsLog
from ..train.unlearn import Topic, unlearn
from .work import Work


def check(work: Work, stage: Misdirect, tokenizer: Any, blocks: int) -> None:
    """Read every source; find what is to be trained, and the weights of the blocks below, in the model's files.
    Raises UserError."""
    if stage.method == "icu" and work.target is None:
        raise UserError("icu tells the model whom it has forgotten: give target.")
    if stage.method == "rtp":
        token_ids(tokenizer, stage.settings.words)
    material = work.material(tokenizer)
    sources = {source for _, streams in stage.by_topic().values() for given in streams.values() for source in given}
    for source in sorted(sources):
        if not written_here(source):
            texts(source, material)
    for settings, _ in stage.by_topic().values():
        if METHODS[stage.method].STREAMS:
            for block in (settings.block, *settings.train_blocks):
                check_block(block, blocks)
            decoder = empty_prefix(work.original, settings.block)
            select(decoder, settings.train, settings.train_blocks, settings.legacy_param_index)
            find_weights(work.original, (name for name, _ in decoder.named_parameters()))


def carry_out(work: Work, stage: Misdirect) -> dict[str, Any]:
    """Train; the changed matrices by parameter name. Leaves rows of ``metrics.jsonl`` and, told,
    the steering length and the share of trained entries that changed. Raises UserError as soon as the loss is no
    number, unless ruined models are accepted."""
    if not METHODS[stage.method].STREAMS:
        if not (work.folder / "metrics.jsonl").exists():
            write_jsonl(work.folder / "metrics.jsonl", [])
        return {}
    decoder, reflect = _decoder(work, stage)
    topics = topics_of(work, stage, load_tokenizer(work.original))
    log = MetricsLog(work.folder / "metrics.jsonl", stage.method)
    checkpoint = work.folder / f"{stage.method}.state.safetensors"
    with bar(f"unlearn ({stage.method})", stage.loop.steps) as advance:
        step = per_step(log, advance)

        def record(row: dict[str, Any]) -> None:
            step(row)
            if not work.accept_ruined and not math.isfinite(row["loss"]):
                raise UserError(
                    f"the loss of {stage.method} is {row['loss']} at step {row['step']}: no delta is written. Try a "
                    "smaller unlearn.loop.lr, steering or weight of a stream, with another --out."
                )

        outcome = unlearn(
            decoder,
            topics,
            stage.loop,
            method=stage.method,
            seed=work.recipe.seed,
            checkpoint=checkpoint,
            cache=_prefix_cache(work, stage),
            reflect=reflect,
            log=record,
        )
    lengths = outcome.steering_length
    length = lengths if len(lengths) > 1 else max(lengths.values())
    write_json(work.folder / told_name(stage), {"steering_length": length, "changed": outcome.changed})
    return {f"model.{name}": matrix for name, matrix in outcome.matrices.items()}


def topics_of(work: Work, stage: Misdirect, tokenizer: Any) -> list[Topic]:
    """The recipe's forget corpora, each with its streams that have a weight, as endless batches."""
    written: dict[str, list[Text]] = {}
    for row in read_jsonl(work.folder / "traces.jsonl"):
        written.setdefault(row["kind"], []).append(Text(row["text"], row["context"]))
    material = work.material(tokenizer, written)
    return [
        Topic(name, _streams(work, stage, settings, given, material, f"{name}/" if name else ""), settings)
        for name, (settings, given) in stage.by_topic().items()
    ]


def _streams(
    work: Work, stage: Misdirect, settings: Any, given: Any, material: Material, prefix: str
) -> dict[str, Stream]:
    tokenizer = material.tokenizer
    read = {name for name, weight in settings.weights().items() if weight} | set(control_batches(stage.method))
    rows = {
        name: [
            row
            for source in given[name]
            for row in tokenise(tokenizer, texts(source, material), stage.stream_tokens.get(name, stage.max_tokens))
        ]
        for name in METHODS[stage.method].STREAMS
        if name in read
    }
    counted = count_tokens(
        rows,
        [name for name in rows if steers(name)],
        skip_first=settings.skip_sink_tokens,
        skip_shared=settings.skip_shared_prefixes,
    )
    batch_size, pad_token, seed = stage.loop.batch_size, tokenizer.pad_token_id, work.recipe.seed
    padding = settings.count_padding
    return {
        name: Stream(f"{prefix}{name}", part, batch_size, pad_token, seed, count_padding=padding)
        for name, part in counted.items()
    }


def _decoder(work: Work, stage: Misdirect) -> tuple[Any, Upper | None]:
    """The lower part of the model; for RTP, which needs logits, also what lies above it."""
    block, dtype = stage.settings.block, getattr(torch, work.recipe.dtype)
    if stage.method == "rtp":
        model, tokenizer = work.model()
        return lower_part(model, block), Upper(model, block, token_ids(tokenizer, stage.settings.words))
    decoder = load_prefix(work.original, block, dtype, "cuda" if torch.cuda.is_available() else "cpu")
    if work.before:
        here = dict(decoder.named_parameters())
        with torch.no_grad():
            for name, value in read_delta(work.before)[0].items():
                if (own := here.get(name.removeprefix("model."))) is not None:
                    own.copy_(value)
    return decoder, None


def _prefix_cache(work: Work, stage: Misdirect) -> PrefixCache | None:
    if stage.loop.prefix_cache == "off":
        return None
    kept = stage.loop.prefix_cache_dtype
    dtype = getattr(torch, kept) if kept else None
    if stage.loop.prefix_cache == "memory":
        return PrefixCache(None, dtype)
    s = stage.settings
    base = [model_hash(work.original), work.before and file_hash(work.before)]
    cut = content_hash(*base, s.block, s.train, s.train_blocks, s.legacy_param_index, work.recipe.dtype, kept)
    return PrefixCache(cache_dir() / "prefix" / cut, dtype)
