"""User-mode instructions per connection, broadcast and delivery, counted under valgrind's callgrind.

A server runs under callgrind, which counts nothing until the server is warm; then its counter is read before and after
a number of equal steps:

    connect    TCP connection, upgrade, and one subscription
    post       a broadcast by HTTP on a kept connection, to a stream with one subscriber
    deliver    what each further subscriber adds to such a broadcast

Each step is over before the next one begins, so the figures depend neither on the machine's speed nor on its load, but
for what a server does by the clock meanwhile: the bare loops' repeat exactly, fastcable's connect and post to 1 %, its
deliver to 3 instructions. What the kernel does is not in them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from bench.load import Load, LoadError
from bench.machine import raise_descriptor_limit
from bench.peers import PEERS
from bench.peers.peer import Missing, Peer, Target
from bench.process import Failed, Server

PORT = 8300
PATIENCE = 60.0
"""Seconds after which callgrind does not answer any more."""
CONNECTS = 100
BROADCASTS = 400
SUBSCRIBERS = 64
"""As many as fastcable sends to between two looks at the clock: under callgrind its turn may be over by then."""
SIZE = 100
"""Bytes of a broadcast's data."""

COUNTABLE = (
    "fastcable", "fastcable-action-cable", "floor", "floor2", "uvloop", "httptools", "picows", "websockets",
    "starlette",
)
"""Peers of one process that can run under callgrind: Go's runtime and compilers at run time cannot."""

_NO_PINGS = ("--ping-interval", "0", "--actioncable-ping-interval", "0", "--idle-timeout", "0")
QUIET = {"fastcable": _NO_PINGS, "fastcable-action-cable": _NO_PINGS}
"""Options by which a peer does nothing at times of its own; the others have no pings, or theirs are rare enough."""


class Uncountable(Exception):
    """Instructions cannot be counted on this machine: why, in one line."""


@dataclass(frozen=True)
class Instructions:
    connect: float
    post: float
    deliver: float


class Counted:
    """A peer under callgrind. What callgrind knows of each count is left in `output`, for callgrind_annotate."""

    def __init__(self, peer: Peer, port: int, output: Path | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="callgrind-")
        self._path = Path(self._folder.name)
        self._output = output
        self._dumps = 0
        self._vgdb = ("vgdb", f"--vgdb-prefix={self._path / 'vgdb'}")
        valgrind = ("valgrind", "--tool=callgrind", "--instr-atstart=no",
                    f"--callgrind-out-file={self._path / 'out'}", self._vgdb[1])
        self._server = Server(under(peer, *valgrind), port)

    @property
    def target(self) -> Target:
        return self._server.target

    def __enter__(self) -> Self:
        try:
            self._server.__enter__()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.__exit__(*exception)
        self._folder.cleanup()

    def begin(self) -> None:
        """Start to count. Raises `Uncountable`."""
        self._ask("instrumentation", "on")

    def count(self, label: str, steps: Callable[[], object]) -> int:
        """The instructions of all the server's threads while `steps` runs."""
        before = self._total()
        steps()
        count = self._total() - before
        if self._output is not None:
            self._ask("dump", label)
            self._dumps += 1
            profile = (self._path / f"out.{self._dumps}").read_bytes()
            self._output.mkdir(parents=True, exist_ok=True)
            (self._output / f"{label}.callgrind").write_bytes(profile)
        return count

    def _total(self) -> int:
        status = self._ask("status", "internal")
        return sum(map(int, re.findall(r"^events-\d+: (\d+)$", status, re.MULTILINE)))

    def _ask(self, *command: str) -> str:
        try:
            asked = subprocess.run(
                [*self._vgdb, *command], text=True, capture_output=True, check=True, timeout=PATIENCE)
        except subprocess.CalledProcessError as error:
            self._server.check()
            raise Uncountable(f"callgrind does not answer: {error.stderr.strip()}") from None
        except subprocess.TimeoutExpired:
            raise Uncountable("callgrind does not answer") from None
        return asked.stdout


def under(peer: Peer, *tool: str) -> Peer:
    """A peer of one process as a tool runs it, doing nothing at times of its own."""

    def commands(port: int) -> list[list[str]]:
        (command,) = peer.commands(port)
        return [[*tool, *command, *QUIET.get(peer.key, ())]]

    # Equal hashes, so that the same dicts collide each time.
    environment = {**peer.environment, "PYTHONHASHSEED": "0"}
    return replace(peer, key=f"{peer.key}-{Path(tool[0]).name}", commands=commands, environment=environment)


def connect(load: Load, group: str, count: int) -> None:
    """Let clients connect and subscribe, each when the one before has."""
    load.command("connect", group=group, count=count, window=1)


def broadcast(load: Load, group: str, count: int) -> None:
    """Post to a group's stream, each time when all have the message before."""
    load.command("fanout", group=group, size=SIZE, seconds=0, min=count, max=count, window=1)


def measure(peer: Peer, port: int, output: Path | None = None) -> Instructions:
    """Count those of one of the `COUNTABLE`, which is installed. Raises `Uncountable`, `Failed` and `LoadError`."""
    with Counted(peer, port, output) as server, Load(server.target) as load:
        connect(load, "one", 1)
        connect(load, "many", SUBSCRIBERS)
        broadcast(load, "one", 20)
        broadcast(load, "many", 20)
        server.begin()
        post = server.count("post", lambda: broadcast(load, "one", BROADCASTS)) / BROADCASTS
        many = server.count("deliver", lambda: broadcast(load, "many", BROADCASTS)) / BROADCASTS
        connected = server.count("connect", lambda: connect(load, "new", CONNECTS)) / CONNECTS
    return Instructions(connect=connected, post=post, deliver=(many - post) / (SUBSCRIBERS - 1))


def main(arguments: Sequence[str] | None = None) -> int:
    countable = {peer.key: peer for peer in PEERS if peer.key in COUNTABLE}
    parser = argparse.ArgumentParser(
        prog="python -m bench.instructions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(countable)}")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--output", type=Path, help="folder for callgrind_annotate's input: PEER/connect.callgrind, …")
    options = parser.parse_args(arguments)
    if unknown := [key for key in options.peers if key not in countable]:
        parser.error(f"unknown: {unknown[0]}; there are {', '.join(countable)}")
    raise_descriptor_limit()
    print(f"{'':12}{'connect':>10}{'post':>10}{'deliver':>10}")
    for key in options.peers or countable:
        try:
            countable[key].install()
            found = measure(countable[key], options.port, options.output and options.output / key)
        except (Missing, Uncountable, Failed, LoadError) as error:
            print(f"{key:12}{error}")
        else:
            print(f"{key:12}{found.connect:10.0f}{found.post:10.0f}{found.deliver:10.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
