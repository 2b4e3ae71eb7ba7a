"""Many clients on one epoll loop: thousands of WebSockets without a thread or a task for each."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Callable
from typing import Any, Self

from fastcable.descriptors import raise_descriptor_limit
from tests.harness import CABLE_UPGRADE, CLOSE, PATIENCE, PING, TEXT, UPGRADE, frame


class Member:
    """One client of a swarm. What it gets after a `head` goes to `received`, which by default sorts it into `frames`,
    without the pings, or, after a head that is no 101, into `body`.

    `ended` is "" while it is connected, then "closed" or "reset". A `polite` one answers the server's close frame.
    """

    __slots__ = ("_buffer", "body", "ended", "frames", "head", "polite", "received", "socket")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.head = b""
        self.body = b""
        self.frames: list[tuple[int, bytes]] = []
        self.ended = ""
        self.polite = True
        self.received: Callable[[bytes], None] = self._collect
        self._buffer = b""

    @property
    def messages(self) -> list[Any]:
        """The text frames so far, decoded."""
        return [json.loads(payload) for opcode, payload in self.frames if opcode == TEXT]

    @property
    def close_code(self) -> int | None:
        """The code of the close frame, which must be the last frame of all; None: there was none."""
        assert all(opcode != CLOSE for opcode, _ in self.frames[:-1])
        if not self.frames or self.frames[-1][0] != CLOSE:
            return None
        return int.from_bytes(self.frames[-1][1][:2], "big")

    @property
    def rest(self) -> bytes:
        """What came of a frame that is not complete."""
        return self._buffer

    def send(self, data: bytes) -> None:
        assert self.socket.send(data) == len(data)

    def command(self, **fields: object) -> None:
        self.send(frame(TEXT, json.dumps(fields).encode()))

    def feed(self, data: bytes) -> None:
        if not self.head:
            head, mark, data = (self._buffer + data).partition(b"\r\n\r\n")
            if not mark:
                self._buffer = head
                return
            self.head, self._buffer = head + mark, b""
        self.received(data)

    def _collect(self, data: bytes) -> None:
        if not self.head.startswith(b"HTTP/1.1 101 "):
            self.body += data
            return
        found, self._buffer = split_frames(self._buffer + data)
        self.frames += [each for each in found if each[0] != PING and not each[1].startswith(b'{"type":"ping"')]
        if self.polite and found and found[-1][0] == CLOSE:
            with contextlib.suppress(OSError):
                self.send(frame(CLOSE, found[-1][1][:2]))


class Swarm:
    """Clients of one server, served by `run_until` and only then."""

    def __init__(self, port: int, *, spread: bool = False) -> None:
        """To `spread` them is to connect each thousand from an address of its own: that of one has too few ports for
        very many, and the kernel looks long for the last ones."""
        raise_descriptor_limit()
        self._port = port
        self._spread = spread
        self._epoll = select.epoll()
        self._members: dict[int, Member] = {}
        self._unsent: dict[int, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for member in list(self._members.values()):
            self.remove(member)
        self._epoll.close()

    def open(self, count: int, request: bytes = b"", *, receive_buffer: int = 0, source: str = "") -> list[Member]:
        """Connect clients that send these bytes first, from the address `source` if it is given."""
        return [self._open(request, receive_buffer, source) for _ in range(count)]

    def connect(self, count: int, *streams: str, receive_buffer: int = 0) -> list[Member]:
        """Connect WebSockets that are subscribed to these streams."""
        commands = [json.dumps({"type": "subscribe", "stream": stream}).encode() for stream in streams]
        request = UPGRADE + b"".join(frame(TEXT, command) for command in commands)
        members = self.open(count, request, receive_buffer=receive_buffer)
        self.run_until(lambda: all(member.head and len(member.frames) == len(streams) for member in members))
        subscribed = [{"type": "subscribed", "stream": stream} for stream in streams]
        for member in members:
            assert member.head.startswith(b"HTTP/1.1 101 "), member.head
            assert member.messages == subscribed
            member.frames.clear()
        return members

    def connect_cable(self, count: int, *identifiers: str, receive_buffer: int = 0) -> list[Member]:
        """Connect clients of Action Cable that have these subscriptions."""
        commands = [json.dumps({"command": "subscribe", "identifier": each}).encode() for each in identifiers]
        request = CABLE_UPGRADE + b"".join(frame(TEXT, command) for command in commands)
        members = self.open(count, request, receive_buffer=receive_buffer)
        self.run_until(lambda: all(len(member.frames) == 1 + len(identifiers) for member in members))
        confirmed = [{"identifier": each, "type": "confirm_subscription"} for each in identifiers]
        for member in members:
            welcome, *answers = member.messages
            assert welcome["type"] == "welcome"
            assert answers == confirmed
            member.frames.clear()
        return members

    def begin(self, request: bytes, *, receive_buffer: int = 0, source: str = "") -> Member:
        """As `open`, of one client; it connects and sends while the others read."""
        member = self._member(receive_buffer, source)
        member.socket.setblocking(False)
        member.socket.connect_ex(("127.0.0.1", self._port))
        self._unsent[member.socket.fileno()] = request
        self._epoll.register(member.socket, select.EPOLLIN | select.EPOLLOUT)
        return member

    def send(self, member: Member, data: bytes) -> None:
        """Send all of it while the others read."""
        fd = member.socket.fileno()
        self._unsent[fd] = self._unsent.get(fd, b"") + data
        self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)

    def stall(self, member: Member) -> None:
        """Let a client stop reading."""
        self._epoll.modify(member.socket, select.EPOLLOUT if member.socket.fileno() in self._unsent else 0)

    def resume(self, member: Member) -> None:
        unsent = member.socket.fileno() in self._unsent
        self._epoll.modify(member.socket, select.EPOLLIN | (select.EPOLLOUT if unsent else 0))

    def remove(self, member: Member) -> None:
        """Hang up, and forget the client."""
        del self._members[member.socket.fileno()]
        self._unsent.pop(member.socket.fileno(), None)
        member.socket.close()

    def run_until(self, condition: Callable[[], object], patience: float = PATIENCE) -> None:
        """Let the clients read until the condition, looked at in each turn, is true."""
        end = time.monotonic() + patience
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError("what must happen has not happened")
            self.turn(0.01)

    def turn(self, timeout: float = 0.0) -> None:
        """Let those clients read for which there is something to read now."""
        for fd, events in self._epoll.poll(timeout, 1024):
            member = self._members[fd]
            if events & select.EPOLLOUT:
                self._go_on_sending(member)
            if events == select.EPOLLOUT:
                continue
            try:
                data = member.socket.recv(65536)
            except BlockingIOError:  # an event of one that is stalled: errors cannot be masked out
                continue
            except OSError:
                self._end(member, "reset")
                continue
            if data:
                member.feed(data)
            else:
                self._end(member, "closed")

    def _go_on_sending(self, member: Member) -> None:
        fd = member.socket.fileno()
        with contextlib.suppress(OSError):  # the next read tells of it
            self._unsent[fd] = self._unsent[fd][member.socket.send(self._unsent[fd]) :]
        if not self._unsent[fd]:
            del self._unsent[fd]
            self.resume(member)

    def _member(self, receive_buffer: int, source: str) -> Member:
        sock = socket.socket()
        if source:
            sock.bind((source, 0))
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if self._spread:
            sock.bind((f"127.19.{len(self._members) // 1000}.1", 0))
        member = Member(sock)
        self._members[sock.fileno()] = member
        return member

    def _open(self, request: bytes, receive_buffer: int, source: str) -> Member:
        member = self._member(receive_buffer, source)
        sock = member.socket
        try:
            sock.settimeout(PATIENCE)
            sock.connect(("127.0.0.1", self._port))
            sock.setblocking(False)
            self._epoll.register(sock, select.EPOLLIN)
            if request:
                member.send(request)
        except ConnectionError:
            self._end(member, "reset")
        return member

    def _end(self, member: Member, how: str) -> None:
        member.ended = how
        self.remove(member)


def split_frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """A server's frames in these bytes, as (opcode, payload), and what is left."""
    frames = []
    at = 0
    while len(data) - at >= 2:
        assert data[at] & 0xF0 == 0x80, "a fragment or reserved bits from the server"
        start, length = at + 2, data[at + 1]
        assert length < 128, "a masked frame from the server"
        if length > 125:
            start += 2 if length == 126 else 8
            if len(data) < start:
                break
            length = int.from_bytes(data[at + 2 : start], "big")
        if len(data) - start < length:
            break
        frames.append((data[at] & 15, data[start : start + length]))
        at = start + length
    return frames, data[at:]
