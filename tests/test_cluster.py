"""Servers of several workers, alone and sharing their streams through Redis, with thousands of subscribers and posts,
while processes die and are replaced."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any

import pytest
import uvloop

from fastcable.descriptors import raise_descriptor_limit
from tests.cluster import Cluster, Heard, Posted, Session, until
from tests.harness import PATIENCE, ServerProcess, Spawn, children
from tests.redis_server import RedisServer

PUBLISHERS = 16
POSTS = 20_000 // PUBLISHERS
SUBSCRIBERS = 2_000
ROWS, COLUMNS = ([f"{kind} {number}" for number in range(200)] for kind in ("row", "column"))
ALL = "all"
STREAMS = [*ROWS, *COLUMNS, ALL]


def places(count: int) -> list[list[str]]:
    """The streams of so many subscribers: a row, a column, and what all get."""
    return [[ROWS[number % 200], COLUMNS[number // 10 % 200], ALL] for number in range(count)]


def streams(number: int, count: int = POSTS) -> Iterator[str]:
    """Where a publisher posts: to rows and columns, and once to all."""
    yield ALL
    for message in range(1, count):
        yield STREAMS[(number + message * PUBLISHERS) % 400]


def workers(server: ServerProcess) -> set[int]:
    return set(children(server.process.pid))


@pytest.fixture
def servers(spawn: Spawn, redis: RedisServer) -> list[ServerProcess]:
    raise_descriptor_limit()
    redis.start()
    return [spawn("--workers", "2", "--broker", redis.url, "--reload-drain", "3") for _ in range(2)]


Scenario = Callable[[Cluster], Coroutine[Any, Any, None]]


def run(scenario: Scenario, servers: Sequence[ServerProcess], subscribers: int = SUBSCRIBERS) -> None:
    async def main() -> None:
        cluster = Cluster([server.port for server in servers])
        try:
            await cluster.subscribe(*places(subscribers))
            await scenario(cluster)
            assert cluster.refused == 0
            assert cluster.complaints() == []
        finally:
            await cluster.close()

    uvloop.run(main())


def test_every_subscriber_gets_every_message_once_and_in_order(servers: list[ServerProcess]) -> None:
    async def scenario(cluster: Cluster) -> None:
        publishers = [cluster.publisher() for _ in range(PUBLISHERS)]
        await asyncio.gather(*(publisher.run(streams(number)) for number, publisher in enumerate(publishers)))
        await cluster.hear_all(STREAMS)
        assert cluster.answers().keys() == {200}
        assert len(cluster.sessions) == len(cluster.connected) == SUBSCRIBERS
        assert gaps(cluster.sessions) == [0] * 3 * SUBSCRIBERS

    run(scenario, servers)


def test_what_faults_cost_is_told_to_the_publisher_or_to_the_subscriber(
    servers: list[ServerProcess], redis: RedisServer
) -> None:
    """A worker is killed; Redis dies, dies again while nobody posts, and says nothing for 5 s; a server is reloaded."""

    async def scenario(cluster: Cluster) -> None:
        publishers = [cluster.publisher() for _ in range(PUBLISHERS)]
        going = asyncio.Event()
        going.set()
        posting = asyncio.gather(*(
            publisher.run(streams(number), 0.01, going) for number, publisher in enumerate(publishers)))  # fmt: skip

        async def accept(count: int) -> None:
            """Return when so many more messages were accepted."""
            goal = cluster.answers()[200] + count
            await until(lambda: posting.done() or cluster.answers()[200] >= goal, 3 * PATIENCE)

        await accept(1_000)
        killed = workers(servers[0]).pop()
        os.kill(killed, signal.SIGKILL)
        await until(lambda: killed not in workers(servers[0]) and len(workers(servers[0])) == 2)
        await accept(1_000)
        left = {session for session in cluster.sessions if session.ended}
        assert {session.port for session in left} == {servers[0].port}

        redis.kill()
        await asyncio.sleep(0.5)
        redis.start()
        await accept(2_000)

        going.clear()
        await cluster.hear_all(STREAMS)
        sessions, before = cluster.connected, gaps(cluster.connected)
        redis.kill()
        redis.start()
        await cluster.hear_all(STREAMS)
        assert cluster.connected == sessions
        assert gaps(sessions) == [each + 1 for each in before]
        going.set()
        await accept(2_000)

        with redis.frozen():
            await asyncio.sleep(5)
        await accept(2_000)
        assert {session for session in cluster.sessions if session.ended} == left

        old = workers(servers[1])
        servers[1].process.send_signal(signal.SIGHUP)
        await until(lambda: not old & workers(servers[1]))
        moved = {session for session in cluster.sessions if session.ended} - left
        assert {(session.port, session.code) for session in moved} == {(servers[1].port, 1001)}
        await posting
        await cluster.hear_all(STREAMS)
        assert len(cluster.connected) == SUBSCRIBERS
        answers = cluster.answers()
        assert answers.keys() <= {200, 503, None}
        assert answers[503] >= PUBLISHERS  # while Redis said nothing
        assert answers[None] <= 2 * PUBLISHERS  # connections that ended just when the next request was sent on them

    run(scenario, servers)


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_is_lost_while_workers_are_replaced(spawn: Spawn, count: int) -> None:
    """A worker is killed, and the server is reloaded twice."""
    raise_descriptor_limit()
    server = spawn("--workers", str(count), "--reload-drain", "3")

    async def scenario(cluster: Cluster) -> None:
        publishers = [cluster.publisher() for _ in range(PUBLISHERS)]
        stopping = asyncio.Event()

        def until_stopped(number: int) -> Iterator[str]:
            while not stopping.is_set():
                yield from streams(number, 10)

        posting = asyncio.gather(*(
            publisher.run(until_stopped(number), 0.01) for number, publisher in enumerate(publishers)))
        if count > 1:
            killed = workers(server).pop()
            os.kill(killed, signal.SIGKILL)
            await until(lambda: killed not in workers(server) and len(workers(server)) == count)
            await until(lambda: len(cluster.connected) == 500)
        for _ in range(2):
            before = cluster.connected
            server.process.send_signal(signal.SIGHUP)
            await until(lambda: all(session.ended for session in before))  # noqa: B023
            assert {session.code for session in before} == {1001}
        stopping.set()
        await posting
        await cluster.hear_all(STREAMS)
        answers = cluster.answers()
        assert answers.keys() <= {200, None}
        # A connection may end just when the next request is sent on it.
        assert answers[None] <= (count + 2) * PUBLISHERS
        assert set(gaps(cluster.sessions)) == {0}

    run(scenario, [server], 500)


def gaps(sessions: Iterable[Session]) -> list[int]:
    return [heard.gaps for session in sessions for heard in session.heard.values()]


# --- the account ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heard", "complaint"),
    [
        ("0 1 2 3", ""),
        ("0 - 3", ""),
        ("0 1 2 -", ""),
        ("- 1 2 3", ""),
        ("0 1 4 2 3", ""),
        ("0 1 2 3 4", ""),
        ("0 1 1 2 3", "got twice"),
        ("0 4 4 1 2 3", "got twice"),
        ("0 2 1 3", "out of order"),
        ("0 - 2 1 3", "out of order"),
        ("0 1 3", "missing without a gap: [2] before 3"),
        ("0 - 1 3", "missing without a gap: [2] before 3"),
        ("0 1 3 -", "missing without a gap: [2] before 3"),
        ("1 2 3", "missing without a gap: [0] before 1"),
        ("0 1", "missing without a gap at the end: [2, 3]"),
        ("0 - 1", "missing without a gap at the end: [2, 3]"),
        ("", "missing without a gap at the end: [0, 1, 2, 3]"),
    ],
)
def test_the_account(heard: str, complaint: str) -> None:
    """Of four messages that were accepted, and one (4) that was not."""
    cluster = Cluster([1])
    cluster.publisher().posted = [Posted("news", 1.0, status) for status in (200, 200, 200, 200, 503)]
    session = Session(1, ["news"], lambda session: None)
    events = [None if each == "-" else (0, int(each)) for each in heard.split()]
    session.heard["news"] = Heard(0.5, events)
    cluster.sessions.append(session)
    found = cluster.complaints()
    assert len(found) == bool(complaint)
    assert complaint in "".join(found)
