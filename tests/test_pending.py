"""What waits for all slow clients together: counted once where it is shared, and within max_pending_total."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from fastcable._connection import Connection
from tests.harness import Client, LocalServer, Serve

BUFFER = 4096
LARGE = 1 << 20  # more than the kernel takes for such a client


class Room:
    """Clients that do not read, each of whose sockets is full."""

    def __init__(self, server: LocalServer, stack: ExitStack) -> None:
        self.server = server
        self.stack = stack
        self.clients: list[Client] = []

    def stall(self, count: int, stream: str) -> None:
        clients = [self.stack.enter_context(self.server.connect(stream, receive_buffer=BUFFER)) for _ in range(count)]
        self.clients += clients
        self.server.publish(stream, "x" * LARGE)
        self.server.wait_until(lambda: len(self.blocked()) == len(self.clients))

    def blocked(self) -> list[Connection]:
        return list(self.server.server.cable.blocked)

    def size(self) -> int:
        return self.server.call(lambda: self.server.server.cable.pending.size)


@pytest.fixture
def stalled(serve: Serve) -> Iterator[Callable[..., Room]]:
    stack = ExitStack()

    def make(**options: object) -> Room:
        return Room(serve(ticking=False, **options), stack)

    yield make
    stack.close()


def message_size(stream: str, length: int) -> int:
    """Bytes of the frame of a message whose data is a string of so many characters."""
    text = len(f'{{"type":"message","stream":"{stream}","data":""}}') + length
    return text + (2 if text < 126 else 4 if text < 1 << 16 else 10)


def test_what_several_wait_for_counts_once(stalled: Callable[..., Room]) -> None:
    room = stalled()
    room.stall(5, "s")
    stuck = message_size("s", LARGE)
    assert room.size() == stuck
    room.server.publish("s", "y" * 1000)
    room.server.wait_until(lambda: room.server.server.hub.idle)
    assert room.size() == stuck + message_size("s", 1000)
    room.stall(2, "t")
    assert room.size() == stuck + message_size("s", 1000) + message_size("t", LARGE)


@pytest.mark.parametrize("policy", ["drop", "latest", "close"])
def test_nothing_is_left_when_they_have_read_or_are_gone(stalled: Callable[..., Room], policy: str) -> None:
    room = stalled(slow_consumer=policy, max_pending_messages=3)
    room.stall(3, "s")
    for number in range(8):
        room.server.publish("s", f"{number}" * 1000)
    room.server.wait_until(lambda: room.server.server.hub.idle)
    room.clients[0].close()
    room.clients[1].reset()
    if policy != "close":
        for _ in range(3 if policy == "drop" else 1):
            assert room.clients[2].receive()["type"] == "message"
        while room.clients[2].receive() != {"type": "gap", "stream": "s", "missed": 5 if policy == "drop" else 7}:
            pass
        room.server.wait_until(lambda: not room.blocked())
    else:
        room.clients[2].close()
    room.server.wait_until(lambda: room.server.server.cable.pending.size == 0)


@pytest.mark.parametrize(("over", "closed"), [(-1, 0), (0, 0), (1, 1)], ids=["below", "at", "above"])
def test_max_pending_total(stalled: Callable[..., Room], over: int, closed: int) -> None:
    limit = message_size("s", LARGE) + message_size("t", LARGE) + message_size("t", 999)
    room = stalled(max_pending_total=limit)
    room.stall(1, "s")
    room.stall(1, "t")
    room.server.publish("t", "y" * (999 + over))
    room.server.wait_until(lambda: room.server.server.hub.idle)
    assert room.server.call(lambda: room.server.server.hub.counters.slow_closes) == closed
    # That of which most waited.
    assert [room.server.call(lambda: c.subscriptions) for c in room.blocked()] == [1, 1 - closed]  # noqa: B023
    assert room.size() <= limit


def test_who_makes_most_wait_goes_first_and_the_transports_share_last(stalled: Callable[..., Room]) -> None:
    """One is closed for what waits in its outbox; that is enough."""
    stuck = message_size("a", LARGE)
    room = stalled(max_pending_total=3 * stuck + 100_000, max_pending_bytes=0)
    for stream in "abc":
        room.stall(1, stream)
    for stream, length in (("a", 30_000), ("b", 50_000), ("c", 40_000)):
        room.server.publish(stream, "y" * length)
    room.server.wait_until(lambda: room.server.server.hub.counters.slow_closes == 1)
    assert sorted(room.server.call(lambda: room.server.server.hub.streams)) == ["a", "c"]


def test_where_the_transports_hold_too_much_connections_are_cut_off(stalled: Callable[..., Room]) -> None:
    stuck = message_size("a", LARGE)
    room = stalled(max_pending_total=2 * stuck)
    room.stall(1, "a")
    room.stall(1, "b")
    room.clients.append(room.stack.enter_context(room.server.connect("c", receive_buffer=BUFFER)))
    room.server.publish("c", "x" * LARGE)
    room.server.wait_until(lambda: room.server.server.cable.connections < 3)
    assert room.size() <= 2 * stuck


def test_max_pending_total_0_is_no_limit(stalled: Callable[..., Room]) -> None:
    room = stalled(max_pending_total=0)
    for stream in "abc":
        room.stall(1, stream)
    assert room.size() == 3 * message_size("a", LARGE)
    assert len(room.blocked()) == 3
