"""Several processes on one port: one bus, restarts, drain, and what happens when one of them is killed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastcable.cores import available_cores
from fastcable.settings import Settings
from fastcable.worker import share
from tests.harness import PATIENCE, UPGRADE, Client, ServerProcess, Spawn, children, message, post, until
from tests.swarm import Member, Swarm


@pytest.fixture
def two(spawn: Spawn) -> ServerProcess:
    """A server of two workers."""
    return spawn("--workers", "2")


def on_both(swarm: Swarm, server: ServerProcess, count: int = 40) -> list[Member]:
    """Clients of stream "s", so many that each of two workers has some (but for one time in 10^11), once each worker
    knows how many the other has (but for one time in 10^6)."""
    members = swarm.connect(count, "s")
    posts = itertools.count()
    everybody = (200, {"subscribers": count})
    until(lambda: all(server.post({"stream": "s", "data": next(posts)}) == everybody for _ in range(20)))
    last = message("s", next(posts) - 1)
    swarm.run_until(lambda: all(member.messages[-1:] == [last] for member in members))
    for member in members:
        member.frames.clear()
    return members


def ended(members: list[Member]) -> list[Member]:
    return [member for member in members if member.ended]


# Messages


def test_what_is_posted_to_any_worker_reaches_the_subscribers_of_all_in_one_order(two: ServerProcess) -> None:
    posts = 60
    with Swarm(two.port) as swarm:
        members = on_both(swarm, two)
        for number in range(posts):  # each by a connection of its own, so to either of them
            assert two.post({"stream": "s", "data": number}) == (200, {"subscribers": len(members)})
        swarm.run_until(lambda: all(len(member.frames) == posts for member in members))
        expected = [message("s", number) for number in range(posts)]
        assert all(member.messages == expected for member in members)


def test_retained_values_are_with_every_worker_also_with_one_that_comes_later(two: ServerProcess) -> None:
    assert two.post({"stream": "s", "data": "kept", "retain": True})[0] == 200
    old = children(two.process.pid)
    os.kill(old[0], signal.SIGKILL)
    until(lambda: len(workers := children(two.process.pid)) == 2 and workers != old)
    with Swarm(two.port) as swarm:
        members = swarm.open(40, UPGRADE)
        swarm.run_until(lambda: all(member.head for member in members))
        for member in members:
            member.command(type="subscribe", stream="s", retained=True)
        swarm.run_until(lambda: all(len(member.frames) == 2 for member in members))
        assert all(member.messages[1]["data"] == "kept" for member in members)


# Start


def test_one_line_tells_where_all_of_them_listen(two: ServerProcess) -> None:
    assert two.log == [two.line]
    assert re.search(r" listens on http://127\.0\.0\.1:\d+: WebSockets .*, 2 workers\n$", two.line)
    assert len(children(two.process.pid)) == 2


def test_auto_is_a_worker_for_each_core(spawn: Spawn) -> None:
    server = spawn("--workers", "auto")
    assert len(children(server.process.pid)) == available_cores()


@pytest.mark.parametrize("options", [(), (socket.SO_REUSEPORT,)], ids=["alone", "sharing"])
def test_no_port_is_shared_with_a_stranger(options: tuple[int, ...]) -> None:
    with socket.socket() as stranger:
        for option in options:
            stranger.setsockopt(socket.SOL_SOCKET, option, 1)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        assert serve("--port", str(port)) == (1, f"fastcable: cannot listen on 127.0.0.1 port {port}: already in use\n")


def test_a_second_server_does_not_join_the_workers_of_the_first(two: ServerProcess) -> None:
    code, said = serve("--port", str(two.port))
    assert (code, said) == (1, f"fastcable: cannot listen on 127.0.0.1 port {two.port}: already in use\n")


def test_what_keeps_workers_from_starting_is_said_once() -> None:
    code, said = serve("--port", "0", "--auth", "jwt", "--jwt-public-key", "/no/such.pem")
    assert code == 2
    assert said.startswith("fastcable: jwt_public_key: /no/such.pem: ")
    assert said.count("\n") == 1


def serve(*arguments: str) -> tuple[int, str]:
    """`fastcable serve` with two workers, which must end by itself: exit code and stderr."""
    command = [sys.executable, "-m", "fastcable", "serve", "--host", "127.0.0.1", "--workers", "2", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(("connections", "shares"), [
    (None, [None] * 4), (0, [0] * 4), (3, [1, 1, 1, 1]), (4, [1, 1, 1, 1]), (5, [2, 1, 1, 1]), (11, [3, 3, 3, 2]),
])
def test_connections_are_divided_among_the_workers(connections: int | None, shares: list[int | None]) -> None:
    settings = Settings(max_connections=connections)
    assert [share(settings, index, 4).max_connections for index in range(4)] == shares


def test_workers_share_a_unix_socket_which_goes_with_them(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    command = [sys.executable, "-m", "fastcable", "serve", "--uds", path, "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert f"listens on unix:{path}: " in process.stderr.readline()
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(path)) for _ in range(10)]
            for client in clients:
                client.upgrade()
                client.subscribe("s")
            body = json.dumps({"stream": "s", "data": 1}).encode()
            with Client(path) as publisher:
                publisher.send(b"POST /_broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                               b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
                assert publisher.read_until(b"\r\n").startswith(b"HTTP/1.1 200 ")
            for client in clients:
                client.expect(message("s", 1))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert not os.path.exists(path)


def test_each_worker_has_a_socket_for_a_listener_of_broadcasts_of_their_own(spawn: Spawn) -> None:
    server = spawn("--workers", "2", "--broadcast-listen", "127.0.0.1:0")
    found = re.search(r"listens on http://127\.0\.0\.1:\d+, http://127\.0\.0\.1:(\d+): ", server.line)
    assert found
    with server.connect("s") as client:
        assert server.post({"stream": "s", "data": 0})[0] == 404
        for number in range(10):
            assert post(int(found[1]), {"stream": "s", "data": number})[0] == 200
        client.expect(*(message("s", number) for number in range(10)))


# The end


def test_sigterm_drains_all_workers(two: ServerProcess) -> None:
    with Swarm(two.port) as swarm:
        members = on_both(swarm, two)
        two.process.send_signal(signal.SIGTERM)
        swarm.run_until(lambda: all(member.ended for member in members))
        assert {member.close_code for member in members} == {1001}
    assert two.wait() == 0
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", two.port)):
        pass
    assert "SIGTERM: stopping 2 workers" in two.log[1]
    assert "stopped" in two.log[-1]


def test_the_log_names_the_worker(spawn: Spawn) -> None:
    for arguments, pattern in (
        ((), r" INFO    \[worker (\d+)\] SIGTERM: closing 0 connections"),
        (("--log-format", "json"), r'"message":"SIGTERM: closing 0 connections","worker":(\d+)}'),
    ):
        server = spawn("--workers", "2", *arguments)
        workers = children(server.process.pid)
        assert server.stop() == 0
        named = [found[1] for line in server.log if (found := re.search(pattern, line))]
        assert sorted(map(int, named)) == workers


def test_ctrl_c_which_reaches_all_of_them_is_one_signal() -> None:
    command = [sys.executable, "-m", "fastcable", "serve", "--host", "127.0.0.1", "--port", "0", "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        assert "listens on" in process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == 0


def test_a_second_signal_ends_all_at_once(spawn: Spawn) -> None:
    server = spawn("--workers", "2", "--drain-timeout", str(10 * PATIENCE), "--close-timeout", "0")
    with server.connect() as client:
        server.process.send_signal(signal.SIGTERM)
        assert client.read_close() == (1001, "server stopping")
        assert server.stop() == 1
        client.read_cut()
    assert any("second signal: killing " in line for line in server.log)


# Workers that die


def test_of_a_worker_that_is_killed_the_others_notice_nothing(two: ServerProcess) -> None:
    with Swarm(two.port) as swarm:
        members = on_both(swarm, two)
        old = children(two.process.pid)
        os.kill(old[0], signal.SIGKILL)
        until(lambda: len(workers := children(two.process.pid)) == 2 and workers != old)
        swarm.run_until(lambda: ended(members))
        lost = ended(members)
        kept = [member for member in members if not member.ended]
        assert lost
        assert kept
        back = swarm.connect(len(lost), "s")
        until(lambda: two.post({"stream": "s", "data": "again"}) == (200, {"subscribers": len(members)}))
        assert two.post({"stream": "s", "data": "last"})[0] == 200
        swarm.run_until(lambda: all(member.messages[-1:] == [message("s", "last")] for member in kept + back))
        assert not ended(kept + back)
    assert f"worker {old[0]} ended (SIGKILL)" in two.log[1]


def test_a_worker_that_dies_soon_is_waited_for_and_meanwhile_all_connect_to_the_others(two: ServerProcess) -> None:
    staying, dying = children(two.process.pid)
    os.kill(dying, signal.SIGKILL)
    (second,) = until(lambda: {*children(two.process.pid)} - {staying, dying})
    os.kill(second, signal.SIGKILL)
    until(lambda: any("another worker is started in 0.5 s" in line for line in two.log))
    with Swarm(two.port) as swarm:
        swarm.connect(40)
        (third,) = until(lambda: {*children(two.process.pid)} - {staying, dying, second})
        on_both(swarm, two)
        os.kill(third, signal.SIGKILL)
        until(lambda: any("another worker is started in 1 s" in line for line in two.log))


def test_workers_end_with_their_supervisor(two: ServerProcess) -> None:
    workers = children(two.process.pid)
    with Swarm(two.port) as swarm:
        members = on_both(swarm, two)
        two.process.kill()
        swarm.run_until(lambda: all(member.ended for member in members))
        assert {member.close_code for member in members} == {1001}
    two.wait()
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))
    assert sum("the supervisor has ended: closing" in line for line in two.log) == 2


def test_no_process_keeps_a_socket_of_another_open(two: ServerProcess) -> None:
    """Else its end would not be noticed."""
    first, second = (sockets(pid) for pid in children(two.process.pid))
    assert first
    assert second
    assert not first & second


def sockets(pid: int) -> set[str]:
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
            if target.startswith("socket:"):
                found.add(target)
    return found
