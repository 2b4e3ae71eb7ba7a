"""Every limit of a connection one below, at, and one above; switched off; and what is counted when messages are lost.

The limits that are times stand in test_heartbeat.py (ping_interval, idle_timeout, write_timeout) and
test_connection.py (close_timeout).
"""

from __future__ import annotations

import json
import re
import resource
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastcable._connection import Connection
from fastcable._fanout import WebSocketGroup
from fastcable._hub import Subscriber
from fastcable._outbox import Outbox
from fastcable.descriptors import RESERVED_DESCRIPTORS, connection_limit
from fastcable.dialects._simple import KEY, SimpleDialect
from fastcable.settings import Settings, SettingsError
from tests.harness import CLOSE, PING, PONG, TEXT, UPGRADE, Client, LocalServer, Serve, frame

CONTINUATION = 0
SUBSCRIBE = b'{"type":"subscribe","stream":"s"}'
SUBSCRIBED = {"type": "subscribed", "stream": "s"}
NOT_JSON = {"type": "error", "reason": "not valid JSON"}


def message(stream: str, data: object) -> dict[str, object]:
    return {"type": "message", "stream": stream, "data": data}


def gap(stream: str, missed: int) -> dict[str, object]:
    return {"type": "gap", "stream": stream, "missed": missed}


def fragments(text: bytes, count: int) -> bytes:
    """A text message in so many frames."""
    size = -(-len(text) // count)
    return b"".join(
        frame(CONTINUATION if index else TEXT, text[index * size : (index + 1) * size], fin=index == count - 1)
        for index in range(count)
    )


# max_message_size, max_fragments


@pytest.mark.parametrize("count", [1, 2, 7], ids=["one-frame", "two-frames", "seven-frames"])
@pytest.mark.parametrize(("size", "good"), [(99, True), (100, True), (101, False)], ids=["-1", "0", "+1"])
def test_max_message_size(serve: Serve, size: int, good: bool, count: int) -> None:
    server = serve(ticking=False, max_message_size=100)
    with server.connect() as client:
        client.send(fragments(SUBSCRIBE.ljust(size), count))
        if good:
            client.expect(SUBSCRIBED)
        else:
            assert client.read_end() == (1009, "message too large")


def test_max_message_size_is_for_each_message(serve: Serve) -> None:
    server = serve(ticking=False, max_message_size=len(SUBSCRIBE))
    with server.connect() as client:
        client.send(fragments(SUBSCRIBE, 5) * 5)
        client.expect(*[SUBSCRIBED] * 5)


def test_max_message_size_is_judged_by_the_header(serve: Serve) -> None:
    """Nothing of the payload has to arrive."""
    server = serve(ticking=False, max_message_size=100)
    with server.connect() as client:
        client.send(b"\x81\xe5\1\2\3\4")
        assert client.read_end() == (1009, "message too large")


def test_max_message_size_0_takes_everything(serve: Serve) -> None:
    server = serve(ticking=False, max_message_size=0)
    with server.connect() as client:
        client.send(frame(TEXT, SUBSCRIBE.ljust(1 << 20)))
        client.send(fragments(SUBSCRIBE.ljust(1 << 19), 4))
        client.expect(SUBSCRIBED, SUBSCRIBED)


@pytest.mark.parametrize(
    ("limit", "count", "good"),
    [(3, 2, True), (3, 3, True), (3, 4, False), (1, 1, True), (1, 2, False), (0, 5000, True), (4096, 4096, True),
     (4096, 4097, False)],
    ids=["-1", "0", "+1", "one-0", "one-+1", "off", "default-0", "default-+1"],
)
def test_max_fragments(serve: Serve, limit: int, count: int, good: bool) -> None:
    server = serve(ticking=False, max_fragments=limit)
    with server.connect() as client:
        client.send(fragments(SUBSCRIBE, count))
        if good:
            client.expect(SUBSCRIBED)
        else:
            assert client.read_end() == (1008, "too many fragments")


# max_errors


@pytest.mark.parametrize(
    ("limit", "bad", "good"), [(3, 2, True), (3, 3, True), (3, 4, False), (1, 2, False), (0, 1000, True)],
    ids=["-1", "0", "+1", "one-+1", "off"],
)
def test_max_errors(serve: Serve, limit: int, bad: int, good: bool) -> None:
    server = serve(ticking=False, max_errors=limit)
    with server.connect() as client:
        client.send(frame(TEXT, b"?") * bad)
        client.expect(*[NOT_JSON] * bad)
        if good:
            client.subscribe("s")
        else:
            assert client.read_close() == (1008, "too many bad commands")


# max_connections


def refused(client: Client) -> bool:
    """Whether an upgrade is refused with 503; it must be either that or the 101."""
    client.send(UPGRADE)
    head = client.read_until(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 101 "):
        return False
    assert head.startswith(b"HTTP/1.1 503 ")
    assert re.search(rb"\r\nretry-after: [1-9][0-9]*\r\n", head, re.IGNORECASE)
    return True


def test_max_connections(serve: Serve) -> None:
    """R2."""
    server = serve(ticking=False, max_connections=2)
    with Client(server.port) as one, Client(server.port) as two, Client(server.port) as three:
        assert [refused(client) for client in (one, two, three)] == [False, False, True]
        one.subscribe("s")
        two.subscribe("s")


@pytest.mark.parametrize("ending", [Client.close, Client.reset])
def test_a_slot_is_free_again_after_a_disconnect(serve: Serve, ending: Callable[[Client], None]) -> None:
    server = serve(ticking=False, max_connections=1)
    for _ in range(5):
        client = server.connect()
        with Client(server.port) as other:
            assert refused(other)
        ending(client)
        server.wait_for_connections(0)


def test_who_is_being_closed_still_has_a_slot(serve: Serve) -> None:
    server = serve(ticking=False, max_connections=1)
    with server.connect() as client, Client(server.port) as other:
        server.call(server.connection().close, 1001)
        assert client.read_close() == (1001, "")
        assert refused(other)


def test_http_is_answered_when_all_slots_are_taken(serve: Serve) -> None:
    server = serve(ticking=False, max_connections=1)
    with server.connect("s") as client:
        assert server.post({"stream": "s", "data": 1}) == (200, {"subscribers": 1})
        client.expect(message("s", 1))


@pytest.fixture
def room() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_DESCRIPTORS


@pytest.mark.parametrize("value", [None, 0], ids=["auto", "off"])
def test_without_max_connections_the_open_files_limit_counts(room: int, value: int | None) -> None:
    assert connection_limit(Settings(max_connections=value)) == room


@pytest.mark.parametrize("less", [1, 0, -1], ids=["-1", "0", "+1"])
def test_max_connections_must_fit_the_open_files_limit(room: int, less: int) -> None:
    settings = Settings(max_connections=room - less)
    if less >= 0:
        assert connection_limit(settings) == room - less
    else:
        with pytest.raises(SettingsError, match=rf"max_connections: {room + 1} connections need {room + 129} open"):
            connection_limit(settings)


# max_subscriptions


@pytest.mark.parametrize("limit", [1, 3, 1024])
def test_max_subscriptions(serve: Serve, limit: int) -> None:
    """P11."""
    server = serve(ticking=False, max_subscriptions=limit)
    names = [f"{index}" for index in range(limit)]
    with server.connect(*names) as client:
        for _ in range(40):  # no strikes
            client.command(type="subscribe", stream="one more")
            client.expect({"type": "error", "stream": "one more", "reason": "too many subscriptions"})
        client.subscribe(names[0])
        client.unsubscribe(names[-1])
        client.subscribe("one more")
        assert server.connection().subscriptions == limit
        assert server.call(lambda: len(server.server.hub.streams)) == limit


class SilentDialect(SimpleDialect):
    def confirmed(self, subscriber: Subscriber, stream: str, key: object) -> None:
        pass


def test_max_subscriptions_0_takes_as_many_as_can_be_counted(serve: Serve) -> None:
    """A connection counts them in sixteen bits: one more is refused like any other that is too many."""
    server = serve(ticking=False, max_subscriptions=0)
    server.server.site.dialect = SilentDialect(server.server.hub, WebSocketGroup, 32)
    with server.connect() as client:
        connection = server.connection()

        def subscribe_until_refused() -> None:
            while server.server.hub.subscribe(connection, f"{connection.subscriptions}", KEY):
                pass

        server.call(subscribe_until_refused)
        assert connection.subscriptions == 65535
        client.command(type="subscribe", stream="one more")
        client.expect({"type": "error", "stream": "one more", "reason": "too many subscriptions"})
    server.wait_for_connections(0)
    assert server.call(lambda: len(server.server.hub.streams)) == 0


# max_pending_messages, max_pending_bytes. One message is stuck in the socket; what comes behind it waits or is dropped.


class Stalled:
    """A server and its one client, which does not read, subscribed to some streams."""

    def __init__(self, serve: Serve, stack: ExitStack, *streams: str, **options: object) -> None:
        self.server = serve(ticking=False, **options)
        self.hub = self.server.server.hub
        self.client = stack.enter_context(self.server.connect("s", *streams, receive_buffer=4096))
        self.server.stall("s")
        self.connection = self.server.connection()

    @property
    def outbox(self) -> Outbox:
        outbox = self.connection.outbox
        assert outbox is not None
        return outbox

    def publish(self, count: int, stream: str = "s", *, at_once: bool = False, start: int = 1) -> None:
        """Messages from `start` on, each in a turn of its own or all in one."""

        def publish() -> None:
            for number in range(start, start + count):
                self.hub.publish(stream, b"%d" % number)
                if not at_once:
                    self.hub.turn()

        self.server.call(publish)
        self.server.wait_until(lambda: self.hub.idle)

    def waiting(self) -> int:
        return self.server.call(lambda: self.outbox.messages)

    def drops(self) -> int:
        return self.server.call(lambda: self.hub.counters.drops)

    def drain(self) -> None:
        """Read the message that is stuck."""
        assert self.client.receive()["data"][:1] == "x"

    def expect(self, *expected: object) -> None:
        self.client.expect(*expected)

    def expect_nothing(self) -> None:
        self.client.send_frame(PING, b"?")
        assert self.client.read_frame() == (PONG, b"?")


@pytest.fixture
def stalled(serve: Serve) -> object:
    with ExitStack() as stack:
        yield lambda *streams, **options: Stalled(serve, stack, *streams, **options)


Stall = Callable[..., Stalled]


@pytest.mark.parametrize("at_once", [False, True], ids=["turns", "one-turn"])
@pytest.mark.parametrize("limit", [1, 2, 256])
@pytest.mark.parametrize("more", [-1, 0, 1, 9])
def test_max_pending_messages(stalled: Stall, limit: int, more: int, at_once: bool) -> None:
    room = stalled(max_pending_messages=limit)
    room.publish(limit + more, at_once=at_once)
    dropped = max(more, 0)
    assert room.waiting() == limit + more - dropped
    assert room.drops() == dropped
    room.drain()
    room.expect(*(message("s", number) for number in range(1, limit + more - dropped + 1)))
    if dropped:
        room.expect(gap("s", dropped))
    room.publish(1, start=1000)
    room.expect(message("s", 1000))
    room.expect_nothing()


def test_max_pending_messages_0_keeps_all(stalled: Stall) -> None:
    room = stalled(max_pending_messages=0)
    room.publish(5000, at_once=True)
    assert (room.waiting(), room.drops()) == (5000, 0)
    room.drain()
    room.expect(*(message("s", number) for number in range(1, 5001)))


FRAME = len(json.dumps(message("s", 1), separators=(",", ":"))) + 2


@pytest.mark.parametrize("at_once", [False, True], ids=["turns", "one-turn"])
@pytest.mark.parametrize(
    ("limit", "kept"),
    [(1, 1), (FRAME - 1, 1), (FRAME, 1), (FRAME + 1, 2), (3 * FRAME - 1, 3), (3 * FRAME, 3), (3 * FRAME + 1, 4)],
    ids=["1", "one-1", "one", "one+1", "three-1", "three", "three+1"],
)
def test_max_pending_bytes(stalled: Stall, limit: int, kept: int, at_once: bool) -> None:
    """Tested before adding: the last message may overshoot."""
    room = stalled(max_pending_bytes=limit)
    room.publish(9, at_once=at_once)
    assert (room.waiting(), room.drops()) == (kept, 9 - kept)
    assert room.server.call(lambda: room.outbox.size) == kept * FRAME
    room.drain()
    room.expect(*(message("s", number) for number in range(1, kept + 1)), gap("s", 9 - kept))


def test_max_pending_bytes_lets_one_large_message_wait(stalled: Stall) -> None:
    room = stalled(max_pending_bytes=100)
    room.server.publish("s", "y" * 500_000)
    room.publish(1)
    assert (room.waiting(), room.drops()) == (1, 1)
    room.drain()
    room.expect(message("s", "y" * 500_000), gap("s", 1))


def test_max_pending_bytes_0_keeps_all(stalled: Stall) -> None:
    room = stalled(max_pending_bytes=0)
    for _ in range(3):
        room.server.publish("s", "y" * 1_000_000)
    assert (room.waiting(), room.drops()) == (3, 0)
    room.drain()
    room.expect(*[message("s", "y" * 1_000_000)] * 3)


def test_each_stream_has_a_gap_of_its_own(stalled: Stall) -> None:
    room = stalled("t", "u", max_pending_messages=2)
    room.publish(1, "s")
    room.publish(1, "t")
    room.publish(5, "s")
    room.publish(3, "t", at_once=True)
    room.publish(1, "u")
    room.drain()
    room.expect(message("s", 1), message("t", 1))
    gaps = [room.client.receive() for _ in range(3)]
    assert sorted(gaps, key=str) == [gap("s", 5), gap("t", 3), gap("u", 1)]
    room.publish(1, "t", start=9)
    room.expect(message("t", 9))
    assert room.server.call(lambda: room.hub.counters.gaps) == 3


def test_the_gap_comes_before_the_next_message_of_its_stream(stalled: Stall) -> None:
    """There is room again while the socket is still full: other streams go on, and each first tells what it lacks."""
    room = stalled("t", "u", max_pending_messages=2, max_pending_bytes=0)
    for letter in "yz":
        room.server.publish("s", letter * (1 << 20))
    room.publish(4, "t")
    room.publish(2, "s")
    assert (room.waiting(), room.drops()) == (2, 6)
    room.drain()
    room.server.wait_until(lambda: room.outbox.messages == 1)
    room.publish(1, "t", start=5)
    room.publish(2, "t", start=6)
    room.expect(message("s", "y" * (1 << 20)), message("s", "z" * (1 << 20)))
    room.expect(gap("t", 4), message("t", 5))
    gaps = [room.client.receive() for _ in range(2)]
    assert sorted(gaps, key=str) == [gap("s", 2), gap("t", 2)]
    room.expect_nothing()


def test_who_leaves_a_stream_is_told_what_it_missed(stalled: Stall) -> None:
    room = stalled(max_pending_messages=2)
    room.publish(5)
    room.client.unsubscribe("s")
    room.client.send_frame(TEXT, SUBSCRIBE)
    room.drain()
    room.expect(message("s", 1), message("s", 2), gap("s", 3), SUBSCRIBED)
    room.publish(1, start=6)
    room.expect(message("s", 6))


def test_answers_count_for_the_limit_but_are_not_dropped(stalled: Stall) -> None:
    room = stalled(max_pending_messages=3)
    room.client.send(frame(TEXT, b"?") * 2)
    room.server.wait_until(lambda: room.outbox.frames == 2)
    room.publish(3)
    assert (room.waiting(), room.drops()) == (1, 2)
    room.client.send(frame(TEXT, b"?") * 5)
    room.drain()
    room.expect(NOT_JSON, NOT_JSON, message("s", 1))
    rest = [room.client.receive() for _ in range(6)]
    assert rest.count(NOT_JSON) == 5
    assert rest.count(gap("s", 2)) == 1


# slow_consumer = latest


def test_the_newest_message_of_each_stream_waits_instead_of_the_oldest(stalled: Stall) -> None:
    room = stalled("t", max_pending_messages=3, slow_consumer="latest")
    room.publish(2, "s")
    room.publish(1, "t")
    room.publish(4, "s", start=3)
    room.publish(3, "t", start=2)
    assert room.drops() == 5 + 3
    room.drain()
    room.expect(gap("s", 5), message("s", 6), gap("t", 3), message("t", 4))
    room.publish(1, "s", start=7)
    room.expect(message("s", 7))


@pytest.mark.parametrize("at_once", [False, True], ids=["turns", "one-turn"])
@pytest.mark.parametrize("limit", [1, 2, 256])
@pytest.mark.parametrize("more", [-1, 0, 1, 9])
def test_latest_loses_nothing_up_to_the_limit(stalled: Stall, limit: int, more: int, at_once: bool) -> None:
    room = stalled(max_pending_messages=limit, slow_consumer="latest")
    room.publish(limit + more, at_once=at_once)
    total = limit + more
    lost = total - 1 if more > 0 else 0
    assert room.drops() == lost
    room.drain()
    if lost:
        room.expect(gap("s", lost))
    room.expect(*[message("s", number) for number in range(lost + 1, total + 1)])
    room.expect_nothing()


def test_latest_is_of_each_stream_in_the_order_of_the_newest(stalled: Stall) -> None:
    room = stalled("t", "u", max_pending_messages=2, slow_consumer="latest")
    for number, stream in enumerate("tusuts", 1):
        room.publish(1, stream, start=number)
    room.drain()
    room.expect(gap("u", 1), message("u", 4), gap("t", 1), message("t", 5), gap("s", 1), message("s", 6))


def test_answers_keep_their_place_before_the_newest_messages(stalled: Stall) -> None:
    room = stalled(max_pending_messages=2, slow_consumer="latest")
    room.publish(1)
    room.client.send(frame(TEXT, b"?"))
    room.server.wait_until(lambda: room.outbox.frames == 2)
    room.publish(2, start=2)
    room.drain()
    room.expect(NOT_JSON, gap("s", 2), message("s", 3))


def test_who_leaves_a_stream_gets_its_newest_message_first(stalled: Stall) -> None:
    room = stalled("t", max_pending_messages=2, slow_consumer="latest")
    room.publish(4, "s")
    room.publish(1, "t")
    room.client.unsubscribe("s")
    room.client.send_frame(TEXT, SUBSCRIBE)
    room.server.wait_until(lambda: room.outbox.frames == 3)
    room.publish(1, "s", start=5)
    room.drain()
    room.expect(gap("s", 3), message("s", 4), SUBSCRIBED, message("t", 1), message("s", 5))


def test_what_waited_when_a_stream_was_left_is_not_replaced_by_a_later_message(stalled: Stall) -> None:
    room = stalled(max_pending_messages=3, slow_consumer="latest")
    room.publish(1)
    room.client.unsubscribe("s")
    room.client.send_frame(TEXT, SUBSCRIBE)
    room.server.wait_until(lambda: room.outbox.frames == 2)
    room.publish(4, start=2)
    room.drain()
    room.expect(message("s", 1), SUBSCRIBED, gap("s", 3), message("s", 5))


def test_a_close_comes_behind_the_newest_messages(stalled: Stall) -> None:
    room = stalled("t", max_pending_messages=1, slow_consumer="latest")
    room.publish(3, "s")
    room.publish(2, "t")
    room.server.call(room.connection.close, 1001, "done")
    room.drain()
    told = [room.client.receive() for _ in range(4)]
    assert sorted(told, key=str) == [gap("s", 2), gap("t", 1), message("s", 3), message("t", 2)]
    assert room.client.read_close() == (1001, "done")


@pytest.mark.parametrize(("size", "closed"), [(399, False), (400, True), (401, True)])
def test_latest_closes_where_even_the_newest_messages_are_over_max_pending_bytes(
    stalled: Stall, size: int, closed: bool
) -> None:
    room = stalled("t", "u", max_pending_messages=1, max_pending_bytes=800, slow_consumer="latest")
    envelope = len(b'{"type":"message","stream":"s","data":""}') + 4  # and the frame's header
    for stream in "st":
        room.server.publish(stream, "y" * 10)
        room.server.publish(stream, "y" * (size - envelope))
    room.server.publish("u", "")
    room.server.wait_until(lambda: room.hub.idle)
    assert room.server.call(lambda: room.hub.counters.slow_closes) == closed
    if closed:
        assert room.drops() == 5
    else:
        room.drain()
        for stream in "st":
            room.expect(gap(stream, 1), message(stream, "y" * (size - envelope)))
        room.expect(message("u", ""))


# slow_consumer = close


@pytest.mark.parametrize("at_once", [False, True], ids=["turns", "one-turn"])
@pytest.mark.parametrize("limit", [1, 5])
@pytest.mark.parametrize("more", [-1, 0, 1, 3])
def test_slow_consumers_may_be_closed(stalled: Stall, limit: int, more: int, at_once: bool) -> None:
    room = stalled("t", max_pending_messages=limit, slow_consumer="close")
    room.publish(limit + more, at_once=at_once)
    counters = room.hub.counters
    if more <= 0:
        assert (room.waiting(), room.drops()) == (limit + more, 0)
        room.drain()
        room.expect(*(message("s", number) for number in range(1, limit + more + 1)))
        room.expect_nothing()
        return
    assert room.server.call(lambda: list(room.hub.streams)) == []
    room.drain()
    assert room.client.read_close() == (1013, "too slow")
    assert room.server.call(lambda: (counters.slow_closes, counters.deliveries)) == (1, 1)
    # What is published when nobody is subscribed any more is no loss.
    assert room.drops() == (limit + more if at_once else limit + 1)
    room.client.send_frame(CLOSE, (1013).to_bytes(2, "big"))
    room.client.read_eof()


def test_slow_consumers_may_be_closed_for_bytes_too(stalled: Stall) -> None:
    room = stalled(max_pending_bytes=10, slow_consumer="close")
    room.publish(2)
    room.drain()
    assert room.client.read_close() == (1013, "too slow")


def test_a_slow_consumer_that_we_close_anyway_is_closed_once(stalled: Stall) -> None:
    """What was posted in this turn is too much for it: 1013 stands before the other reason."""
    room = stalled(max_pending_messages=1, slow_consumer="close")

    def publish_and_close() -> None:
        for _ in range(3):
            room.hub.publish("s", b"1")
        room.connection.close(4000, "bye")

    room.server.call(publish_and_close)
    room.drain()
    assert room.client.read_close() == (1013, "too slow")
    assert room.drops() == 3


def test_a_slow_consumer_costs_its_neighbours_nothing(stalled: Stall) -> None:
    room = stalled(max_pending_messages=2, slow_consumer="close")
    with room.server.connect("s") as one, room.server.connect("s") as two:
        room.publish(50)
        for client in (one, two):
            client.expect(*(message("s", number) for number in range(1, 51)))


# Accounting: each message is delivered, dropped, or waits, once for each subscriber.


def account(server: LocalServer) -> tuple[int, int, int]:
    """Deliveries, drops, and messages that wait."""

    def look() -> tuple[int, int, int]:
        waiting = sum(each.outbox.messages for each in server.server.cable.blocked if each.outbox is not None)
        return server.server.hub.counters.deliveries, server.server.hub.counters.drops, waiting

    return server.call(look)


def test_without_slow_readers_all_is_delivered(serve: Serve) -> None:
    server = serve(ticking=False)
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect("s")) for _ in range(5)]
        for number in range(20):
            server.publish("s", number)
        for client in clients:
            client.expect(*(message("s", number) for number in range(20)))
        assert account(server) == (100, 0, 0)


@pytest.mark.parametrize("published", [0, 1, 9, 10, 11, 50])
def test_stalled_then_drained(stalled: Stall, published: int) -> None:
    room = stalled(max_pending_messages=10)
    room.publish(published)
    kept = min(published, 10)
    assert account(room.server) == (1, published - kept, kept)
    room.drain()
    room.expect(*(message("s", number) for number in range(1, kept + 1)))
    if published > kept:
        room.expect(gap("s", published - kept))
    room.expect_nothing()
    assert account(room.server) == (1 + kept, published - kept, 0)


def _vanish(room: Stalled) -> None:
    room.client.close()


def _reset(room: Stalled) -> None:
    room.client.reset()


def _abort(room: Stalled) -> None:
    room.server.call(room.connection.abort)


def _stall_for_too_long(room: Stalled) -> None:
    while room.server.call(lambda: room.server.server.cable.connections):
        room.server.beat(5)


def _violate(room: Stalled) -> None:
    room.client.send(b"\xff\xff")
    room.server.wait_until(lambda: not room.hub.streams)
    room.client.close()


def _say_goodbye(room: Stalled) -> None:
    room.client.send_frame(CLOSE, b"")
    room.server.wait_until(lambda: not room.hub.streams)
    room.client.close()


def _be_closed(room: Stalled) -> None:
    room.server.call(room.connection.close, 4000)
    room.client.close()


def _be_too_slow(room: Stalled) -> None:
    room.server.call(room.connection.close_slow)
    room.client.close()


@pytest.mark.parametrize(
    "ending", [_vanish, _reset, _abort, _stall_for_too_long, _violate, _say_goodbye, _be_closed, _be_too_slow],
    ids=lambda ending: ending.__name__.strip("_"),
)
@pytest.mark.parametrize("published", [0, 5, 15])
def test_stalled_and_gone(stalled: Stall, ending: Callable[[Stalled], None], published: int) -> None:
    room = stalled(max_pending_messages=10)
    room.publish(published)
    ending(room)
    room.server.wait_for_connections(0)
    assert account(room.server) == (1, published, 0)


@pytest.mark.parametrize("kept", [0, 5, 10])
def test_stalled_closed_and_drained(stalled: Stall, kept: int) -> None:
    room = stalled(max_pending_messages=10)
    room.publish(kept)
    room.server.call(room.connection.close, 4000)
    assert account(room.server) == (1, 0, kept)
    room.drain()
    room.expect(*(message("s", number) for number in range(1, kept + 1)))
    assert room.client.read_close() == (4000, "")
    assert account(room.server) == (1 + kept, 0, 0)


ENDINGS_IN_A_TURN: dict[str, Callable[[LocalServer, Connection], None]] = {
    "unsubscribe": lambda server, connection: server.server.hub.unsubscribe(connection, "s", KEY),
    "close": lambda server, connection: connection.close(4000),
    "fail": lambda server, connection: connection.fail(1002, ""),
    "abort": lambda server, connection: connection.abort(),
    "lost": lambda server, connection: connection.connection_lost(None),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("ending", ENDINGS_IN_A_TURN.values(), ids=ENDINGS_IN_A_TURN.keys())
def test_what_was_posted_to_one_that_ends_in_the_same_turn_is_counted(
    serve: Serve, ending: Callable[[LocalServer, Connection], None]
) -> None:
    server = serve(ticking=False)
    with server.connect("s"), server.connect("s"):
        one, _ = server.call(server.server.cable.oldest, 2)

        def act() -> None:
            for _ in range(3):
                server.server.hub.publish("s", b"1")
            ending(server, one)
            server.server.hub.publish("s", b"2")

        server.call(act)
        server.wait_until(lambda: server.server.hub.idle)
    deliveries, drops, waiting = account(server)
    # The 2 was posted to both where the transport tells of the end only in the next turn.
    assert (deliveries + drops, waiting) == (8 if ending is ENDINGS_IN_A_TURN["abort"] else 7, 0)


# send_buffer, backlog


@pytest.mark.parametrize("size", [32 * 1024, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1])
def test_send_buffer_is_inherited_by_connections(serve: Serve, size: int) -> None:
    """The kernel doubles it for its own bookkeeping."""
    server = serve(ticking=False, send_buffer=size)
    with server.connect():
        transport = server.connection().transport
        assert transport is not None
        accepted = transport.get_extra_info("socket")
        assert server.call(accepted.getsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * size


def test_send_buffer_0_leaves_it_to_the_kernel(serve: Serve) -> None:
    server = serve(ticking=False, send_buffer=0)
    with socket.socket() as fresh:
        usual = fresh.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert server.server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == usual


@pytest.mark.parametrize("backlog", [1, 2, 100, 4096])
def test_backlog(serve: Serve, backlog: int) -> None:
    server = serve(ticking=False, backlog=backlog)
    info = server.server.sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    assert struct.unpack_from("I", info, 28) == (min(backlog, most),)  # tcpi_sacked, of a listener its backlog
