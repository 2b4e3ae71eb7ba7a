"""Faults of the machine and of the net: what becomes of the server, and of those who are connected."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

from fastcable.tokens import issue
from tests.harness import (
    CLOSE,
    PATIENCE,
    PING,
    PONG,
    TEXT,
    UPGRADE,
    Client,
    ServerProcess,
    Spawn,
    UnixServer,
    children,
    frame,
    message,
    subscribed,
    until,
)
from tests.hosts import Host
from tests.redis_server import RedisServer
from tests.swarm import Member, Swarm

T = TypeVar("T")


class Unheard(UnixServer):
    """`fastcable serve` whose log nobody waits for: its stderr is what the test gives it, else closed as `closing`
    tells the shell."""

    def __init__(self, directory: Path, *arguments: str, stderr: int | None = None, closing: str = "") -> None:
        self.path = str(directory / "socket")
        shell = ["sh", "-c", f'exec "$@" {closing}', "sh"] if closing else []
        serve = [sys.executable, "-m", "fastcable", "serve", "--uds", self.path, "--ping-interval", "0"]
        self.process = subprocess.Popen(
            [*shell, *serve, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr)

    def __enter__(self) -> Self:
        until(self._answers)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            started = children(self.process.pid)
            self.process.kill()
            for pid in started:
                os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def _answers(self) -> bool:
        assert self.process.poll() is None
        try:
            return self.ask("GET", "/health/ready")[0] == 200
        except (ConnectionError, FileNotFoundError):
            return False

    def processes(self) -> list[int]:
        return [self.process.pid, *children(self.process.pid)]

    def connect(self, *streams: str) -> Client:
        """A WebSocket client, subscribed to these streams."""
        client = Client(self.path)
        client.upgrade()
        for stream in streams:
            client.subscribe(stream)
        return client

    def complain(self, times: int, condition: Callable[[], bool] = lambda: True) -> None:
        """Have it log so many lines, at level debug; each one is of a client that is answered all the same. Do so
        until the condition is met."""
        for _ in range(times):
            with Client(self.path) as bad:
                bad.send(b"no request\r\n\r\n")
                assert bad.read_until(b"\r\n").startswith(b"HTTP/1.1 400 ")
        if not condition():
            self.complain(times, condition)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE)


WORKERS = pytest.mark.parametrize("workers", [1, 2], ids=["one process", "workers"])


def options(form: str, workers: int) -> list[str]:
    return ["--log-level", "debug", "--log-format", form, "--workers", str(workers)]


def serves(server: Unheard, client: Client) -> None:
    """A subscriber of "s" gets what is posted."""
    assert server.publish("s", 1) == 200
    client.expect(message("s", 1))


# --- the log ----------------------------------------------------------------------------------------------------------


@WORKERS
def test_a_disk_without_room_for_the_log_is_survived(tmp_path: Path, workers: int) -> None:
    """Every write fails with ENOSPC, that of the start's line, too."""
    with open("/dev/full", "wb") as full, Unheard(tmp_path, *options("text", workers), stderr=full.fileno()) as server:
        with server.connect("s") as client:
            server.complain(100)
            serves(server, client)
        assert server.stop() == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 4 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", path], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", path], check=True)


@WORKERS
@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_goes_on_when_there_is_room_again(tmp_path: Path, disk: Path, form: str, workers: int) -> None:
    with open(disk / "log", "ab") as file, Unheard(tmp_path, *options(form, workers), stderr=file.fileno()) as server:
        server.complain(10, lambda: os.fstat(file.fileno()).st_size == 4 << 10)
        server.complain(20)
        os.truncate(disk / "log", 0)
        server.complain(1, lambda: b"log lines lost: stderr was full" in (disk / "log").read_bytes())
        lines = (disk / "log").read_text().splitlines()
        os.truncate(disk / "log", 0)
        assert server.stop() == 0
    assert "SIGTERM: " in (disk / "log").read_text()
    lines += (disk / "log").read_text().splitlines()
    assert all(whole(line, form) for line in lines), lines


def whole(line: str, form: str) -> bool:
    if form == "json":
        return not line or json.loads(line).keys() >= {"time", "level", "message"}
    return not line or re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ ", line) is not None


@WORKERS
def test_a_reader_of_the_log_that_sleeps_holds_up_nobody(tmp_path: Path, workers: int) -> None:
    with pipe() as (reader, writer), Unheard(tmp_path, *options("text", workers), stderr=writer) as server:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)
        room = select.poll()
        room.register(writer, select.POLLOUT)
        with server.connect("s") as client:
            server.complain(10, lambda: not room.poll(0))
            server.complain(50)
            serves(server, client)
            assert not room.poll(0)
            assert fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK == 0, "it is the shell's, too"
            read = os.read(reader, 1 << 20)

            def told() -> bool:
                nonlocal read
                read += os.read(reader, 1 << 20)
                return b"log lines lost: stderr was full" in read

            server.complain(5, told)
        assert server.stop() == 0
        lines = (read + os.read(reader, 1 << 20)).decode().splitlines()
    assert all(whole(line, "text") for line in lines)
    assert "SIGTERM: " in lines[-1] or "stopped" in lines[-1]


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@WORKERS
def test_a_reader_of_the_log_that_is_gone_is_not_missed(tmp_path: Path, workers: int) -> None:
    """Writing fails with EPIPE, and SIGPIPE kills nobody."""
    reader, writer = os.pipe()
    with os.fdopen(writer), Unheard(tmp_path, *options("text", workers), stderr=writer) as server:
        os.close(reader)
        with server.connect("s") as client:
            server.complain(10)
            serves(server, client)
        assert server.stop() == 0


CLOSED = {"stdout": ">&-", "stderr": "2>&-", "all three": "<&- >&- 2>&-"}


@pytest.mark.parametrize("closing", CLOSED.values(), ids=CLOSED.keys())
@WORKERS
def test_no_client_gets_the_descriptor_of_a_closed_stream(tmp_path: Path, closing: str, workers: int) -> None:
    """Else a client would be sent what the C library, or a child of a reload, writes to stderr."""
    with ExitStack() as stack:
        server = stack.enter_context(Unheard(tmp_path, *options("text", workers), closing=closing))
        client = stack.enter_context(server.connect("s"))
        server.complain(1)
        for reloads in (0, 1):
            for pid in server.processes():
                standard = [os.readlink(f"/proc/{pid}/fd/{descriptor}") for descriptor in range(3)]
                assert not any(re.match(r"(socket|anon_inode):", name) for name in standard), (reloads, standard)
            serves(server, client)
            if not reloads:
                server.process.send_signal(signal.SIGHUP)
                assert client.read_close() == (1001, "server restarting")
                client.close()
                client = stack.enter_context(server.connect("s"))
        client.close()
        assert server.stop() == 0


@pytest.mark.parametrize(("arguments", "code"), [(["--port", "nothing"], 2), (["--uds", "/nowhere/socket"], 1)],
                         ids=["option", "listener"])
@pytest.mark.parametrize("stderr", ["full", "closed", "without reader"])
def test_the_exit_code_is_the_same_when_nobody_can_be_told_why(
    stderr: str, arguments: Sequence[str], code: int
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer), open("/dev/full", "wb") as full:
        shell = 'exec "$@" 2>&-' if stderr == "closed" else 'exec "$@"'
        done = subprocess.run(
            ["sh", "-c", shell, "sh", sys.executable, "-m", "fastcable", "serve", *arguments],
            stdout=subprocess.PIPE, stderr=full if stderr == "full" else writer, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (code, b"")


# --- stopped, and told to stop ----------------------------------------------------------------------------------------


LONG = pytest.mark.skipif(not os.environ.get("LONG_TESTS"), reason="takes minutes: LONG_TESTS=1 runs it")


def answering(member: Member) -> None:
    """Have a member answer each ping, as clients do."""
    collect = member.received

    def received(data: bytes) -> None:
        if b'{"type":"ping"}' in data:
            member.command(type="pong")
        collect(data)

    member.received = received


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [(["--ping-interval", "0.25", "--idle-timeout", "1"], 2.0), pytest.param([], 90.0, marks=LONG)],
    ids=["scaled down", "as by default"])
def test_a_process_that_was_stopped_drops_nobody_who_lives(
    spawn: Spawn, arguments: list[str], seconds: float
) -> None:
    """SIGSTOP for longer than idle_timeout, then SIGCONT. What came meanwhile waited in the kernel."""
    server = spawn(*arguments)
    with Swarm(server.port) as swarm:
        living = swarm.connect(50, "s")
        for member in living:
            answering(member)
        (silent,) = swarm.connect(1)
        server.process.send_signal(signal.SIGSTOP)
        (post,) = swarm.open(1, posting("s", "meanwhile"))
        (late,) = swarm.open(1, UPGRADE + frame(TEXT, b'{"type":"subscribe","stream":"s"}'))
        answering(late)
        end = time.monotonic() + seconds
        swarm.run_until(lambda: time.monotonic() > end, 2 * seconds)
        server.process.send_signal(signal.SIGCONT)
        swarm.run_until(lambda: post.head and late.frames and all(member.frames for member in living))
        assert post.head.startswith(b"HTTP/1.1 200 ")
        swarm.run_until(lambda: silent.ended, 2 * PATIENCE + seconds)
        assert silent.close_code == 1001
        assert not any(member.ended for member in [*living, late])
        assert server.post({"stream": "s", "data": "after"}) == (200, {"subscribers": 51})
        swarm.run_until(lambda: all(message("s", "after") in member.messages for member in [*living, late]))
        for member in living:
            assert member.messages == [message("s", "meanwhile"), message("s", "after")]


def posting(stream: str, data: object) -> bytes:
    body = json.dumps({"stream": stream, "data": data}).encode()
    return (
        b"POST /_broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body)


@pytest.mark.parametrize("stopped", ["supervisor", "worker"])
def test_one_of_several_processes_that_was_stopped_catches_up(spawn: Spawn, stopped: str) -> None:
    """Who is connected to it waits, and all get all messages in one order."""
    server = spawn("--workers", "2", "--publish-timeout", "20")
    one = server.process.pid if stopped == "supervisor" else children(server.process.pid)[0]
    with Swarm(server.port) as swarm:
        members = swarm.connect(30, "s")
        publishers = swarm.open(30, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")  # some at each worker
        swarm.run_until(lambda: all(publisher.head for publisher in publishers))
        os.kill(one, signal.SIGSTOP)
        try:
            for number, publisher in enumerate(publishers):
                publisher.head = publisher.body = b""
                publisher.send(posting("s", number))
            if stopped == "worker":
                swarm.run_until(lambda: any(publisher.head for publisher in publishers))
            swarm.run_until(lambda: any(member.frames for member in members) or stopped == "supervisor")
        finally:
            os.kill(one, signal.SIGCONT)
        swarm.run_until(lambda: all(publisher.head for publisher in publishers))
        assert {publisher.head.split()[1] for publisher in publishers} == {b"200"}
        swarm.run_until(lambda: all(len(member.frames) == 30 for member in members))
        order = members[0].messages
        assert sorted(each["data"] for each in order) == list(range(30))
        assert all(member.messages == order for member in members)
        assert not any(member.ended for member in members)
    assert server.stop() == 0


@pytest.mark.parametrize("count", [2_000, pytest.param(19_000, marks=LONG)])
def test_sigterm_in_the_middle_of_fan_outs_tears_no_message(spawn: Spawn, count: int) -> None:
    """Posts go on until they are refused. Each client gets all that was accepted before the signal, in order, what
    comes then in order, too, and the close frame; or it is cut off at drain_timeout, when all of that takes longer."""
    unlimited = ("--max-pending-messages", "0", "--max-pending-bytes", "0", "--idle-timeout", "0")
    drain = () if count > 10_000 else ("--drain-timeout", str(PATIENCE))
    server = spawn("--ping-interval", "0", *unlimited, *drain)
    with Swarm(server.port, spread=True) as swarm, Client(server.port) as publisher:
        members = [member for _ in range(count // 1000) for member in swarm.connect(1000, "s")]
        accepted = 0
        for number in range(20):
            try:
                publisher.send(posting("s", [number, "." * 1000]))
                head = publisher.read_until(b"\r\n\r\n") + publisher.read_until(b"}")
            except (ConnectionError, EOFError):
                break
            assert head.startswith(b"HTTP/1.1 200 ")
            accepted += 1
            if number == 9:
                server.process.send_signal(signal.SIGTERM)
            if b"\r\nConnection: close\r\n" in head:
                break
        swarm.run_until(lambda: all(member.ended for member in members), 3 * PATIENCE)
        expected = [message("s", [number, "." * 1000]) for number in range(accepted)]
        cut_off = 0
        for member in members:
            got = member.messages
            assert got == expected[: len(got)]
            if member.close_code is None:
                cut_off += 1
            else:
                assert (member.close_code, member.rest) == (1001, b"")
                assert len(got) >= 10
    assert server.wait() == 0
    assert count > 10_000 or cut_off == 0


# --- the clock --------------------------------------------------------------------------------------------------------


class Clock:
    """The wall clock of processes with this environment: real, or so many seconds ahead. The monotonic clock is left
    alone."""

    def __init__(self, directory: Path) -> None:
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
        self._file = directory / "time"
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, ahead: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead:+d}\n")
        new.rename(self._file)


SECRET = "a-secret-of-thirty-two-bytes-or-more"


def upgrade(token: str) -> bytes:
    return UPGRADE.replace(b"/cable", f"/cable?jid={token}".encode(), 1)


def test_the_wall_clock_is_set_forward_and_back_by_an_hour(
    spawn: Spawn, tmp_path: Path, redis: RedisServer
) -> None:
    """Only the validity of tokens and the times of the log follow it. Pings and deadlines go on, and Redis stays."""
    clock = Clock(tmp_path)
    redis.start()
    server = spawn(
        "--auth", "jwt", "--jwt-secret", SECRET, "--public-streams", "true", "--broker", redis.url,
        "--ping-interval", "0.25", "--idle-timeout", "1", "--handshake-timeout", "0.4",
        "--log-level", "debug", env=clock.environment)
    now = int(time.time())
    hours, minutes = (issue({"exp": now + seconds}, SECRET) for seconds in (4 * 3600, 1800))

    def logged(hour: int) -> bool:
        return any(round((stamp(line) - now) / 3600) == hour for line in server.log)

    with ExitStack() as stack:
        living = stack.enter_context(Client(server.port))
        living.upgrade(upgrade(hours))
        living.subscribe("s")
        short = stack.enter_context(Client(server.port))
        short.upgrade(upgrade(minutes))
        for ahead in (3600, -3600, 0):
            clock.set(ahead)
            silent = stack.enter_context(Client(server.port))
            silent.upgrade(upgrade(hours))
            slow = stack.enter_context(Client(server.port))
            slow.send(UPGRADE[:20])
            if ahead == 3600:
                assert ending(short) == (1008, "token expired")
            pings = 0
            while pings < 5:  # five intervals: more than idle_timeout
                opcode, payload = living.read_frame()
                pings += payload == b'{"type":"ping"}'
                living.send_frame(PONG, payload if opcode == PING else b"")
            assert ending(silent)[0] == 1001
            assert slow.read_until(b"\r\n").startswith(b"HTTP/1.1 408 ")
            assert server.post({"stream": "s", "data": ahead})[0] == 200
            assert hear(living) == message("s", ahead)
            again = stack.enter_context(Client(server.port))
            again.send(upgrade(minutes))
            assert again.read_until(b"\r\n").startswith(b"HTTP/1.1 101 ")
            again.read_until(b"\r\n\r\n")
            if ahead == 3600:
                assert ending(again) == (1008, "token expired")
            again.close()
            until(partial(logged, ahead // 3600))
    assert server.stop() == 0
    assert not any("redis" in line for line in server.log), server.log


def ending(client: Client) -> tuple[int, str]:
    """The close frame, behind pings and the like."""
    while True:
        opcode, payload = client.read_frame()
        if opcode == CLOSE:
            return int.from_bytes(payload[:2], "big"), payload[2:].decode()


def stamp(line: str) -> float:
    """The time of a line of the log, in Unix seconds."""
    return datetime.fromisoformat(line[:24].replace("Z", "+00:00")).timestamp()


# --- the net ----------------------------------------------------------------------------------------------------------


class HostedServer(ServerProcess):
    """`fastcable serve` on a host."""

    KEY = "key"

    def __init__(self, host: Host, *arguments: str) -> None:
        self.host = host
        command = [
            *host.within, sys.executable, "-m", "fastcable", "serve", "--host", host.address, "--port", "0",
            "--broadcast-key", self.KEY, *arguments]
        self._start(command, None, r"listens on http://[\d.]+:(\d+)")

    def client(self, host: Host) -> Client:
        """From this host."""
        return Client(host.connect(self.host.address, self.port, PATIENCE))

    def publish(self, stream: str, data: object) -> None:
        with self.client(self.host) as client:
            request = posting(stream, data)
            client.send(request.replace(b"\r\n", f"\r\nAuthorization: Bearer {self.KEY}\r\n".encode(), 1))
            assert client.read_until(b"\r\n").startswith(b"HTTP/1.1 200 ")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.parametrize("waiting", [False, True], ids=["nothing waits", "messages wait"])
def test_peers_that_are_half_open_are_closed_and_leave_nothing(hosts: Sequence[Host], waiting: bool) -> None:
    """Their host is gone without a word; where nothing is sent to them idle_timeout sees it, else write_timeout."""
    here, there = hosts
    timeouts = ["--idle-timeout", "0" if waiting else "0.6", "--write-timeout", "0.5", "--close-timeout", "0.3"]
    timeouts += ["--max-pending-messages", "0", "--max-pending-bytes", "0"]
    with ExitStack() as stack:
        server = stack.enter_context(HostedServer(here, "--ping-interval", "0.2", *timeouts))
        near = stack.enter_context(server.client(here))
        near.upgrade()
        near.subscribe("s")
        before = descriptors(server.process.pid)
        for _ in range(10):
            client = stack.enter_context(server.client(there))
            client.upgrade()
            client.subscribe("s")
        with there.cut_off():
            if waiting:
                for _ in range(8):
                    server.publish("s", "." * 1_000_000)
            while descriptors(server.process.pid) > before:
                opcode, payload = near.read_frame()
                assert opcode in (TEXT, PING)
                near.send_frame(PONG, payload if opcode == PING else b"")
        server.publish("s", "after")
        while hear(near) != message("s", "after"):
            pass
        assert not any("failed" in line for line in server.log)


def test_lost_packets_lose_no_message(hosts: Sequence[Host]) -> None:
    """One in ten, each way: TCP sends them again, and order and framing hold."""
    here, there = hosts
    with ExitStack() as stack:
        server = stack.enter_context(HostedServer(here))
        clients = [stack.enter_context(server.client(there)) for _ in range(5)]
        for client in clients:
            client.upgrade()
            client.subscribe("s")
        with there.cut_off(10):
            for number in range(20):
                server.publish("s", [number, "." * 2000])
            for client in clients:
                for number in range(20):
                    client.expect(message("s", [number, "." * 2000]))


class Far:
    """A proxy in front of a server that is far away: each way what comes is passed on so many seconds later, and by so
    many bytes a second."""

    def __init__(self, port: int, seconds: float, speed: float = 1e9) -> None:
        self._target = port
        self._seconds = seconds
        self._speed = speed
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exception: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    async def _close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader_there, writer_there = await asyncio.open_connection("127.0.0.1", self._target, limit=4096)
        for source, sink in ((reader, writer_there), (reader_there, writer)):
            task = self._loop.create_task(self._carry(source, sink))
            self._tasks.add(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arriving = self._loop.create_task(self._arrive(way, writer))
        try:
            while data := await reader.read(4096):
                way.put_nowait((self._loop.time() + self._seconds, data))
                await asyncio.sleep(len(data) / self._speed)
            way.put_nowait((self._loop.time() + self._seconds, b""))
            await arriving
        finally:
            arriving.cancel()
            writer.close()

    async def _arrive(self, way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            at, data = await way.get()
            await asyncio.sleep(at - self._loop.time())
            if not data:
                return
            writer.write(data)
            await writer.drain()


def test_a_long_way_changes_neither_order_nor_the_drain(spawn: Spawn) -> None:
    """200 ms each way, twice the interval of the pings; and the answer to a close is waited for."""
    server = spawn("--ping-interval", "0.1", "--idle-timeout", "5")
    with Far(server.port, 0.2) as far, ExitStack() as stack:
        clients = [stack.enter_context(Client(far.port)) for _ in range(5)]
        for client in clients:
            client.send(UPGRADE)
        for client in clients:
            assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
            client.command(type="subscribe", stream="s")
        for client in clients:
            assert hear(client) == subscribed("s")
        for number in range(30):
            assert server.post({"stream": "s", "data": number}) == (200, {"subscribers": 5})
        for client in clients:
            for number in range(30):
                assert hear(client) == message("s", number)
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            assert ending(client) == (1001, "server stopping")
            client.send_frame(CLOSE, b"\x03\xe9")
        for client in clients:
            client.read_eof()
    assert server.wait() == 0


def test_on_a_slow_way_what_is_lost_is_told(spawn: Spawn) -> None:
    server = spawn("--max-pending-messages", "4", "--send-buffer", "4096", "--ping-interval", "0")
    with Far(server.port, 0.05, 1e6) as far, Client(far.port, receive_buffer=4096) as client:
        client.upgrade()
        client.subscribe("s")
        for number in range(200):
            assert server.post({"stream": "s", "data": [number, "." * 8000]}) == (200, {"subscribers": 1})
        due = missed = 0
        while due < 200:
            if not select.select([client.socket], [], [], 0.5)[0] and due < 200:
                server.post({"stream": "s", "data": [200, ""]})  # the gap is told before the next message
            heard = client.receive()
            if heard["type"] == "gap":
                missed += heard["missed"]
                due += heard["missed"]
            else:
                assert heard["data"][0] == due
                due += 1
        assert missed > 0


def hear(client: Client) -> Any:
    """What the client gets next, apart from pings, which it answers."""
    while True:
        opcode, payload = client.read_frame()
        if opcode != PING and payload != b'{"type":"ping"}':
            return json.loads(payload)
        client.send_frame(PONG, payload if opcode == PING else b"")
