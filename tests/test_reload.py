"""SIGHUP: the server is replaced, under the same process id, while the port stays open."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Self

import pytest

from tests.harness import (
    CABLE_UPGRADE,
    PATIENCE,
    TEXT,
    UPGRADE,
    Client,
    ServerProcess,
    Spawn,
    children,
    frame,
    message,
    until,
)
from tests.swarm import Member, Swarm

ONE_OR_TWO = pytest.mark.parametrize("workers", ["1", "2"], ids=["one process", "two workers"])
SILENT = ("--ping-interval", "0", "--idle-timeout", "0", "--publish-timeout", str(PATIENCE))
QUICK = ("--reload-drain", "0.2", *SILENT)
RELOADED = "INFO    reloaded"
SUBSCRIBE = UPGRADE + frame(TEXT, b'{"type":"subscribe","stream":"s"}')


def send_hup(server: ServerProcess) -> Callable[[str], str]:
    """SIGHUP; what is returned finds a line that is logged from now on, or nothing."""
    seen = len(server.log)
    server.process.send_signal(signal.SIGHUP)
    return lambda text: next((line for line in server.log[seen:] if text in line), "")


def reload(server: ServerProcess, text: str = RELOADED) -> str:
    """SIGHUP, and wait for a line."""
    found = send_hup(server)
    return until(lambda: found(text))


class Background:
    """Does something again and again in a thread until the end of the `with`, where its error is raised."""

    def __init__(self, step: Callable[[], None]) -> None:
        self.count = 0
        self._step = step
        self._over = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._over:
                self._step()
                self.count += 1
        except Exception as error:
            self._error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over = True
        self._thread.join()
        if self._error is not None:
            raise self._error


def visit(server: ServerProcess) -> None:
    """Connect and subscribe, which nobody may refuse or cut off."""
    with Client(server.port) as client:
        client.upgrade(SUBSCRIBE)
        opcode, payload = client.read_frame()
        assert payload == (b'{"type":"subscribed","stream":"s"}' if opcode == TEXT else b"\x03\xe9server restarting")
    time.sleep(0.002)  # leave something of the machine to the others


# Nobody notices


@ONE_OR_TWO
def test_nobody_is_refused_and_every_client_gets_all_messages_of_its_time(spawn: Spawn, workers: str) -> None:
    server = spawn("--workers", workers, "--reload-drain", "0.6", *SILENT)
    before = children(server.process.pid)
    numbers = iter(range(1_000_000))

    def post() -> None:
        body = json.dumps({"stream": "s", "data": next(numbers)})
        publisher.request("POST", "/_broadcast", body, {"Content-Type": "application/json"})
        answer = publisher.getresponse()
        assert (answer.status, answer.read()[:14]) == (200, b'{"subscribers"')

    def live() -> str:
        """Those who are sent away come back; the line that tells of the end of a reload, if there is one."""
        for index, member in enumerate(present):
            if member.ended:
                assert member.close_code == 1001
                (present[index],) = swarm.open(1, SUBSCRIBE)
                everybody.append(present[index])
        return reloaded(RELOADED)

    publisher = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    with closing(publisher), Swarm(server.port) as swarm:
        present = swarm.connect(20, "s")
        everybody = list(present)
        with Background(lambda: visit(server)) as visits, Background(post) as posts:
            for _ in range(2):
                reloaded = send_hup(server)
                swarm.run_until(live)
        everyone = (200, {"subscribers": len(present)})
        swarm.run_until(lambda: live() and server.post({"stream": "s", "data": "end"}) == everyone)
        swarm.run_until(lambda: all(end_of(member) for member in present))
    assert visits.count
    assert posts.count
    assert len(everybody) == 60  # each was sent away once in each reload
    for member in everybody:
        got = [each["data"] for each in member.messages if each["type"] == "message" and each["data"] != "end"]
        assert got == list(range(got[0], got[0] + len(got))) if got else True
    assert len({*children(server.process.pid)} - {*before}) == int(workers)
    assert server.stop() == 0


def end_of(member: Member) -> bool:
    return bool(member.messages) and member.messages[-1]["data"] == "end"


@ONE_OR_TWO
def test_what_is_retained_stays(spawn: Spawn, workers: str) -> None:
    server = spawn("--workers", workers, *QUICK)
    assert server.post({"stream": "s", "data": "kept", "retain": True})[0] == 200
    reload(server)
    with server.connect() as client:
        client.command(type="subscribe", stream="s", retained=True)
        assert client.receive() == {"type": "subscribed", "stream": "s"}
        assert client.receive()["data"] == "kept"


@ONE_OR_TWO
def test_clients_of_action_cable_are_told_to_come_back(spawn: Spawn, workers: str) -> None:
    server = spawn("--workers", workers, *QUICK)
    with Client(server.port) as client:
        client.upgrade(CABLE_UPGRADE)
        assert client.receive()["type"] == "welcome"
        server.process.send_signal(signal.SIGHUP)
        while (told := client.receive())["type"] == "ping":
            pass
        assert told == {"type": "disconnect", "reason": "server_restart", "reconnect": True}
        assert client.read_close() == (1001, "server restarting")


@ONE_OR_TWO
def test_the_unix_socket_stays_until_the_end(tmp_path: Path, workers: str) -> None:
    path = str(tmp_path / "socket")
    command = [sys.executable, "-m", "fastcable", "serve", "--uds", path, "--workers", workers, *QUICK]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "listens on" in process.stderr.readline()
        process.send_signal(signal.SIGHUP)
        while RELOADED not in process.stderr.readline():
            pass
        assert os.path.exists(path)
        with Client(path) as client:
            client.upgrade()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert not os.path.exists(path)


# What is read anew


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "fastcable.toml"
    path.write_text("")
    return path


@ONE_OR_TWO
def test_a_changed_configuration_takes_effect(spawn: Spawn, config: Path, workers: str) -> None:
    server = spawn("--workers", workers, "--config", str(config), *QUICK)
    assert server.post({"stream": "s", "data": 1})[0] == 200
    config.write_text('broadcast_key = "another"\n')
    reload(server)
    assert server.post({"stream": "s", "data": 1})[0] == 401
    assert server.post({"stream": "s", "data": 1}, Authorization="Bearer another")[0] == 200


@ONE_OR_TWO
@pytest.mark.parametrize(("text", "problem"), [
    ("prot = 1\n", "prot: unknown option (did you mean port?)"),
    ('auth = "jwt"\njwt_public_key = "/no/such.pem"\n', "jwt_public_key: /no/such.pem: No such file or directory"),
    ('broadcast_listen = "127.0.0.1:0"\n', "broadcast_listen: changing it needs a restart"),
], ids=["unknown", "unreadable", "fixed"])
def test_with_a_bad_configuration_nothing_changes(
    spawn: Spawn, config: Path, workers: str, text: str, problem: str
) -> None:
    server = spawn("--workers", workers, "--config", str(config), *QUICK)
    before = children(server.process.pid)
    with server.connect("s") as client:
        config.write_text(text)
        line = reload(server, "SIGHUP: ")
        assert re.search(rf" ERROR   SIGHUP: nothing changed: (\S*: )?{re.escape(problem)}\n$", line)
        assert server.post({"stream": "s", "data": 1})[0] == 200
        client.expect(message("s", 1))
    assert children(server.process.pid) == before
    assert len(server.log) == 2


def test_the_number_of_workers_may_change(spawn: Spawn, config: Path) -> None:
    server = spawn("--config", str(config), *QUICK)

    with Background(lambda: visit(server)):
        for workers in (3, 1):
            config.write_text(f"workers = {workers}\n")
            reload(server)
            assert len(children(server.process.pid)) == workers
    with Swarm(server.port) as swarm:
        members = swarm.connect(40, "s")
        until(lambda: server.post({"stream": "s", "data": "."}) == (200, {"subscribers": len(members)}))
    assert server.stop() == 0


# Several signals


@ONE_OR_TWO
def test_a_signal_during_a_reload_has_its_turn_afterwards(spawn: Spawn, workers: str) -> None:
    server = spawn("--workers", workers, *QUICK)
    found = send_hup(server)
    until(lambda: found("replace"))
    server.process.send_signal(signal.SIGHUP)
    until(lambda: sum(RELOADED in line for line in server.log) == 2)
    assert len(children(server.process.pid)) == int(workers)


@ONE_OR_TWO
def test_sigterm_during_a_reload_ends_old_and_new(spawn: Spawn, workers: str) -> None:
    server = spawn("--workers", workers, "--reload-drain", str(10 * PATIENCE))
    with Swarm(server.port) as swarm:
        members = swarm.connect(100, "s")
        found = send_hup(server)
        until(lambda: found("closing "))
        members += swarm.connect(20, "s")
        server.process.send_signal(signal.SIGTERM)
        swarm.run_until(lambda: all(member.ended for member in members))
        assert {member.close_code for member in members} == {1001}
    assert server.wait() == 0


@ONE_OR_TWO
def test_a_second_sigterm_during_a_reload_ends_all_at_once(spawn: Spawn, workers: str) -> None:
    never = str(10 * PATIENCE)
    server = spawn("--workers", workers, "--reload-drain", never, "--drain-timeout", never, "--close-timeout", "0")
    with server.connect(), server.connect():
        found = send_hup(server)
        until(lambda: found("closing "))
        started = children(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: found("SIGTERM"))
        assert server.stop() == 1
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in started))


# Successors that fail

FAILING = """
import os

def fail():
    if os.path.exists({flag!r}):
        os._exit(3)

os.register_at_fork(after_in_child=fail)
if os.environ.get("_FASTCABLE_ROLE", "").startswith("worker"):
    fail()
"""


@ONE_OR_TWO
def test_when_the_successor_fails_the_old_workers_stay(spawn: Spawn, tmp_path: Path, workers: str) -> None:
    flag = tmp_path / "flag"
    (tmp_path / "sitecustomize.py").write_text(FAILING.format(flag=str(flag)))
    server = spawn("--workers", workers, *QUICK, env={"PYTHONPATH": str(tmp_path)})
    before = children(server.process.pid)
    with server.connect("s") as client:
        flag.touch()
        assert "ended before it listened" in reload(server, "ERROR")
        assert server.post({"stream": "s", "data": 1})[0] == 200
        client.expect(message("s", 1))
        assert children(server.process.pid) == before
        flag.unlink()
        reload(server)
        while client.read_frame()[0] == TEXT:
            pass
    assert len(children(server.process.pid)) == int(workers)


@ONE_OR_TWO
def test_a_successor_that_is_killed_has_a_successor(spawn: Spawn, workers: str) -> None:
    server = spawn("--workers", workers, "--reload-drain", "2", "--close-timeout", "0")
    before = children(server.process.pid)
    with server.connect("s"):  # does not answer the close, and so draws the drain out
        found = send_hup(server)
        until(lambda: found("closing "))
        (successor, *_) = {*children(server.process.pid)} - {*before}
        os.kill(successor, signal.SIGKILL)
        until(lambda: found(f"worker {successor} ended"))
        with server.connect("s"):
            until(lambda: found(RELOADED))
    assert len(children(server.process.pid)) == int(workers)


@ONE_OR_TWO
def test_an_old_process_that_is_killed_does_not_keep_the_new_one_from_starting(spawn: Spawn, workers: str) -> None:
    """Of one process, the successor drains like any worker whose supervisor has ended."""
    server = spawn("--workers", workers, "--reload-drain", str(10 * PATIENCE), "--close-timeout", "0")
    old = children(server.process.pid) or [server.process.pid]
    with server.connect("s"), server.connect("s"):
        found = send_hup(server)
        until(lambda: found("closing "))
        for pid in old:
            with suppress(ProcessLookupError):  # it had no clients, and has ended already
                os.kill(pid, signal.SIGKILL)
        if workers == "1":
            until(lambda: found("the supervisor has ended"))
            server.wait()
        else:
            until(lambda: found(RELOADED) or found("another worker"))


# Terminals

IN_TERMINAL = "import pty, sys; pty.spawn(sys.argv[1:])"


class InTerminal:
    """`fastcable serve` in a terminal of its own."""

    def __init__(self, *arguments: str, nohup: bool = False) -> None:
        serve = [sys.executable, "-m", "fastcable", "serve", "--host", "127.0.0.1", "--port", "0", *arguments]
        shell = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"] if nohup else []
        self.terminal = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, *shell, *serve], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.terminal.stdout is not None
        found = re.search(rb"listens on http://127.0.0.1:(\d+)", self.terminal.stdout.readline())
        assert found
        self.port = int(found[1])
        (self.pid,) = children(self.terminal.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close the terminal."""
        self.terminal.kill()
        self.terminal.communicate()

    @property
    def alive(self) -> bool:
        return os.path.exists(f"/proc/{self.pid}")


@ONE_OR_TWO
def test_a_server_ends_with_the_terminal_in_which_it_was_started(workers: str) -> None:
    with InTerminal("--workers", workers) as server, Client(server.port) as client:
        client.upgrade()
        server.close()
        assert client.read_close() == (1001, "server stopping")
        until(lambda: not server.alive)


def has_pending_signals(pid: int) -> bool:
    found = re.findall(r"^(?:Sig|Shd)Pnd:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert len(found) == 2
    return any(int(each, 16) for each in found)


@ONE_OR_TWO
def test_with_nohup_it_stays_and_can_be_reloaded(workers: str) -> None:
    with InTerminal("--workers", workers, *QUICK, nohup=True) as server, Client(server.port) as client:
        client.upgrade()
        server.close()
        client.subscribe("s")
        until(lambda: not has_pending_signals(server.pid))  # as the terminal's and ours would be one
        os.kill(server.pid, signal.SIGHUP)
        assert client.read_close() == (1001, "server restarting")
        client.close()
        with Client(server.port) as another:
            another.upgrade()
            assert server.alive
