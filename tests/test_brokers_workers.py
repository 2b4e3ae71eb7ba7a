"""Servers side by side on one switch: what is posted to one reaches the clients of all."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from fastcable.brokers.workers import WorkersBroker
from fastcable.link import Link
from fastcable.retained import Retained
from fastcable.switch import Switch
from fastcable.switch_ports import LoopPorts
from tests.harness import PATIENCE, Client, LocalServer, message

POSTS = 50


class Side:
    """Servers with a switch, which runs in the first one's loop."""

    def __init__(self, servers: list[LocalServer], publish_timeout: float = PATIENCE) -> None:
        self.servers = servers
        self.home = servers[0]
        self.switch = Switch(Retained(0, 0, self.home.loop.time))
        self.ports = LoopPorts(self.switch, self.home.loop, lambda member, reason: None)
        self.links: list[Link] = []
        for member, server in enumerate(servers):
            ours, theirs = socket.socketpair()
            self.home.call(self.ports.add, member, theirs)
            server.run(self._start(server, ours, publish_timeout))

    async def _start(self, server: LocalServer, sock: socket.socket, publish_timeout: float) -> None:
        hub = server.server.hub
        link = Link(hub, server.loop, publish_timeout)
        await link.start(sock)
        hub.broker = WorkersBroker(hub, link)
        self.links.append(link)

    def reported(self, stream: str, count: int) -> None:
        """The switch knows of so many subscribers."""
        self.home.wait_until(lambda: self.switch.count(stream) == count)

    def stall(self) -> None:
        """From now on the switch neither reads nor writes."""
        for port in self.ports._ports.values():
            self.home.call(self.home.loop.remove_reader, port.sock)

    def close(self) -> None:
        for server in self.servers:
            server.run(server.server.hub.broker.stop())
        self.home.call(self.ports.close)


@pytest.fixture
def servers() -> Iterator[list[LocalServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(LocalServer()) for _ in range(2)]


@pytest.fixture
def side(servers: list[LocalServer]) -> Iterator[Side]:
    side = Side(servers)
    yield side
    side.close()


def test_what_is_posted_to_one_reaches_the_clients_of_all_and_all_are_counted(
    side: Side, servers: list[LocalServer]
) -> None:
    first, second = servers
    with first.connect("s") as here, second.connect("s") as there, second.connect("s", "t") as more:
        side.reported("s", 3)
        side.reported("t", 1)
        assert first.post({"stream": "s", "data": 1}) == (200, {"subscribers": 3})
        assert second.post({"stream": "s", "data": 2}) == (200, {"subscribers": 3})
        assert first.post([{"stream": "s", "data": 3}, {"stream": "t", "data": 4}]) == (200, {"subscribers": 4})
        here.expect(*(message("s", number) for number in (1, 2, 3)))
        there.expect(*(message("s", number) for number in (1, 2, 3)))
        more.expect(*(message("s", number) for number in (1, 2, 3)), message("t", 4))
    side.reported("s", 0)


def test_all_clients_see_one_order_whoever_was_posted_to(side: Side, servers: list[LocalServer]) -> None:
    def publish(publisher: int) -> None:
        for number in range(POSTS):
            status, _ = servers[(publisher + number) % 2].post({"stream": "s", "data": [publisher, number]})
            assert status == 200

    def read(client: Client) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        while len(seen) < 3 * POSTS:
            publisher, number = client.receive()["data"]
            seen.append((publisher, number))
        return seen

    with servers[0].connect("s") as one, servers[1].connect("s") as two, servers[1].connect("s") as three:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(publish, range(3)))
        order = read(one)
        assert read(two) == order
        assert read(three) == order
    for publisher in range(3):
        assert [number for who, number in order if who == publisher] == list(range(POSTS))


def test_options_of_a_message_hold_in_all_workers(side: Side, servers: list[LocalServer]) -> None:
    first, second = servers
    assert first.post({"stream": "s", "data": {"n": 1.50}, "retain": True})[0] == 200
    with second.connect("s") as late:
        late.expect(message("s", {"n": 1.5}))
    third = socket.socketpair()
    with LocalServer() as joiner:
        side.home.call(side.ports.add, 7, third[1])
        joiner.run(side._start(joiner, third[0], PATIENCE))
        with joiner.connect("s") as client:
            client.expect(message("s", {"n": 1.5}))
        joiner.run(joiner.server.hub.broker.stop())


def test_a_count_asked_of_one_is_of_all(side: Side, servers: list[LocalServer]) -> None:
    with servers[0].connect("s"), servers[1].connect("s"):
        side.reported("s", 2)
        for server in servers:
            status, _, content = server.request("GET", "/_streams?stream=s")
            assert (status, content) == (200, b'{"subscribers":2}')


def test_a_post_that_the_switch_does_not_take_in_time_is_a_503_and_may_arrive_late(
    servers: list[LocalServer],
) -> None:
    side = Side(servers, publish_timeout=0.1)
    with servers[0].connect("s") as client:
        side.stall()
        status, headers, content = servers[1].request(
            "POST", "/_broadcast", b'{"stream":"s","data":1}', {"Content-Type": "application/json"})
        assert (status, headers["Retry-After"]) == (503, "1")
        assert b"the server's other workers did not take it within 0.1 s" in content
        for member, port in side.ports._ports.items():
            side.home.call(side.home.loop.add_reader, port.sock, side.ports._readable, member)
        client.expect(message("s", 1))
        assert servers[1].post({"stream": "s", "data": 2})[0] == 200
        client.expect(message("s", 2))
    side.close()


def test_without_the_switch_posts_are_refused_and_the_server_is_not_ready(
    side: Side, servers: list[LocalServer]
) -> None:
    side.home.call(side.ports.close)
    with servers[1].connect("s"):
        servers[1].wait_until(lambda: servers[1].server.hub.broker.problem)
        status, answer = servers[1].post({"stream": "s", "data": 1})
        assert status == 503
        assert "the connection with the server's other workers has ended" in answer["error"]
        assert servers[1].request("GET", "/health/ready")[0] == 503


def test_clients_of_a_worker_that_lost_messages_are_told(side: Side, servers: list[LocalServer]) -> None:
    with servers[1].connect("s") as client:
        side.home.call(lambda: setattr(side.switch._members[1], "full", True))
        assert servers[0].post({"stream": "t", "data": 1})[0] == 200
        side.home.call(side.switch.control, 1, {})
        side.home.call(side.ports.flush)
        client.expect({"type": "gap", "stream": "s"})
        assert servers[0].post({"stream": "s", "data": 2})[0] == 200
        client.expect(message("s", 2))
