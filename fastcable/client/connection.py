"""One connection to a broadcast endpoint, on a non-blocking socket, plain or with TLS.

What would block waits for a `Waits`: the one of `Publisher` blocks the thread, the one of `AsyncPublisher` suspends the
task. Every wait has a deadline, on the clock of `time.monotonic`, and raises TimeoutError when it is over.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from typing import TYPE_CHECKING, Any, Protocol

from fastcable.client.endpoint import Endpoint

if TYPE_CHECKING:
    import ssl

IDLE_SECONDS = 30.0
"""A kept connection is given up after this, well before the server's keepalive_timeout (75 s) or a proxy's (60 s)."""

RECEIVE_BYTES = 16 * 1024

Address = tuple[int, Any]
"""A family and what `socket.connect` takes for it."""


class Waits(Protocol):
    async def resolve(self, host: str, port: int, deadline: float) -> list[Address]:
        """The addresses of a name. Raises OSError."""

    async def ready(self, sock: socket.socket, *, write: bool, deadline: float) -> None:
        """Returns when a read or a write would not block."""


class Secure:
    """Makes TLS of sockets; `ssl` and its 4 MB are only loaded by the first."""

    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None

    async def handshake(self, sock: socket.socket, host: str, waits: Waits, deadline: float) -> ssl.SSLSocket:
        import ssl

        if self._context is None:
            self._context = ssl.create_default_context()
        try:
            secured = self._context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
            sock = secured
            while True:
                try:
                    secured.do_handshake()
                except ssl.SSLWantReadError:
                    await waits.ready(secured, write=False, deadline=deadline)
                except ssl.SSLWantWriteError:
                    await waits.ready(secured, write=True, deadline=deadline)
                else:
                    return secured
        except BaseException:
            sock.close()
            raise


class Connection:
    """An open connection, for one exchange at a time."""

    __slots__ = ("_idle_since", "_process", "_socket")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._process = process()
        self._idle_since = 0.0

    def rest(self) -> None:
        """It is kept from now on."""
        self._idle_since = time.monotonic()

    @property
    def ours(self) -> bool:
        """There was no fork since it was opened: after one, two processes would write to it."""
        return self._process == process()

    @property
    def fresh(self) -> bool:
        """It is kept for so short a time that the server has no reason to close it now."""
        return time.monotonic() - self._idle_since < IDLE_SECONDS

    @property
    def silent(self) -> bool:
        """Nothing came: no end, which means that the server closed it, and no bytes, which nobody has asked for."""
        readable = select.poll()
        readable.register(self._socket, select.POLLIN)
        return not readable.poll(0)

    def close(self) -> None:
        self._socket.close()

    async def send(self, data: bytes, waits: Waits, deadline: float) -> None:
        """Returns when the last byte is handed to the kernel; when it raises OSError, that one was not."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except OSError as error:
                await waits.ready(self._socket, write=_would_block(error), deadline=deadline)

    async def receive(self, waits: Waits, deadline: float) -> bytes:
        """The next bytes; none at the end."""
        while True:
            try:
                return self._socket.recv(RECEIVE_BYTES)
            except OSError as error:
                await waits.ready(self._socket, write=_would_block(error, write=False), deadline=deadline)


def _would_block(error: OSError, *, write: bool = True) -> bool:
    """Whether to wait for writing rather than reading (TLS may want either) after an error; raises any other."""
    if isinstance(error, BlockingIOError):
        return write
    wanted = type(error).__name__  # without loading ssl
    if wanted in ("SSLWantReadError", "SSLWantWriteError"):
        return wanted == "SSLWantWriteError"
    raise error


async def connect(
    endpoint: Endpoint, secure: Secure, waits: Waits, seconds: float, deadline: float
) -> Connection:
    """Try the addresses of the endpoint, each for so many seconds. Raises the last one's OSError."""
    addresses: list[Address]
    if endpoint.path:
        addresses = [(socket.AF_UNIX, endpoint.path)]
    else:
        addresses = await waits.resolve(endpoint.host, endpoint.port, deadline)
    failure: OSError = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    for family, address in addresses:
        until = min(deadline, time.monotonic() + seconds)
        try:
            sock = await _connect(family, address, waits, until)
            if endpoint.secure:
                sock = await secure.handshake(sock, endpoint.host, waits, until)
        except OSError as error:
            failure = error
        else:
            return Connection(sock)
    raise failure


async def _connect(family: int, address: Any, waits: Waits, deadline: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(address)
        if code == errno.EINPROGRESS:
            await waits.ready(sock, write=True, deadline=deadline)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


# Forks are counted, so that the parent does not go on with a connection that its child has, too; the process id is
# compared as well, because programs that embed Python may fork without telling it.

_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(before=_count_fork)


def process() -> tuple[int, int]:
    """Differs before and after a fork, in the parent and in the child."""
    return os.getpid(), _forks
