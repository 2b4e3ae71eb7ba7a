"""`python -m bench.scale`: many connections on one machine over several workers, one broadcast to all, and a restart by
SIGHUP from which all come back; what that takes of memory and CPU goes into SCALE.md.

Nothing is averaged here: it is one run, and a client that misses a broadcast, or gets one twice, is a failure. For
100,000 connections, both ends of which are on this machine, 2 GB of memory must be free.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import http.client
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from bench.holder import STREAM, State
from bench.machine import Machine, raise_descriptor_limit, this_machine
from bench.peers.peer import BUILD, Peer
from bench.process import Failed, Memory, Server, Usage
from bench.progress import Progress, clock

HERE = Path(__file__).parent
PORT = 4390
CONNECTIONS = 100_000
PER_HOLDER = 19_000
"""Connections of one holder: the usual limit of 20,000 open files less some."""
REPORT_SECONDS = 0.3
"""After which the counts that workers have of each other are up to date."""
LISTENING = "listens on"
"""What a server says once all its workers listen."""
KB, MB = 1024, 1 << 20


@dataclass
class Picture:
    """The machine at one moment; memory in bytes, CPU in seconds since the server's start."""

    server: Memory
    processes: int
    usage: Usage
    slab: int
    socket_pages: int
    available: int


@dataclass
class Scale:
    """What a run found."""

    machine: Machine
    date: str
    connections: int
    workers: int
    holders: int
    reload_drain: float
    before: Picture | None = None
    held: Picture | None = None
    connect_seconds: float = 0.0
    shares: list[int] = field(default_factory=list)
    """Connections of each worker."""
    idle_seconds: float = 0.0
    idle_cpu: float = 0.0
    pings: int = 0
    broadcasts: list[Broadcast] = field(default_factory=list)
    reload: Reload | None = None


@dataclass
class Broadcast:
    """Seconds; `answer` and `last` from just before the post."""

    subscribers: int
    answer: float
    last: float
    cpu: Usage


@dataclass
class Reload:
    seconds: float
    back: float
    """Seconds from the signal until the last client was subscribed anew."""
    cpu: Usage
    connects: int
    ended: dict[str, int]
    peak: Memory
    peak_processes: int
    least_connected: int
    shares: list[int]


class Holders:
    """The processes that hold the clients' ends."""

    def __init__(self, port: int, count: int, progress: Progress) -> None:
        self._command = [sys.executable, "-m", "bench.holder", str(port)]
        self._count = count
        self._progress = progress
        self._processes: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()
        self._buffers: dict[int, bytes] = {}
        self.states = [State() for _ in range(count)]

    def __enter__(self) -> Self:
        for index in range(self._count):
            process = subprocess.Popen(
                [*self._command, str(1 + index)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HERE.parent,
                bufsize=0)
            self._processes.append(process)
            assert process.stdout is not None
            self._selector.register(process.stdout, selectors.EVENT_READ, index)
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()
        self._selector.close()

    def hold(self, connections: int) -> None:
        for index, process in enumerate(self._processes):
            share = connections // self._count + (index < connections % self._count)
            assert process.stdin is not None
            process.stdin.write(b"%d\n" % share)

    def until(self, condition: Callable[[], object], done: Callable[[], str], patience: float) -> None:
        """Wait; `patience` is how many seconds may go by without any news."""
        heard = time.monotonic()
        while not condition():
            if self.read(0.2):
                heard = time.monotonic()
                self._progress.detail(done())
            if time.monotonic() - heard > patience:
                raise Failed(f"nothing has changed for {patience:g} s: {done()}; {self.faults() or 'no faults'}")

    def read(self, timeout: float) -> bool:
        """Whether there was any news."""
        ready = self._selector.select(timeout)
        for key, _ in ready:
            data = os.read(key.fd, 1 << 16)
            if not data:
                raise Failed(f"holder {key.data} has ended")
            *lines, self._buffers[key.fd] = (self._buffers.get(key.fd, b"") + data).split(b"\n")
            for line in lines:
                self.states[key.data] = State(**json.loads(line))
        return bool(ready)

    @property
    def subscribed(self) -> int:
        return sum(state.subscribed for state in self.states)

    @property
    def connects(self) -> int:
        return sum(state.connects for state in self.states)

    @property
    def pings(self) -> int:
        return sum(state.pings for state in self.states)

    def got(self, number: int) -> int:
        return sum(state.got.get(str(number), 0) for state in self.states)

    @property
    def last(self) -> float:
        return max(state.last for state in self.states)

    def ended(self) -> Counter[str]:
        return sum((Counter(state.ended) for state in self.states), Counter())

    def faults(self) -> str:
        repeated = sum(state.repeated for state in self.states)
        strange = sum(state.strange for state in self.states)
        return ", ".join(f"{count} {what}" for what, count in (("repeated", repeated), ("strange", strange)) if count)


class Run:
    def __init__(self, scale: Scale, server: Server, holders: Holders, progress: Progress) -> None:
        self._scale = scale
        self._server = server
        self._holders = holders
        self._progress = progress
        self._posted = 0
        self._own_files = 0

    def measure(self) -> None:
        scale, holders = self._scale, self._holders
        self._server.wait_until_logged(LISTENING)
        scale.before = self._picture()
        self._own_files = min(map(_open_files, self._workers()))
        self._progress.step(f"{scale.connections:,} clients connect and subscribe")
        start = time.monotonic()
        holders.hold(scale.connections)
        self._all_subscribed()
        scale.connect_seconds = time.monotonic() - start
        scale.shares = self._shares()
        self._progress.step("nothing but pings")
        scale.held, pings = self._picture(), holders.pings
        start = time.monotonic()
        while (left := start + scale.idle_seconds - time.monotonic()) > 0:
            holders.read(left)
        scale.idle_seconds = time.monotonic() - start
        scale.pings = holders.pings - pings
        scale.idle_cpu = self._server.usage().cpu - scale.held.usage.cpu
        self._progress.step("broadcasts to all")
        for _ in range(3):
            scale.broadcasts.append(self._broadcast())
        self._progress.step(f"SIGHUP, {scale.reload_drain:g} s")
        scale.reload = self._reload()
        self._progress.step("a broadcast to all that came back")
        scale.broadcasts.append(self._broadcast())
        if faults := holders.faults():
            raise Failed(f"of what clients got: {faults}")

    def _all_subscribed(self) -> None:
        holders, count = self._holders, self._scale.connections
        holders.until(
            lambda: holders.subscribed == count, lambda: f"{holders.subscribed:,} of {count:,} are subscribed", 30)

    def _broadcast(self) -> Broadcast:
        """To everybody: each must get it once."""
        holders, count = self._holders, self._scale.connections
        self._posted += 1
        number = self._posted
        time.sleep(REPORT_SECONDS)
        before = self._server.usage()
        start = time.monotonic()
        subscribers = self._post(number)
        answer = time.monotonic() - start
        holders.until(lambda: holders.got(number) >= count, lambda: f"{holders.got(number):,} of {count:,} have it", 15)
        if subscribers != count:
            raise Failed(f"the answer to a post says {subscribers:,} subscribers of {count:,}")
        return Broadcast(subscribers, answer, holders.last - start, self._server.usage() - before)

    def _post(self, number: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.target.port, timeout=10)
        with contextlib.closing(connection):
            body = json.dumps({"stream": STREAM, "data": number})
            connection.request("POST", "/_broadcast", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise Failed(f"a post was answered by {answer.status}: {text.decode()}")
            return int(json.loads(text)["subscribers"])

    def _reload(self) -> Reload:
        holders, scale = self._holders, self._scale
        connects, ended, before = holders.connects, holders.ended(), self._server.usage()
        peak, processes, least = Memory(), 0, scale.connections
        next_look = start = time.monotonic()
        os.kill(self._server.main, signal.SIGHUP)
        while not self._server.logged("reloaded"):
            if holders.read(0.05):
                again = holders.connects - connects
                self._progress.detail(f"{holders.subscribed:,} are subscribed, {again:,} came back")
                least = min(least, holders.subscribed)
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + 1
                self._server.usage()  # so that what those have used who end is known
                now = self._server.memory()
                if now.pss > peak.pss:
                    peak, processes = now, len(self._server.pids())
            if self._server.logged("nothing changed|the old workers stay"):
                raise Failed("the server was not replaced: " + self._server.log.read_text().splitlines()[-1])
        seconds = time.monotonic() - start
        self._all_subscribed()
        back = time.monotonic() - start
        return Reload(
            seconds, back, self._server.usage() - before, holders.connects - connects,
            dict(holders.ended() - ended), peak, processes, least, self._shares())

    def _shares(self) -> list[int]:
        """Connections of each worker: what it has open beyond what it had before anybody came."""
        return [_open_files(pid) - self._own_files for pid in sorted(self._workers())]

    def _workers(self) -> set[int]:
        return self._server.pids() - {self._server.main}

    def _picture(self) -> Picture:
        values = dict(re.findall(r"(\w+): +(\d+) kB", Path("/proc/meminfo").read_text()))
        pages = re.search(r"TCP: .* mem (\d+)", Path("/proc/net/sockstat").read_text())
        return Picture(
            self._server.memory(), len(self._server.pids()), self._server.usage(), int(values["Slab"]) * KB,
            int(pages[1]) if pages else 0, int(values["MemAvailable"]) * KB)


def _open_files(pid: int) -> int:
    return sum(1 for _ in os.scandir(f"/proc/{pid}/fd"))


def fastcable(key: str, *options: str) -> Peer:
    """A server with these options, as the benchmark starts servers, on all cores."""

    def commands(port: int) -> list[list[str]]:
        return [[sys.executable, "-m", "fastcable", "serve", "--host", "127.0.0.1", "--port", str(port), *options]]

    return Peer(key, "fastcable", lambda: None, commands, dict, cores=len(os.sched_getaffinity(0)))


def measure(scale: Scale, port: int, progress: Progress) -> None:
    """Fill it in. Raises `Failed`."""
    peer = fastcable("scale", "--workers", str(scale.workers), "--reload-drain", str(scale.reload_drain))
    server = Server(peer, port)
    with server, Holders(port, scale.holders, progress) as holders:
        Run(scale, server, holders, progress).measure()


def render(scale: Scale) -> str:
    """The page."""
    before, held, reload = scale.before, scale.held, scale.reload
    assert before is not None
    assert held is not None
    assert reload is not None
    count = scale.connections
    mine = held.server.pss - before.server.pss
    slab = held.slab - before.slab
    machine = scale.machine
    ended = ", ".join(f"{number:,} by {how}" for how, number in sorted(reload.ended.items()))
    rows = [
        ("connections, each subscribed to the same stream", f"{count:,}"),
        ("… over workers", f"{scale.workers}, of {min(scale.shares):,} to {max(scale.shares):,}"),
        ("connected and subscribed within", f"{scale.connect_seconds:.0f} s"),
        ("CPU of the server per connect and subscribe", f"{(held.usage - before.usage).cpu / count * 1e6:.0f} µs"),
        ("**memory of the server's processes** (PSS)",
         f"{held.server.pss / MB:.0f} MB, {before.server.pss / MB:.0f} MB with nobody connected"),
        ("… per connection", f"{mine / count / KB:.2f} KB"),
        ("**the kernel's object caches** grew by, for both ends", f"{slab / MB:.0f} MB"),
        ("… per end", f"{slab / count / 2 / KB:.2f} KB"),
        ("socket buffers in use while nothing is sent", f"{held.socket_pages * 4} KB"),
        ("**memory per connection on the server's side**", f"{(mine + slab / 2) / count / KB:.1f} KB"),
        ("available memory went down by, load clients included",
         f"{(before.available - held.available) / MB:.0f} MB"),
        (f"CPU of the server during {scale.idle_seconds:.0f} s of nothing but pings",
         f"{scale.idle_cpu / scale.idle_seconds * 100:.1f} % of a core, "
         f"{scale.idle_cpu / max(scale.pings, 1) * 1e6:.0f} µs per ping and pong"),
    ]
    for index, broadcast in enumerate(scale.broadcasts):
        when = "after the restart" if index == len(scale.broadcasts) - 1 else f"{index + 1}"
        rows.append((
            f"**broadcast to all**, {when}",
            f"answered after {broadcast.answer * 1e3:.0f} ms, the last client had it after "
            f"{broadcast.last * 1e3:,.0f} ms; {broadcast.cpu.cpu / broadcast.subscribers * 1e6:.1f} µs of CPU per "
            "delivery"))
    rows += [
        (f"**restart by SIGHUP**, `reload_drain` {scale.reload_drain:g} s", f"{reload.seconds:.0f} s, the last client "
         f"was back after {reload.back:.0f} s"),
        ("… connections that ended", ended),
        ("… came back (each client at least once)", f"{reload.connects:,}"),
        ("… subscribed at the worst moment", f"{reload.least_connected:,}"),
        ("… memory of the server's processes at most (PSS)",
         f"{reload.peak.pss / MB:.0f} MB, {reload.peak_processes} processes"),
        ("… CPU of the server", f"{reload.cpu.cpu:.1f} s, {reload.cpu.cpu / reload.connects * 1e6:.0f} µs per client "
         "that was closed and came back"),
        ("… connections of the workers afterwards", f"{min(reload.shares):,} to {max(reload.shares):,}"),
    ]
    table = "\n".join(f"| {what} | {figure} |" for what, figure in rows)
    return f"""# {count:,} connections on one machine

Written by `python -m bench.scale` on {scale.date} UTC: {machine.cpu}, {machine.cores} cores, \
{machine.memory / 1024 ** 3:.0f} GB, {machine.virtualisation}, {machine.system}, Linux {machine.kernel}; at most \
{machine.descriptors:,} open files per process. The clients are {scale.holders} processes on the same machine and the \
same cores, so their work is in the times, but not in what is the server's CPU and memory. One run; every client got \
every broadcast exactly once, also after the restart.

| | |
|---|---|
{table}

PSS counts what processes share once. The kernel's object caches hold sockets, files, directory entries and epoll \
entries of both ends alike; of what they grew by, one half is taken as the server's. The kernel counts nothing per \
process there, so what else the machine did meanwhile is in that figure.
"""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise_descriptor_limit()
    scale = Scale(
        this_machine(), datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"), options.connections,
        options.workers, -(-options.connections // PER_HOLDER), options.reload_drain, idle_seconds=options.idle)
    progress = Progress()
    seconds = options.connections / 3000
    progress.expect([1, seconds, options.idle, seconds / 5, seconds + options.reload_drain, seconds / 10])
    progress.step(f"{options.workers} workers start")
    start = time.monotonic()
    try:
        measure(scale, PORT, progress)
    except Failed as error:
        print(f"\nbench.scale: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbench.scale: stopped", file=sys.stderr)
        return 130
    progress.say(f"measured in {clock(time.monotonic() - start)}")
    output = options.output or (HERE if options.connections >= CONNECTIONS else BUILD) / "SCALE.md"
    output.write_text(render(scale))
    print(output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--reload-drain", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("--idle", type=float, default=30.0, metavar="SECONDS", help="how long there are only pings")
    parser.add_argument("--output", type=Path, help=f"the page; SCALE.md in {HERE.name} for {CONNECTIONS:,} or more")
    return parser


if __name__ == "__main__":
    sys.exit(main())
