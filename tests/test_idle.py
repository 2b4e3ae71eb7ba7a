"""`exit_when_idle`: when a server ends, and that nobody who connects meanwhile is lost."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from fastcable.idle import Departure, IdleWatch
from fastcable.listeners import Listening
from fastcable.retained import Retained
from tests.activation import ActivatedServer, Activator
from tests.harness import CLOSE, UPGRADE, Client, LocalServer, ServerProcess, until

SILENT = ("--ping-interval", "0", "--idle-timeout", "0")
AT_ONCE = (*SILENT, "--exit-when-idle", "0.001", "--close-timeout", "0.04")  # which makes a beat 10 ms
NEVER = 1000.0


class Watched:
    def __init__(self, seconds: float) -> None:
        self.busy = False
        self.left = 0
        self.watch = IdleWatch(seconds, 100.0, lambda: self.busy, self.leave)

    def leave(self) -> None:
        self.left += 1


@pytest.mark.parametrize(("after", "left"), [(9.99, 0), (10.0, 1), (10.01, 1)])
@pytest.mark.parametrize("begin", ["started", "touched", "busy"])
def test_it_leaves_when_nobody_was_there_for_so_long(begin: str, after: float, left: int) -> None:
    watched = Watched(10.0)
    since = 100.0 if begin == "started" else 105.0
    if begin == "touched":
        watched.watch.touch(since)
    elif begin == "busy":
        watched.busy = True
        watched.watch(since)
        watched.busy = False
    watched.watch(since + after)
    assert watched.left == left


def test_it_asks_to_leave_once_and_again_after_the_same_time() -> None:
    watched = Watched(10.0)
    for now, left in (110.0, 1), (110.1, 1), (119.9, 1), (120.0, 2):
        watched.watch(now)
        assert watched.left == left


def test_it_never_leaves_while_somebody_is_there() -> None:
    watched = Watched(10.0)
    watched.busy = True
    for now in range(100, 200):
        watched.watch(float(now))
    assert watched.left == 0


@pytest.mark.parametrize(("after", "over"), [(9.99, False), (10.0, True)])
def test_it_knows_how_long_it_has_been_quiet_also_after_it_has_asked(after: float, over: bool) -> None:
    watched = Watched(10.0)
    watched.watch(112.0)
    assert watched.left == 1
    assert watched.watch.is_over(112.0)
    watched.watch.touch(115.0)
    assert watched.watch.is_over(115.0 + after) is over
    watched.busy = True
    assert not watched.watch.is_over(200.0)


class Departing:
    """Workers 1 and 2, which are asked to leave after 10 s; `said` is what they are told."""

    def __init__(self, seconds: float = 10.0) -> None:
        self.said: list[tuple[int, object]] = []
        self.left = 0
        self.departure = Departure(seconds, self.say, self.leave)

    def say(self, worker: int, message: Mapping[str, object]) -> None:
        self.said.append((worker, message["do"]))

    def leave(self) -> None:
        self.left += 1

    def hear(self, worker: int, what: str, now: float = 100.0) -> None:
        self.departure.told(worker, what, {1, 2}, now)


ASKED: list[tuple[int, object]] = [(1, "leave"), (2, "leave")]
RETURN: list[tuple[int, object]] = [(1, "return"), (2, "return")]


def test_workers_leave_when_all_are_quiet_and_all_have_left() -> None:
    workers = Departing()
    workers.hear(1, "idle")
    workers.hear(1, "idle")
    assert (workers.said, workers.departure.deadline) == ([], None)
    workers.hear(2, "idle", 101.0)
    assert (workers.said, workers.departure.deadline) == (ASKED, 103.0)
    workers.hear(1, "left")
    workers.hear(1, "left")
    workers.hear(2, "something else")
    assert workers.left == 0
    workers.hear(2, "left")
    assert (workers.left, workers.said, workers.departure.deadline) == (1, ASKED, None)


@pytest.mark.parametrize(("later", "asked"), [(11.9, True), (12.0, True), (12.1, False)])
def test_who_was_quiet_some_time_ago_may_be_busy_now(later: float, asked: bool) -> None:
    workers = Departing()
    workers.hear(1, "idle")
    workers.hear(2, "idle", 100.0 + later)
    assert bool(workers.said) is asked


@pytest.mark.parametrize("why", ["busy", "ended", "no answer"])
@pytest.mark.parametrize("first_left", [True, False], ids=["another left", "none left"])
def test_if_one_stays_all_stay(why: str, first_left: bool) -> None:
    workers = Departing()
    for worker in 1, 2:
        workers.hear(worker, "idle")
    if first_left:
        workers.hear(1, "left")
    if why == "busy":
        workers.hear(2, "busy")
    elif why == "ended":
        workers.departure.ended(2)
    else:
        workers.departure.stay()
    assert workers.said == ASKED + (RETURN[:1] if why == "ended" else RETURN)
    workers.hear(2, "left")  # too late
    assert (workers.left, workers.departure.deadline) == (0, None)
    workers.said.clear()
    for worker in 1, 2:  # and it is tried again
        workers.hear(worker, "idle", 110.0)
    assert workers.said == ASKED


def test_a_worker_that_ends_when_nobody_was_asked_is_nothing() -> None:
    workers = Departing()
    workers.hear(1, "idle")
    workers.departure.ended(1)
    workers.hear(2, "idle")
    assert workers.said == []


def test_workers_are_never_asked_without_the_option() -> None:
    workers = Departing(0.0)
    for worker in 1, 2:
        workers.hear(worker, "idle")
    assert workers.said == []


@pytest.mark.parametrize(("kept", "seconds", "now", "held"), [
    ([], 10, 0, False), ([0], 10, 9.9, True), ([0], 10, 10, False), ([0], 10, 10.1, False), ([0], 0, 1e9, True),
    ([0, 5], 10, 14.9, True), ([0, 5], 10, 15, False),
], ids=["none", "before", "at", "after", "for ever", "the newer", "both gone"])
def test_last_values_count_until_they_expire(kept: list[float], seconds: float, now: float, held: bool) -> None:
    time = 0.0
    retained = Retained(0, seconds, lambda: time)
    for time in kept:
        retained.keep(f"stream {time}", b"1")
    time = now
    assert retained.holds_any() is held


# Leaving


class LocalActivatedServer(LocalServer):
    """A server in this process on a socket that stays; `asked` counts how often it would have left."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"exit_when_idle": NEVER, "ping_interval": 0.0, **options})
        self.kept = socket.create_server(("127.0.0.1", 0))
        self.kept.setblocking(False)
        self.asked = 0

    async def _listen(self) -> None:
        await self.server.start(Listening([self.kept.dup()], kept=True), self._ask)

    def _ask(self) -> None:
        self.asked += 1

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.kept.close()

    def beat_until_asked(self) -> None:
        self.wait_until(lambda: self.asked)


@pytest.fixture
def local() -> Iterator[LocalActivatedServer]:
    with LocalActivatedServer() as server:
        yield server


def test_who_comes_after_it_stopped_listening_waits_for_the_next_server(local: LocalActivatedServer) -> None:
    assert local.run(local.server.leave()) is True
    with Client(local.port) as client:
        client.socket.sendall(b"hello")
        accepted, _ = local.kept.accept()
        with accepted:
            accepted.setblocking(True)
            assert accepted.recv(5) == b"hello"


def test_it_may_come_back(local: LocalActivatedServer) -> None:
    assert local.run(local.server.leave()) is True
    with Client(local.port) as client:
        client.send(UPGRADE)
        local.run(local.server.come_back())
        client.read_until(b"\r\n\r\n")
    local.run(local.server.come_back())  # which it has done
    local.wait_for_connections(0)


def test_it_does_not_come_back_once_it_stops(local: LocalActivatedServer) -> None:
    assert local.run(local.server.leave()) is True
    local.call(local.server.close_listeners)
    local.run(local.server.come_back())
    assert local.call(lambda: local.server.sockets) == []


def test_who_was_accepted_just_before_keeps_it_there(local: LocalActivatedServer) -> None:
    """Leaving begins in the very turn in which a connection is accepted, when nothing else knows of it yet."""
    create, leaving = local.server._create, []

    def create_and_leave(*arguments: Any) -> Any:
        leaving.append(asyncio.ensure_future(local.server.leave()))
        leaving[0].add_done_callback(lambda _: setattr(local.server, "_create", create))
        return create(*arguments)

    local.server._create = create_and_leave  # type: ignore[assignment, method-assign]
    local.run(_listen_again(local))  # what listens now does not know of that
    with local.connect("s") as one:
        local.wait_until(lambda: all(task.done() for task in leaving))
        assert [task.result() for task in leaving] == [False]
        with local.connect("s") as two:  # and others come in again
            assert local.post({"stream": "s", "data": 1}) == (200, {"subscribers": 2})
            for client in (one, two):
                client.expect({"type": "message", "stream": "s", "data": 1})
    local.wait_for_connections(0)
    assert local.run(local.server.leave()) is True


async def _listen_again(local: LocalActivatedServer) -> None:
    busy, local.server.is_busy = local.server.is_busy, lambda: True  # type: ignore[method-assign]
    assert not await local.server.leave()
    local.server.is_busy = busy  # type: ignore[method-assign]


def connected(local: LocalActivatedServer) -> Client:
    return local.connect("s")


def silent(local: LocalActivatedServer) -> Client:
    client = Client(local.port)
    local.wait_until(lambda: len(local.server.requests) == 1)
    return client


@pytest.mark.parametrize("connect", [connected, silent], ids=lambda connect: connect.__name__)
def test_a_connection_is_a_reason_to_stay(
    local: LocalActivatedServer, connect: Callable[[LocalActivatedServer], Client]
) -> None:
    with connect(local):
        assert local.run(local.server.leave()) is False
        assert local.server.is_busy()
    local.wait_until(lambda: not local.server.is_busy())
    assert local.run(local.server.leave()) is True


def test_a_last_value_is_a_reason_to_stay(local: LocalActivatedServer) -> None:
    assert local.post({"stream": "s", "data": 1, "retain": True}) == (200, {"subscribers": 0})
    local.wait_for_connections(0)
    assert local.run(local.server.leave()) is False
    assert local.post({"stream": "s", "data": None, "retain": True}) == (200, {"subscribers": 0})
    local.wait_for_connections(0)
    assert local.run(local.server.leave()) is True


def test_without_the_option_nobody_is_asked() -> None:
    with LocalActivatedServer(exit_when_idle=0.0) as local:
        assert local.server._idle is None


def test_sockets_of_its_own_are_never_left(spawn: Callable[..., ServerProcess]) -> None:
    server = spawn(*AT_ONCE)
    assert "exit_when_idle does not apply" in server.log[0]
    with server.connect("s") as client:
        assert server.post({"stream": "s", "data": 1}) == (200, {"subscribers": 1})
        client.expect({"type": "message", "stream": "s", "data": 1})
    assert server.stop() == 0
    assert "SIGTERM: closing " in server.log[-2]


def test_it_exits_with_0_once_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as kept, ActivatedServer([kept], *AT_ONCE) as server:
        assert server.wait() == 0
        assert server.log[-1].endswith("idle for 0.001 s: stopped until somebody connects\n")


def test_a_signal_ends_it_as_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as kept, \
            ActivatedServer([kept], *SILENT, "--exit-when-idle", str(NEVER)) as server, server.connect("s") as client:
        server.process.send_signal(signal.SIGTERM)
        assert client.read_close() == (1001, "server stopping")
        client.send_frame(CLOSE)
        client.close()
        assert server.wait() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_whenever_somebody_connects_somebody_answers(workers: int) -> None:
    """Each client comes as soon as the last one has gone, when the server is about to leave, leaves, or has left."""
    with Activator(*AT_ONCE, "--workers", str(workers)) as activator:
        for number in range(12):
            with Client(activator.port) as client:
                client.upgrade()
                client.subscribe("s")
                if number % 3 == 0:
                    client.send_frame(CLOSE)  # or hangs up without a word
                    client.read_close()
            if number % 4 == 0:
                activator.wait_for_ends(number // 4 + 1)
        ends = list(activator.ends)
    assert len(ends) >= 3
    for code, log in ends:
        assert (code, "Traceback" in log) == (0, False), log
        assert "idle for 0.001 s: stopped until somebody connects" in log


def test_a_reloaded_server_still_leaves() -> None:
    quick = ("--exit-when-idle", "1", "--close-timeout", "0.04", "--reload-drain", "0")
    with socket.create_server(("127.0.0.1", 0)) as kept, ActivatedServer([kept], *SILENT, *quick) as server:
        with server.connect("s"):
            server.process.send_signal(signal.SIGHUP)
            until(lambda: any("reloaded" in line for line in server.log))
        assert server.wait() == 0
        assert any("idle for 1 s: stopped until somebody connects" in line for line in server.log)
