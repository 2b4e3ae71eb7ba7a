"""Connections that are held: `python -m bench.holder PORT NUMBER`, one process of several.

Theory of operation. Each client subscribes to the stream `all`, answers pings, and counts the broadcasts that it gets:
the n-th has the data n, so one that comes again or is left out shows. A client that the server closes with 1001 is back
at once, one that is refused (503) within the second or two that follow, as browsers would be:

    CONNECTING → SUBSCRIBING (handshake and command are out) → SUBSCRIBED → CLOSING (the server's close frame is
    answered) → CONNECTING …

Lines on stdin tell how many clients there are to be; lines on stdout tell, at most five times a second and only when
something has changed, a `State` as JSON. Everything waits in one epoll, so that pings are answered whatever happens.

The sources are the addresses 127.NUMBER.0.1 and up, 4,096 connections each: from one address there are not more ports
than 28,232 to one server, and connect() gets slow when half of them are in use.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import select
import signal
import socket
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field

from bench.machine import raise_descriptor_limit

WINDOW = 128
"""Clients that are between connecting and being subscribed, at most."""
PER_ADDRESS = 4096
TELL_SECONDS = 0.2
RETRY_SECONDS = 1.0
STREAM = "all"

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
CONNECTING, SUBSCRIBING, SUBSCRIBED, CLOSING = range(4)
RESTARTED = "1001"
REFUSED = "503"
_IP_BIND_ADDRESS_NO_PORT = 24


def masked(opcode: int, payload: bytes) -> bytes:
    """Masked with zeros, which the server cannot tell from any other mask."""
    assert len(payload) < 126
    return bytes((0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload


HELLO = (
    b"GET /cable HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
) + masked(TEXT, b'{"type":"subscribe","stream":"%s"}' % STREAM.encode())
SUBSCRIBED_TEXT = b'{"type":"subscribed","stream":"%s"}' % STREAM.encode()
PING_TEXT = b'{"type":"ping"}'
PING_FRAME = bytes((0x80 | TEXT, len(PING_TEXT))) + PING_TEXT
PONG_FRAME = masked(TEXT, b'{"type":"pong"}')
BEFORE, AFTER = b'{"type":"message","stream":"%s","data":' % STREAM.encode(), b"}"


@dataclass
class State:
    """What a holder tells of itself."""

    subscribed: int = 0
    connects: int = 0
    """Clients that were subscribed, those that came back counted again."""
    got: dict[str, int] = field(default_factory=dict)
    """By the number of a broadcast: how many clients had it."""
    last: float = 0.0
    """When the last delivery was (CLOCK_MONOTONIC)."""
    repeated: int = 0
    """Deliveries of what the client had already."""
    pings: int = 0
    strange: int = 0
    """Frames and answers that are not to be expected."""
    ended: dict[str, int] = field(default_factory=dict)
    """Connections that ended, by the close code or what else it was: 503 is a refusal."""
    cpu: float = 0.0


class Client:
    __slots__ = ("buffer", "close_code", "got", "sock", "state")

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self.state = CONNECTING
        self.got = 0
        """The highest number of a broadcast."""
        self.buffer = b""
        self.close_code = ""


class Holder:
    def __init__(self, port: int, number: int) -> None:
        self._server = ("127.0.0.1", port)
        self._number = number
        # State
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}
        self._waiting: deque[Client] = deque()
        self._later: deque[tuple[float, Client]] = deque()
        self._count = 0
        self._opened = 0
        self._settling = 0
        self._told = State()
        self._next = 0.0
        self._got: Counter[int] = Counter()
        self._ended: Counter[str] = Counter()
        self.state = State()

    def run(self) -> None:
        """Until stdin ends."""
        os.set_blocking(0, False)
        self._epoll.register(0, select.EPOLLIN)
        commands = b""
        while True:
            for fd, events in self._epoll.poll(TELL_SECONDS, 512):
                if fd:
                    self._ready(self._clients[fd], events)
                    continue
                if not (data := os.read(0, 65536)):
                    return
                *lines, commands = (commands + data).split(b"\n")
                for line in lines:
                    self._hold(int(line))
            self._connect_some()
            self._tell()

    def _hold(self, count: int) -> None:
        self._waiting.extend(Client() for _ in range(count - self._count))
        self._count = max(count, self._count)

    def _connect_some(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._waiting.append(self._later.popleft()[1])
        while self._waiting and self._settling < WINDOW:
            self._connect(self._waiting.popleft())

    def _connect(self, client: Client) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        block = self._opened // PER_ADDRESS % 250
        self._opened += 1
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.{self._number}.0.{1 + block}", 0))
        sock.connect_ex(self._server)
        client.sock = sock
        client.state = CONNECTING
        self._settling += 1
        self._clients[sock.fileno()] = client
        self._epoll.register(sock.fileno(), select.EPOLLOUT)

    def _ready(self, client: Client, events: int) -> None:
        assert client.sock is not None
        if client.state == CONNECTING:
            try:
                client.sock.send(HELLO)
            except OSError as error:
                self._end(client, type(error).__name__)
                return
            client.state = SUBSCRIBING
            self._epoll.modify(client.sock.fileno(), select.EPOLLIN)
            return
        try:
            data = client.sock.recv(65536)
        except OSError as error:
            self._end(client, client.close_code or type(error).__name__)
            return
        if data == PING_FRAME and not client.buffer:
            self._pong(client)
        elif data:
            self._read(client, client.buffer + data)
        else:
            self._end(client, client.close_code or "end")

    def _read(self, client: Client, data: bytes) -> None:
        if client.state == SUBSCRIBING and data.startswith(b"HTTP/"):
            head, mark, rest = data.partition(b"\r\n\r\n")
            if not mark:
                client.buffer = data
                return
            status = head[9:12].decode()
            if status != "101":
                self._end(client, status)
                return
            data = rest
        while len(data) >= 2:
            length, start = data[1], 2
            if length == 126:
                length, start = int.from_bytes(data[2:4], "big"), 4
            if len(data) < start + length:
                break
            self._take(client, data[0] & 15, data[start : start + length])
            data = data[start + length :]
        client.buffer = data

    def _take(self, client: Client, opcode: int, payload: bytes) -> None:
        state = self.state
        if payload.startswith(BEFORE) and client.state == SUBSCRIBED:
            number = int(payload[len(BEFORE) : -len(AFTER)])
            if number <= client.got:
                state.repeated += 1
            else:
                client.got = number
                self._got[number] += 1
            state.last = time.monotonic()
        elif payload == PING_TEXT:
            self._pong(client)
        elif opcode == PING:
            self._send(client, masked(PONG, payload))
        elif payload == SUBSCRIBED_TEXT and client.state == SUBSCRIBING:
            client.state = SUBSCRIBED
            self._settling -= 1
            state.subscribed += 1
            state.connects += 1
        elif opcode == CLOSE and client.state == SUBSCRIBED:
            client.close_code = str(int.from_bytes(payload[:2], "big"))
            self._leave(client, CLOSING)
            self._send(client, masked(CLOSE, payload[:2]))
        else:
            state.strange += 1

    def _pong(self, client: Client) -> None:
        self.state.pings += 1
        self._send(client, PONG_FRAME)

    def _send(self, client: Client, data: bytes) -> None:
        """What does not fit or finds nobody shows when the connection ends."""
        assert client.sock is not None
        try:
            client.sock.send(data)
        except OSError:
            self.state.strange += client.state != CLOSING

    def _leave(self, client: Client, state: int) -> None:
        if client.state == SUBSCRIBED:
            self.state.subscribed -= 1
        elif client.state < SUBSCRIBED:
            self._settling -= 1
        client.state = state

    def _end(self, client: Client, how: str) -> None:
        """Come back, at once or later."""
        assert client.sock is not None
        self._leave(client, CONNECTING)
        self._ended[how] += 1
        del self._clients[client.sock.fileno()]
        client.sock.close()
        client.sock, client.buffer, client.close_code = None, b"", ""
        if how == RESTARTED:
            self._waiting.append(client)
        else:
            self._later.append((time.monotonic() + RETRY_SECONDS * (1 + random.random()), client))

    def _tell(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + TELL_SECONDS
        state = dataclasses.replace(
            self.state, got={str(number): count for number, count in self._got.items()}, ended=dict(self._ended),
            cpu=self._told.cpu)
        if state != self._told:
            state.cpu = time.process_time()
            self._told = state
            print(json.dumps(dataclasses.asdict(state)), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    raise_descriptor_limit()
    Holder(int(sys.argv[1]), int(sys.argv[2])).run()
