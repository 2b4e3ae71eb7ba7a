"""Clients that others wrote, end to end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import websockets
from playwright.sync_api import Page, sync_playwright
from websockets.sync.client import connect

from tests.harness import PATIENCE, LocalServer, Serve

JS = Path(__file__).parent / "js"
SUBSCRIBE = '{"type":"subscribe","stream":"news"}'
SUBSCRIBED = '{"type":"subscribed","stream":"news"}'


def message(data: object) -> str:
    return '{"type":"message","stream":"news","data":' + json.dumps(data) + "}"


@pytest.fixture
def server(serve: Serve) -> LocalServer:
    return serve(host=("localhost",), ticking=False)


def needs(program: str) -> str:
    path = shutil.which(program)
    assert path, f"these tests need {program}"
    return path


# websockets for Python

each_compression = pytest.mark.parametrize("compression", ["deflate", None], ids=["deflate-offered", "plain"])


@each_compression
def test_websockets_with_asyncio(server: LocalServer, compression: str | None) -> None:
    async def session() -> None:
        url = f"ws://localhost:{server.port}/cable"
        async with websockets.connect(url, compression=compression) as client:
            assert client.protocol.extensions == []
            await client.send(SUBSCRIBE)
            assert await client.recv() == SUBSCRIBED
            posted = await asyncio.to_thread(server.post, {"stream": "news", "data": "hello"})
            assert posted == (200, {"subscribers": 1})
            assert await client.recv() == message("hello")
            await (await client.ping(b"x"))
            await client.send(part for part in ('{"type":"sub', 'scribe",', '"stream":"news"}'))
            assert await client.recv() == SUBSCRIBED
            server.publish("news", "x" * 500_000)
            assert await client.recv() == message("x" * 500_000)
        assert (client.close_code, client.close_reason) == (1000, "")

    asyncio.run(session())
    server.wait_for_connections(0)


@each_compression
def test_websockets_with_threads(server: LocalServer, compression: str | None) -> None:
    with connect(f"ws://localhost:{server.port}/cable", compression=compression) as client:
        client.send(SUBSCRIBE)
        assert client.recv() == SUBSCRIBED
        server.publish("news", [1, 2])
        assert client.recv() == message([1, 2])
        assert client.ping().wait(PATIENCE)
    assert client.close_code == 1000


@pytest.mark.parametrize(
    ("data", "code", "reason"), [(b"binary", 1003, "text frames only"), ("x" * 200_000, 1009, "message too large")])
def test_websockets_understands_why_it_is_closed(server: LocalServer, data: Any, code: int, reason: str) -> None:
    with connect(f"ws://localhost:{server.port}/cable") as client:
        client.send(data)
        with pytest.raises(websockets.ConnectionClosedError):
            client.recv()
    assert (client.close_code, client.close_reason) == (code, reason)


def test_websockets_answers_our_close(server: LocalServer) -> None:
    with connect(f"ws://localhost:{server.port}/cable") as client:
        client.send(SUBSCRIBE)
        assert client.recv() == SUBSCRIBED
        server.call(server.connection().close, 1001, "server stopping")
        with pytest.raises(websockets.ConnectionClosedOK):
            client.recv()
        server.wait_for_connections(0)


# ws for Node


class Output:
    """What a program prints, read in a thread of its own until it ends."""

    def __init__(self, descriptor: int) -> None:
        self.text = ""
        self._descriptor = descriptor
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: how a terminal says that nobody has it open any more
            while data := os.read(self._descriptor, 65536):
                with self._changed:
                    self.text += data.decode(errors="replace")
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, text: str, count: int = 1) -> None:
        with self._changed:
            found = self._changed.wait_for(lambda: self.text.count(text) >= count or self._ended, PATIENCE)
        assert found, self.text
        assert self.text.count(text) >= count, self.text

    def join(self) -> str:
        self._thread.join()
        return self.text


@pytest.mark.parametrize("deflate", ["true", "false"], ids=["deflate-offered", "plain"])
def test_ws_for_node(server: LocalServer, deflate: str) -> None:
    process = subprocess.Popen(
        [needs("node"), JS / "peers" / "ws.mjs", f"ws://localhost:{server.port}/cable", "news", deflate],
        stdout=subprocess.PIPE, cwd=JS)
    assert process.stdout is not None
    with process, contextlib.closing(process.stdout) as stdout:
        output = Output(stdout.fileno())
        try:
            output.wait_for(SUBSCRIBED)
            assert server.post({"stream": "news", "data": {"a": [1]}}) == (200, {"subscribers": 1})
            output.wait_for('"data"')
            server.call(server.connection().close, 4000, "bye ✓")
            output.wait_for("close")
        finally:
            process.kill()
            text = output.join()
    assert text.splitlines() == [
        "open extensions=", f"text {SUBSCRIBED}", 'text {"type":"message","stream":"news","data":{"a": [1]}}',
        "close 4000 bye ✓"]


# wscat in a terminal, curl


class Terminal:
    """A program in a terminal, to type to and to read from."""

    def __init__(self, *command: str) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200"})
        os.close(slave)
        self.output = Output(self._master)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self.output.join()
        os.close(self._master)

    def type(self, line: str) -> None:
        select.select([], [self._master], [], PATIENCE)
        os.write(self._master, line.encode() + b"\r")

    def interrupt(self) -> int:
        """Control-C; the exit code."""
        os.write(self._master, b"\x03")
        return self._process.wait(PATIENCE)


@pytest.fixture
def wscat(server: LocalServer) -> Iterator[Terminal]:
    with open_wscat(server) as terminal:
        yield terminal


def open_wscat(server: LocalServer) -> Terminal:
    program = JS / "node_modules" / ".bin" / "wscat"
    assert program.exists(), "its package is missing: run `npm ci` in tests/js"
    return Terminal(needs("node"), str(program), "-c", f"ws://localhost:{server.port}/cable")


def curl(*arguments: str) -> str:
    return subprocess.run(
        [needs("curl"), "--silent", "--show-error", "--max-time", f"{PATIENCE:.0f}", *arguments],
        capture_output=True, text=True, check=True).stdout


def test_wscat_and_curl_as_in_the_manual(server: LocalServer, wscat: Terminal) -> None:
    wscat.output.wait_for("Connected (press CTRL+C to quit)")
    wscat.type('{"type":"subscribe","stream":"test"}')
    wscat.output.wait_for('< {"type":"subscribed","stream":"test"}')
    answer = curl(
        "-X", "POST", f"http://localhost:{server.port}/_broadcast", "-H", "Content-Type: application/json",
        "-d", '{"stream":"test","data":"hello world"}')
    assert answer == '{"subscribers":1}'
    wscat.output.wait_for('< {"type":"message","stream":"test","data":"hello world"}')
    wscat.interrupt()
    server.wait_for_connections(0)
    assert "Disconnected" not in wscat.output.text


def test_a_wscat_that_says_nothing_stays_connected(serve: Serve) -> None:
    """Eight pings are two idle timeouts and more; it answers none of them, but the WebSocket pings."""
    server = serve(host=("localhost",), ping_interval=0.25, idle_timeout=1.0)
    with open_wscat(server) as wscat:
        wscat.output.wait_for("Connected")
        wscat.type(SUBSCRIBE)
        wscat.output.wait_for(SUBSCRIBED)
        wscat.output.wait_for('< {"type":"ping"}', count=9)
        curl("-X", "POST", f"http://localhost:{server.port}/_broadcast", "-H", "Content-Type: application/json",
             "-d", '{"stream":"news","data":"still there"}')
        wscat.output.wait_for(message("still there"))
        assert "Disconnected" not in wscat.output.text


def test_wscat_shows_why_it_is_closed(server: LocalServer, wscat: Terminal) -> None:
    wscat.output.wait_for("Connected")
    for number in range(1, 34):
        wscat.type("hello")
        wscat.output.wait_for('< {"type":"error","reason":"not valid JSON"}', count=number)
    wscat.output.wait_for('Disconnected (code: 1008, reason: "too many bad commands")')


def test_curl_asks_for_health(server: LocalServer) -> None:
    assert curl(f"http://localhost:{server.port}/health") == '{"status":"ok"}'
    assert curl("--ipv4", f"http://localhost:{server.port}/health") == '{"status":"ok"}'
    assert curl("--ipv6", f"http://localhost:{server.port}/health") == '{"status":"ok"}'
    head = curl("--head", f"http://localhost:{server.port}/health")
    assert head.startswith("HTTP/1.1 200 ")


def test_curl_may_send_a_batch_in_chunks(server: LocalServer) -> None:
    with server.connect("news") as client:
        answer = curl(
            "-H", "Transfer-Encoding: chunked", "-H", "Content-Type: application/json",
            "-d", '[{"stream":"news","data":1},{"stream":"news","data":2}]', f"http://localhost:{server.port}/_broadcast")
        assert answer == '{"subscribers":2}'
        client.expect(json.loads(message(1)), json.loads(message(2)))


# A browser's own WebSocket


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=needs("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                  "--disable-background-networking", "--disable-component-update", "--disable-sync"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        yield page
        browser.close()


OPEN = """
([port, protocols]) => {
  window.log = [];
  window.socket = new WebSocket(`ws://localhost:${port}/cable`, protocols);
  socket.onopen = () => log.push(`open extensions=${socket.extensions} protocol=${socket.protocol}`);
  socket.onmessage = ({ data }) => log.push(data);
  socket.onclose = ({ code, reason, wasClean }) => log.push(`close ${code} ${reason} ${wasClean}`);
}
"""


@pytest.fixture
def page(browser_page: Page, server: LocalServer) -> Page:
    """A page of the server itself with an open WebSocket."""
    browser_page.goto(f"http://localhost:{server.port}/health")
    browser_page.evaluate(OPEN, [server.port, []])
    assert logged(browser_page, 1) == ["open extensions= protocol="]
    return browser_page


def logged(page: Page, count: int) -> Any:
    """Everything that happened, as soon as it is so much."""
    page.wait_for_function("count => log.length >= count", arg=count)
    return page.evaluate("log")


def wait_for_goodbye(server: LocalServer) -> None:
    """Of the WebSocket only: browsers keep HTTP connections open."""
    server.wait_until(lambda: not server.server.cable.connections)


def test_a_browser_subscribes_and_gets_messages(server: LocalServer, page: Page) -> None:
    page.evaluate("text => socket.send(text)", SUBSCRIBE)
    assert logged(page, 2)[1:] == [SUBSCRIBED]
    assert server.post({"stream": "news", "data": "Grüße 🌭"})[1] == {"subscribers": 1}
    server.publish("news", "x" * 500_000)
    texts = logged(page, 4)[2:]
    assert [json.loads(text)["data"] for text in texts] == ["Grüße 🌭", "x" * 500_000]
    page.evaluate("socket.close(4001, 'bye')")
    assert logged(page, 5)[4:] == ["close 4001  true"]
    wait_for_goodbye(server)


def test_a_browser_is_told_why_it_is_closed(server: LocalServer, page: Page) -> None:
    server.call(server.connection().close, 4000, "genug ✓")
    assert logged(page, 2)[1:] == ["close 4000 genug ✓ true"]
    wait_for_goodbye(server)


def test_a_browser_that_sends_binary_learns_that_text_is_meant(page: Page) -> None:
    page.evaluate("socket.send(new Uint8Array([1, 2, 3]))")
    assert logged(page, 2)[1:] == ["close 1003 text frames only true"]


def test_a_browser_that_sends_too_much_still_reads_the_close_frame(page: Page) -> None:
    page.evaluate("for (let i = 0; i < 8; i++) socket.send('x'.repeat(1 << 18))")
    assert logged(page, 2)[1].startswith("close 1009 message too large ")


def test_a_browser_that_leaves_is_gone(server: LocalServer, page: Page) -> None:
    page.goto("about:blank")
    wait_for_goodbye(server)
