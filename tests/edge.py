"""A server that may have 256 MB: `python -m tests.edge [--connections N] [--stalled N] [--memory-limit SIZE]`.

All connections are subscribed to one of the rooms, to which messages of 4 KB go on and on; some of them have stopped
reading, and as much waits for each as may wait. What the server then takes is its resident memory and what the kernel
holds in the buffers of its sockets, which a control group (v1) does not charge it. Then more and more stop reading,
until the server has no room for new clients: these it must refuse, and nobody else must notice. At last all read again.

What was found goes into bench/EDGE.md. Both ends are on this machine; `ss` tells what is the server's.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import Machine, this_machine
from bench.peers.peer import BUILD
from bench.process import socket_memory
from tests.crowd import PATIENCE, Asker, Client, Crowd, body
from tests.harness import UPGRADE, ServerProcess
from tests.swarm import Swarm

HERE = Path(__file__).parent.parent / "bench"
CONNECTIONS, STALLED = 19_000, 1_000
MB = 1 << 20
LIMIT = 256 * MB
ROOMS = 20
SIZE = 4096
ROUNDS = 12
"""Of broadcasts, before one looks again."""
NEWCOMERS = 50
PER_ADDRESS = 4000
RECEIVE_BUFFER = 16384
"""Of each client: little waits at its end of a connection, which is on this machine, too."""
WINDOW = 200
"""Clients that are connecting at a time."""


@dataclass
class Sample:
    """Bytes: of the process, and of the buffers of its sockets; `both` is what /proc/net/sockstat tells of all TCP
    sockets of the machine, those of the clients included."""

    rss: int = 0
    kernel: int = 0
    both: int = 0

    @property
    def total(self) -> int:
        return self.rss + self.kernel


@dataclass
class Edge:
    """What a run found."""

    machine: Machine
    date: str
    connections: int
    stalled: int
    limit: int
    size: int = SIZE
    """Of a message, in bytes."""
    empty: Sample = field(default_factory=Sample)
    connected: Sample = field(default_factory=Sample)
    peak: Sample = field(default_factory=Sample)
    """The largest, while `stalled` did not read."""
    posted: int = 0
    more: int = 0
    """Clients that had stopped reading when no new ones were taken any more."""
    refused: int = 0
    full: Sample = field(default_factory=Sample)
    dropped: int = 0
    back: Sample = field(default_factory=Sample)


class Failed(Exception):
    """The server did not do what it has to: what, in one line."""


class Run:
    def __init__(self, edge: Edge, server: ServerProcess, swarm: Swarm, say: Callable[[str], None]) -> None:
        self._edge = edge
        self._pid = server.process.pid
        self._port = server.port
        self._swarm = swarm
        self._say = say
        self._crowd = Crowd(swarm, random.Random(1), ROOMS, 0)
        self._clients: list[Client] = []
        self._stalled = 0
        self._asker = Asker(swarm)

    def measure(self, seconds: float) -> None:
        """Fill it in; for so long there are broadcasts while the first stall. Raises `Failed`."""
        edge = self._edge
        edge.empty = self._sample()
        self._connect(edge.connections)
        edge.connected = self._sample()
        self._say(f"{edge.connections:,} connections: {_shown(edge.connected)}")
        self._stall(edge.stalled)
        end = time.monotonic() + seconds
        while True:
            before = self._dropped()
            self._broadcast()
            edge.posted += ROOMS
            self._look("peak")
            # Once everyone who stalls loses each message, no more can wait for them.
            if time.monotonic() > end and self._dropped() - before >= edge.stalled:
                break
        self._all_is_well()
        self._say(f"{edge.stalled:,} do not read: at most {_shown(edge.peak)}")
        if edge.peak.total >= edge.limit or self._ready() != 200:
            raise Failed(f"{edge.stalled:,} who do not read are too much: {_shown(edge.peak)}")
        self._fill_up()
        self._refuse()
        self._all_is_well()
        edge.dropped = self._dropped()
        self._say(f"{edge.more:,} do not read: new clients are refused at {_shown(edge.full)}")
        for client in self._clients:
            client.resume()
        subscriptions = [each for client in self._clients for each in client.subscriptions.values()]
        end = time.monotonic() + PATIENCE
        self._crowd.run_until(lambda: all(each.complete for each in subscriptions) and self._ready() == 200, end)
        if self._ready() != 200:
            raise Failed("new clients are not taken when all read again")
        self._stalled = 0
        self._connect(NEWCOMERS)
        self._broadcast()
        if gone := sum(not client.connected for client in self._clients):
            raise Failed(f"{gone:,} of {len(self._clients):,} were closed")
        edge.back = self._sample()
        self._say(f"all read again: {_shown(edge.back)}")

    def _connect(self, number: int) -> None:
        """Connect more clients, each subscribed to a room."""
        for index in range(len(self._clients), len(self._clients) + number):
            client = Client(self._crowd, "edge", "simple")
            client.connect(
                self._crowd.steady[index % ROOMS], source=f"127.8.0.{1 + index // PER_ADDRESS}",
                receive_buffer=RECEIVE_BUFFER)
            self._clients.append(client)
            if len(self._clients) % WINDOW == 0:
                self._wait_for_subscriptions()
        self._wait_for_subscriptions()

    def _wait_for_subscriptions(self) -> None:
        last = self._clients[-WINDOW:]
        if not self._crowd.run_until(lambda: all(each.confirmed for each in last), time.monotonic() + PATIENCE):
            raise Failed(f"the server did not take {len(self._clients):,} connections")

    def _broadcast(self) -> None:
        """One message to each room, which all who read must get."""
        ledgers = [(stream, self._crowd.ledgers[stream]) for stream in self._crowd.steady]
        expected = self._crowd.got + len(self._clients) - self._stalled
        for _, ledger in ledgers:
            ledger.posted += 1
        messages = [body(stream, ledger.posted, self._edge.size) for stream, ledger in ledgers]
        if self._ask("POST", "/_broadcast", json.dumps(messages, separators=(",", ":")).encode())[0] != 200:
            raise Failed("a broadcast was refused")
        for _, ledger in ledgers:
            ledger.accepted = ledger.posted
        if not self._crowd.run_until(lambda: self._crowd.got >= expected, time.monotonic() + PATIENCE):
            raise Failed(f"{expected - self._crowd.got:,} of those who read did not get a message")

    def _stall(self, number: int) -> None:
        """Let so many stop reading, those who have already included."""
        for client in self._clients[self._stalled : number]:
            client.stall()
        self._stalled = number

    def _fill_up(self) -> None:
        """More and more stop reading, until the server takes nobody new."""
        edge = self._edge
        edge.more = edge.stalled
        step = max(edge.stalled // 4, 1)
        while self._ready() == 200:
            if edge.more + step > edge.connections * 9 // 10:
                raise Failed(f"{edge.more:,} who do not read are not too much: {_shown(self._sample())}")
            edge.more += step
            self._stall(edge.more)
            for _ in range(ROUNDS):
                self._broadcast()
            self._look("full")

    def _refuse(self) -> None:
        """New clients are told to come later."""
        newcomers = self._swarm.open(NEWCOMERS, UPGRADE)
        self._crowd.run_until(lambda: all(each.head and each.ended for each in newcomers), time.monotonic() + PATIENCE)
        polite = [each.head.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in each.head for each in newcomers]
        if not all(polite):
            raise Failed(f"of {NEWCOMERS} new clients {sum(polite)} were refused")
        self._edge.refused = len(newcomers)
        for _ in range(ROUNDS):
            self._broadcast()
        self._look("full")
        if self._ready() == 200:
            raise Failed("the server is ready for new clients and does not take them")

    def _all_is_well(self) -> None:
        """All are connected, and who reads got everything, once and in order."""
        if gone := sum(not client.connected for client in self._clients):
            raise Failed(f"{gone:,} of {len(self._clients):,} were closed")
        if self._crowd.wrong or self._crowd.missed:
            raise Failed("; ".join([f"{self._crowd.missed:,} messages were lost", *self._crowd.wrong[:3]]))

    def _ask(self, method: str, path: str, content: bytes = b"") -> tuple[int, bytes]:
        self._crowd.carry_out(self._asker.ask(method, path, content))
        assert self._asker.answer is not None
        return self._asker.answer

    def _ready(self) -> int:
        """The status of the readiness probe."""
        return self._ask("GET", "/health/ready")[0]

    def _dropped(self) -> int:
        found = re.search(rb'"drops": ?(\d+)', self._ask("GET", "/_status.json")[1])
        assert found is not None
        return int(found[1])

    def _look(self, name: str) -> None:
        sample = self._sample()
        if sample.total > getattr(self._edge, name).total:
            setattr(self._edge, name, sample)

    def _sample(self) -> Sample:
        with open(f"/proc/{self._pid}/statm") as file:
            rss = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        found = re.search(r"TCP: .* mem (\d+)", Path("/proc/net/sockstat").read_text())
        assert found is not None
        return Sample(rss, socket_memory([self._port]), int(found[1]) * os.sysconf("SC_PAGE_SIZE"))


def _shown(sample: Sample) -> str:
    return (f"{sample.total / MB:.1f} MB, {sample.rss / MB:.1f} MB of it resident and {sample.kernel / MB:.1f} MB in "
            "the buffers of its sockets")


def measure(edge: Edge, seconds: float, say: Callable[[str], None], *options: str) -> None:
    """Fill it in, with further options of the server. Raises `Failed`."""
    # Nobody is cut off while we look.
    given = ["--memory-limit", str(edge.limit), "--write-timeout", "0", "--idle-timeout", "0"]
    with ServerProcess(*given, *options) as server, Swarm(server.port) as swarm:
        Run(edge, server, swarm, say).measure(seconds)


def render(edge: Edge) -> str:
    """The page."""
    machine = edge.machine

    def row(what: str, sample: Sample) -> str:
        return (f"| {what} | {sample.rss / MB:.1f} | {sample.kernel / MB:.1f} | **{sample.total / MB:.1f}** | "
                f"{sample.both / MB:.1f} |")

    table = "\n".join((
        row("nobody is connected", edge.empty),
        row(f"{edge.connections:,} are connected", edge.connected),
        row(f"{edge.stalled:,} of them do not read, at most", edge.peak),
        row(f"{edge.more:,} do not read: no new clients are taken, at most", edge.full),
        row("all read again", edge.back),
    ))
    return f"""# {edge.connections:,} connections in {edge.limit // MB} MB

Written by `python -m tests.edge` on {edge.date} UTC: {machine.cpu}, {machine.cores} cores, {machine.virtualisation}, \
{machine.system}, Linux {machine.kernel}. The server had `memory_limit` = {edge.limit // MB} MiB and no option \
else that concerns memory; `write_timeout` and `idle_timeout` were off, so that nobody was cut off. Each connection \
is subscribed to one of {ROOMS} streams, to which messages of {edge.size:,} bytes went in turn, {edge.posted:,} while \
{edge.stalled:,} clients had stopped reading. Then more stopped, until the server was past 85 % of its limit.

| in MB (2²⁰ bytes) | resident | buffers of its sockets | together | all TCP buffers of the machine |
|---|---|---|---|---|
{table}

All who read got every message; nobody was closed; {edge.dropped:,} messages were dropped for those who did not read. \
Past 85 % of the limit `GET /health/ready` answered 503, and so were {edge.refused} new clients, with `Retry-After`; \
when all read again, new clients were taken.

The buffers of the server's sockets are what `ss -m` shows of them. The last column is `/proc/net/sockstat`, which \
counts both ends of all connections of the machine, other programs' included. Neither has the sockets themselves, \
some 3 KB each of the kernel's object caches, which no process is charged for.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.edge", description=__doc__)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--stalled", type=int, default=STALLED)
    parser.add_argument("--memory-limit", type=int, default=LIMIT, metavar="BYTES")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long there are broadcasts at least")
    parser.add_argument("--output", type=Path, help=f"the page; EDGE.md in {HERE.name} for {CONNECTIONS:,} or more")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
    edge = Edge(this_machine(), date, given.connections, given.stalled, given.memory_limit)
    try:
        measure(edge, given.seconds, lambda text: print(text, flush=True))
    except Failed as error:
        print(f"tests.edge: {error}", file=sys.stderr)
        return 1
    if edge.full.total >= edge.limit:
        print(f"tests.edge: the limit was passed: {_shown(edge.full)}", file=sys.stderr)
        return 1
    output = given.output or (HERE if given.connections >= CONNECTIONS else BUILD) / "EDGE.md"
    output.parent.mkdir(exist_ok=True)
    output.write_text(render(edge))
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
