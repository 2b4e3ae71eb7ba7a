"""The sockets of a switch's members: reading and writing that never waits, and a loop to do it in."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastcable.switch import Switch

if TYPE_CHECKING:
    import asyncio

READ_SIZE = 256 << 10


class Port:
    """One member's socket. That it joins the switch, and leaves it, is the caller's business."""

    __slots__ = ("_switch", "member", "sock")

    def __init__(self, switch: Switch, member: int, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._switch = switch
        self.member = member
        self.sock = sock

    def read(self) -> bool:
        """Hand over what has arrived; False: the other end is closed."""
        try:
            data = self.sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        if data:
            self._switch.feed(self.member, data)
        return bool(data)

    def write(self) -> bool:
        """Send what the socket takes of what waits; False: the other end is closed."""
        switch, member = self._switch, self.member
        try:
            while member in switch.waiting:
                switch.wrote(member, self.sock.sendmsg(switch.pieces(member)))
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        return True


class LoopPorts:
    """The sockets of a switch that runs in an event loop; `on_end` is called with a member that has left, and why:
    None when it closed its socket."""

    def __init__(
        self, switch: Switch, loop: asyncio.AbstractEventLoop, on_end: Callable[[int, str | None], object]
    ) -> None:
        self._switch = switch
        self._loop = loop
        self._on_end = on_end
        self._ports: dict[int, Port] = {}
        self._blocked: set[int] = set()  # waiting for room in their sockets

    def add(self, member: int, sock: socket.socket) -> None:
        """Take over the socket of a member, who joins the switch unless it is there already."""
        if member not in self._switch:
            self._switch.join(member)
        self._ports[member] = Port(self._switch, member, sock)
        self._loop.add_reader(sock.fileno(), self._readable, member)
        self.flush()

    def flush(self) -> None:
        """Write what waits; for whoever told a member something by `Switch.control`."""
        for member in self._switch.waiting - self._blocked:
            self._write(member)

    def close(self) -> None:
        """Let go of all sockets; nobody is told."""
        for member in list(self._ports):
            self._remove(member)

    def _readable(self, member: int) -> None:
        if not self._ports[member].read():
            self._end(member, None)
        for failed, reason in self._switch.take_failed():
            self._end(failed, reason)
        self.flush()

    def _write(self, member: int) -> None:
        port = self._ports[member]
        if not port.write():
            self._end(member, None)
            return
        blocked = member in self._switch.waiting
        if blocked and member not in self._blocked:
            self._blocked.add(member)
            self._loop.add_writer(port.sock.fileno(), self._write, member)
        elif not blocked and member in self._blocked:
            self._blocked.discard(member)
            self._loop.remove_writer(port.sock.fileno())

    def _end(self, member: int, reason: str | None) -> None:
        self._remove(member)
        self._on_end(member, reason)

    def _remove(self, member: int) -> None:
        port = self._ports.pop(member)
        self._loop.remove_reader(port.sock.fileno())
        if member in self._blocked:
            self._blocked.discard(member)
            self._loop.remove_writer(port.sock.fileno())
        self._switch.leave(member)
        with contextlib.suppress(OSError):
            port.sock.close()
