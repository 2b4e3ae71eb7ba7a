"""What systemd hands over and wants to be told: sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3), without
their library.

The sockets are systemd's: it opened them, keeps them when we end, and starts the next server when somebody connects.
The variables that tell of them are for one process only, the one whose id is LISTEN_PID, and are taken out of the
environment with the sockets, so that nobody started from here takes them for its own.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field

from fastcable.options import is_loopback
from fastcable.settings import OPTIONS, Settings

FIRST_DESCRIPTOR = 3
MOST_DESCRIPTORS = 1024
BROADCAST = "broadcast"
"""FileDescriptorName= of the sockets for the broadcast endpoint; all others are for the cable."""


class NotFit(Exception):
    """One line for the user: why what was handed over cannot be listened on."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """Listening sockets that systemd opened."""

    cable: list[socket.socket] = field(default_factory=list)
    broadcast: list[socket.socket] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.cable or self.broadcast)

    def close(self) -> None:
        for sock in (*self.cable, *self.broadcast):
            sock.close()


def inherited(environ: MutableMapping[str, str] = os.environ) -> Inherited:
    """The sockets that were handed to this process, none if they are somebody else's. Raises `NotFit`."""
    pid, count, names = (environ.get(f"LISTEN_{what}") for what in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not count:
        return Inherited()
    for what in ("PID", "FDS", "FDNAMES"):
        environ.pop(f"LISTEN_{what}", None)
    if not count.isdecimal() or not count.isascii() or int(count) > MOST_DESCRIPTORS:
        raise NotFit(f"LISTEN_FDS: expected a whole number up to {MOST_DESCRIPTORS}, got {count[:20]!r}")
    named = names.split(":") if names else []
    taken = Inherited()
    try:
        for index in range(int(count)):
            name = named[index] if index < len(named) else "unknown"
            sock = _listening(FIRST_DESCRIPTOR + index, name)
            (taken.broadcast if name == BROADCAST else taken.cable).append(sock)
    except BaseException:
        taken.close()
        raise
    return taken


def _listening(descriptor: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise NotFit(f"descriptor {descriptor} ({name!r}) from systemd: {error.strerror}") from error
    if (
        sock.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
        and sock.type == socket.SOCK_STREAM
        and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        return sock
    sock.close()
    raise NotFit(f"descriptor {descriptor} ({name!r}) from systemd is no socket to accept connections from: "
                        "expected ListenStream= and Accept=no")


def doubts(settings: Settings, inherited: Inherited) -> Iterator[str]:
    """Warnings: which options do not count for what was handed over, or for want of it. Raises `NotFit` where they ask
    for something else."""
    if not inherited:
        if settings.exit_when_idle:
            yield ("exit_when_idle does not apply: the sockets are not systemd's, so nobody would start the server "
                   "again")
        return
    if not inherited.cable:
        raise NotFit(f"systemd opened sockets for broadcasts only (FileDescriptorName={BROADCAST}), none for the cable")
    if settings.uds:
        raise NotFit("uds cannot be combined with sockets that systemd opened")
    if settings.broadcast_listen and not inherited.broadcast:
        raise NotFit(f"broadcast_listen cannot be combined with sockets that systemd opened, of which none is for "
                     f"broadcasts (FileDescriptorName={BROADCAST})")
    given = [name for name in ("host", "port", "broadcast_listen")
             if getattr(settings, name) != OPTIONS[name].default]
    if given:
        yield f"systemd opened the sockets to listen on, so this does not apply: {', '.join(given)}"
    if not settings.allowed_origins and not all(map(_is_local, inherited.cable)):
        yield "allowed_origins is not set: pages of every site may connect"


def _is_local(sock: socket.socket) -> bool:
    return sock.family == socket.AF_UNIX or is_loopback(sock.getsockname()[0])


# ---------------------------------------------------------------------------------------------------------------------
# Telling systemd


def notify(*lines: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """Tell systemd, if it asked to be told (Type=notify): `READY=1`, `STATUS=…`. Never waits and never fails."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = f"\0{path[1:]}" if path[0] == "@" else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto("\n".join(lines).encode(), address)


def watchdog_seconds(pid: int | None = None, environ: MutableMapping[str, str] = os.environ) -> float | None:
    """After how long without a sign of life systemd ends a process (WatchdogSec=), this one if none is given; None: it
    does not."""
    microseconds, me = environ.get("WATCHDOG_USEC", ""), str(pid or os.getpid())
    if environ.get("WATCHDOG_PID", me) != me or not (microseconds.isdecimal() and microseconds.isascii()):
        return None
    return int(microseconds) / 1e6 or None


class Watchdog:
    """Says with the beats of a clock, four times in `seconds`, that we are alive. A loop that hangs has no beats, so
    the process is ended and started again."""

    __slots__ = ("_due", "_every", "_tell")

    def __init__(self, seconds: float, tell: Callable[[], None]) -> None:
        self._every = seconds / 4
        self._tell = tell
        self._due = 0.0

    def __call__(self, now: float) -> None:
        if now >= self._due:
            self._due = now + self._every
            self._tell()
