"""What a reasoning model thinks about documents, to be unlearned (R2MU, arXiv 2506.12963): ``expunge traces``, and a
recipe's ``writing.about``.

The prompt is that of R2MU's release, which generated 1,024 tokens of each, one document at a time, and used 100.
Here only the used ones are generated, in batches of like length, on every GPU there is. Batches depend neither
on what is done nor on who computes them: the file is the same after an interrupt, with any number of processes."""

import json
import signal
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing import get_context

from .data.sources import SOURCES, Material, texts
from .data.writing import OPENER, Row, reason_about, segments
from .errors import UserError
from .evals.generate import Generation, generate
from .files import check_space, content_hash, read_jsonl, write_jsonl
from .models.blocks import read_config
from .models.load import load, load_tokenizer, model_hash, resolve
from .progress import bar
from .train.state import interruptible

OURS = {signal.SIGINT, signal.SIGTERM}
Batches = list[list[tuple[int, ...]]]
Replies = Generator[tuple[int, list[Generation]], None, None]  # by the number of a batch


@dataclass(frozen=True)
class Tracing:
    """How traces are made: ``segments`` (the paper's N, each a row) of ``tokens`` new tokens about a document cut at
    ``read_tokens``. Documents at once and processes (None: one for each GPU, else one) only say how fast."""

    tokens: int = 100
    segments: int = 1
    read_tokens: int = 512
    batch_size: int = 32
    processes: int | None = None
    dtype: str = "float32"


def trace(model: str, documents: str, out: Path, settings: Tracing) -> Path:
    """Write a model's traces about documents, in their order, to the JSONL file ``out``; done ones are kept.

    Raises UserError for bad input, for an ``out`` that holds something else, or when a worker fails."""
    for name in ("tokens", "segments", "read_tokens", "batch_size", "processes"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UserError(f"{name.replace('_', ' ')}: found {value}, expected a whole number of at least 1.")
    if documents not in SOURCES:  # a bad file is found out before a large model is fetched
        texts(documents, Material(None, None, {}))
    folder = resolve(model)
    read_config(folder)
    tokenizer = load_tokenizer(folder)
    given = [text.context + text.text for text in texts(documents, Material(None, tokenizer, {}))]
    check_space(out.parent, 16 * len(given) * settings.segments * settings.tokens)
    rows = [row for part in traces_of(given, documents, model, folder, out, settings) for row in part]
    if not out.exists() or read_jsonl(out) != rows:
        write_jsonl(out, rows)
    partial_of(out).unlink(missing_ok=True)
    return out


def partial_of(out: Path) -> Path:
    """Where finished batches are kept until the file of traces is whole."""
    return out.with_name(f"{out.name}.partial.jsonl")


def traces_of(
    given: Sequence[str], documents: str, model: str, folder: Path, out: Path, settings: Tracing
) -> list[list[Row]]:
    """The rows of each of the texts ``given``, in their order, by the model in ``folder``; ``documents`` and ``model``
    are their names. What ``out`` or its partial file holds is not computed again, every finished batch is added to the
    partial file, and the caller deletes that when ``out`` is whole.

    Raises UserError as :func:`trace` does, and KeyboardInterrupt after the batch in hand when interrupted."""
    tokenizer = load_tokenizer(folder)
    origin: Row = {"model": model, "model_hash": model_hash(folder), "dtype": settings.dtype, "decoding": "greedy"}
    origin |= {"read_tokens": settings.read_tokens, "segments": settings.segments, "max_tokens": settings.tokens}
    keys = [content_hash(document, {**origin, "model": ""}) for document in given]
    wanted = dict(zip(keys, given, strict=True))  # each document once

    partial = partial_of(out)
    if partial.exists():  # a line that a crash or a full disk has cut is taken away
        with partial.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    finished, begun = _held(out, origin), _held(partial, origin)
    if strange := (finished.keys() | begun.keys()) - wanted.keys():
        raise UserError(f"{out} is about {len(strange)} documents that are not in {documents}: give another --out.")
    prompts = {key: reason_about(tokenizer, wanted[key], settings.read_tokens) for key in wanted.keys() - finished}
    # The longest first: memory runs out at once or never, and the time left is not underestimated.
    order = sorted(prompts, key=lambda key: (-len(prompts[key]), key))
    todo = [order[i : i + settings.batch_size] for i in range(0, len(order), settings.batch_size)]
    todo = [batch for batch in todo if not begun.keys() >= set(batch)]
    done = finished | begun
    if todo:
        batches = [[prompts[key] for key in batch] for batch in todo]
        workers = min(settings.processes or torch.cuda.device_count() or 1, len(todo))
        loaded = load(folder, settings.dtype) if workers == 1 else None
        out.parent.mkdir(parents=True, exist_ok=True)
        with bar(f"traces of {documents}", len(prompts)) as advance, interruptible() as interrupted:
            advance(len(begun))
            if loaded:
                replies = _decode(*loaded, batches, settings, takewhile(lambda _: not interrupted(), range(len(todo))))
            else:
                replies = _together(workers, folder, batches, settings, interrupted)
            with closing(replies):  # whatever happens, workers are ended
                for number, batch in replies:
                    answered = [pair for pair in zip(todo[number], batch, strict=True) if pair[0] not in done]
                    for key, reply in answered:
                        done[key] = _rows(tokenizer, key, wanted[key], reply, origin)
                    lines = [json.dumps(row, ensure_ascii=False) + "\n" for key, _ in answered for row in done[key]]
                    with partial.open("a", encoding="utf-8") as file:
                        file.write("".join(lines))
                    advance(len(answered))
        if len(done) < len(wanted):
            raise KeyboardInterrupt
    return [done[key] for key in keys]


def _rows(tokenizer: Any, key: str, document: str, reply: Generation, origin: Row) -> list[Row]:
    """A trace, a row a segment; ``closed`` says that the model ended in this one."""
    size = origin["max_tokens"]
    rows = []
    for i, piece in enumerate(segments(tokenizer, reply.ids, size)):
        row = {"id": key, "document": document[:200], "segment": i, "text": OPENER + piece}
        left = len(reply.ids) - i * size
        rows.append({**row, "tokens": min(size, left), "closed": reply.closed and left <= size, **origin})
    return rows


def _held(path: Path, origin: Row) -> dict[str, list[Row]]:
    """The rows of each document whose trace is whole in the file. Raises UserError if other settings made it."""
    seen: dict[str, list[Row]] = {}
    for row in read_jsonl(path) if path.exists() else ():
        if not {"id", "segment", "closed", *origin} <= row.keys():
            raise UserError(f"{path} exists and does not hold traces of this command: give another --out.")
        changed = [name for name, value in origin.items() if row[name] != value]
        if changed not in ([], ["model"]):  # the same model may lie elsewhere
            told = "; ".join(f"{name} is {row[name]} there and {origin[name]} here" for name in changed)
            raise UserError(f"{path} was begun with other settings: {told}. Give another --out.")
        rows = seen.setdefault(row["id"], [])
        if row["segment"] == len(rows):  # else it stands there again, as its document does
            rows.append(row)
    return {key: rows for key, rows in seen.items() if rows and (rows[-1]["closed"] or len(rows) == origin["segments"])}


def _decode(model: Any, tokenizer: Any, batches: Batches, settings: Tracing, numbers: Iterable[int]) -> Replies:
    new_tokens = settings.tokens * settings.segments
    for number in numbers:
        batch = batches[number]
        try:
            yield number, generate(model, tokenizer, batch, max_new_tokens=new_tokens, batch_size=len(batch))
        except torch.OutOfMemoryError:
            raise UserError(
                f"{model.device} is out of memory: give a --batch-size (in a recipe, writing.batch_size, "
                f"with another --out) below {len(batch)}."
            ) from None


def _together(workers: int, folder: Path, batches: Batches, settings: Tracing, stop: Callable[[], bool]) -> Replies:
    """The same by processes that take the number of the next batch from a counter; set to the end, it stops
    them after the batch they are at. Each has a pipe of its own, whose end tells that the process has left."""
    gpus, threads = torch.cuda.device_count(), max(1, torch.get_num_threads() // workers)
    context = get_context("spawn")
    turn, processes, failed = context.Value("q", 0), dict[Any, Any](), ""
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, OURS)  # inherited: workers never hear of them
        for place in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            arguments = (theirs, turn, folder, f"cuda:{place % gpus}" if gpus else "cpu", threads, batches, settings)
            processes[ours] = context.Process(target=_work, args=arguments, daemon=True)
            processes[ours].start()
            theirs.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OURS)
        running: list[Any] = list(processes)
        while running:
            if failed or stop():
                turn.value = len(batches)
            for pipe in set(running).intersection(wait(running, timeout=1)):
                try:
                    answer = pipe.recv()
                except (EOFError, OSError):
                    running.remove(pipe)
                    processes[pipe].join()
                    answer = f"exit code {processes[pipe].exitcode}." if processes[pipe].exitcode else ()
                if isinstance(answer, str):
                    failed = failed or answer
                elif answer:
                    yield answer
        if failed:
            raise UserError(f"a worker failed: {failed} What is done is kept; run again, perhaps with fewer at once.")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OURS)
        for process in processes.values():
            process.kill()  # what is left of them holds nothing
            process.join()


def _work(pipe: Any, turn: Any, folder: Path, device: str, threads: int, batches: Batches, settings: Tracing) -> None:
    def number() -> int:
        with turn.get_lock():
            turn.value += 1
            return min(turn.value - 1, len(batches))

    torch.set_num_threads(threads)
    try:
        for answer in _decode(*load(folder, settings.dtype, device), batches, settings, iter(number, len(batches))):
            pipe.send(answer)
    except BrokenPipeError:
        return  # the parent has gone
    except Exception as error:
        pipe.send(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}.")
