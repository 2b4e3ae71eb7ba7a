"""`fastcable publish`: what it makes of arguments and lines, in which batches, and what it reports."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fastcable import Publisher, PublishError, TooLarge
from fastcable.client import publish
from fastcable.client.publish import as_json, batches, lines, publish_batch
from tests.harness import PATIENCE, LocalServer
from tests.peers.broadcast import ACCEPTED, Endpoint, running

ROOT = str(Path(__file__).parent.parent)
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("FASTCABLE_")}


@pytest.fixture
def endpoint() -> Iterator[Callable[..., Endpoint]]:
    """Starts endpoints; `endpoint()` accepts everything with two subscribers."""
    with contextlib.ExitStack() as stack:
        yield lambda *answer: stack.enter_context(running(*answer))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fastcable", "publish", *arguments]


def run(*arguments: str, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command(*arguments), env={**CLEAN, "PYTHONPATH": ROOT, **(env or {})},
                          capture_output=True, timeout=PATIENCE, **options)  # fmt: skip


# --- one message ------------------------------------------------------------------------------------------------------


def test_publisher_sends_one_object_and_returns_the_subscribers(endpoint: Callable[..., Endpoint]) -> None:
    server = endpoint()
    with Publisher(server.url, "hunter2") as publisher:
        assert publisher.broadcast("né\"ws", {"a": [1, None]}) == 2
    headers, body = server.requests.get_nowait()
    assert body == '{"stream":"né\\"ws","data":{"a":[1,null]}}'.encode()
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer hunter2"


def test_no_key_no_header(endpoint: Callable[..., Endpoint]) -> None:
    server = endpoint()
    with Publisher(server.url) as publisher:
        publisher.broadcast("a", 1)
    assert "Authorization" not in server.requests.get_nowait()[0]


def test_a_connection_is_kept(endpoint: Callable[..., Endpoint]) -> None:
    server = endpoint()
    with Publisher(server.url) as publisher:
        for number in range(3):
            publisher.broadcast("a", number)
    assert len(set(server.connections)) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"n":1.50000000000000000000001}', b'{"n":1.50000000000000000000001}'),
        (b" [1, 2] ", b" [1, 2] "),
        (b"123456789012345678901234567890", b"123456789012345678901234567890"),
        (b'"x"', b'"x"'),
        (b"-5", b"-5"),
        (b"null", b"null"),
        (b"hello", b'"hello"'),
        (b"", b'""'),
        (b"NaN", b'"NaN"'),
        (b"{bad", b'"{bad"'),
        (b"1 2", b'"1 2"'),
        (b"tab\there", b'"tab\\there"'),
        (b"\xff", '"\ufffd"'.encode()),
    ],
)
def test_json_stays_as_it_is_and_the_rest_becomes_a_string(text: bytes, expected: bytes) -> None:
    assert as_json(text) == expected


def test_command_prints_the_answer(endpoint: Callable[..., Endpoint]) -> None:
    server = endpoint()
    done = run("news", '{"n":1.50000000000000000000001}', "--url", server.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, b'{"subscribers":2}\n', b"")
    assert server.bodies() == [b'{"stream":"news","data":{"n":1.50000000000000000000001}}']


def test_command_takes_negative_numbers_and_what_looks_like_a_flag(endpoint: Callable[..., Endpoint]) -> None:
    server = endpoint()
    assert run("a", "-5", "--url", server.url).returncode == 0
    assert run("--url", server.url, "--", "a", "--key").returncode == 0
    assert server.messages() == [-5, "--key"]


def test_url_and_key_from_the_environment_and_flags_before_them(endpoint: Callable[..., Endpoint]) -> None:
    server = endpoint()
    env = {"FASTCABLE_BROADCAST_URL": server.url, "FASTCABLE_BROADCAST_KEY": "hunter2"}
    assert run("a", "1", env=env).returncode == 0
    assert run("a", "1", "--key", "other", "--url", server.url, env=env).returncode == 0
    assert [headers["Authorization"] for headers, _ in server.requests.queue] == ["Bearer hunter2", "Bearer other"]


# --- refusals and failures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, b'{"error":"wrong key"}', "401 wrong key"),
        (403, b'{"error":"loopback only"}\n', "403 loopback only"),
        (413, b'{"error":"too large"}', "413 too large"),
        (400, b'{"error":"a\\nb\\u001b[31m"}', "400 a\\nb\\x1b[31m"),
        (502, b"<h1>Bad Gateway</h1>", "502 Bad Gateway"),
        (404, b"[]", "404 Not Found"),
        (302, b"", "302 Found"),
        (200, b"<h1>Welcome</h1>", "not a broadcast endpoint, it answered '<h1>Welcome</h1>'"),
        (200, b'{"ok":true}', "not a broadcast endpoint, it answered '{\"ok\":true}'"),
    ],
)
def test_refusals_are_one_line_with_the_status(
    endpoint: Callable[..., Endpoint], status: int, body: bytes, expected: str
) -> None:
    server = endpoint(lambda _: (status, body))
    with Publisher(server.url) as publisher, pytest.raises(PublishError) as caught:
        publisher.broadcast("a", 1)
    assert str(caught.value) == f"{server.url}: {expected}"
    assert caught.value.status == (0 if status == 200 else status)


def test_command_exits_1_with_the_refusal_and_without_the_key(endpoint: Callable[..., Endpoint]) -> None:
    server = endpoint(lambda _: (401, b'{"error":"wrong key"}'))
    done = run("a", "1", "--url", server.url, "--key", "hunter2")
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", f"{server.url}: 401 wrong key\n".encode())


def test_command_exits_1_when_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/_broadcast"
    done = run("a", "1", "--url", url)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", f"{url}: connection refused\n".encode())


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_an_array_and_one_message_is_not(endpoint: Callable[..., Endpoint]) -> None:
    server = endpoint()
    with Publisher(server.url) as publisher:
        publish_batch(publisher, "a", [b"1", b"2"])
        publish_batch(publisher, "a", [b"3"])
    assert server.bodies() == [b'[{"stream":"a","data":1},{"stream":"a","data":2}]', b'{"stream":"a","data":3}']


def test_a_batch_too_large_for_the_server_is_halved_in_order(endpoint: Callable[..., Endpoint]) -> None:
    server = endpoint(lambda body: (413, b"{}") if body.count(b"stream") > 2 else (200, ACCEPTED))
    with Publisher(server.url) as publisher:
        publish_batch(publisher, "a", [b"%d" % number for number in range(5)])
    taken = [json.loads(body) for body in server.bodies() if body.count(b"stream") <= 2]
    assert [item["data"] for one in taken for item in (one if isinstance(one, list) else [one])] == [0, 1, 2, 3, 4]


def test_a_single_message_too_large_is_refused(endpoint: Callable[..., Endpoint]) -> None:
    server = endpoint(lambda body: (413, b"{}"))
    with Publisher(server.url) as publisher, pytest.raises(TooLarge, match="413"):
        publish_batch(publisher, "a", [b"1", b"2"])


@pytest.mark.parametrize(("count", "sizes"), [(999, [999]), (1000, [1000]), (1001, [1000, 1])])
def test_most_messages_of_a_batch(count: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in batches([b"x"] * count)] == sizes


@pytest.mark.parametrize(("more", "sizes"), [(-1, [2]), (0, [2]), (1, [1, 1])])
def test_most_bytes_of_a_batch(more: int, sizes: list[int]) -> None:
    half = publish.MAX_BATCH_BYTES // 2
    assert [len(batch) for batch in batches([b"x" * half, b"x" * (half + more)])] == sizes


def test_a_message_larger_than_a_batch_goes_alone() -> None:
    large = b"x" * (publish.MAX_BATCH_BYTES + 1)
    assert list(batches([b"a", large, b"b"])) == [[b"a"], [large], [b"b"]]


def test_a_pause_ends_a_batch() -> None:
    assert list(batches([None, b"a", b"b", None, None, b"c"])) == [[b"a", b"b"], [b"c"]]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\nb", [b"a", b"b"]),
        (b"a\r\n\r\nb\r", [b"a", b"", b"b\r"]),
        (b"\n\n", [b"", b""]),
        (b"x" * 200_000 + b"\ny", [b"x" * 200_000, b"y"]),
    ],
)
def test_lines(data: bytes, expected: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(data)
    descriptor = os.open(tmp_path / "input", os.O_RDONLY)
    try:
        assert [line for line in lines(descriptor) if line is not None] == expected
    finally:
        os.close(descriptor)


def test_lines_are_put_together_however_they_are_cut() -> None:
    reader, writer = os.pipe()
    try:
        found = lines(reader)
        for part in (b"on", b"e\ntw"):
            os.write(writer, part)
            assert next(found) == (b"one" if part != b"on" else None)
        assert next(found) is None
        os.write(writer, b"o\n")
        os.close(writer)
        assert list(found) == [b"two"]
    finally:
        os.close(reader)


def test_command_publishes_many_lines_in_order_and_in_few_requests(endpoint: Callable[..., Endpoint]) -> None:
    server = endpoint()
    done = run("a", "-", "--url", server.url, input=b"".join(b"%d\n" % number for number in range(5000)))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert server.messages() == list(range(5000))
    assert len(set(server.connections)) == 1
    assert len(server.connections) < 50


def test_command_publishes_a_line_as_soon_as_the_input_pauses_and_ends_with_ctrl_c(
    endpoint: Callable[..., Endpoint]
) -> None:
    server = endpoint()
    process = subprocess.Popen(command("logs", "-", "--url", server.url), env={**CLEAN, "PYTHONPATH": ROOT},
                               stdin=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdin is not None
    with process:
        for text in (b"one", b"two"):
            process.stdin.write(text + b"\n")
            process.stdin.flush()
            _, body = server.requests.get(timeout=PATIENCE)
            assert body == b'{"stream":"logs","data":"%s"}' % text
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, errors) == (130, b"")


def test_command_stops_at_the_first_refused_line(endpoint: Callable[..., Endpoint]) -> None:
    server = endpoint(lambda body: (403, b'{"error":"no"}'))
    done = run("a", "-", "--url", server.url, input=b"1\n" * 3000)
    assert (done.returncode, done.stderr) == (1, f"{server.url}: 403 no\n".encode())
    assert len(server.connections) == 1


def test_command_whose_input_cannot_be_read() -> None:
    with open(os.devnull, "wb") as unreadable:
        done = run("a", "-", stdin=unreadable)
    assert (done.returncode, done.stderr) == (1, b"standard input: bad file descriptor\n")


def test_command_whose_output_nobody_reads(endpoint: Callable[..., Endpoint]) -> None:
    server = endpoint()
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command("a", "1", "--url", server.url), env={**CLEAN, "PYTHONPATH": ROOT}, stdout=writer,
                          stderr=subprocess.PIPE, timeout=PATIENCE)  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr, server.messages()) == (0, b"", [1])


# --- the real server --------------------------------------------------------------------------------------------------


def test_with_the_real_server(serve: Callable[..., LocalServer]) -> None:
    server = serve(broadcast_key="hunter2", max_broadcast_size=2000, max_batch=100)
    url = f"http://127.0.0.1:{server.port}/_broadcast"
    with server.connect("a") as client:
        with Publisher(url, "hunter2") as publisher:
            assert publisher.broadcast("a", "x") == 1
            client.expect({"type": "message", "stream": "a", "data": "x"})
            publish_batch(publisher, "a", [b"%d" % number for number in range(100)])
            for number in range(100):
                client.expect({"type": "message", "stream": "a", "data": number})
            with pytest.raises(PublishError, match="413"):
                publisher.broadcast("a", "x" * 2000)
        with Publisher(url, "wrong") as publisher, pytest.raises(PublishError, match="401"):
            publisher.broadcast("a", 1)
