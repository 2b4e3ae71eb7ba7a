"""What a peer is: a server that does fastcable's job, and how it is installed, started and spoken to."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PEERS = Path(__file__).parent
BUILD = PEERS.parent / ".build"
"""Where everything goes that the benchmark builds or installs."""


class Missing(Exception):
    """A peer cannot be had on this machine: why, in one line."""


@dataclass(frozen=True)
class Target:
    """Where and how a server is spoken to."""

    port: int
    wire: str = "simple"
    """simple, action_cable or centrifugo."""
    path: str = "/cable"
    identifier: str = ""
    """For Action Cable: what the client subscribes with, %s standing for the stream's name."""
    publish: str = "simple"
    """simple, anycable or centrifugo: the form of a broadcast."""
    publish_path: str = "/_broadcast"
    publish_port: int | None = None
    """Where broadcasts are posted; the same port when None."""
    publish_headers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Peer:
    """One server of the comparison.

    `install` makes everything that `commands` needs, below `BUILD`, and raises `Missing` where that cannot be had; it
    must be quick when there is nothing left to do. `commands(port)` are the programs to start, in this order; their
    processes together, children included, are the server. `port + 1` … `port + 3` are theirs, too.
    """

    key: str
    """Short name for the command line: `gorilla`."""
    name: str
    """Name in tables: `Go, gorilla/websocket`."""
    install: Callable[[], None]
    commands: Callable[[int], Sequence[Sequence[str]]]
    versions: Callable[[], Mapping[str, str]]
    """What it is made of, asked after `install`: `{"puma": "5.6.5", …}`."""
    target: Callable[[int], Target] = Target
    environment: Mapping[str, str] = field(default_factory=dict)
    cores: int = 1
    """How many cores it may use."""
    most: int | None = None
    """Connections that it can hold on its cores; what needs more is left out."""
    most_sent: int | None = None
    """Bytes of one broadcast to all its subscribers together; what needs more is left out."""
    burst_connections: int = 0
    """On how many connections a burst is posted to it; 0: one after the other on one, without waiting for answers."""
    skips: Mapping[str, str] = field(default_factory=dict)
    """Workloads that it has no part in, and why: `{"batch": "its API takes one message"}`."""
    note: str = ""
    """What a reader of the tables must know: `compression off, its default is on`."""


def run(command: Sequence[str | Path], what: str, **options: object) -> str:
    """Run a step of an installation; returns its standard output. Raises `Missing` with its last line of complaint."""
    try:
        done = subprocess.run(command, text=True, capture_output=True, check=False, **options)  # type: ignore[call-overload]
    except FileNotFoundError:
        raise Missing(f"{what}: {command[0]} is not installed") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Missing(f"{what}: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return str(done.stdout)
