"""A small client for any OpenAI-compatible chat endpoint, hosted or local.

Greedy (temperature 0), several requests at once, patient with a busy server, and remembering: every reply is kept
as one file named by the content of its request, so that an interrupted run goes on where it was and the same question
is never paid for twice. The key comes from the environment, goes into the request's header and nowhere else."""

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from .errors import UserError
from .files import content_hash, write_json

T = TypeVar("T")
Messages = list[dict[str, str]]
URL_VARIABLE, MODEL_VARIABLE = "EXPUNGE_JUDGE_URL", "EXPUNGE_JUDGE_MODEL"
INVALID = "invalid reply"
"""``Answer.error`` of a reply that could not be parsed, twice: asking again would not help."""
AGAIN = "That could not be read. Reply once more, in exactly the form that was asked for and with nothing around it."
LONGEST_PAUSE = 60.0  # seconds of our own back-off; a server may ask for up to LONGEST_WISH
LONGEST_WISH = 600.0
PATIENCE = 8  # requests that may fail in a row, retries and all, before the whole is given up
LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how. ``base_url`` ends before ``/chat/completions``; ``timeout`` in seconds; ``retries`` on
    top of the first try; ``max_tokens`` of a reply."""

    base_url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 60.0
    retries: int = 5
    max_tokens: int = 512

    def __post_init__(self) -> None:
        try:
            place = urlsplit(self.base_url)
            usable = place.scheme in ("http", "https") and bool(place.hostname) and place.port != 0
        except ValueError:  # a port that is no number, half an IPv6 address
            usable = False
        if not usable:  # not shown: whatever it is, it may hold a key
            raise UserError("endpoint: the URL is not usable; expected one such as http://localhost:8000/v1.")
        if place.username or place.password or place.query:
            raise UserError(
                "endpoint: the URL holds a user name, a password or a query; expected the plain address. "
                f"Put the key into the environment variable {self.key_variable}."
            )
        if not self.model.strip():
            raise UserError("endpoint: the name of the model is empty; expected one that the server knows.")
        for name, least in (("concurrency", 1), ("retries", 0), ("max_tokens", 1)):
            value = vars(self)[name]
            if value < least:
                raise UserError(f"endpoint: {name} is {value}, expected a whole number of at least {least}.")
        if not self.timeout > 0:
            raise UserError(f"endpoint: timeout is {self.timeout}, expected seconds above 0.")

    @property
    def is_local(self) -> bool:
        return urlsplit(self.base_url).hostname in LOCAL


def from_environment(base_url: str | None = None, model: str | None = None, **more: Any) -> Endpoint:
    """An endpoint whose URL and model, where not given, are those of EXPUNGE_JUDGE_URL and EXPUNGE_JUDGE_MODEL.

    Raises UserError when one is neither given nor set."""
    found = {}
    for what, given, variable in (("URL", base_url, URL_VARIABLE), ("model", model, MODEL_VARIABLE)):
        found[what] = given or os.environ.get(variable, "").strip()
        if not found[what]:
            raise UserError(
                f"endpoint: no {what}; expected one in the environment. Set {variable}, for example to "
                f"{'http://localhost:8000/v1' if what == 'URL' else 'the name that the server gives the model'}."
            )
    return Endpoint(found["URL"], found["model"], **more)


@dataclass(frozen=True)
class Answer(Generic[T]):
    """``value`` is what ``parse`` made of ``text``. ``error`` is None, or says in a word or two why there is no
    value: "invalid reply", "timeout", "no connection", "HTTP 429", "not a chat completion"."""

    text: str
    value: T | None
    error: str | None = None


def ask(
    endpoint: Endpoint,
    prompts: Sequence[str | Messages],
    *,
    parse: Callable[[str], T | None],
    cache: Path | None = None,
    on_done: Callable[[int], None] | None = None,
    pause: Callable[[float], object] | None = None,
) -> list[Answer[T]]:
    """An answer for each prompt (a user's turn, or whole messages), in their order; equal ones are asked once.

    A reply that ``parse`` makes None of is asked for once more. ``cache``: the folder that remembers replies.
    ``on_done`` is called with the number of prompts that have just been answered; ``pause`` waits between tries.
    Raises UserError at once for a key or a model that the server does not take, and when nothing gets through."""
    asked = [[{"role": "user", "content": p}] if isinstance(p, str) else p for p in prompts]
    keys = [_key(endpoint, messages) for messages in asked]
    counts, answers = Counter(keys), dict[str, Answer[T]]()
    line = _Line(endpoint, cache, pause)

    def note(key: str, answer: Answer[T]) -> None:
        answers[key] = answer
        if on_done:
            on_done(counts[key])

    def answer(messages: Messages) -> Answer[T]:
        return line.answer(messages, parse)

    todo = dict(zip(keys, asked, strict=True))
    for key in list(todo):
        text = line.remembered(todo[key])
        value = None if text is None else parse(text)
        if text is not None and value is not None:
            note(key, Answer(text, value))
            del todo[key]
    if todo:
        line.open()
        pool = ThreadPoolExecutor(endpoint.concurrency)
        try:
            futures = {pool.submit(answer, messages): key for key, messages in todo.items()}
            for future in as_completed(futures):
                note(futures[future], future.result())
        finally:  # requests on their way are paid for: they are waited for, and remembered
            line.stopped.set()
            pool.shutdown(cancel_futures=True)
            line.client.close()
    return [answers[key] for key in keys]


class _Failed(Exception):
    """One request has failed for good; its text is a short reason."""


class _Line:
    """The open line to one endpoint, shared by the threads that ask."""

    def __init__(self, endpoint: Endpoint, cache: Path | None, pause: Callable[[float], object] | None) -> None:
        self.endpoint, self.cache = endpoint, cache
        self.stopped, self.lock = threading.Event(), threading.Lock()
        self.pause = pause or self.stopped.wait
        self.client: Any = None
        self.key = ""
        self.failures, self.successes = 0, 0

    def open(self) -> None:
        """Raises UserError when the library or the key is missing."""
        try:
            import openai
        except ImportError:
            raise UserError(
                "to ask an endpoint the package openai is needed, and it is not installed: pip install 'expunge[judge]'"
            ) from None
        variable = self.endpoint.key_variable
        self.key = os.environ.get(variable, "").strip()
        if not self.key and not self.endpoint.is_local:
            raise UserError(
                f"no key for {self.endpoint.base_url}: the environment variable {variable} is not set. "
                "Set it (servers on localhost need none)."
            )
        if not self.key.isascii() or not self.key.isprintable():
            raise UserError(
                f"the key in {variable} holds characters that no key has; expected plain ASCII. Set it anew."
            )
        self.client = openai.OpenAI(
            base_url=self.endpoint.base_url,
            api_key=self.key or "none",
            timeout=self.endpoint.timeout,
            max_retries=0,  # retried here, where a stop and the server's wishes are heeded
        )

    def answer(self, messages: Messages, parse: Callable[[str], T | None]) -> Answer[T]:
        """One prompt, and once more with a note when the reply can not be parsed."""
        try:
            text = self.reply(messages)
            value = parse(text)
            if value is None:
                said = {"role": "assistant", "content": text or "…"}
                text = self.reply([*messages, said, {"role": "user", "content": AGAIN}])
                value = parse(text)
        except _Failed as failed:
            return Answer("", None, str(failed))
        except UserError:  # the others need not begin, nor sleep on
            self.stopped.set()
            raise
        return Answer(text, value, INVALID if value is None else None)

    def reply(self, messages: Messages) -> str:
        """The reply remembered or asked for, and remembered."""
        text = self.remembered(messages)
        if text is None:
            text = self._tried(messages)
            if self.cache:
                row = {"request": _request(self.endpoint, messages), "text": text}
                with self.lock:  # writing is not made for several threads at once
                    write_json(self.cache / f"{_key(self.endpoint, messages)}.json", row)
        return text

    def remembered(self, messages: Messages) -> str | None:
        """A reply of the cache; a file that is not what was written there is as good as none."""
        if not self.cache:
            return None
        with suppress(OSError, ValueError, RecursionError):
            file = self.cache / f"{_key(self.endpoint, messages)}.json"
            match json.loads(file.read_text(encoding="utf-8")):
                case {"request": request, "text": str(text)} if request == _request(self.endpoint, messages):
                    return text
        return None

    def _tried(self, messages: Messages) -> str:
        """Raises _Failed when every try has failed, UserError when it makes no sense to go on."""
        for attempt in range(self.endpoint.retries + 1):
            if self.stopped.is_set():
                raise _Failed("stopped")
            text, error, wish, detail = self._try(messages)
            if text is not None:
                self.failures, self.successes = 0, self.successes + 1
                return text
            self._stop_if_hopeless(error)  # here, apart from the library's exception, which may quote the key
            if error.startswith("HTTP 4") and error not in ("HTTP 408", "HTTP 409", "HTTP 429"):
                break  # this request is refused, and would be again
            if attempt < self.endpoint.retries:
                backoff = min(LONGEST_PAUSE, 2.0**attempt) * random.uniform(0.5, 1)
                self.pause(backoff if wish is None else wish)
        # A server that answers others may refuse one prompt; one that has answered nothing, or no longer does, is down.
        self.failures += 0 if error.startswith("HTTP 4") and error != "HTTP 429" and self.successes else 1
        if self.failures >= PATIENCE:
            raise UserError(
                f"{self.endpoint.base_url}: {self.failures} requests in a row have failed, the last with {error}"
                f"{f' ({detail})' if detail else ''}. What was answered is kept; check the endpoint and run again."
            )
        raise _Failed(error)

    def _try(self, messages: Messages) -> tuple[str | None, str, float | None, str]:
        """Text of the reply, or None; why; the seconds that the server asks us to wait; what it says."""
        import openai

        try:
            completion = self.client.chat.completions.create(
                model=self.endpoint.model, messages=messages, temperature=0, max_tokens=self.endpoint.max_tokens
            )
            content = completion.choices[0].message.content
        except openai.APITimeoutError:
            return None, "timeout", None, ""
        except openai.APIConnectionError:
            return None, "no connection", None, ""
        except openai.APIStatusError as error:
            detail = self._without_key(" ".join(str(error.message).split()))[:200]
            return None, f"HTTP {error.status_code}", _wish(error.response.headers), detail
        except (openai.APIError, ValueError, AttributeError, IndexError, TypeError):  # whatever came, it was no reply
            return None, "not a chat completion", None, ""
        if content is not None and not isinstance(content, str):
            return None, "not a chat completion", None, ""
        return self._without_key((content or "").encode("utf-8", "replace").decode()), "", None, ""

    def _stop_if_hopeless(self, error: str) -> None:
        where, variable = self.endpoint.base_url, self.endpoint.key_variable
        if error in ("HTTP 401", "HTTP 403"):
            raise UserError(f"{where} refuses the key ({error}). Check the environment variable {variable}.")
        if error == "HTTP 404":
            raise UserError(
                f"{where} knows no model {self.endpoint.model!r}, or is no chat endpoint (HTTP 404). "
                "Check the name, and the URL: most end in /v1."
            )

    def _without_key(self, text: str) -> str:
        """Servers have been seen to repeat the key that they were sent."""
        return text.replace(self.key, "[key]") if self.key else text


def _request(endpoint: Endpoint, messages: Messages) -> dict[str, Any]:
    parameters = {"temperature": 0, "max_tokens": endpoint.max_tokens}
    return {"base_url": endpoint.base_url, "model": endpoint.model, "messages": messages, "parameters": parameters}


def _key(endpoint: Endpoint, messages: Messages) -> str:
    return content_hash(_request(endpoint, messages))


def _wish(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After asks for (a number or a date), at most LONGEST_WISH; None if it says nothing usable."""
    said = headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except (TypeError, ValueError, IndexError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_WISH) if seconds == seconds else None
