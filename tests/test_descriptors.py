"""Open files: the limit is raised, connections stay below it, and running out of them is survived."""

from __future__ import annotations

import http.client
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest

from fastcable.descriptors import HTTP_DESCRIPTORS, RESERVED_DESCRIPTORS
from tests.harness import PATIENCE, UPGRADE, Client, ServerProcess
from tests.swarm import Member, Swarm

LIMIT = 256
ROOM = LIMIT - RESERVED_DESCRIPTORS
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def health(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    finally:
        connection.close()


def open_files(pid: int) -> list[int]:
    return sorted(map(int, os.listdir(f"/proc/{pid}/fd")))


def cpu_time(pid: int) -> int:
    """User and system time of a process, in ticks (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def all_ended(members: Iterable[Member]) -> bool:
    return all(member.ended for member in members)


def test_the_soft_limit_is_raised_to_the_hard_one(spawn: Callable[..., ServerProcess]) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    server = spawn(ulimit="-S -n 200")
    assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    assert health(server.port) == 200


def test_the_connection_cap_follows_from_the_limit(spawn: Callable[..., ServerProcess]) -> None:
    server = spawn(ulimit=f"-n {LIMIT}")
    assert f"at most {ROOM})" in server.line
    with Swarm(server.port) as swarm:
        members = swarm.connect(ROOM, "s")
        (refused,) = swarm.open(1, UPGRADE)
        swarm.run_until(lambda: refused.ended)
        assert refused.head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: " in refused.head
        assert health(server.port) == 200
        assert server.post({"stream": "s", "data": 1}) == (200, {"subscribers": ROOM})
        swarm.run_until(lambda: all(member.frames for member in members))
        # One that leaves makes room for one.
        swarm.remove(members.pop())
        while server.post({"stream": "s", "data": 2}) != (200, {"subscribers": ROOM - 1}):
            pass
        swarm.connect(1, "s")
        assert server.post({"stream": "s", "data": 3}) == (200, {"subscribers": ROOM})


@pytest.mark.parametrize(
    "request_bytes", [b"", HEALTH, UPGRADE], ids=["silent", "requests kept alive", "handshakes"])
def test_a_flood_of_connections_leaves_the_listener_and_the_clients_alone(
    spawn: Callable[..., ServerProcess], request_bytes: bytes
) -> None:
    server = spawn(ulimit=f"-n {LIMIT}")
    with Swarm(server.port) as swarm:
        members = swarm.connect(ROOM, "s")
        with Swarm(server.port) as flood:
            others = flood.open(4 * LIMIT, request_bytes)
            flood.run_until(lambda: sum(not other.ended for other in others) <= HTTP_DESCRIPTORS)
            assert len(open_files(server.process.pid)) < LIMIT
        # Until the server has seen that they are gone it may have no room for a publisher.
        while True:
            try:
                assert server.post({"stream": "s", "data": 1}) == (200, {"subscribers": ROOM})
                break
            except ConnectionError:
                continue
        swarm.run_until(lambda: all(member.frames for member in members))
        expected = [{"type": "message", "stream": "s", "data": 1}]
        assert all(member.messages == expected for member in members)
        assert not any(member.ended for member in members)


def test_running_out_of_descriptors_is_survived(spawn: Callable[..., ServerProcess]) -> None:
    """Its limit is lowered from outside to what it has open, so accept(2) fails with EMFILE; then raised again."""
    server = spawn(ulimit=f"-n {LIMIT}")
    pid = server.process.pid

    def limit(number: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, LIMIT))

    with Swarm(server.port) as swarm:
        members = swarm.connect(10, "s")
        for _ in range(3):
            files = open_files(pid)
            assert files == list(range(len(files))), "free numbers below the limit"
            limit(len(files))
            unlucky = swarm.open(50, HEALTH)
            swarm.run_until(partial(all_ended, unlucky))
            assert not any(other.head for other in unlucky)
            limit(LIMIT)
            assert health(server.port) == 200
            while len(open_files(pid)) > len(files):
                pass
        assert server.post({"stream": "s", "data": 1}) == (200, {"subscribers": 10})
        swarm.run_until(lambda: all(member.frames for member in members))
        swarm.connect(1, "s")
    assert server.stop() == 0


def test_out_of_descriptors_it_does_not_spin(spawn: Callable[..., ServerProcess]) -> None:
    # A beat is 10 ms with these, and a client's pings tell that beats have passed.
    server = spawn("--ping-interval", "0.1", "--write-timeout", "0.04", ulimit=f"-n {LIMIT}")
    pid = server.process.pid
    with Client(server.port) as client, Swarm(server.port) as swarm:
        client.upgrade()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(open_files(pid)), LIMIT))
        unlucky = swarm.open(50, HEALTH)
        swarm.run_until(lambda: all(other.ended for other in unlucky))
        before = cpu_time(pid)
        for _ in range(20):
            client.expect({"type": "ping"})
            client.send_frame(1, b'{"type":"pong"}')
        # That were two seconds, of which a loop that spins would use each tick.
        assert cpu_time(pid) - before < os.sysconf("SC_CLK_TCK")


def refused_start(limit: int, *arguments: str) -> str:
    """The one line with which the server ends that is started under this limit of open files."""
    done = subprocess.run(
        ["sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh",
         sys.executable, "-m", "fastcable", "serve", "--port", "0", *arguments],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_as_many_connections_as_the_limit_has_room_for_can_be_asked_for(spawn: Callable[..., ServerProcess]) -> None:
    assert f"at most {ROOM})" in spawn("--max-connections", str(ROOM), ulimit=f"-n {LIMIT}").line


def test_more_connections_than_the_limit_has_room_for_are_refused() -> None:
    line = refused_start(LIMIT, "--max-connections", str(ROOM + 1))
    assert "max_connections" in line
    assert str(LIMIT) in line


def test_a_limit_that_leaves_no_room_is_refused() -> None:
    assert "ulimit" in refused_start(RESERVED_DESCRIPTORS)
