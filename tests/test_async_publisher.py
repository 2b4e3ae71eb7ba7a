"""What `AsyncPublisher` has to itself: tasks, cancellation and loops. The rest is in test_publisher.py."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from fastcable import AsyncPublisher, Unanswered
from tests.harness import PATIENCE, Serve
from tests.peers.broadcast import Script, running, wait_for_close

Run = Callable[..., Any]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.param
    return found


TASKS, EACH = 20, 20


def test_tasks_publish_each_in_its_order_and_lose_nothing(serve: Serve, run: Run) -> None:
    server = serve(ping_interval=0, max_pending_messages=0)

    async def work(publisher: AsyncPublisher, task: int) -> int:
        return sum([await publisher.broadcast("a", [task, number]) for number in range(EACH)])

    async def main() -> list[int]:
        async with AsyncPublisher(f"http://127.0.0.1:{server.port}/_broadcast", timeout=PATIENCE) as publisher:
            return await asyncio.gather(*(work(publisher, task) for task in range(TASKS)))

    with server.connect("a") as client:
        assert run(main()) == [EACH] * TASKS
        received = [client.receive()["data"] for _ in range(TASKS * EACH)]
    assert sorted(received) == [[task, number] for task in range(TASKS) for number in range(EACH)]
    for task in range(TASKS):
        assert [number for found, number in received if found == task] == list(range(EACH))


def test_the_loop_goes_on_while_a_call_waits(run: Run) -> None:
    asked, turned = threading.Event(), threading.Event()

    def act(connection: socket.socket) -> None:
        server.take_one(connection)
        asked.set()
        assert turned.wait(PATIENCE)
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"subscribers":2}')

    async def main() -> int:
        async with AsyncPublisher(server.url, timeout=PATIENCE) as publisher:
            call = asyncio.create_task(publisher.broadcast("a", 1))
            await asyncio.to_thread(asked.wait, PATIENCE)
            turned.set()
            return await call

    with Script(act) as server:
        assert run(main()) == 2


def test_a_cancelled_call_closes_its_connection_and_the_next_has_another(run: Run) -> None:
    """The answer to the first must not be taken for that of the second."""
    asked = threading.Event()

    def act(connection: socket.socket) -> None:
        server.take_one(connection)
        asked.set()
        wait_for_close(connection)

    async def main() -> int:
        async with AsyncPublisher(server.url, timeout=PATIENCE) as publisher:
            call = asyncio.create_task(publisher.broadcast("a", 1))
            await asyncio.to_thread(asked.wait, PATIENCE)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            return await publisher.broadcast("a", 2)

    with Script(act, lambda connection: server.accept_one(connection)) as server:
        assert run(main()) == 2
    assert [json.loads(body)["data"] for body in server.bodies] == [1, 2]


def test_a_callers_own_timeout_is_his(run: Run) -> None:
    async def main() -> None:
        async with AsyncPublisher(server.url, timeout=PATIENCE) as publisher, asyncio.timeout(0.05):
            await publisher.broadcast("a", 1)

    with Script(wait_for_close) as server, pytest.raises(TimeoutError):
        run(main())


def test_one_publisher_for_several_loops_keeps_its_connection() -> None:
    with running() as endpoint:
        publisher = AsyncPublisher(endpoint.url, timeout=PATIENCE)
        for run in (asyncio.run, uvloop.run, asyncio.run):
            assert run(publisher.broadcast("a", 1)) == 2
        assert len(set(endpoint.connections)) == 1
        asyncio.run(publisher.close())


def test_a_connection_that_ends_during_the_call_leaves_nothing_watched(run: Run) -> None:
    """The descriptor's number is used again at once by the next connection."""

    def end(connection: socket.socket) -> None:
        server.take_one(connection)

    def accept(connection: socket.socket) -> None:
        server.accept_one(connection)
        select.select([connection], [], [], PATIENCE)

    async def main() -> None:
        async with AsyncPublisher(server.url, timeout=PATIENCE) as publisher:
            for number in range(3):
                with pytest.raises(Unanswered):
                    await publisher.broadcast("a", number)
            assert await publisher.broadcast("a", 3) == 2

    with Script(end, end, end, accept) as server:
        run(main())
    assert len(server.bodies) == 4
