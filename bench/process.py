"""Servers under test: started, pinned, measured from outside, stopped.

CPU time is the kernel's own accounting of each process (the clock behind `clock_getcpuclockid`), which counts in
nanoseconds; the division into user and system time beside it comes from /proc and is sampled by the timer tick. All
processes that a server starts are the server.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import resource
import select
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.machine import raise_descriptor_limit
from bench.peers.peer import BUILD, Peer

READY_SECONDS = 60.0
STOP_SECONDS = 5.0
LOGS = BUILD / "logs"
_TICKS = os.sysconf("SC_CLK_TCK")
_SKMEM = re.compile(r"skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(\d+),w(\d+),o(\d+),bl(\d+)")


class Failed(Exception):
    """A server did not start, or is no longer there: why, in one line."""


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    rss: int = 0
    pss: int = 0
    private_dirty: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.rss + other.rss, self.pss + other.pss, self.private_dirty + other.private_dirty)


@dataclass(frozen=True)
class Usage:
    """CPU seconds since the start."""

    cpu: float
    user: float
    """Sampled by the timer tick, like `system`; the two need not add up to `cpu`."""
    system: float

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.cpu - other.cpu, self.user - other.user, self.system - other.system)


class Server:
    """A peer's programs, as a context manager: started and listening inside, gone outside."""

    def __init__(self, peer: Peer, port: int) -> None:
        self.peer = peer
        self.target = peer.target(port)
        self.log = LOGS / f"{peer.key}.log"
        self._port = port
        self._started: list[subprocess.Popen[bytes]] = []
        self._last: dict[int, Usage] = {}
        """What each process had used when it was last seen, so that one that ended still counts."""

    def __enter__(self) -> Self:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        cores = server_cores(self.peer.cores)
        environment = {**os.environ, **self.peer.environment}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling at each start leaves a megabyte behind
        environment.setdefault("PYTHONPYCACHEPREFIX", str(BUILD / "pycache"))

        def pin() -> None:
            os.sched_setaffinity(0, cores)
            raise_descriptor_limit()

        try:
            with self.log.open("wb") as log:
                for command in self.peer.commands(self._port):
                    self._started.append(
                        subprocess.Popen(
                            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                            env=environment, start_new_session=True, preexec_fn=pin,
                        )
                    )
            for port in {self.target.port, self.target.publish_port or self.target.port}:
                self._wait_for(port)
        except OSError as error:
            self.stop()
            raise Failed(f"{self.peer.key}: {error}") from error
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all programs, the last started first; those that do not end by themselves are killed."""
        for process in reversed(self._started):
            everyone = descendants({process.pid})
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            for pid in everyone & descendants({process.pid}):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        self._started.clear()

    def pids(self) -> set[int]:
        return descendants({process.pid for process in self._started})

    @property
    def main(self) -> int:
        """The process of the last of the programs."""
        return self._started[-1].pid

    def logged(self, pattern: str) -> bool:
        """Whether the programs have written what matches."""
        return re.search(pattern, self.log.read_text(errors="replace")) is not None

    def wait_until_logged(self, pattern: str) -> None:
        """Raises `Failed` when a program ends first, or it takes too long."""
        end = time.monotonic() + READY_SECONDS
        while not self.logged(pattern):
            self.check()
            if time.monotonic() > end:
                raise Failed(f"{self.peer.key} does not say {pattern!r}: {self._complaint()}")
            time.sleep(0.02)

    def check(self) -> None:
        """Raises `Failed` when one of the programs has ended."""
        for process in self._started:
            if (code := process.poll()) is not None:
                raise Failed(f"{self.peer.key} ended with code {code}: {self._complaint()}")

    def usage(self) -> Usage:
        self.check()
        for pid in self.pids():
            if (used := usage(pid)) is not None:
                self._last[pid] = used
        return Usage(
            sum(used.cpu for used in self._last.values()),
            sum(used.user for used in self._last.values()),
            sum(used.system for used in self._last.values()),
        )

    def memory(self) -> Memory:
        self.check()
        return sum((memory(pid) for pid in self.pids()), Memory())

    def _wait_for(self, port: int) -> None:
        end = time.monotonic() + READY_SECONDS
        while True:
            self.check()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                if time.monotonic() > end:
                    raise Failed(f"{self.peer.key} does not listen on its port: {self._complaint()}") from None
                time.sleep(0.02)
            else:
                return

    def _complaint(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def server_cores(count: int) -> set[int]:
    """The last cores are the servers'; a server of several may have to share with the load client, which has the
    first."""
    return set(sorted(os.sched_getaffinity(0))[-count:])


def load_core() -> int:
    return min(os.sched_getaffinity(0))


def descendants(roots: Iterable[int]) -> set[int]:
    """These processes, those of their sessions, and all their children that live."""
    alive: dict[int, tuple[int, int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) and fields[0] not in ("Z", "X"):
            alive[int(entry.name)] = (int(fields[1]), int(fields[3]))
    family = set(roots)
    while more := {
        pid for pid, (parent, session) in alive.items() if pid not in family and {parent, session} & family
    }:
        family |= more
    return family & alive.keys()


def usage(pid: int) -> Usage | None:
    """None when there is no such process."""
    fields = _stat(pid)
    if not fields:
        return None
    try:
        cpu = time.clock_gettime((~pid << 3) | 2)  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)
    except OSError:
        return None
    return Usage(cpu, int(fields[11]) / _TICKS, int(fields[12]) / _TICKS)


def memory(pid: int) -> Memory:
    """Nothing when there is no such process."""
    sizes = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, size, *_ = line.split()
            sizes[name] = int(size) * 1024
    return Memory(sizes.get("Rss:", 0), sizes.get("Pss:", 0), sizes.get("Private_Dirty:", 0))


def socket_memory(ports: Sequence[int], *, both_ends: bool = False) -> int:
    """Bytes that the kernel holds in the buffers of established TCP sockets with these local ports."""
    ends = [f"sport = :{port}" for port in ports]
    if both_ends:
        ends += [f"dport = :{port}" for port in ports]
    listing = subprocess.run(
        ["ss", "-tnmHO", "state", "established", f"( {' or '.join(ends)} )"],
        capture_output=True, text=True, check=True,
    ).stdout
    return buffered(listing)


def buffered(listing: str) -> int:
    """The bytes in a listing of `ss -m`: received, reserved, queued for sending, options, backlog."""
    return sum(sum(map(int, sizes)) for sizes in _SKMEM.findall(listing))


@functools.cache
def socket_objects(batches: int = 15) -> float:
    """Bytes that the kernel's object caches grow by for one end of an established connection that epoll watches.

    That is socket, file, inode, directory entry and epoll entry: the same whatever program has the socket. They
    can only be seen as growth of the whole machine's, so this opens connections of its own, batch after batch: the
    first ones use up what lies free in the caches, and the median leaves out what others do meanwhile.
    """
    pairs = min(500, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 100) // (2 * batches))
    grown = []
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        epoll = stack.enter_context(select.epoll())
        for _ in range(batches):
            before = _slab()
            for _ in range(pairs):
                for end in (socket.create_connection(listener.getsockname()), listener.accept()[0]):
                    stack.enter_context(end)
                    epoll.register(end, select.EPOLLIN)
            grown.append((_slab() - before) / (2 * pairs))
    return statistics.median(grown)


def _slab() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Slab:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo does not tell the size of the kernel's object caches")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
