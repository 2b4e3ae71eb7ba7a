"""Start, drain and stop of a server process, and a restart under clients that try again only once."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from fastcable._deadlines import Deadlines
from tests.harness import CLOSE, PATIENCE, TEXT, UPGRADE, Client, LocalServer, ServerProcess, frame
from tests.swarm import Member, Swarm

if TYPE_CHECKING:
    from fastcable._deadlines import Waiting

RETRY_AFTER = 3.0
"""Seconds after a close at which the simplest clients in the field try again, once."""

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_exactly_one_line_is_logged_at_start(spawn: Callable[..., ServerProcess]) -> None:
    server = spawn()
    with server.connect("s") as client:
        assert server.post({"stream": "s", "data": 1}) == (200, {"subscribers": 1})
        client.expect({"type": "message", "stream": "s", "data": 1})
        assert server.log == [server.line]
    assert server.line.endswith("\n")
    for part in (f"http://127.0.0.1:{server.port}", "/cable", "/_broadcast"):
        assert part in server.line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("clients", [0, 20])
def test_with_few_clients_a_signal_ends_it_at_once(
    spawn: Callable[..., ServerProcess], number: signal.Signals, clients: int
) -> None:
    server = spawn("--drain-timeout", str(10 * PATIENCE))
    with Swarm(server.port) as swarm:
        members = swarm.connect(clients, "s")
        server.process.send_signal(number)
        swarm.run_until(lambda: all(member.ended for member in members))
        assert all(member.close_code == 1001 for member in members)
    assert server.wait() == 0


def test_what_was_accepted_reaches_everybody_before_the_close(spawn: Callable[..., ServerProcess]) -> None:
    server = spawn("--ping-interval", "0")
    with Swarm(server.port) as swarm:
        members = swarm.connect(1000, "s")
        batch = [{"stream": "s", "data": [number, "." * 3000]} for number in range(30)]
        assert server.post(batch) == (200, {"subscribers": 30_000})
        server.process.send_signal(signal.SIGTERM)
        swarm.run_until(lambda: all(member.ended for member in members))
        expected = [{"type": "message", **message} for message in batch]
        for member in members:
            assert member.close_code == 1001
            assert member.messages == expected
    assert server.wait() == 0


class Steps(Deadlines):
    """The queue of closing handshakes; counts how many began in each turn of the loop."""

    __slots__ = ("_counting", "_loop", "begun")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(0.0)
        self.begun: list[int] = []
        self._loop = loop
        self._counting = False

    def add(self, item: Waiting, now: float) -> None:
        if not self._counting:
            self._counting = True
            self.begun.append(0)
            self._loop.call_soon(self._turn_ended)
        self.begun[-1] += 1

    def _turn_ended(self) -> None:
        self._counting = False


@pytest.mark.parametrize(
    ("clients", "drain_timeout", "steps"),
    [
        (50, 0.6, [50]),
        (51, 0.6, [50, 1]),
        (400, 0.6, [67, 67, 67, 67, 67, 65]),  # 0.3 s in steps of 0.05 s
        (400, 4.0, [50] * 8),
    ],
)
def test_clients_are_closed_evenly_over_the_drain_time(
    serve: Callable[..., LocalServer], clients: int, drain_timeout: float, steps: list[int]
) -> None:
    server = serve(drain_timeout=drain_timeout)
    counted = server.server.cable.closing = Steps(server.loop)
    with Swarm(server.port) as swarm:
        members = swarm.connect(clients, "s")
        draining = asyncio.run_coroutine_threadsafe(server.server.drain(), server.loop)
        swarm.run_until(draining.done)
        draining.result()
        swarm.run_until(lambda: all(member.ended for member in members))
        assert {member.close_code for member in members} == {1001}
    assert counted.begun == steps


def test_clients_that_ignore_the_close_are_cut_off_at_drain_timeout(spawn: Callable[..., ServerProcess]) -> None:
    server = spawn("--drain-timeout", "0.4", "--close-timeout", "0")
    with Swarm(server.port) as swarm:
        members = swarm.connect(100, "s")
        for member in members:
            member.polite = False
        server.process.send_signal(signal.SIGTERM)
        swarm.run_until(lambda: all(member.ended for member in members))
        assert {member.close_code for member in members} == {1001}
    assert server.wait() == 0


def begin_endless_drain(server: ServerProcess, client: Client) -> None:
    """SIGTERM, and wait until this client, which does not answer it, has got its close frame."""
    server.process.send_signal(signal.SIGTERM)
    assert client.read_close() == (1001, "server stopping")


def test_a_second_signal_ends_it_at_once(spawn: Callable[..., ServerProcess]) -> None:
    server = spawn("--drain-timeout", str(10 * PATIENCE), "--close-timeout", "0")
    with server.connect("s") as client:
        begin_endless_drain(server, client)
        assert server.stop() == 1
        client.read_eof()
    assert any("second signal" in line for line in server.log)


def test_while_draining_nothing_new_is_taken_and_requests_are_finished(spawn: Callable[..., ServerProcess]) -> None:
    server = spawn("--drain-timeout", str(10 * PATIENCE), "--close-timeout", "0")
    body = json.dumps({"stream": "s", "data": 1}).encode()
    with server.connect("s") as client, Client(server.port) as publisher, Client(server.port) as idle:
        publisher.send(
            b"POST /_broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body[:5])
        idle.send(HEALTH)
        assert b" 200 " in idle.read_until(b"}")
        begin_endless_drain(server, client)
        idle.read_eof()
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", server.port)):
            pass
        publisher.send(body[5:])
        head = publisher.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nConnection: close\r\n" in head
        assert publisher.read_until(b"}") == b'{"subscribers":0}'
        publisher.read_eof()
        assert server.process.poll() is None
        client.send_frame(CLOSE, b"\x03\xe9")
        client.read_eof()
    assert server.wait() == 0


class SimpleClients:
    """Clients that try again exactly once, three seconds after the close, and then never."""

    def __init__(self, swarm: Swarm, members: list[Member]) -> None:
        self.swarm = swarm
        self.first = members
        self.second: list[Member] = []
        self._waiting: deque[float] = deque()

    def live(self) -> None:
        """What they do between two looks at their sockets."""
        now = time.monotonic()
        ended = [member for member in self.first if member.ended]
        self.first = [member for member in self.first if not member.ended]
        self._waiting.extend(now + RETRY_AFTER for _ in ended)
        while self._waiting and self._waiting[0] <= now:
            self._waiting.popleft()
            request = frame(TEXT, json.dumps({"type": "subscribe", "stream": "s"}).encode())
            self.second += self.swarm.open(1, UPGRADE + request)

    def until(self, condition: Callable[[], object]) -> None:
        def check() -> object:
            self.live()
            return condition()

        self.swarm.run_until(check)


def test_all_are_back_after_a_restart_under_clients_that_try_again_once(spawn: Callable[..., ServerProcess]) -> None:
    count = 2000
    server = spawn()
    with Swarm(server.port) as swarm:
        clients = SimpleClients(swarm, swarm.connect(count, "s"))
        server.process.send_signal(signal.SIGTERM)
        clients.until(lambda: server.process.poll() is not None)
        assert server.wait() == 0
        successor = spawn(port=server.port)
        clients.until(lambda: len(clients.second) == count)
        clients.until(lambda: all(member.frames or member.ended for member in clients.second))
        assert not any(member.ended for member in clients.second)
        assert successor.post({"stream": "s", "data": "again"}) == (200, {"subscribers": count})
        clients.until(lambda: all(len(member.frames) == 2 for member in clients.second))
        expected = [{"type": "subscribed", "stream": "s"}, {"type": "message", "stream": "s", "data": "again"}]
        assert all(member.messages == expected for member in clients.second)


def test_a_restart_takes_the_port_over_while_old_connections_linger(spawn: Callable[..., ServerProcess]) -> None:
    """The successor need not wait for its predecessor's end, only for its listener's."""
    server = spawn("--drain-timeout", str(10 * PATIENCE), "--close-timeout", "0")
    with server.connect("s") as client:
        begin_endless_drain(server, client)
        successor = spawn(port=server.port)
        with successor.connect("s") as other:
            successor.post({"stream": "s", "data": 1})
            other.expect({"type": "message", "stream": "s", "data": 1})
        client.socket.shutdown(socket.SHUT_WR)
    assert server.wait() == 0
