"""`python -m bench.scaling`: what workers cost and bring, and what a message costs on the bus between them and between
servers; the tables go into SCALING.md.

All servers are up at once and short segments go round among them, so that a slow minute of the machine meets all alike;
figures are medians over the rounds. Nobody is pinned to a core: servers, Redis and the load client share what there is,
so posts per second are those of the whole machine, and CPU per post is what carries over to others.
"""

from __future__ import annotations

import argparse
import datetime
import json
import select
import signal
import socket
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from bench.holder import TEXT, masked
from bench.load import Load, LoadError
from bench.machine import Machine, raise_descriptor_limit, this_machine
from bench.peers.peer import BUILD, Peer
from bench.process import Failed, Server, Usage, memory, usage
from bench.progress import Progress, clock
from bench.results import number
from bench.scale import LISTENING, MB, fastcable

HERE = Path(__file__).parent
PORT = 4340
SIZE = 100
"""Bytes of a message's data."""
BATCH = 100
NODES = (1, 2, 4)
ONE, TWO, FOUR, REDIS, REDIS_TWO = "1 worker", "2 workers", "4 workers", "1 worker, Redis", "2 workers, Redis"
WORKERS = {ONE: 1, TWO: 2, FOUR: 4, REDIS: 1, REDIS_TWO: 2}
SILENT = ("--ping-interval", "0", "--idle-timeout", "0")
PATIENT = ("--max-pending-messages", "0", "--max-pending-bytes", "0")
"""The subscribers here are slow when all share two cores, and none is to be spared a message."""


@dataclass(frozen=True)
class Plan:
    rounds: int = 5
    seconds: float = 1.0
    """Of a segment."""
    subscribers: int = 1000


@dataclass
class Scaling:
    """What a run found: by table, row and figure, a value of each round."""

    machine: Machine
    date: str
    plan: Plan
    values: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, table: str, row: object, **figures: float) -> None:
        for name, value in figures.items():
            self.values[table, str(row), name].append(value)

    def median(self, table: str, row: object, figure: str) -> float:
        return statistics.median(self.values[table, str(row), figure])

    def ratio(self, table: str, row: object, other: object, figure: str) -> float:
        """The median of the rounds' own ratios."""
        mine, its = self.values[table, str(row), figure], self.values[table, str(other), figure]
        return statistics.median(one / two for one, two in zip(mine, its, strict=True))


class Drain:
    """One subscriber on each of some servers, which counts the bytes that come."""

    def __init__(self, ports: Sequence[int], stream: str) -> None:
        self._expected = len(f'{{"type":"message","stream":"{stream}","data":}}') + SIZE + 4
        self._sockets = [_subscribe(port, stream) for port in ports]
        self._received = dict.fromkeys(ports, 0)
        self._ports = {sock.fileno(): port for sock, port in zip(self._sockets, ports, strict=True)}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        for sock in self._sockets:
            sock.close()

    def wait(self, messages: int) -> None:
        """Until each subscriber has so many since the start. Raises `Failed` when they do not come, or more do."""
        end = time.monotonic() + 10
        while (least := min(self._received.values())) < messages * self._expected and time.monotonic() < end:
            time.sleep(0.005)
        for got in (least, max(self._received.values())):
            if got != messages * self._expected:
                raise Failed(f"a subscriber had {got / self._expected:g} messages of {messages}")

    def _read(self) -> None:
        with select.epoll() as epoll:
            for sock in self._sockets:
                epoll.register(sock, select.EPOLLIN)
            while not self._over.is_set():
                for fd, _ in epoll.poll(0.05):
                    sock = next(sock for sock in self._sockets if sock.fileno() == fd)
                    self._received[self._ports[fd]] += len(sock.recv(1 << 20))


def _subscribe(port: int, stream: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.sendall(
        b"GET /cable HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        + masked(TEXT, json.dumps({"type": "subscribe", "stream": stream}).encode()))
    answer = b""
    while b'"subscribed"' not in answer:
        more = sock.recv(65536)
        if not more:
            raise Failed(f"a subscription ended with {answer[:100]!r}")
        answer += more
    return sock


class Rig:
    """A server and the load client that speaks to it."""

    def __init__(self, peer: Peer, port: int, stack: ExitStack) -> None:
        self.port = port
        self.server = stack.enter_context(Server(peer, port))
        self.server.wait_until_logged(LISTENING)
        self.load = stack.enter_context(Load(self.server.target))


class Bus:
    """Redis, and what it has used."""

    def __init__(self, port: int, stack: ExitStack) -> None:
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        peer = Peer("redis", "Redis", lambda: None, lambda _: [command], dict, cores=2)
        self.server = stack.enter_context(Server(peer, port))
        self.url = f"redis://127.0.0.1:{port}"
        self._control = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        self._file = stack.enter_context(self._control.makefile("rb"))

    def cpu(self) -> float:
        return self.server.usage().cpu

    def traffic(self) -> tuple[int, int]:
        """Bytes that Redis has read and written."""
        self._control.sendall(b"INFO stats\r\n")
        text = self._file.read(int(self._file.readline()[1:]) + 2)
        values = dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
        return int(values[b"total_net_input_bytes"]), int(values[b"total_net_output_bytes"])


class Run:
    def __init__(self, scaling: Scaling, ports: Iterator[int], progress: Progress) -> None:
        self._scaling = scaling
        self._plan = scaling.plan
        self._progress = progress
        self._ports = ports

    def measure(self) -> None:
        """Raises `Failed` and `LoadError`."""
        with ExitStack() as stack:
            self._progress.step("servers start")
            redis = Bus(next(self._ports), stack)
            rigs = {}
            for row, workers in WORKERS.items():
                options = ["--workers", str(workers)]
                if "Redis" in row:
                    options += ["--broker", redis.url]
                peer = fastcable(row.replace(" ", "-"), *SILENT, *options)
                rigs[row] = Rig(peer, next(self._ports), stack)
            for row, rig in rigs.items():
                self._idle(row, rig)
                # Streams of its own: those on Redis would hear each other's.
                rig.load.command("connect", group=_group(row, "few"), count=1)
                rig.load.command("connect", group=_group(row, "many"), count=self._plan.subscribers)
            for turn in range(self._plan.rounds):
                self._progress.step(f"workers, round {turn + 1}")
                for batch in (0, BATCH):
                    for row, rig in rigs.items():
                        self._posts(row, rig, redis, batch)
                for row, rig in rigs.items():
                    self._fanout(row, rig, redis)
        with ExitStack() as stack:
            self._progress.step("four servers on one Redis start")
            redis = Bus(next(self._ports), stack)
            nodes = [
                Rig(fastcable(f"node-{index}", *SILENT, *PATIENT, "--broker", redis.url), next(self._ports), stack)
                for index in range(max(NODES))]
            drains = {}
            for count in NODES:
                nodes[0].load.command("connect", group=f"bus{count}", count=1)
                ports = [rig.port for rig in nodes[1:count]]
                drains[count] = stack.enter_context(Drain(ports, f"bus{count}-0")) if ports else None
            posted = dict.fromkeys(NODES, 0)
            for turn in range(self._plan.rounds):
                self._progress.step(f"servers on Redis, round {turn + 1}")
                for batch in (0, BATCH):
                    for count in NODES:
                        posted[count] = self._bus(nodes, redis, count, batch, drains[count], posted[count])

    def _idle(self, row: str, rig: Rig) -> None:
        pids = rig.server.pids()
        self._scaling.add("idle", row, pss=sum(memory(pid).pss for pid in pids) / MB)

    def _posts(self, row: str, rig: Rig, redis: Bus, batch: int) -> None:
        before, at_redis, at_supervisor = rig.server.usage(), redis.cpu(), self._supervisor(row, rig)
        result = rig.load.command(
            "posts", group=_group(row, "few"), size=SIZE, seconds=self._plan.seconds, batch=batch)
        used = rig.server.usage() - before
        messages = int(result["messages"])
        supervisor = self._supervisor(row, rig) - at_supervisor
        self._scaling.add(
            f"posts {batch or 1}", row, rate=messages / result["seconds"],
            workers=(used.cpu - supervisor) / messages * 1e6, supervisor=supervisor / messages * 1e6,
            redis=(redis.cpu() - at_redis) / messages * 1e6)

    def _fanout(self, row: str, rig: Rig, redis: Bus) -> None:
        before, at_redis = rig.server.usage(), redis.cpu()
        result = rig.load.command("fanout", group=_group(row, "many"), size=SIZE, seconds=self._plan.seconds)
        deliveries = int(result["deliveries"])
        self._scaling.add(
            "fanout", row, cpu=(rig.server.usage() - before).cpu / deliveries * 1e6,
            redis=(redis.cpu() - at_redis) / int(result["broadcasts"]) * 1e6, last=result["last"]["p50"] / 1e3)

    def _supervisor(self, row: str, rig: Rig) -> float:
        used = usage(rig.server.main) if WORKERS[row] > 1 else Usage(0, 0, 0)
        if used is None:
            raise Failed(f"{row}: the supervisor has ended")
        return used.cpu

    def _bus(self, nodes: Sequence[Rig], redis: Bus, count: int, batch: int, drain: Drain | None, posted: int) -> int:
        """Post to the first of the servers; returns how many messages there were in all."""
        before = [rig.server.usage() for rig in nodes]
        at_redis, read, written = redis.cpu(), *redis.traffic()
        result = nodes[0].load.command(
            "posts", group=f"bus{count}", size=SIZE, seconds=self._plan.seconds, batch=batch)
        messages = int(result["messages"])
        if drain is not None:
            drain.wait(posted + messages)
        cpu = [(rig.server.usage() - used).cpu / messages * 1e6 for rig, used in zip(nodes, before, strict=True)]
        now_read, now_written = redis.traffic()
        figures = {
            "rate": messages / result["seconds"], "origin": cpu[0], "redis": (redis.cpu() - at_redis) / messages * 1e6,
            "read": (now_read - read) / messages, "written": (now_written - written) / messages}
        if count > 1:
            figures["other"] = statistics.mean(cpu[1:count])
        if count < len(nodes):
            figures["uninvolved"] = statistics.mean(cpu[count:])
        self._scaling.add(f"bus {batch or 1}", count, **figures)
        return posted + messages


def _group(row: str, what: str) -> str:
    return f"{what}_{''.join(letter for letter in row if letter.isalnum())}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *("--:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render(scaling: Scaling) -> str:
    """The page."""
    machine, plan, median = scaling.machine, scaling.plan, scaling.median

    def posts(batch: int) -> str:
        table = f"posts {batch}"
        return _table(
            ["", "messages/s", "… against 1 worker", "µs of CPU per message: workers", "supervisor", "Redis"],
            [[row, number(median(table, row, "rate")), number(scaling.ratio(table, row, ONE, "rate")) + " ×",
              number(median(table, row, "workers")),
              number(median(table, row, "supervisor")) if WORKERS[row] > 1 else "–",
              number(median(table, row, "redis")) if "Redis" in row else "–"] for row in WORKERS])

    def bus(batch: int) -> str:
        table = f"bus {batch}"

        def figure(count: int, name: str) -> str:
            return number(median(table, count, name)) if (table, str(count), name) in scaling.values else "–"

        return _table(
            ["servers with a subscriber", "messages/s", "µs of CPU per message: where it is posted",
             "in each other server", "in a server without a subscriber", "in Redis", "bytes to Redis",
             "bytes from Redis"],
            [[str(count), *(figure(count, name) for name in (
                "rate", "origin", "other", "uninvolved", "redis", "read", "written"))] for count in NODES])

    fanout = _table(
        ["", "µs of CPU per delivery", "… against 1 worker", "last subscriber, p50, ms", "idle, MB (PSS)"],
        [[row, number(median("fanout", row, "cpu")), number(scaling.ratio("fanout", row, ONE, "cpu")) + " ×",
          number(median("fanout", row, "last")), number(median("idle", row, "pss"))] for row in WORKERS])
    return f"""# Workers, and servers on Redis

Written by `python -m bench.scaling` on {scaling.date} UTC: {machine.cpu}, {machine.cores} cores, \
{machine.virtualisation}, {machine.system}, Linux {machine.kernel}. Medians of {plan.rounds} rounds of segments of \
{plan.seconds:g} s that go round among all servers, with messages of {SIZE} bytes. Servers, Redis and the load client \
share the cores, so messages/s are those of the machine with everything on it. Posts come on 16 kept connections, \
which the kernel spreads over the workers as it happens.

## Posting, one message a request

To a stream with one subscriber.

{posts(1)}

## Posting, {BATCH} messages a request

{posts(BATCH)}

## Broadcasts to {plan.subscribers:,} subscribers

The CPU is that of all the server's processes, the kernel's part of sending included; the subscribers are spread over
the workers.

{fanout}

## Servers on one Redis

Posted to one server, one message a request; each server has one worker and one subscriber of the stream, or none.
Bytes are as Redis counts them, without the headers of TCP.

{bus(1)}

{BATCH} messages a request:

{bus(BATCH)}
"""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise_descriptor_limit()
    plan = Plan(options.rounds, options.seconds, options.subscribers)
    scaling = Scaling(this_machine(), datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"), plan)
    progress = Progress()
    first, second = plan.seconds * 3 * len(WORKERS) + 1, plan.seconds * 2 * len(NODES) + 1
    progress.expect([5, *[first] * plan.rounds, 3, *[second] * plan.rounds])
    start = time.monotonic()
    try:
        Run(scaling, iter(range(PORT, PORT + 40)), progress).measure()
    except (Failed, LoadError) as error:
        print(f"\nbench.scaling: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbench.scaling: stopped", file=sys.stderr)
        return 130
    progress.say(f"measured in {clock(time.monotonic() - start)}")
    output = options.output or (HERE if plan == Plan() else BUILD) / "SCALING.md"
    output.write_text(render(scaling))
    print(output)
    return 0


def _parser() -> argparse.ArgumentParser:
    plan = Plan()
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=plan.rounds)
    parser.add_argument("--seconds", type=float, default=plan.seconds, help="of a segment")
    parser.add_argument("--subscribers", type=int, default=plan.subscribers)
    parser.add_argument("--output", type=Path, help=f"the page; SCALING.md in {HERE.name} for a run with defaults")
    return parser


if __name__ == "__main__":
    sys.exit(main())
