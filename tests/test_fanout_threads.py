"""Fan-outs that several threads share. That the order of things holds with them, too, is tested in test_membership."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from fastcable._connection import Cable, Connection
from fastcable._deadlines import Deadlines
from fastcable._fanout import WebSocketGroup
from fastcable._heartbeat import Heartbeat
from fastcable._hub import Hub
from fastcable._threads import ThreadPool
from fastcable.brokers.memory import MemoryBroker
from fastcable.cores import available_cores
from fastcable.dialects._simple import KEY, SimpleDialect
from fastcable.settings import Settings
from tests.harness import CLOSE, LocalServer, Serve, Spawn
from tests.swarm import Swarm, split_frames
from tests.test_membership import Wire

ALL_SIGNALS = set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}  # the last two are the C library's own


class Cast(NamedTuple):
    """Subscribers of stream "s" on pairs of sockets, without a loop; `run` serves the fan-outs to the end."""

    hub: Hub
    pool: ThreadPool
    wires: list[Wire]
    connections: list[Connection]
    run: Callable[[], None]


@contextmanager
def cast(members: int, threads: int, **options: int | str) -> Iterator[Cast]:
    settings = Settings(**options)  # type: ignore[arg-type]
    turns: list[Callable[[], None]] = []
    pool = ThreadPool(threads)
    pool.share = 16
    hub = Hub(turns.append)
    hub.broker = MemoryBroker(hub)
    dialect = SimpleDialect(hub, partial(WebSocketGroup, threads=pool), 32)
    cable = Cable(settings, hub, Deadlines(0), Deadlines(0), lambda: 0.0)
    cable.heartbeat = Heartbeat(cable, b"", 1.0, settings)
    wires = [Wire() for _ in range(members)]
    connections = []
    for wire in wires:
        connection = Connection(cable, dialect, wire)  # type: ignore[arg-type]
        connection.open(b"", b"")
        hub.subscribe(connection, "s", KEY)
        connections.append(connection)

    def run() -> None:
        while turns:
            turns.pop()()

    try:
        yield Cast(hub, pool, wires, connections, run)
    finally:
        for wire in wires:
            wire.close()
        pool.stop()


def messages(wire: Wire) -> list[object]:
    """What a client has received behind its `subscribed`: the first character of a message, how many messages a gap
    tells of, or the payload of a close frame."""
    wire.read()
    frames, rest = split_frames(wire.received)
    assert rest == b""
    assert json.loads(frames[0][1]) == {"type": "subscribed", "stream": "s"}
    received: list[object] = []
    for opcode, payload in frames[1:]:
        if opcode == CLOSE:
            received.append(payload)
        else:
            text = json.loads(payload)
            received.append(text["missed"] if text["type"] == "gap" else text["data"][:1])
    return received


@pytest.mark.parametrize("slow_consumer", ["drop", "close"])
@pytest.mark.parametrize("slice_ns", [0, 4_000_000])
def test_any_number_of_threads_does_the_same(slow_consumer: str, slice_ns: int) -> None:
    """300 members: most read; some are full, so that nothing, a part, or one message of many fits; some are gone."""

    def outcome(threads: int) -> tuple[list[list[object]], tuple[int, ...]]:
        with cast(300, threads, max_pending_messages=4, slow_consumer=slow_consumer) as (hub, pool, wires, those, run):
            hub.slice_ns = hub.turn_ns = slice_ns

            def publish(text: str) -> None:
                hub.publish("s", json.dumps(text).encode())

            def read_most() -> None:
                for index, wire in enumerate(wires):
                    if index % 5:
                        wire.read()

            for letter in "abcdef":
                publish(letter * 3000)
                run()
                read_most()
            for index in range(1, 300, 50):
                those[index].close(1001)
            for letter in "ghij":
                publish(letter)
                publish(letter * 900)
            hub.unsubscribe(those[2], "s", KEY)
            run()
            read_most()
            counters = hub.counters
            totals = (counters.deliveries, counters.drops, counters.gaps, counters.slow_closes, counters.backlog)
            assert pool.running == threads - 1
            return [messages(wire) for wire in wires], totals

    alone, totals = outcome(1)
    assert totals[1] > 0
    assert totals[4] == 0
    for threads in (2, 3, 4, 16):
        assert outcome(threads) == (alone, totals)


def test_more_slow_members_than_one_thread_takes_at_a_time() -> None:
    with cast(700, 3) as (hub, _, wires, _, run):
        for letter in "abc":
            hub.publish("s", json.dumps(letter * 5000).encode())
            run()
        assert all(messages(wire) == ["a", "b", "c"] for wire in wires)
        assert hub.counters.deliveries == 2100


@pytest.mark.parametrize(("members", "running"), [(31, 0), (32, 1), (47, 1), (48, 2), (64, 2)])
def test_threads_start_when_a_fan_out_is_worth_it(members: int, running: int) -> None:
    """One for each 16 members here. All are started at once, and as many as a job is worth are called."""
    with cast(members, 3) as (hub, pool, wires, _, run):
        assert pool.running == 0
        hub.publish("s", b'"a"')
        run()
        assert pool.running == (2 if running else 0)
        assert all(messages(wire) == ["a"] for wire in wires)


def test_threads_are_no_more_than_sixteen() -> None:
    assert (ThreadPool(16).size, ThreadPool(17).size) == (16, 16)


def test_a_pool_that_was_stopped_starts_again() -> None:
    with cast(64, 2) as (hub, pool, wires, _, run):
        for letter in "ab":
            hub.publish("s", json.dumps(letter).encode())
            run()
            assert pool.running == 1
            pool.stop()
            assert pool.running == 0
        pool.stop()
        assert all(messages(wire) == ["a", "b"] for wire in wires)


def test_threads_take_no_signals_and_have_a_name() -> None:
    before = set(os.listdir("/proc/self/task"))
    with cast(64, 3) as (hub, _, _, _, run):
        hub.publish("s", b'"a"')
        run()
        started = set(os.listdir("/proc/self/task")) - before
        assert len(started) == 2
        for thread in started:
            status = dict(
                line.split(":\t", 1) for line in Path(f"/proc/self/task/{thread}/status").read_text().splitlines()
            )
            assert status["Name"] == "fanout"
            mask = int(status["SigBlk"], 16)
            assert all(mask >> (number - 1) & 1 for number in ALL_SIGNALS)
    assert not started & set(os.listdir("/proc/self/task"))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_a_child_process_has_threads_of_its_own() -> None:
    """Forked after its parent's fan-out, which must not be waited for; and nobody stops the threads at the end."""
    script = """
import os, sys
from tests.test_fanout_threads import cast, messages
with cast(64, 3) as (hub, pool, wires, connections, run):
    hub.publish("s", b'"a"')
    run()
    assert pool.running == 2
    child = os.fork()
    if not child:
        assert pool.running == 0
        hub.publish("s", b'"b"')
        run()
        assert pool.running == 2 and len(os.listdir("/proc/self/task")) == 3
        assert all(messages(wire) == ["a", "b"] for wire in wires)
        print("child", flush=True)
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
    assert pool.running == 2
    print("parent", flush=True)
    os._exit(0)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False,
        cwd=Path(__file__).parent.parent)
    assert result.stdout.split() == ["child", "parent"], result.stderr
    assert result.returncode == 0


@pytest.mark.parametrize(("fanout_threads", "cores", "size"), [(1, 4, 1), (2, 1, 1), (2, 2, 2), (8, 4, 4), (8, 8, 8)])
def test_a_server_has_no_more_threads_than_cores(
    monkeypatch: pytest.MonkeyPatch, serve: Serve, fanout_threads: int, cores: int, size: int
) -> None:
    monkeypatch.setattr("fastcable.server.available_cores", lambda: cores)
    assert serve(fanout_threads=fanout_threads).server.threads.size == size


def test_a_server_stops_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastcable.server.available_cores", lambda: 3)
    with LocalServer(fanout_threads=3) as server, Swarm(server.port) as swarm:
        server.server.threads.share = 16
        members = swarm.connect(100, "s")
        server.publish("s", "a")
        swarm.run_until(lambda: all(member.frames for member in members))
        assert server.call(lambda: server.server.threads.running) == 2
    assert server.server.threads.running == 0


def test_a_server_that_had_threads_ends_in_good_order(spawn: Spawn) -> None:
    server = spawn("--fanout-threads", "2")
    with Swarm(server.port) as swarm:
        members = swarm.connect(2100, "s")
        assert server.post({"stream": "s", "data": 1}) == (200, {"subscribers": 2100})
        swarm.run_until(lambda: all(member.frames for member in members))
        threads = {path.read_text() for path in Path(f"/proc/{server.process.pid}/task").glob("*/comm")}
        assert ("fanout\n" in threads) == (available_cores() > 1)
        server.process.send_signal(signal.SIGTERM)
        swarm.run_until(lambda: all(member.ended for member in members))
        assert server.wait() == 0
    assert all(member.close_code == 1001 for member in members)
