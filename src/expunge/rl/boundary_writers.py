"""Who writes boundary rows: a model behind an endpoint, or a local chat model, greedily. Both keep every reply as it
comes, so that an interrupted synthesis goes on where it was."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..endpoint import INVALID, Endpoint, ask
from ..errors import UserError
from ..files import cache_dir, content_hash, read_jsonl
from ..progress import bar
from .boundary_prompts import AGAIN

T = TypeVar("T")
NEW_TOKENS = 256  # of a local model's reply: two long questions and their entities fit


class EndpointWriter:
    """Replies of an OpenAI-compatible endpoint; the cache folder keeps them."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.origin: dict[str, Any] = {
            "endpoint": endpoint.base_url,
            "model": endpoint.model,
            "max_tokens": endpoint.max_tokens,
        }

    def write(self, title: str, prompts: Sequence[str], parse: Callable[[str], T | None]) -> list[T | None]:
        """What each reply says, None where it can not be read or the server refuses the prompt.

        Raises UserError when requests have failed that may go through another time."""
        with bar(title, len(prompts)) as advance:
            answers = ask(self.endpoint, prompts, parse=parse, cache=cache_dir() / "endpoint", on_done=advance)
        errors = Counter(answer.error for answer in answers if answer.error and _may_pass(answer.error))
        if errors:
            told = ", ".join(f"{count} x {error}" for error, count in errors.most_common())
            raise UserError(
                f"{self.endpoint.base_url}: {errors.total()} of {len(prompts)} requests have failed ({told}). "
                "What was answered is kept; run the same command again to ask for the rest."
            )
        return [answer.value for answer in answers]

    def finish(self) -> None:
        """Nothing to tidy up: the cache may serve another synthesis."""


def _may_pass(error: str) -> bool:
    refused = error.startswith("HTTP 4") and error not in ("HTTP 408", "HTTP 409", "HTTP 429")
    return error != INVALID and not refused


class ModelWriter:
    """Replies of a local chat model, ``batch_size`` at once; the file ``partial`` keeps them until all is done."""

    def __init__(self, model: str, partial: Path, batch_size: int, dtype: str) -> None:
        from ..models.blocks import read_config
        from ..models.load import load_tokenizer, model_hash, resolve

        self.folder = resolve(model)
        read_config(self.folder)
        self.tokenizer = load_tokenizer(self.folder)
        self.model: Any = None
        self.dtype, self.batch_size, self.partial = dtype, batch_size, partial
        self.origin: dict[str, Any] = {"model": Path(model).name if Path(model).exists() else model}
        self.origin |= {"model_hash": model_hash(self.folder), "dtype": dtype, "max_tokens": NEW_TOKENS}
        if partial.exists():  # a line that a crash or a full disk has cut is taken away
            with partial.open("r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1)
        rows = read_jsonl(partial) if partial.exists() else []
        self.replies = {str(row.get("key")): str(row.get("reply")) for row in rows}

    def write(self, title: str, prompts: Sequence[str], parse: Callable[[str], T | None]) -> list[T | None]:
        """What each reply says; one that can not be read is asked for once more, then it is None."""
        with bar(title, len(set(prompts))) as advance:
            found = [parse(reply) for reply in self._reply(prompts, advance)]
        again = [i for i, value in enumerate(found) if value is None]
        if again:
            with bar(f"{title}, once more", len({prompts[i] for i in again})) as advance:
                second = self._reply([f"{prompts[i]}\n\n{AGAIN}" for i in again], advance)
            for i, reply in zip(again, second, strict=True):
                found[i] = parse(reply)
        return found

    def _reply(self, prompts: Sequence[str], advance: Callable[[float], None]) -> list[str]:
        import torch

        from ..data.chat import encode_prompt
        from ..evals.generate import generate
        from ..models.load import load

        keys = {prompt: content_hash(prompt, self.origin | {"model": ""}) for prompt in prompts}
        todo = {p: encode_prompt(self.tokenizer, p) for p, key in keys.items() if key not in self.replies}
        advance(len(keys) - len(todo))
        if todo and self.model is None:
            self.model, _ = load(self.folder, self.dtype)
        order = sorted(todo, key=lambda prompt: -len(todo[prompt]))  # memory runs out at once or never
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            try:
                replies = generate(
                    self.model,
                    self.tokenizer,
                    [todo[prompt] for prompt in batch],
                    max_new_tokens=NEW_TOKENS,
                    batch_size=len(batch),
                )
            except torch.OutOfMemoryError:
                raise UserError(
                    f"{self.model.device} is out of memory: give a --batch-size below {len(batch)}."
                ) from None
            rows = [{"key": keys[p], "reply": reply.text} for p, reply in zip(batch, replies, strict=True)]
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            with self.partial.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            self.replies |= {row["key"]: row["reply"] for row in rows}
            advance(len(batch))
        return [self.replies[keys[prompt]] for prompt in prompts]

    def finish(self) -> None:
        """All is written: the partial file has served."""
        self.partial.unlink(missing_ok=True)


Writer = EndpointWriter | ModelWriter
