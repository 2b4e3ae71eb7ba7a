"""What systemd hands over and is told: with its own systemd-socket-activate, and with sockets as it makes them."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from fastcable import systemd
from fastcable.settings import Settings
from fastcable.systemd import Inherited, NotFit, Watchdog
from tests.activation import ActivatedServer, handed_over, variables
from tests.harness import PATIENCE, Client, ServerProcess, children, post, until

ME = str(os.getpid())
SILENT = ("--ping-interval", "0", "--idle-timeout", "0", "--drain-timeout", "0")
FIRST = 700  # no other descriptor of the tests' process is there


@pytest.fixture
def keep() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listening(keep: ExitStack, address: tuple[str, int] | str = ("127.0.0.1", 0)) -> socket.socket:
    sock = keep.enter_context(socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET))
    sock.bind(address)
    sock.listen(1)
    return sock


Hand = Callable[..., dict[str, str]]


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch, keep: ExitStack) -> Hand:
    """Puts sockets where this process looks for those that it was given, and makes the variables that say so."""
    monkeypatch.setattr(systemd, "FIRST_DESCRIPTOR", FIRST)

    def close(descriptor: int) -> None:
        with suppress(OSError):
            os.close(descriptor)

    def hand(*descriptors: int, names: str | None = None) -> dict[str, str]:
        for index, descriptor in enumerate(descriptors):
            os.dup2(descriptor, FIRST + index)
            keep.callback(close, FIRST + index)
        given = {"LISTEN_PID": ME, "LISTEN_FDS": str(len(descriptors)), "OTHER": "1"}
        return given if names is None else {**given, "LISTEN_FDNAMES": names}

    return hand


# Taking sockets


@pytest.mark.parametrize(("names", "cable", "broadcast"), [
    (None, [0, 1, 2], []),
    ("fastcable.socket:fastcable.socket:fastcable.socket", [0, 1, 2], []),
    ("unknown:broadcast:unknown", [0, 2], [1]),
    ("broadcast:broadcast:broadcast", [], [0, 1, 2]),
    ("broadcast", [1, 2], [0]),
    (":broadcast:", [0, 2], [1]),
    ("a:b:Broadcast:broadcast", [0, 1, 2], []),
], ids=["none", "the unit's", "one of three", "all", "too few", "empty", "too many"])
def test_sockets_are_told_apart_by_their_names(
    hand: Hand, keep: ExitStack, names: str | None, cable: list[int], broadcast: list[int]
) -> None:
    environ = hand(*(listening(keep).fileno() for _ in range(3)), names=names)
    inherited = systemd.inherited(environ)
    keep.callback(inherited.close)
    assert [sock.fileno() - FIRST for sock in inherited.cable] == cable
    assert [sock.fileno() - FIRST for sock in inherited.broadcast] == broadcast
    assert bool(inherited)
    assert environ == {"OTHER": "1"}
    assert not any(sock.get_inheritable() for sock in (*inherited.cable, *inherited.broadcast))


@pytest.mark.parametrize("environ", [
    {},
    {"LISTEN_FDS": "1"},
    {"LISTEN_PID": ME},
    {"LISTEN_PID": ME, "LISTEN_FDS": ""},
    {"LISTEN_PID": str(os.getppid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "broadcast"},
    {"LISTEN_PID": f" {ME}", "LISTEN_FDS": "1"},
], ids=["nothing", "no process", "no sockets", "an empty number", "another's", "no number"])
def test_what_is_not_ours_is_left_alone(environ: dict[str, str]) -> None:
    before = dict(environ)
    assert not systemd.inherited(environ)
    assert environ == before


def test_no_sockets_are_none() -> None:
    environ = {"LISTEN_PID": ME, "LISTEN_FDS": "0", "LISTEN_FDNAMES": ""}
    assert not systemd.inherited(environ)
    assert environ == {}


@pytest.mark.parametrize("count", ["-1", "x", "1.0", "1025", "٣", "9" * 30],
                         ids=["negative", "word", "fraction", "many", "arabic", "huge"])
def test_a_bad_number_of_sockets_is_one_line(count: str) -> None:
    with pytest.raises(NotFit, match=r"^LISTEN_FDS: expected a whole number up to 1024, got '.{1,20}'$"):
        systemd.inherited({"LISTEN_PID": ME, "LISTEN_FDS": count})


def udp(keep: ExitStack) -> int:
    return keep.enter_context(socket.socket(type=socket.SOCK_DGRAM)).fileno()


def deaf(keep: ExitStack) -> int:
    return keep.enter_context(socket.socket()).fileno()


def connected(keep: ExitStack) -> int:
    """What Accept=yes hands over."""
    listener = listening(keep)
    keep.enter_context(socket.create_connection(listener.getsockname()))
    return keep.enter_context(listener.accept()[0]).fileno()


def netlink(keep: ExitStack) -> int:
    return keep.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)).fileno()


def file(keep: ExitStack) -> int:
    return keep.enter_context(open(os.devnull, "rb")).fileno()


@pytest.mark.parametrize("make", [udp, deaf, connected, netlink, file], ids=lambda make: make.__name__)
def test_what_cannot_be_listened_on_is_one_line(hand: Hand, keep: ExitStack, make: Callable[[ExitStack], int]) -> None:
    environ = hand(listening(keep).fileno(), make(keep), names="x:its\nname")
    with pytest.raises(NotFit, match=rf"^descriptor {FIRST + 1} \('its\\nname'\) from systemd") as caught:
        systemd.inherited(environ)
    assert str(caught.value).endswith(": Socket operation on non-socket" if make is file else " and Accept=no")
    with pytest.raises(OSError, match="Bad file descriptor"):  # those before it are closed again
        os.fstat(FIRST)


def test_a_descriptor_that_is_not_there_is_one_line(hand: Hand) -> None:
    environ = hand() | {"LISTEN_FDS": "1"}
    with pytest.raises(NotFit, match=rf"^descriptor {FIRST} \('unknown'\) from systemd: Bad file descriptor$"):
        systemd.inherited(environ)


ORIGINS = "allowed_origins is not set: pages of every site may connect"
NOT_APPLIED = "systemd opened the sockets to listen on, so this does not apply: "


@pytest.mark.parametrize(("options", "host", "broadcast", "expected"), [
    ({}, "127.0.0.1", False, []),
    ({"host": ("::",), "port": 1}, "127.0.0.1", False, [f"{NOT_APPLIED}host, port"]),
    ({"broadcast_listen": "localhost:1"}, "127.0.0.1", True, [f"{NOT_APPLIED}broadcast_listen"]),
    ({}, "0.0.0.0", False, [ORIGINS]),
    ({"allowed_origins": ("https://a.example",)}, "0.0.0.0", False, []),
    ({"exit_when_idle": 1.0}, "127.0.0.1", False, []),
    ({"exit_when_idle": 1.0}, None, False,
     ["exit_when_idle does not apply: the sockets are not systemd's, so nobody would start the server again"]),
    ({"port": 1, "uds": "/x", "broadcast_listen": "localhost:1"}, None, False, []),
], ids=["none", "host", "broadcast_listen", "open", "origins", "idle", "idle alone", "nothing given"])
def test_options_that_do_not_apply_are_told(
    keep: ExitStack, options: dict[str, Any], host: str | None, broadcast: bool, expected: list[str]
) -> None:
    inherited = Inherited()
    if host:
        inherited.cable.append(listening(keep, (host, 0)))
    if broadcast:
        inherited.broadcast.append(listening(keep))
    assert list(systemd.doubts(Settings(**options), inherited)) == expected


@pytest.mark.parametrize(("options", "cable", "problem"), [
    ({"uds": "/x"}, True, "uds cannot be combined with sockets that systemd opened"),
    ({"broadcast_listen": "localhost:1"}, True,
     "broadcast_listen cannot be combined with sockets that systemd opened, of which none is for broadcasts "
     "(FileDescriptorName=broadcast)"),
    ({}, False, "systemd opened sockets for broadcasts only (FileDescriptorName=broadcast), none for the cable"),
], ids=["uds", "broadcast_listen", "no cable"])
def test_options_that_ask_for_other_sockets_are_refused(
    keep: ExitStack, options: dict[str, Any], cable: bool, problem: str
) -> None:
    inherited = Inherited()
    (inherited.cable if cable else inherited.broadcast).append(listening(keep))
    with pytest.raises(NotFit) as caught:
        list(systemd.doubts(Settings(**options), inherited))
    assert str(caught.value) == problem


def test_a_unix_socket_is_nobody_elses(keep: ExitStack, tmp_path: Path) -> None:
    inherited = Inherited([listening(keep, str(tmp_path / "socket"))])
    assert list(systemd.doubts(Settings(), inherited)) == []


# Serving on them


def tcp_info(sock: socket.socket) -> int:
    """How many connections may wait to be accepted (tcpi_sacked of a listening socket)."""
    return int(struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64), 28)[0])


def test_a_server_takes_the_sockets_as_its_own_and_leaves_them_open(keep: ExitStack, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    tcp, unix, broadcast = listening(keep), listening(keep, path), listening(keep)
    arguments = (*SILENT, "--port", "1", "--send-buffer", "64KiB", "--backlog", "100")
    with ActivatedServer([tcp, unix, broadcast], *arguments, names="a:b:broadcast") as server:
        other = broadcast.getsockname()[1]
        assert "this does not apply: port" in server.log[0]
        assert f"on http://127.0.0.1:{server.port}, unix:{path}, http://127.0.0.1:{other}: " in server.line
        assert f"broadcasts on http://127.0.0.1:{other}/_broadcast" in server.line
        for sock in (tcp, unix, broadcast):
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 64 * 1024
        assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 32 * 1024
        assert tcp_info(tcp) == 100
        with server.connect("s") as one, Client(path) as two:
            two.upgrade()
            two.subscribe("s")
            assert server.post({"stream": "s", "data": 1})[0] == 404
            assert post(other, {"stream": "s", "data": 1}) == (200, {"subscribers": 2})
            for client in (one, two):
                client.expect({"type": "message", "stream": "s", "data": 1})
        assert server.stop() == 0
    assert os.path.exists(path)
    with ActivatedServer([tcp, unix, broadcast]) as server, server.connect("s"):
        assert server.stop() == 0


def end_of(sock: socket.socket, *arguments: str) -> tuple[int, str]:
    """How a server on this socket, which cannot start, ends: its exit code, and what it says."""
    done = subprocess.run(
        handed_over([sock], *arguments), env=variables([sock], None), pass_fds=[sock.fileno()], capture_output=True,
        text=True, timeout=PATIENCE, check=False)
    return done.returncode, done.stderr


def test_what_is_no_listener_ends_the_server_with_one_line(keep: ExitStack) -> None:
    assert end_of(keep.enter_context(socket.socket(type=socket.SOCK_DGRAM))) == (
        1, "fastcable: descriptor 3 ('unknown') from systemd is no socket to accept connections from: "
        "expected ListenStream= and Accept=no\n")


def test_a_path_of_its_own_beside_systemds_sockets_ends_the_server(keep: ExitStack, tmp_path: Path) -> None:
    sock = listening(keep, str(tmp_path / "socket"))
    assert end_of(sock, "--uds", str(tmp_path / "socket")) == (
        1, "fastcable: uds cannot be combined with sockets that systemd opened\n")
    assert (tmp_path / "socket").exists()


class SocketActivate(ServerProcess):
    """A server that systemd-socket-activate starts with the first connection."""

    def __init__(self, keep: ExitStack, *arguments: str) -> None:
        self.ports = []
        for _ in range(2):
            free = keep.enter_context(socket.create_server(("127.0.0.1", 0)))
            self.ports.append(free.getsockname()[1])
        keep.close()
        listen = [word for port in self.ports for word in ("-l", f"127.0.0.1:{port}")]
        self._start(
            ["/usr/bin/systemd-socket-activate", *listen, "--fdname=fastcable.socket:broadcast",
             sys.executable, "-m", "fastcable", "serve", *arguments],
            None, rf"Listening on 127\.0\.0\.1:({self.ports[1]})")
        self.port = self.ports[0]


def test_the_first_connection_starts_the_server_with_systemds_own_tool(keep: ExitStack) -> None:
    with SocketActivate(keep, *SILENT, "--exit-when-idle", "0.1") as server:
        with server.connect("s") as client:
            assert post(server.ports[1], {"stream": "s", "data": 1}) == (200, {"subscribers": 1})
            client.expect({"type": "message", "stream": "s", "data": 1})
        assert server.wait() == 0
        assert "idle for 0.1 s: stopped until somebody connects" in server.log[-1]


# Telling systemd


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """A socket that is told, and the environment that says so."""
    name = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.bind(name if request.param == "path" else f"\0{name}")
        yield sock, {"NOTIFY_SOCKET": name if request.param == "path" else f"@{name}"}


once = pytest.mark.parametrize("manager", ["path"], indirect=True)


def test_lines_are_told_in_one_datagram(manager: tuple[socket.socket, dict[str, str]]) -> None:
    sock, environ = manager
    systemd.notify("READY=1", "STATUS=müde", environ=environ)
    assert sock.recv(1000) == "READY=1\nSTATUS=müde".encode()


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/socket", "@nobody", "/" + "x" * 200, "vsock:2:1"],
                         ids=["empty", "relative", "no directory", "nobody", "too long", "vsock"])
def test_nobody_to_tell_is_no_error(address: str) -> None:
    systemd.notify("READY=1", environ={"NOTIFY_SOCKET": address})
    systemd.notify("READY=1", environ={})


def test_a_manager_that_does_not_listen_is_not_waited_for(manager: tuple[socket.socket, dict[str, str]]) -> None:
    _, environ = manager
    for _ in range(2_000):  # more than fit
        systemd.notify("STATUS=" + "x" * 1_000, environ=environ)


@pytest.mark.parametrize(("environ", "seconds"), [
    ({}, None), ({"WATCHDOG_USEC": "0"}, None), ({"WATCHDOG_USEC": ""}, None), ({"WATCHDOG_USEC": "-1"}, None),
    ({"WATCHDOG_USEC": "soon"}, None), ({"WATCHDOG_USEC": "٣"}, None),
    ({"WATCHDOG_USEC": "1500000"}, 1.5), ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": ME}, 1.5),
    ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getppid())}, None),
], ids=["none", "zero", "empty", "negative", "word", "arabic", "all", "this process", "another's"])
def test_whether_there_is_a_watchdog(environ: dict[str, str], seconds: float | None) -> None:
    assert systemd.watchdog_seconds(environ=environ) == seconds


def test_a_parents_watchdog_is_that_of_its_workers() -> None:
    environ = {"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getppid())}
    assert systemd.watchdog_seconds(os.getppid(), environ) == 1.5


def test_a_watchdog_is_told_four_times_in_its_time() -> None:
    told: list[None] = []
    watchdog = Watchdog(4.0, lambda: told.append(None))
    for now, count in ((1000.0, 1), (1000.5, 1), (1000.99, 1), (1001.0, 2), (1001.01, 2), (1007.3, 3), (1008.2, 3),
                       (1008.3, 4)):
        watchdog(now)
        assert len(told) == count, now


@once
def test_a_server_tells_that_it_is_ready_alive_and_stopping(
    manager: tuple[socket.socket, dict[str, str]], spawn: Callable[..., ServerProcess]
) -> None:
    sock, environ = manager
    server = spawn("--close-timeout", "0.04", env={**environ, "WATCHDOG_USEC": "40000"})
    told = [sock.recv(1000).decode()]
    while told[-1] != "READY=1":
        told.append(sock.recv(1000).decode())
    assert "WATCHDOG=1" not in told
    for _ in range(3):
        while sock.recv(1000) != b"WATCHDOG=1":
            pass
    with server.connect("s"):
        server.process.send_signal(signal.SIGTERM)
        while (last := sock.recv(1000)) == b"WATCHDOG=1":
            pass
        assert last == b"STOPPING=1\nSTATUS=closing 1 connections"
    assert server.wait() == 0


# Several processes


@once
def test_workers_share_the_sockets_and_the_supervisor_tells(
    keep: ExitStack, manager: tuple[socket.socket, dict[str, str]]
) -> None:
    sock, environ = manager
    tcp = listening(keep)
    with ActivatedServer([tcp], *SILENT, "--workers", "2", "--reload-drain", "0.2", env=environ) as server:
        assert sock.recv(1000) == b"READY=1\nSTATUS=2 workers"
        one, two = children(server.process.pid)
        with ExitStack() as stack:
            clients = [stack.enter_context(server.connect("s")) for _ in range(20)]
            assert server.post({"stream": "s", "data": 1})[0] == 200
            for client in clients:
                client.expect({"type": "message", "stream": "s", "data": 1})
        os.kill(one, signal.SIGKILL)  # the other accepts meanwhile, on the same socket
        until(lambda: len(set(children(server.process.pid)) - {one, two}) == 1)
        server.process.send_signal(signal.SIGHUP)
        assert sock.recv(1000) == b"RELOADING=1"
        with server.connect("s"):
            assert sock.recv(1000) == b"READY=1\nSTATUS=2 workers"
        assert len(set(children(server.process.pid)) & {one, two}) == 0
        with server.connect("s"):
            assert server.stop() == 0
            assert sock.recv(1000) == b"STOPPING=1\nSTATUS=stopping 2 workers"


@once
def test_a_single_process_keeps_the_sockets_through_a_reload(
    keep: ExitStack, manager: tuple[socket.socket, dict[str, str]]
) -> None:
    sock, environ = manager
    tcp = listening(keep)

    def told(start: bytes) -> bytes:
        while not (line := sock.recv(1000)).startswith(start):
            pass
        return line

    with ActivatedServer([tcp], *SILENT, "--reload-drain", "0.2", env=environ) as server:
        told(b"READY=1")
        server.process.send_signal(signal.SIGHUP)
        told(b"RELOADING=1")
        told(b"READY=1\nSTATUS=1 worker")
        with server.connect("s") as client:
            assert server.post({"stream": "s", "data": 1}) == (200, {"subscribers": 1})
            client.expect({"type": "message", "stream": "s", "data": 1})
        assert server.stop() == 0
    with ActivatedServer([tcp]) as server:
        assert server.stop() == 0


@once
def test_a_worker_that_hangs_is_replaced_under_a_watchdog(
    manager: tuple[socket.socket, dict[str, str]], spawn: Callable[..., ServerProcess]
) -> None:
    _, environ = manager
    server = spawn("--workers", "2", env={**environ, "WATCHDOG_USEC": "1000000"})
    one, two = children(server.process.pid)
    os.kill(one, signal.SIGSTOP)
    until(lambda: set(children(server.process.pid)) - {one, two})
    until(lambda: one not in children(server.process.pid))
    assert two in children(server.process.pid)
    assert server.stop() == 0
    assert any(f"worker {one} gives no sign of life: killing it" in line for line in server.log)
