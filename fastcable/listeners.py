"""The sockets to listen on.

Several processes share a port by sockets of their own (SO_REUSEPORT), among which the kernel divides new connections.
The first of them is opened without, which fails where anybody else listens, and lets others join only then: so a port
is never shared with a stranger. A Unix socket cannot be divided; all accept on the same one, and so they do on sockets
that systemd opened: these are another user's, and are there before and after us.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastcable import systemd
from fastcable.options import split_address
from fastcable.settings import Settings

logger = logging.getLogger("fastcable")

FREE_PORT_ATTEMPTS = 10


class CannotListen(Exception):
    """One line for the user: which address, and what is wrong with it."""


class InUse(CannotListen):
    """Somebody else listens there."""


@dataclass(slots=True)
class Listening:
    """What one process accepts on: sockets of the cable, of a broadcast endpoint and of metrics of their own."""

    cable: list[socket.socket] = field(default_factory=list)
    broadcast: list[socket.socket] = field(default_factory=list)
    metrics: list[socket.socket] = field(default_factory=list)
    kept: bool = field(default=False, kw_only=True)
    """Whether they are systemd's, which keeps them when we end."""
    _suspended: list[tuple[list[socket.socket], int, Any]] = field(default_factory=list, kw_only=True)

    @property
    def sockets(self) -> list[socket.socket]:
        return [*self.cable, *self.broadcast, *self.metrics]

    def names(self) -> str:
        """Where it listens, each address once."""
        return ", ".join(dict.fromkeys(map(name, self.sockets)))

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.cable.clear()
        self.broadcast.clear()
        self.metrics.clear()
        self._suspended.clear()

    def copy(self) -> Listening:
        """The same sockets by descriptors of its own."""
        return Listening(
            *([sock.dup() for sock in sockets] for sockets in (self.cable, self.broadcast, self.metrics)),
            kept=self.kept)

    @property
    def descriptors(self) -> dict[str, Any]:
        return {
            "cable": [sock.fileno() for sock in self.cable], "broadcast": [sock.fileno() for sock in self.broadcast],
            "metrics": [sock.fileno() for sock in self.metrics], "kept": self.kept,
        }

    @classmethod
    def inherited(cls, descriptors: Mapping[str, Any], settings: Settings) -> Listening:
        """What another program, perhaps with other settings, has opened: its `descriptors`."""
        listening = cls(
            *([socket.socket(fileno=each) for each in descriptors.get(kind, ())]
              for kind in ("cable", "broadcast", "metrics")),
            kept=descriptors["kept"])
        for sock in listening.sockets:
            sock.set_inheritable(False)
            _limit_buffers(sock, settings)
        return listening

    def suspend(self) -> None:
        """Close what others, too, have a socket for, that the kernel gives new connections to them only."""
        if self.kept:
            return
        for sockets in (self.cable, self.broadcast, self.metrics):
            for sock in [sock for sock in sockets if sock.family != socket.AF_UNIX]:
                self._suspended.append((sockets, sock.family, sock.getsockname()))
                sockets.remove(sock)
                sock.close()

    def resume(self, settings: Settings) -> None:
        """Open again what was suspended. Raises `CannotListen`."""
        while self._suspended:
            sockets, family, address = self._suspended[-1]
            sockets.append(_bind(family, address, settings, shared=True))
            self._suspended.pop()

    def another(self, settings: Settings) -> Listening:
        """The same addresses once more, for another process. Raises `CannotListen`."""
        if self.kept:
            return self.copy()
        other = Listening()
        try:
            for mine, its in (
                (self.cable, other.cable), (self.broadcast, other.broadcast), (self.metrics, other.metrics),
            ):
                for sock in mine:
                    its.append(_join(sock, settings))
        except BaseException:
            other.close()
            raise
        return other


def together(several: Iterable[Listening]) -> Listening:
    """Several as one, for a process that accepts on all of them."""
    several = list(several)
    joined = Listening(kept=any(listening.kept for listening in several))
    for listening in several:
        joined.cable += listening.cable
        joined.broadcast += listening.broadcast
        joined.metrics += listening.metrics
    return joined


def open_listening(settings: Settings) -> Listening:
    """Those that systemd opened for us, else bound sockets for which nobody else listens. Raises `CannotListen`."""
    listening = _of_systemd(settings)
    if listening is not None:
        listening.metrics += _open_address(settings.metrics_listen, settings)
        return listening
    listening = Listening(open_sockets(settings))
    try:
        listening.broadcast += open_broadcast_sockets(settings)
        listening.metrics += _open_address(settings.metrics_listen, settings)
    except BaseException:
        listening.close()
        remove_path(settings)
        raise
    return listening


def _of_systemd(settings: Settings) -> Listening | None:
    try:
        given = systemd.inherited()
        for warning in systemd.doubts(settings, given):
            logger.warning("%s", warning)
    except systemd.NotFit as error:
        raise CannotListen(str(error)) from error
    if not given:
        return None
    listening = Listening(given.cable, given.broadcast, kept=True)
    for sock in listening.sockets:
        _limit_buffers(sock, settings)
        sock.listen(settings.backlog)  # it listens, but with the Backlog= of its unit
    return listening


def remove_path(settings: Settings) -> None:
    """Remove the Unix socket's file, where there is one: nobody listens there any more."""
    if settings.uds:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(settings.uds)


def open_sockets(settings: Settings) -> list[socket.socket]:
    """Bound sockets for the cable: a Unix socket, or one for each address of `host`. Raises `CannotListen`."""
    if settings.uds:
        return [_bind(socket.AF_UNIX, settings.uds, settings)]
    return _open_hosts(settings.host, settings.port, settings)


def open_broadcast_sockets(settings: Settings) -> list[socket.socket]:
    """Bound sockets for a broadcast endpoint of its own; none when it has none."""
    return _open_address(settings.broadcast_listen, settings)


def _open_address(address: str | None, settings: Settings) -> list[socket.socket]:
    if not address:
        return []
    host, port = split_address(address)
    return _open_hosts((host,), port, settings)


def name(sock: socket.socket) -> str:
    """How a person writes the address of a socket: `http://127.0.0.1:3000`, `http://[::1]:3000`, `unix:/run/x`."""
    address = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{address}"
    host = f"[{address[0]}]" if sock.family == socket.AF_INET6 else address[0]
    return f"http://{host}:{address[1]}"


def _open_hosts(hosts: tuple[str, ...], port: int, settings: Settings) -> list[socket.socket]:
    if port == 0:
        # What is free at the first address need not be free at the others.
        for _ in range(FREE_PORT_ATTEMPTS):
            with contextlib.suppress(InUse):
                return _open_all(hosts, port, settings)
    return _open_all(hosts, port, settings)


def _open_all(hosts: tuple[str, ...], port: int, settings: Settings) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for host in hosts:
            for family, address in _resolve(host, port):
                if port == 0 and sockets:
                    address = (address[0], sockets[0].getsockname()[1], *address[2:])
                try:
                    sockets.append(_bind(family, address, settings))
                except CannotListen as error:
                    # A machine without IPv6 has no ::1, but localhost all the same.
                    missing = isinstance(error.__cause__, OSError) and error.__cause__.errno in (
                        errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
                    if not (host == "localhost" and family == socket.AF_INET6 and missing and sockets):
                        raise
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _resolve(host: str, port: int) -> list[tuple[int, tuple[str, int] | tuple[str, int, int, int]]]:
    if host == "localhost":
        return [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port, 0, 0))]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotListen(f"cannot listen on {host}: {error.strerror}") from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))  # type: ignore[misc]


def _join(sock: socket.socket, settings: Settings) -> socket.socket:
    """One more socket at the address of this one, which is ours."""
    if sock.family == socket.AF_UNIX:
        return sock.dup()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return _bind(sock.family, sock.getsockname(), settings, shared=True)


def _bind(
    family: int, address: str | tuple[str, int] | tuple[str, int, int, int], settings: Settings, *, shared: bool = False
) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise CannotListen(f"cannot listen on {_shown(address)}: {error.strerror}") from error
    try:
        if isinstance(address, str):
            _remove_stale(address)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _limit_buffers(sock, settings)
        sock.bind(address)
        # Already here, because SO_REUSEADDR lets two bind to an address as long as neither listens.
        sock.listen(settings.backlog)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise InUse(f"cannot listen on {_shown(address)}: already in use") from error
        raise CannotListen(f"cannot listen on {_shown(address)}: {error.strerror}") from error
    return sock


def _limit_buffers(sock: socket.socket, settings: Settings) -> None:
    """Inherited by each connection. Left to itself the kernel takes megabytes for a peer that stopped reading, and even
    of this it takes twice as much. What has not been sent yet is cheaper in our own queues, where all who wait for the
    same message share it."""
    if settings.send_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.send_buffer)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, max(settings.send_buffer // 2, 1))


def _shown(address: str | tuple[str, int] | tuple[str, int, int, int]) -> str:
    return address if isinstance(address, str) else f"{address[0]} port {address[1]}"


def _remove_stale(path: str) -> None:
    """Remove the socket of a server that was killed; one that answers stays, and binding fails."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)  # a server whose backlog is full would keep us waiting
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    os.unlink(path)
                except BlockingIOError:
                    pass
