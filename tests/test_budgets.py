"""What a delivery, a connection and a broadcast may cost, counted and not timed: the same on a slow or busy machine.

Each budget stands beside what was measured when it was set. Where a change makes something cheaper, lower its budget;
where it makes something dearer for a good reason, raise it and say what it is now. Bytes of memory per connection have
theirs in test_memory.py.
"""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from bench.instructions import SUBSCRIBERS, Instructions, broadcast, connect, measure
from bench.load import Load
from bench.peers.fastcable import FASTCABLE
from bench.peers.peer import Target
from bench.peers.python import UVLOOP_PROTOCOL
from tests.harness import LocalServer
from tests.syscalls import Traced

INSTRUCTIONS = {
    "connect": 80_000,  # measured: 73,500; a bare uvloop protocol: 64,500
    "post": 38_500,  # measured: 34,000; a bare httptools protocol: 25,800
    "deliver": 56,  # measured: 44-48, on a busy machine 52; a bare C loop: 33
}
"""In user mode, as bench/instructions.py defines them; on x86-64, with a plain build of CPython 3.11 (Debian's needs a
tenth less for connect and post)."""

SYSTEM_CALLS = {
    "connect": 15.5,  # measured: 15.0
    "post": 4.5,  # measured: 4.0
    "broadcast": 4.0,  # measured: 3.0
}
"""For each connection that subscribes, each broadcast to one subscriber, and each to many beside the sends."""

BLOCKS = 7.5  # measured: 6.9
"""Python's blocks of memory that one connection with one subscription holds; most of them are uvloop's."""

STEPS = 100


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def _tracing() -> None:
    """Both tools have to stop the server: callgrind is asked for its counter by way of ptrace."""
    tried = subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no process may be traced here: {tried.stderr.strip()}")


@pytest.fixture(scope="module")
def counted(_tracing: None) -> Instructions:
    """fastcable's instructions."""
    return measure(FASTCABLE, free_port())


@pytest.mark.parametrize("step", INSTRUCTIONS)
def test_instructions_stay_within_their_budget(
    counted: Instructions, step: str, record_property: Callable[[str, object], None]
) -> None:
    count = getattr(counted, step)
    record_property(f"instructions_{step}", count)
    print(f"{count:.1f} instructions to {step}")
    assert count <= INSTRUCTIONS[step]


def test_a_delivery_is_at_most_half_of_a_transport_write(counted: Instructions) -> None:
    plain = measure(UVLOOP_PROTOCOL, free_port())
    print(f"{counted.deliver:.1f} instructions beside {plain.deliver:.1f}")
    assert counted.deliver <= plain.deliver / 2


@pytest.fixture(scope="module")
def traced(_tracing: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Traced, Load]]:
    """fastcable under strace, and clients of two streams: "one" and "many"."""
    with (
        Traced(FASTCABLE, free_port(), tmp_path_factory.mktemp("strace") / "log") as server,
        Load(server.target) as load,
    ):
        connect(load, "one", 1)
        connect(load, "many", SUBSCRIBERS)
        broadcast(load, "one", 1)
        yield server, load


def spent(calls: Counter[str], steps: int) -> str:
    return ", ".join(f"{count / steps:.2f} {name}" for name, count in calls.most_common())


def test_a_connection_takes_few_system_calls(traced: tuple[Traced, Load]) -> None:
    server, load = traced
    calls = server.count(lambda: connect(load, "new", STEPS))
    print(spent(calls, STEPS))
    assert calls.total() / STEPS <= SYSTEM_CALLS["connect"]


def test_a_post_takes_few_system_calls(traced: tuple[Traced, Load]) -> None:
    server, load = traced
    calls = server.count(lambda: broadcast(load, "one", STEPS))
    print(spent(calls, STEPS))
    assert calls.total() / STEPS <= SYSTEM_CALLS["post"]


def test_a_delivery_is_one_send(traced: tuple[Traced, Load]) -> None:
    server, load = traced
    calls = server.count(lambda: broadcast(load, "many", STEPS))
    print(spent(calls, STEPS))
    assert calls.pop("sendto") == STEPS * SUBSCRIBERS
    assert calls.total() / STEPS <= SYSTEM_CALLS["broadcast"]


def test_python_keeps_few_blocks_for_a_connection_and_none_for_a_delivery(serve: Callable[..., LocalServer]) -> None:
    server = serve(ticking=False)

    def blocks() -> int:
        gc.collect()
        return server.call(sys.getallocatedblocks)

    with Load(Target(server.port)) as load:
        connect(load, "crowd", STEPS)
        broadcast(load, "crowd", STEPS)
        before = blocks()
        connect(load, "crowd", 10 * STEPS)
        connected = blocks()
        broadcast(load, "crowd", STEPS)
        delivered = blocks()
    each = (connected - before) / (10 * STEPS)
    print(f"{each:.2f} blocks per connection, {delivered - connected} after {11 * STEPS * STEPS} deliveries")
    assert each <= BLOCKS
    assert delivered - connected < STEPS
