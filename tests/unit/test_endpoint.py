"""The endpoint client against a local server that misbehaves: busy, broken, slow, garbled, indiscreet."""

import builtins
import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from expunge import endpoint as module
from expunge.endpoint import INVALID, PATIENCE, Answer, Endpoint, ask, from_environment
from expunge.errors import UserError

pytest.importorskip("openai")
KEY = "sk-not-to-be-seen-1234"


def said(text: Any) -> tuple[int, dict[str, str], bytes]:
    """What a healthy server sends."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


def failed(status: int, message: str = "no", **headers: str) -> tuple[int, dict[str, str], bytes]:
    body = json.dumps({"error": {"message": message}}).encode()
    return status, {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}, body


def echo(body: dict[str, Any], count: int) -> tuple[int, dict[str, str], bytes]:
    return said(body["messages"][-1]["content"].upper())


class Server:
    """Answers by ``behave(body, number of the request)``; remembers what it was asked."""

    def __init__(self) -> None:
        self.behave: Callable[[dict[str, Any], int], tuple[int, dict[str, str], bytes]] = echo
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.at_once, self.most_at_once = 0, 0
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.bodies.append(body)
                    server.headers.append(dict(self.headers))
                    count = len(server.bodies)
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                try:
                    status, headers, content = server.behave(body, count)
                finally:
                    with server.lock:
                        server.at_once -= 1
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *arguments: Any) -> None:  # a client that did not wait
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def put(server: Server, pauses: list[float]) -> Callable[..., list[Answer[str]]]:
    """Ask without really pausing."""

    def put(*prompts: Any, parse: Callable[[str], Any] = str, cache: Path | None = None, **settings: Any) -> Any:
        on_done = settings.pop("on_done", None)
        endpoint = Endpoint(server.url, "m", **settings)
        return ask(endpoint, prompts, parse=parse, cache=cache, on_done=on_done, pause=pauses.append)

    return put


def test_answers_come_in_order_greedily_and_equal_prompts_are_asked_once(server, put):
    done: list[int] = []
    answers = put(
        "a", "b", "a", [{"role": "system", "content": "s"}, {"role": "user", "content": "c"}], on_done=done.append
    )
    assert answers == [Answer("A", "A"), Answer("B", "B"), Answer("A", "A"), Answer("C", "C")]
    assert sorted(done) == [1, 1, 2]
    assert len(server.bodies) == 3
    assert {(b["model"], b["temperature"], b["max_tokens"]) for b in server.bodies} == {("m", 0, 512)}
    assert ("authorization", f"Bearer {KEY}") in [(name.lower(), value) for name, value in server.headers[0].items()]


def test_no_more_than_so_many_at_once(server, put):
    def slow(body, count):
        time.sleep(0.03)
        return echo(body, count)

    server.behave = slow
    put(*map(str, range(9)), concurrency=3)
    assert 2 <= server.most_at_once <= 3


@pytest.mark.parametrize(
    "bad",
    [
        failed(429, Retry_After="0"),
        failed(500),
        failed(503, Retry_After="garbage"),
        (200, {"Content-Type": "application/json"}, b"{not json"),
        (200, {"Content-Type": "text/html"}, b"<html>busy</html>"),
        (200, {"Content-Type": "application/json"}, b'{"choices": []}'),
        (200, {"Content-Type": "application/json"}, b"null"),
        (200, {"Content-Type": "application/json"}, b'{"choices": [{"message": {"content": [1]}}]}'),
        (200, {"Content-Type": "application/json"}, b'{"choices": [null]}'),
        (200, {"Content-Type": "application/json"}, b"\xff\xfe\x00"),
        (200, {}, b""),
    ],
)
def test_a_bad_moment_is_waited_out(server, put, bad):
    server.behave = lambda body, count: bad if count < 3 else echo(body, count)
    assert put("a") == [Answer("A", "A")]
    assert len(server.bodies) == 3


def test_pauses_grow_are_jittered_and_heed_the_server(server, put, pauses):
    server.behave = lambda body, count: failed(500)
    assert put("a")[0] == Answer("", None, "HTTP 500")
    assert len(pauses) == 5  # as many as retries
    assert all(2**i / 2 <= pause <= 2**i for i, pause in enumerate(pauses))
    for said_so, wanted in (("0", 0), ("7", 7), ("99999", 600), ("-3", 0), ("a date", 500)):
        pauses.clear()
        said_so = formatdate(time.time() + wanted) if said_so == "a date" else said_so
        server.behave = lambda body, count, wish=said_so: failed(429, Retry_After=wish)
        assert put("a", retries=1)[0].error == "HTTP 429"
        assert pauses == [pytest.approx(wanted, abs=2, rel=0.05)]  # a slow machine comes to read a date later
    for said_so in ("nan", "soon", ""):
        pauses.clear()
        server.behave = lambda body, count, wish=said_so: failed(429, Retry_After=wish)
        put("a", retries=1)
        assert 0.5 <= pauses[0] <= 1


def test_a_server_that_is_too_slow_times_out(server, put):
    def slow(body, count):
        time.sleep(0.4 if count == 1 else 0)
        return echo(body, count)

    server.behave = slow
    assert put("a", timeout=0.1, retries=0)[0] == Answer("", None, "timeout")
    assert put("a", timeout=0.3)[0] == Answer("A", "A")


def test_nobody_there(server, put):
    server.http.shutdown()
    server.http.server_close()
    assert put("a", retries=1)[0] == Answer("", None, "no connection")
    with pytest.raises(UserError, match=r"\d requests in a row have failed, the last with no connection"):
        put(*map(str, range(20)), retries=0)


def test_one_refused_prompt_does_not_hold_up_the_others(server, put):
    def behave(body, count):
        return failed(400, "too long") if len(body["messages"][-1]["content"]) > 1 else echo(body, count)

    server.behave = behave
    answers = put("a", *("long" + str(i) for i in range(2 * PATIENCE)), concurrency=1)
    assert answers[0].value == "A"
    assert {answer.error for answer in answers[1:]} == {"HTTP 400"}
    assert len(server.bodies) == 1 + 2 * PATIENCE  # a refusal is not asked for again


def test_a_server_that_refuses_everything_is_given_up(server, put):
    server.behave = lambda body, count: failed(400, "Unsupported parameter: max_tokens")
    with pytest.raises(UserError, match=r"last with HTTP 400 \(.*Unsupported parameter: max_tokens"):
        put(*map(str, range(20)), concurrency=1)
    assert len(server.bodies) == PATIENCE


def test_a_reply_that_can_not_be_parsed_is_asked_for_once_more(server, put):
    def number(text: str) -> int | None:
        return int(text) if text.isdigit() else None

    server.behave = lambda body, count: said("perhaps 3" if len(body["messages"]) == 1 else "3")
    assert put("a", parse=number) == [Answer("3", 3)]
    roles = [message["role"] for message in server.bodies[1]["messages"]]
    assert roles == ["user", "assistant", "user"]
    server.behave = lambda body, count: said("perhaps")
    assert put("b", parse=number) == [Answer("perhaps", None, INVALID)]
    server.behave = lambda body, count: said(None)  # cut while it was thinking
    assert put("c", parse=number) == [Answer("", None, INVALID)]
    assert len(server.bodies) == 6


def test_what_was_answered_is_remembered(server, put, tmp_path, monkeypatch):
    server.behave = lambda body, count: echo(body, count) if count < 3 else failed(401)
    with pytest.raises(UserError):
        put("a", "b", "c", "d", cache=tmp_path, concurrency=1)
    assert len(list(tmp_path.glob("*.json"))) == 2 == len(list(tmp_path.iterdir()))
    server.behave = echo
    server.bodies.clear()
    done: list[int] = []
    assert [a.value for a in put("a", "b", "c", "d", cache=tmp_path, on_done=done.append)] == ["A", "B", "C", "D"]
    assert sorted(body["messages"][0]["content"] for body in server.bodies) == ["c", "d"]
    assert sum(done) == 4
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setattr(module._Line, "open", None)  # nothing is asked, no key is needed
    put("a", "d", cache=tmp_path)


def test_a_reply_is_remembered_for_its_request_alone(server, put, tmp_path):
    put("a", cache=tmp_path)
    for settings in ({"max_tokens": 3}, {}):
        put("a", cache=tmp_path, **settings)
    assert len(server.bodies) == 2
    [first, second] = sorted(tmp_path.glob("*.json"))
    for content in (b"", b"[]", b"{}", b'{"request": 1, "text": "no"}', b"\xff", first.read_bytes(), b"[" * 100_000):
        second.write_bytes(content)
    put("a", cache=tmp_path, max_tokens=3)
    put("a", cache=tmp_path)
    assert len(server.bodies) == 3  # a broken file is as good as none


def test_unparsable_replies_are_remembered_too_and_failures_are_not(server, put, tmp_path):
    server.behave = lambda body, count: said("?")
    put("a", parse=lambda text: None, cache=tmp_path)
    assert put("a", parse=lambda text: None, cache=tmp_path)[0].error == INVALID
    assert len(server.bodies) == 2
    server.behave = lambda body, count: failed(500)
    assert put("b", cache=tmp_path, retries=0)[0].error == "HTTP 500"
    server.behave = echo
    assert put("b", cache=tmp_path)[0].value == "B"


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_stops_at_once(server, put, status):
    server.behave = lambda body, count: failed(status, f"Incorrect API key provided: {KEY}")
    with pytest.raises(UserError, match=rf"refuses the key \(HTTP {status}\).*OPENAI_API_KEY") as error:
        put(*map(str, range(20)), concurrency=1)
    assert len(server.bodies) == 1
    assert KEY not in str(error.value)
    assert error.value.__context__ is None  # the library's own exception quotes the server


def test_an_unknown_model_stops_at_once(server, put):
    server.behave = lambda body, count: failed(404)
    with pytest.raises(UserError, match=r"knows no model 'm'.*most end in /v1"):
        put("a", "b", concurrency=1)
    assert len(server.bodies) == 1


def test_others_do_not_sleep_on_when_one_stops_all(server):
    def behave(body, count):
        return failed(429, Retry_After="500") if body["messages"][0]["content"] == "a" else failed(401)

    server.behave = behave
    start = time.monotonic()
    with pytest.raises(UserError, match="refuses the key"):
        ask(Endpoint(server.url, "m"), ["a", "b"], parse=str)
    assert time.monotonic() - start < 3


def test_the_key_is_never_seen(server, put, tmp_path, capfd):
    """Even when the server repeats it in replies and in errors."""
    server.behave = lambda body, count: said(f"Your key is {KEY}.")
    answers = put("a", cache=tmp_path)
    server.behave = lambda body, count: failed(400, f"bad request with {KEY}")
    with pytest.raises(UserError) as error:
        put(*map(str, range(20)), cache=tmp_path, concurrency=1)
    told = [str(error.value), repr(answers), *capfd.readouterr()]
    assert error.value.__context__ is None
    told += [path.read_text() for path in tmp_path.rglob("*")]
    assert not [text for text in told if KEY in text]
    assert "[key]" in answers[0].text


@pytest.mark.parametrize("key", ["sk-é", "sk-1\n2", "sk-\x07"])
def test_a_key_that_can_be_none_is_answered_without_showing_it(server, put, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY holds characters that no key has") as error:
        put("a")
    assert key not in str(error.value)


def test_only_localhost_needs_no_key(server, put, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert put("a")[0].value == "A"
    with pytest.raises(UserError, match=r"no key for https://api\.example\.org/v1: .*MY_KEY is not set"):
        ask(Endpoint("https://api.example.org/v1", "m", key_variable="MY_KEY"), ["a"], parse=str)


def test_half_a_surrogate_pair_in_a_reply_can_be_kept(server, put, tmp_path):
    server.behave = lambda body, count: said("x\ud800")
    assert put("a", cache=tmp_path)[0].text == "x?"
    assert put("a", cache=tmp_path)[0].text == "x?"


def test_without_the_library(server, put, monkeypatch):
    real = builtins.__import__

    def missing(name: str, *arguments: Any) -> Any:
        if name == "openai":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install 'expunge\[judge\]'"):
        put("a")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "not usable"),
        ("localhost:8000", "not usable"),
        ("ftp://host/v1", "not usable"),
        ("http://", "not usable"),
        ("http://[::1/v1", "not usable"),
        ("http://host:port/v1", "not usable"),
        (f"https://user:{KEY}@host/v1", "holds a user name"),
        (f"https://host/v1?key={KEY}", "holds a user name"),
    ],
)
def test_urls_that_will_not_do(url, message):
    with pytest.raises(UserError, match=message) as error:
        Endpoint(url, "m")
    assert KEY not in str(error.value)


@pytest.mark.parametrize("more", [{"concurrency": 0}, {"retries": -1}, {"max_tokens": 0}, {"timeout": 0.0}])
def test_settings_that_will_not_do(more):
    with pytest.raises(UserError, match=f"{next(iter(more))} is {next(iter(more.values()))}, expected"):
        Endpoint("http://localhost/v1", "m", **more)
    with pytest.raises(UserError, match="name of the model is empty"):
        Endpoint("http://localhost/v1", " ")


def test_url_and_model_come_from_the_environment(monkeypatch):
    monkeypatch.delenv("EXPUNGE_JUDGE_URL", raising=False)
    monkeypatch.delenv("EXPUNGE_JUDGE_MODEL", raising=False)
    with pytest.raises(UserError, match="no URL.*Set EXPUNGE_JUDGE_URL"):
        from_environment()
    monkeypatch.setenv("EXPUNGE_JUDGE_URL", "http://localhost:1/v1")
    with pytest.raises(UserError, match="no model.*Set EXPUNGE_JUDGE_MODEL"):
        from_environment()
    monkeypatch.setenv("EXPUNGE_JUDGE_MODEL", "judge")
    assert from_environment() == Endpoint("http://localhost:1/v1", "judge")
    found = from_environment("https://host/v1", "mine", concurrency=2)
    assert found == Endpoint("https://host/v1", "mine", concurrency=2)


def test_importing_the_client_loads_no_library():
    import subprocess
    import sys

    code = "import sys, expunge.endpoint; print('openai' in sys.modules, 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False False\n"
