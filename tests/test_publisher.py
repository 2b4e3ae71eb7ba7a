"""`Publisher` and `AsyncPublisher`: the API, failures of every kind, and that nothing is ever published twice.

Most tests run with both, the latter on both loops.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import enum
import json
import logging
import pickle
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import orjson
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastcable
from fastcable import (
    AsyncPublisher,
    BadData,
    BadStream,
    Publisher,
    PublishError,
    Refused,
    TooLarge,
    Unanswered,
    Unreachable,
    cli,
)
from fastcable.client import kept
from fastcable.client.answer import MAX_HEAD
from fastcable.client.endpoint import DEFAULT_URL
from fastcable.client.posting import Posting
from tests.harness import PATIENCE, LocalServer, Serve, Spawn
from tests.peers.broadcast import ACCEPTED, Act, Endpoint, Script, answer, running, wait_for_close
from tests.peers.certificate import CERTIFICATE

LARGE = "x" * 50_000_000  # more than sockets hold
ROOT = str(Path(__file__).parent.parent)


class Awaited:
    """An `AsyncPublisher` with `Publisher`'s calls, each in a loop of its own."""

    def __init__(self, run: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        self.publisher = AsyncPublisher(*arguments, **options)
        self._run = run

    def broadcast(self, *arguments: Any, **options: Any) -> int:
        return int(self._run(self.publisher.broadcast(*arguments, **options)))

    def broadcast_many(self, *arguments: Any, **options: Any) -> int:
        return int(self._run(self.publisher.broadcast_many(*arguments, **options)))

    def close(self) -> None:
        self._run(self.publisher.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


Make = Callable[..., Publisher | Awaited]

KINDS: dict[str, Make] = {
    "sync": lambda *a, **o: Publisher(*a, **{"timeout": PATIENCE, **o}),
    "asyncio": lambda *a, **o: Awaited(asyncio.run, *a, **{"timeout": PATIENCE, **o}),
    "uvloop": lambda *a, **o: Awaited(uvloop.run, *a, **{"timeout": PATIENCE, **o}),
}


@pytest.fixture(params=KINDS)
def publishers(request: pytest.FixtureRequest) -> Make:
    """Makes publishers of each kind. Their time-outs are those of the tests."""
    return KINDS[request.param]


def posting(publisher: Publisher | Awaited) -> Posting:
    return publisher.publisher if isinstance(publisher, Awaited) else publisher


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with running() as endpoint:
        yield endpoint


# --- what is sent -----------------------------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Score:
    heat: int
    at: datetime.datetime


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("text", b'"text"'),
        ('{"a":1}', b'"{\\"a\\":1}"'),
        ({"heat": 4}, b'{"heat":4}'),
        ([1, 2.5, None, True], b"[1,2.5,null,true]"),
        (None, b"null"),
        (Score(4, datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)),
         b'{"heat":4,"at":"2026-01-02T03:04:05+00:00"}'),
        (uuid.UUID(int=5), b'"00000000-0000-0000-0000-000000000005"'),
        (datetime.date(2026, 1, 2), b'"2026-01-02"'),
        (Color.RED, b'"red"'),
        ({1: 2, Color.RED: 3, uuid.UUID(int=5): 4}, b'{"1":2,"red":3,"00000000-0000-0000-0000-000000000005":4}'),
        (float("nan"), b"null"),
        pytest.param(orjson.Fragment(b"1.50000000000000000000000001"), b"1.50000000000000000000000001", id="fragment"),
    ],
    ids=str,
)  # fmt: skip
def test_data_is_written_as_json(endpoint: Endpoint, data: object, expected: bytes) -> None:
    with Publisher(endpoint.url) as publisher:
        assert publisher.broadcast("a", data) == 2
    assert endpoint.bodies() == [b'{"stream":"a","data":%b}' % expected]


def test_a_request(endpoint: Endpoint, publishers: Make) -> None:
    with publishers(endpoint.url, "hunter2") as publisher:
        assert publisher.broadcast('né"ws', 1) == 2
    headers, body = endpoint.requests.get_nowait()
    assert body == '{"stream":"né\\"ws","data":1}'.encode()
    assert headers.items() == [
        ("Host", endpoint.url.split("/")[2]), ("Authorization", "Bearer hunter2"), ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, b""),
        ({"retain": False, "exclude": None}, b""),
        ({"retain": True}, b',"retain":true'),
        ({"exclude": "x1"}, b',"exclude":"x1"'),
        ({"exclude": ""}, b""),
        ({"retain": True, "exclude": "x1"}, b',"retain":true,"exclude":"x1"'),
    ],
    ids=str,
)
def test_retain_and_exclude_are_sent_when_they_are_given(
    endpoint: Endpoint, options: dict[str, Any], expected: bytes
) -> None:
    with Publisher(endpoint.url) as publisher:
        publisher.broadcast("a", 1, **options)
        publisher.broadcast_many([("a", 1), ("b", 2)], **options)
    one, two = (b'{"stream":"%b","data":%b%b}' % (*item, expected) for item in ((b"a", b"1"), (b"b", b"2")))
    assert endpoint.bodies() == [one, b"[%b,%b]" % (one, two)]


def test_many_are_one_request_and_none_is_none(endpoint: Endpoint, publishers: Make) -> None:
    with publishers(endpoint.url) as publisher:
        assert publisher.broadcast_many((name, 1) for name in "abc") == 2
        assert publisher.broadcast_many([]) == 0
    assert [len(json.loads(body)) for body in endpoint.bodies()] == [3]


def test_many_with_a_bad_one_are_not_sent(endpoint: Endpoint, publishers: Make) -> None:
    with publishers(endpoint.url) as publisher, pytest.raises(BadStream):
        publisher.broadcast_many([("a", 1), ("", 2)])
    assert endpoint.bodies() == []


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        ("", "stream must not be empty, got ''"),
        ("a\nb", r"stream must not contain control characters, got 'a\nb'"),
        ("\ud800", r"stream must not contain lone surrogates, got '\ud800'"),
        (5, "stream must be a string, got '5'"),
        ("é" * 128, f"stream must be at most 255 bytes of UTF-8, got '{'é' * 128}'"),
    ],
    ids=["empty", "control", "surrogate", "number", "long"],
)
def test_names_that_are_none_are_not_sent(endpoint: Endpoint, stream: Any, problem: str) -> None:
    with Publisher(endpoint.url) as publisher, pytest.raises(BadStream) as caught:
        publisher.broadcast(stream, 1)
    assert str(caught.value) == problem
    assert isinstance(caught.value, ValueError)
    assert endpoint.bodies() == []


@pytest.mark.parametrize("size", [254, 255])
def test_the_longest_names_are_sent(endpoint: Endpoint, size: int) -> None:
    with Publisher(endpoint.url) as publisher:
        assert publisher.broadcast("x" * size, 1) == 2


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (Decimal(1), "Type is not JSON serializable: decimal.Decimal"),
        ({"a": object()}, "Type is not JSON serializable: object"),
        (b"bytes", "Type is not JSON serializable: bytes"),
        (1 << 64, "Integer exceeds 64-bit range"),
        ("\ud800", "str is not valid UTF-8: surrogates not allowed"),
        ({(1,): 2}, "Dict key must a type serializable with OPT_NON_STR_KEYS"),
    ],
    ids=["Decimal", "object", "bytes", "65 bits", "surrogate", "key"],
)
def test_data_that_is_no_json_is_an_error_that_names_the_stream(endpoint: Endpoint, data: object, problem: str) -> None:
    with Publisher(endpoint.url) as publisher, pytest.raises(BadData) as caught:
        publisher.broadcast("scores", data)
    assert str(caught.value) == f"stream 'scores': its data cannot be written as JSON: {problem}"
    assert isinstance(caught.value, TypeError)
    assert endpoint.bodies() == []


# --- where it is sent -------------------------------------------------------------------------------------------------


def test_url_and_key_from_the_environment(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCABLE_BROADCAST_URL", endpoint.url)
    monkeypatch.setenv("FASTCABLE_BROADCAST_KEY", "hunter2")
    with Publisher() as publisher:
        assert publisher.broadcast("a", 1) == 2
    with Publisher(key="") as publisher:
        assert publisher.broadcast("a", 1) == 2
    assert [headers["Authorization"] for headers, _ in endpoint.requests.queue] == ["Bearer hunter2", None]


def test_the_default_is_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCABLE_BROADCAST_URL", "")
    monkeypatch.setenv("FASTCABLE_BROADCAST_KEY", "hunter2")
    assert repr(Publisher()) == f"Publisher('{DEFAULT_URL}')"
    assert cli.PUBLISH_URL == DEFAULT_URL


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"url": "ftp://x"}, "url: expected http://HOST:PORT/PATH, got 'ftp://x'"),
        ({"url": "http://x/a b"}, "url: expected http://HOST:PORT/PATH, got 'http://x/a b'"),
        ({"url": "http://x:y/"}, "url: Port could not be cast to integer value as 'y'"),
        ({"url": "http://me:hunter2@x/"}, "url: must not hold a user name or password"),
        ({"key": "hunter\r\n2"}, "key: must be printable ASCII without spaces or line ends"),
        ({"timeout": 0}, "connect_timeout and timeout must be seconds, above 0 and at most a day"),
        ({"timeout": 86_401}, "connect_timeout and timeout must be seconds, above 0 and at most a day"),
        ({"connect_timeout": float("nan")}, "connect_timeout and timeout must be seconds, above 0 and at most a day"),
        ({"on_error": "ignore"}, "on_error must be 'raise' or 'log', not 'ignore'"),
    ],
    ids=["scheme", "space", "port", "password", "key", "0", "a day", "NaN", "on_error"],
)
def test_bad_arguments_are_named(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        Publisher(**options)
    assert str(caught.value) == problem


def test_bad_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCABLE_BROADCAST_URL", "x")
    with pytest.raises(ValueError, match=r"^FASTCABLE_BROADCAST_URL: expected http://"):
        AsyncPublisher()
    monkeypatch.setenv("FASTCABLE_BROADCAST_URL", "http://x/")
    monkeypatch.setenv("FASTCABLE_BROADCAST_KEY", "hunter 2")
    with pytest.raises(ValueError, match=r"^FASTCABLE_BROADCAST_KEY: must be printable") as caught:
        AsyncPublisher()
    assert "hunter" not in str(caught.value)


def test_the_key_is_shown_nowhere(publishers: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Not even when the server sends it back, as pages that show a request do."""
    echo = b'{"error":"you said Bearer hunter2"}'
    with running(lambda body: (401 if b"refuse" in body else 200, echo)) as endpoint:
        publisher = publishers(endpoint.url, "hunter2")
        for data in ("refuse", "accept"):
            with pytest.raises(PublishError) as caught:
                publisher.broadcast("a", data)
            assert "you said Bearer KEY" in str(caught.value)
            assert "hunter2" not in repr(caught.value)
        inner = posting(publisher)
        assert "hunter2" not in repr(inner) + repr(inner._endpoint)
        publisher.close()
    publisher = publishers(endpoint.url, "hunter2", on_error="log")
    publisher.broadcast("a", 1)
    assert "hunter2" not in caplog.text


def test_a_unix_socket(tmp_path: Path, serve: Serve, publishers: Make) -> None:
    path = str(tmp_path / "socket")
    serve(uds=path)
    with publishers(f"http+unix://{path.replace('/', '%2F')}/_broadcast") as publisher:
        assert publisher.broadcast("a", 1) == publisher.broadcast("a", 1) == 0
    publisher = publishers(f"http+unix://{path.replace('/', '%2F')}.no/_broadcast")
    with pytest.raises(Unreachable, match="no such file or directory"):
        publisher.broadcast("a", 1)


def test_tls(tmp_path: Path, publishers: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pem").write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    with running() as endpoint:
        endpoint.socket = context.wrap_socket(endpoint.socket, server_side=True)
        url = endpoint.url.replace("http:", "https:")
        with pytest.raises(Unreachable, match=r": certificate verify failed: self-signed certificate$"):
            publishers(url).broadcast("a", 1)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "pem"))
        with publishers(url) as publisher:
            assert publisher.broadcast("a", "x" * 3_000_000) == publisher.broadcast("a", 2) == 2
            assert endpoint.connections[0] == endpoint.connections[1]
        plain = publishers(endpoint.url)
        with pytest.raises(Unanswered):
            plain.broadcast("a", 1)


def test_all_addresses_of_a_name_are_tried(endpoint: Endpoint, publishers: Make) -> None:
    """localhost may be ::1 first, where this endpoint is not."""
    with publishers(endpoint.url.replace("127.0.0.1", "localhost")) as publisher:
        assert publisher.broadcast("a", 1) == 2


def test_proxies_of_the_environment_are_not_used(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with Publisher(endpoint.url) as publisher:
        assert publisher.broadcast("a", 1) == 2


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (401, b'{"error":"wrong key"}', Refused, "wrong key"),
        (413, b'{"error":"too large"}', TooLarge, "too large"),
        (400, b'{"error":"a\\nb\\u001b[31m"}', Refused, "a\\nb\\x1b[31m"),
        (502, b"<h1>Bad Gateway</h1>" * 10_000, Refused, "Bad Gateway"),
        (503, b"[]", Refused, "Service Unavailable"),
        (302, b"", Refused, "Found"),
    ],
)
def test_refusals_have_status_and_reason(
    publishers: Make, status: int, body: bytes, kind: type[Refused], reason: str
) -> None:
    with (
        running(lambda _: (status, body)) as endpoint,
        publishers(endpoint.url) as publisher,
        pytest.raises(Refused) as caught,
    ):
        publisher.broadcast("a", 1)
    error = caught.value
    assert (type(error), error.status, error.reason) == (kind, status, reason)
    assert str(error) == f"{endpoint.url}: {status} {reason}"
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.status, copy.reason) == (kind, str(error), status, reason)


def replies(reply: bytes) -> Act:
    def act(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        with contextlib.suppress(OSError):  # it may read no more
            connection.sendall(reply)
            connection.shutdown(socket.SHUT_WR)
            wait_for_close(connection)

    return act


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n" + ACCEPTED,
        b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\nConnection: close\r\n\r\n" + ACCEPTED,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" + ACCEPTED[:5] + b"\r\nc;x=y\r\n" + ACCEPTED[5:]
        + b"\r\n0\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + ACCEPTED,
        b"HTTP/1.0 200 OK\r\n\r\n" + ACCEPTED,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\nContent-Length: 5\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n" + ACCEPTED,
        b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n" + ACCEPTED + b"garbage",
        b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n" + ACCEPTED + b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["length", "close", "chunked", "until the end", "1.0", "1xx before", "garbage behind", "a second answer"],
)  # fmt: skip
def test_answers_of_every_form(publishers: Make, reply: bytes) -> None:
    with Script(replies(reply)) as server, publishers(server.url) as publisher:
        assert publisher.broadcast("a", 1) == 2
        publisher.close()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"", "the connection was closed without an answer"),
        (b"HTTP/1.1 20", "the answer broke off"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "the answer broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "the answer broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", "the answer broke off"),
        (b"SSH-2.0-x\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD, f"the answer's head is larger than {MAX_HEAD} bytes"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_HEAD, f"the answer's head is larger than {MAX_HEAD} bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHello", "not a broadcast endpoint, it answered 'Hello'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + b'{"subscribers":true}',
         "not a broadcast endpoint, it answered '{\"subscribers\":true}'"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (1 << 20), f"not a broadcast endpoint, it answered '{'x' * 200}…'"),
    ],
    ids=["nothing", "half a line", "only 1xx", "half a body", "half of the chunks", "not HTTP", "101", "two lengths",
         "bad chunk", "endless head", "endless 1xx", "another page", "no number", "endless body"],
)  # fmt: skip
def test_bad_answers_are_errors_and_the_request_is_not_repeated(publishers: Make, reply: bytes, expected: str) -> None:
    def act(connection: socket.socket) -> None:
        server.take_one(connection)
        with contextlib.suppress(OSError):  # it may read no more
            connection.sendall(reply)
            connection.shutdown(socket.SHUT_WR)
            wait_for_close(connection)

    with Script(act) as server, publishers(server.url) as publisher:
        with pytest.raises(Unanswered) as caught:
            publisher.broadcast("a", 1)
        assert str(caught.value) == f"{server.url}: {expected}"
    assert server.accepted == 1


@pytest.mark.parametrize("target", ["https://example.com/_broadcast", "/_broadcast/"])
def test_redirects_are_not_followed(publishers: Make, target: str) -> None:
    reply = b"HTTP/1.1 301 Moved Permanently\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % target.encode()
    with Script(replies(reply)) as server, publishers(server.url) as publisher:
        with pytest.raises(Refused, match=f"301 Moved Permanently .to {target}, which is not followed.$"):
            publisher.broadcast("a", 1)
        publisher.close()


# --- time-outs --------------------------------------------------------------------------------------------------------


def trickle(connection: socket.socket) -> None:
    """A head without an end, byte by byte."""
    connection.recv(1 << 16)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    ended = threading.Event()
    try:
        while True:
            connection.sendall(b"X: y\r\n")
            ended.wait(0.01)
    except OSError:
        pass


@pytest.mark.parametrize("act", [wait_for_close, trickle], ids=["silent", "trickling"])
def test_the_deadline_is_that_of_the_whole_call(publishers: Make, act: Act) -> None:
    with (
        Script(act) as server,
        publishers(server.url, timeout=0.5) as publisher,
        pytest.raises(Unanswered, match=r"no answer within 0\.5 s$"),
    ):
        publisher.broadcast("a", 1)
    assert server.accepted == 1


def test_a_server_that_does_not_read_has_not_taken_it(publishers: Make) -> None:
    given_up = threading.Event()

    def act(connection: socket.socket) -> None:
        server.accept_one(connection)
        given_up.wait(PATIENCE)

    with Script(act) as server, publishers(server.url) as publisher:
        publisher.broadcast("a", 1)
        posting(publisher)._timeout = 0.1
        with pytest.raises(Unreachable, match=r"no answer within 0\.1 s$"):
            publisher.broadcast("a", LARGE)
        given_up.set()
    assert server.accepted == 1


def test_connecting_has_a_time_of_its_own(publishers: Make) -> None:
    with socket.socket() as listener:  # whose queue is full
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        try:
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", port))
            publisher = publishers(f"http://127.0.0.1:{port}/", connect_timeout=0.1)
            with pytest.raises(Unreachable, match=r"no connection within 0\.1 s$"):
                publisher.broadcast("a", 1)
        finally:
            for sock in waiting:
                sock.close()


def test_nobody_listens(publishers: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/_broadcast"
    with publishers(url) as publisher, pytest.raises(Unreachable) as caught:
        publisher.broadcast("a", 1)
    assert str(caught.value) == f"{url}: connection refused"
    assert type(pickle.loads(pickle.dumps(caught.value))) is Unreachable


def test_a_name_that_is_none(publishers: Make) -> None:
    with pytest.raises(Unreachable, match=r"not known|failure"):
        publishers("http://no.such.host.invalid/").broadcast("a", 1)


# --- never twice ------------------------------------------------------------------------------------------------------


def test_a_connection_is_kept(endpoint: Endpoint, publishers: Make) -> None:
    with publishers(endpoint.url) as publisher:
        for number in range(3):
            publisher.broadcast("a", number)
    assert len(set(endpoint.connections)) == 1


def close_arrives(publisher: Publisher | Awaited) -> None:
    """Wait until the end of the kept connection can be seen."""
    (connection,) = posting(publisher)._kept._connections
    select.select([connection._socket], [], [], PATIENCE)


def test_a_kept_connection_that_the_server_closed_costs_no_message(publishers: Make) -> None:
    def accept(connection: socket.socket) -> None:
        server.accept_one(connection)

    with Script(accept, accept) as server, publishers(server.url) as publisher:
        assert publisher.broadcast("a", 1) == 2
        close_arrives(publisher)
        assert publisher.broadcast("a", 2) == 2
    assert server.accepted == 2
    assert server.bodies == [b'{"stream":"a","data":1}', b'{"stream":"a","data":2}']


def test_a_kept_connection_with_unasked_bytes_is_not_used(publishers: Make) -> None:
    published = threading.Event()

    def push(connection: socket.socket) -> None:
        server.accept_one(connection)
        published.wait(PATIENCE)
        answer(connection, status="408 Request Timeout")
        wait_for_close(connection)

    with Script(push, lambda connection: server.accept_one(connection)) as server, publishers(server.url) as publisher:
        publisher.broadcast("a", 1)
        published.set()
        close_arrives(publisher)
        publisher.broadcast("a", 2)
    assert len(server.bodies) == 2


@pytest.mark.parametrize(("idle", "accepted"), [(29.9, 1), (30.0, 2), (30.1, 2)])
def test_a_connection_that_was_idle_for_long_is_not_used(
    endpoint: Endpoint, publishers: Make, monkeypatch: pytest.MonkeyPatch, idle: float, accepted: int
) -> None:
    now = 1000.0
    monkeypatch.setattr("fastcable.client.connection.time.monotonic", lambda: now)
    with publishers(endpoint.url) as publisher:
        publisher.broadcast("a", 1)
        now += idle
        publisher.broadcast("a", 2)
    assert len(set(endpoint.connections)) == accepted


def test_an_end_after_the_request_is_not_repeated(publishers: Make) -> None:
    """A server that is killed between publishing and answering looks the same."""

    def take(connection: socket.socket) -> None:
        server.accept_one(connection)
        server.take_one(connection)

    with Script(take) as server, publishers(server.url) as publisher:
        publisher.broadcast("a", 1)
        with pytest.raises(Unanswered, match=r"the connection was closed without an answer$"):
            publisher.broadcast("a", 2)
    assert server.accepted == 1
    assert len(server.bodies) == 2


@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
def test_a_reset_after_the_request_is_not_repeated(publishers: Make, read: bool) -> None:
    """It does not tell whether the request was read."""

    def take(connection: socket.socket) -> None:
        server.accept_one(connection)
        select.select([connection], [], [], PATIENCE)
        if read:
            server.take_one(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with Script(take) as server, publishers(server.url) as publisher:
        publisher.broadcast("a", 1)
        with pytest.raises(Unanswered, match=r"the connection was closed without an answer$"):
            publisher.broadcast("a", 2)
    assert server.accepted == 1


def test_an_answer_that_began_is_not_repeated(publishers: Make) -> None:
    def act(connection: socket.socket) -> None:
        server.accept_one(connection)
        server.take_one(connection)
        connection.sendall(b"H")

    with Script(act) as server, publishers(server.url) as publisher:
        publisher.broadcast("a", 1)
        with pytest.raises(Unanswered, match=r"the answer broke off$"):
            publisher.broadcast("a", 2)
    assert server.accepted == 1


def test_a_request_that_a_kept_connection_did_not_take_whole_is_repeated_once(publishers: Make) -> None:
    def reset(connection: socket.socket) -> None:
        server.accept_one(connection)
        connection.recv(1)  # what is left unread makes the close a reset

    def accept(connection: socket.socket) -> None:
        server.accept_one(connection)

    with Script(reset, accept) as server, publishers(server.url) as publisher:
        publisher.broadcast("a", 1)
        assert publisher.broadcast("a", LARGE) == 2
    assert server.accepted == 2
    assert [len(body) > 1000 for body in server.bodies] == [False, True]


def test_no_second_repeat_and_none_on_a_new_connection(publishers: Make) -> None:
    def reset(connection: socket.socket) -> None:
        server.accept_one(connection)
        connection.recv(1)

    def reset_at_once(connection: socket.socket) -> None:
        connection.recv(1)

    with Script(reset, reset_at_once, reset_at_once) as server, publishers(server.url) as publisher:
        publisher.broadcast("a", 1)
        for _ in range(2):
            with pytest.raises(Unreachable, match=r"the connection was closed before the request was sent$"):
                publisher.broadcast("a", LARGE)
    assert server.accepted == 3
    assert len(server.bodies) == 1


def test_an_early_refusal_is_read_even_when_the_rest_could_not_be_sent(publishers: Make) -> None:
    def act(connection: socket.socket) -> None:
        connection.recv(1)
        answer(connection, b'{"error":"too large"}', "413 Content Too Large")

    with (
        Script(act) as server,
        publishers(server.url) as publisher,
        pytest.raises(TooLarge, match=r"413 too large$"),
    ):
        publisher.broadcast("a", LARGE)


def test_an_early_refusal_of_a_server_that_then_reads_no_more(publishers: Make) -> None:
    refused = threading.Event()

    def act(connection: socket.socket) -> None:
        server.accept_one(connection)
        select.select([connection], [], [], PATIENCE)
        answer(connection, b'{"error":"too large"}', "413 Content Too Large")
        refused.wait(PATIENCE)

    with Script(act) as server, publishers(server.url) as publisher:
        publisher.broadcast("a", 1)
        posting(publisher)._timeout = 0.5
        with pytest.raises(TooLarge):
            publisher.broadcast("a", LARGE)
        refused.set()


def test_a_publisher_goes_on_after_a_failure(publishers: Make) -> None:
    with running(lambda body: (200, ACCEPTED) if b"good" in body else (400, b"{}")) as endpoint:
        with publishers(endpoint.url) as publisher:
            with pytest.raises(Refused):
                publisher.broadcast("a", "bad")
            assert publisher.broadcast("a", "good") == 2
        assert publisher.broadcast("a", "good after close") == 2
        publisher.close()


# --- on_error ---------------------------------------------------------------------------------------------------------


def test_a_lost_message_is_logged_and_breaks_nothing(publishers: Make, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/_broadcast"
    publisher = publishers(url, on_error="log")
    assert publisher.broadcast("a", 1) == 0
    assert publisher.broadcast_many([("a", 1), ("b", 2)]) == 0  # within 10 s: counted, not logged
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("fastcable.publisher", logging.WARNING)
    assert record.getMessage() == f"a message was not published: {url}: connection refused"


@pytest.mark.parametrize(
    ("stream", "data"), [("", 1), ("a", object())], ids=["bad stream", "bad data"]
)
def test_a_message_that_cannot_be_is_logged_too(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture, stream: str, data: object
) -> None:
    assert Publisher(endpoint.url, on_error="log").broadcast(stream, data) == 0
    assert len(caplog.records) == 1


# --- threads, processes, the end --------------------------------------------------------------------------------------


def test_no_more_connections_are_kept_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_KEPT", 2)
    all_there = threading.Barrier(3)

    def together(body: bytes) -> tuple[int, bytes]:
        all_there.wait(PATIENCE)
        return 200, ACCEPTED

    with running(together) as endpoint, Publisher(endpoint.url, timeout=PATIENCE) as publisher:
        threads = [threading.Thread(target=publisher.broadcast, args=("a", 1)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(publisher._kept._connections) == 2
    assert len(publisher._kept._connections) == 0


class Receiver(threading.Thread):
    """Gathers the data of all messages of a stream until its connection ends."""

    def __init__(self, server: Any, stream: str) -> None:
        super().__init__()
        self.client = server.connect(stream)
        self.received: list[Any] = []
        self.start()

    def run(self) -> None:
        while True:
            try:
                opcode, payload = self.client.read_frame()
            except (EOFError, OSError):
                return
            if opcode != 1:
                return
            message = json.loads(payload)
            if message["type"] == "message":
                self.received.append(message["data"])
                if message["data"] == "end":
                    return
            assert message["type"] != "gap"

    def finish(self) -> list[Any]:
        self.join(PATIENCE)
        self.client.close()
        assert not self.is_alive()
        return self.received


THREADS, EACH = 8, 200


def in_order_per_thread(received: list[Any]) -> bool:
    numbers: dict[int, list[int]] = {}
    for thread, number in received:
        numbers.setdefault(thread, []).append(number)
    return all(found == sorted(set(found)) for found in numbers.values())


class Threads:
    """Publish `[thread, number]` messages from several threads at once, and tell which were accepted and which not."""

    def __init__(self, publisher: Publisher) -> None:
        self.sent: list[list[int]] = []
        self.failed: list[list[int]] = []
        self.under_way = threading.Event()
        self.go_on = threading.Event()
        """Awaited after a failure."""
        self._publisher = publisher
        self._threads = [threading.Thread(target=self._work, args=(thread,)) for thread in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def _work(self, thread: int) -> None:
        for number in range(EACH):
            try:
                self._publisher.broadcast("a", [thread, number])
            except PublishError:
                self.failed.append([thread, number])
                self.go_on.wait(PATIENCE)
            else:
                self.sent.append([thread, number])
            if len(self.sent) >= THREADS * EACH // 4:
                self.under_way.set()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
        assert len(self.sent) + len(self.failed) == THREADS * EACH


def test_threads_publish_each_in_its_order_and_lose_nothing(spawn: Spawn) -> None:
    server = spawn("--max-pending-messages", "0")
    receiver = Receiver(server, "a")
    with Publisher(f"http://127.0.0.1:{server.port}/_broadcast", timeout=PATIENCE) as publisher:
        Threads(publisher).join()
        publisher.broadcast("a", "end")
    received = receiver.finish()[:-1]
    assert sorted(received) == [[thread, number] for thread in range(THREADS) for number in range(EACH)]
    assert in_order_per_thread(received)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_restart_in_the_middle_doubles_nothing(spawn: Spawn, number: int) -> None:
    """What was accepted is there, but for what a killed server took with it; what failed is there once or not."""
    server = spawn("--max-pending-messages", "0", "--drain-timeout", "0")
    receiver = Receiver(server, "a")
    with Publisher(f"http://127.0.0.1:{server.port}/_broadcast", timeout=PATIENCE) as publisher:
        threads = Threads(publisher)
        assert threads.under_way.wait(PATIENCE)
        server.stop(number)
        before = receiver.finish()
        successor = spawn("--max-pending-messages", "0", port=server.port)
        second = Receiver(successor, "a")
        threads.go_on.set()
        threads.join()
        publisher.broadcast("a", "end")
    after = second.finish()[:-1]
    received = before + after
    assert after
    assert in_order_per_thread(received)
    assert all(item in threads.sent or item in threads.failed for item in received)
    if number == signal.SIGTERM:
        assert all(item in received for item in threads.sent)


FORK = """
import os, sys
from fastcable import Publisher
publisher = Publisher(sys.argv[1])
publisher.broadcast("a", "before")
child = os.fork()
publisher.broadcast("a", "child" if child == 0 else "parent")
publisher.broadcast("a", "child again" if child == 0 else "parent again")
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-X", "dev", "-W", "error", "-c", program, *arguments], cwd=ROOT,
                          capture_output=True, timeout=PATIENCE, check=False)  # fmt: skip


def test_a_connection_from_before_a_fork_is_used_in_neither_process(endpoint: Endpoint) -> None:
    done = python(FORK, endpoint.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    used: dict[int, list[str]] = {}
    for port, message in zip(endpoint.connections, endpoint.messages(), strict=True):
        used.setdefault(port, []).append(message)
    assert sorted(used.values()) == [["before"], ["child", "child again"], ["parent", "parent again"]]


def test_an_open_publisher_at_the_end_of_a_program_is_no_trouble(endpoint: Endpoint) -> None:
    done = python("import sys, fastcable; p = fastcable.Publisher(sys.argv[1]); print(p.broadcast('a', 1))",
                  endpoint.url)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"2\n", b"")


@pytest.mark.parametrize(
    ("program", "unwanted"),
    [
        ("import fastcable", "fastcable.client orjson logging httptools socket ssl asyncio uvloop"),
        ("from fastcable import Publisher; Publisher()",
         "asyncio uvloop ssl http.client urllib.request email fastcable.server fastcable.settings fastcable._http"),
        ("from fastcable import AsyncPublisher; AsyncPublisher()",
         "uvloop http.client fastcable.server fastcable.settings fastcable._http"),
    ],
)  # fmt: skip
def test_nothing_is_loaded_that_is_not_used(program: str, unwanted: str) -> None:
    done = python(f"{program}\nimport sys; print(*[name for name in {unwanted.split()!r} if name in sys.modules])")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\n", b"")


def test_the_package_offers_what_it_lists() -> None:
    assert set(fastcable.__all__) <= set(dir(fastcable))
    assert all(getattr(fastcable, name).__name__ == name for name in fastcable.__all__)
    with pytest.raises(AttributeError, match="module 'fastcable' has no attribute 'Publsher'"):
        fastcable.Publsher  # type: ignore[attr-defined]  # noqa: B018


# --- the real server --------------------------------------------------------------------------------------------------


def test_with_the_real_server(serve: Serve, publishers: Make) -> None:
    server = serve(ping_interval=0, broadcast_key="hunter2", max_broadcast_size=2000, max_batch=3)
    url = f"http://127.0.0.1:{server.port}/_broadcast"
    with server.connect("a", "b") as client:
        with publishers(url, "hunter2") as publisher:
            assert publisher.broadcast("a", "x") == 1
            client.expect({"type": "message", "stream": "a", "data": "x"})
            assert publisher.broadcast_many([("b", 1), ("a", 2), ("nobody", 3)]) == 2
            client.expect({"type": "message", "stream": "b", "data": 1}, {"type": "message", "stream": "a", "data": 2})
            with pytest.raises(TooLarge, match="413 a batch has at most max_batch"):
                publisher.broadcast_many([("a", 1)] * 4)
            with pytest.raises(TooLarge, match="413 body is larger than max_broadcast_size"):
                publisher.broadcast("a", "x" * 2000)
            assert publisher.broadcast("a", "y") == 1
        with publishers(url, "wrong") as publisher, pytest.raises(Refused, match="401"):
            publisher.broadcast("a", 1)


def test_retain_and_exclude_with_the_real_server(serve: Serve) -> None:
    server = serve(ping_interval=0)
    with (
        Publisher(f"http://127.0.0.1:{server.port}/_broadcast", timeout=PATIENCE) as publisher,
        server.connect("a") as author,
        server.connect("a") as other,
    ):
        author.command(type="hello")
        socket_id = author.receive()["socket"]
        publisher.broadcast("a", "draft", exclude=socket_id)
        publisher.broadcast_many([("a", "old"), ("a", "kept")], retain=True)
        with server.connect("a") as newcomer:
            newcomer.expect({"type": "message", "stream": "a", "data": "kept"})
        author.expect(*({"type": "message", "stream": "a", "data": data} for data in ("old", "kept")))
        other.expect(*({"type": "message", "stream": "a", "data": data} for data in ("draft", "old", "kept")))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=20,
)  # fmt: skip


@pytest.fixture(scope="module")
def wired() -> Iterator[tuple[Publisher, Any]]:
    with (
        LocalServer(ping_interval=0) as server,
        Publisher(f"http://127.0.0.1:{server.port}/_broadcast", timeout=PATIENCE) as publisher,
        server.connect("a") as client,
    ):
        yield publisher, client


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=JSON)
def test_whatever_json_is_published_arrives_equal(wired: tuple[Publisher, Any], data: object) -> None:
    publisher, client = wired
    assert publisher.broadcast("a", data) == 1
    message = client.receive()
    assert message == {"type": "message", "stream": "a", "data": data}
    assert json.dumps(message["data"]) == json.dumps(data)  # 1 is no True and no 1.0
