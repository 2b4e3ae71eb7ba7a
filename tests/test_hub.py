"""Subscriptions that are confirmed later, groups, and fan-outs in slices: who gets what, in which order."""

from __future__ import annotations

import functools
import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from fastcable._connection import Connection, alive_connections
from fastcable._fanout import WebSocketGroup
from fastcable._hub import Group, Hub, Subscriber
from fastcable.brokers.memory import MemoryBroker
from fastcable.dialects._simple import KEY, SimpleDialect
from tests.harness import CABLE_UPGRADE, PING, PONG, TEXT, Client, LocalServer, Serve, post

STRIDE = 16
"""Members that a slice serves at least."""


def message(stream: str, data: object) -> dict[str, object]:
    return {"type": "message", "stream": stream, "data": data}


def subscribed(stream: str) -> dict[str, object]:
    return {"type": "subscribed", "stream": stream}


def expect_nothing(client: Client) -> None:
    """What the server has sent is read, and what was sent to it has been carried out."""
    client.send_frame(PING, b"?")
    assert client.read_frame() == (PONG, b"?")


@pytest.fixture
def server(serve: Serve) -> LocalServer:
    return serve(ticking=False)


# A broker that confirms when the test says so


class LateBroker(MemoryBroker):
    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self.calls: list[tuple[str, str]] = []

    def subscribe(self, stream: str) -> None:
        self.calls.append(("subscribe", stream))

    def unsubscribe(self, stream: str) -> None:
        self.calls.append(("unsubscribe", stream))


@pytest.fixture
def broker(server: LocalServer) -> LateBroker:
    broker = LateBroker(server.server.hub)
    server.server.hub.broker = broker
    return broker


def ask(client: Client, *streams: str) -> None:
    """Subscribe without waiting for the confirmation."""
    for stream in streams:
        client.command(type="subscribe", stream=stream)
    expect_nothing(client)


def confirm(server: LocalServer, stream: str) -> None:
    server.call(server.server.hub.confirmed, stream)


def streams(server: LocalServer) -> list[str]:
    return server.call(lambda: list(server.server.hub.streams))


def test_messages_come_from_the_confirmation_on(server: LocalServer, broker: LateBroker) -> None:
    with server.connect() as client:
        ask(client, "s")
        assert broker.calls == [("subscribe", "s")]
        server.publish("s", 1)
        expect_nothing(client)
        assert server.call(server.server.hub.subscribers, "s") == 0
        confirm(server, "s")
        assert server.call(server.server.hub.subscribers, "s") == 1
        server.publish("s", 2)
        client.expect(subscribed("s"), message("s", 2))


def test_what_the_broker_delivers_in_the_turn_before_its_confirmation_is_not_for_us(
    server: LocalServer, broker: LateBroker
) -> None:
    hub = server.server.hub

    def deliver_confirm_deliver() -> None:
        hub.deliver("s", b"1")
        hub.confirmed("s")
        hub.deliver("s", b"2")

    with server.connect() as client:
        ask(client, "s")
        server.call(deliver_confirm_deliver)
        client.expect(subscribed("s"), message("s", 2))


def test_unsubscribing_while_pending_cancels_the_confirmation(server: LocalServer, broker: LateBroker) -> None:
    with server.connect() as client:
        ask(client, "s")
        client.unsubscribe("s")
        expect_nothing(client)
        assert broker.calls == [("subscribe", "s"), ("unsubscribe", "s")]
        assert streams(server) == []
        confirm(server, "s")
        server.publish("s", 1)
        expect_nothing(client)
        assert streams(server) == []


def test_resubscribing_while_pending_is_confirmed_once(server: LocalServer, broker: LateBroker) -> None:
    with server.connect() as client:
        ask(client, "s")
        client.unsubscribe("s")
        ask(client, "s")
        assert broker.calls == [("subscribe", "s"), ("unsubscribe", "s"), ("subscribe", "s")]
        confirm(server, "s")
        client.expect(subscribed("s"))
        server.publish("s", 1)
        client.expect(message("s", 1))
        expect_nothing(client)


def test_resubscribing_while_others_wait_does_not_ask_the_broker_again(server: LocalServer, broker: LateBroker) -> None:
    with server.connect() as client, server.connect() as other:
        ask(other, "s")
        ask(client, "s")
        client.unsubscribe("s")
        ask(client, "s")
        assert broker.calls == [("subscribe", "s")]
        confirm(server, "s")
        for each in (client, other):
            each.expect(subscribed("s"))
            expect_nothing(each)


def test_each_subscribe_that_waits_is_confirmed_and_messages_come_once(
    server: LocalServer, broker: LateBroker
) -> None:
    with server.connect() as client:
        ask(client, "s", "s", "s")
        assert broker.calls == [("subscribe", "s")]
        confirm(server, "s")
        client.expect(*[subscribed("s")] * 3)
        server.publish("s", 1)
        client.expect(message("s", 1))
        expect_nothing(client)


def test_who_disconnects_while_pending_leaves_nothing(server: LocalServer, broker: LateBroker) -> None:
    with server.connect() as other:
        ask(other, "t")
        with server.connect() as client:
            ask(client, "s", "t")
        server.wait_for_connections(1)
        assert streams(server) == ["t"]
        confirm(server, "s")
        confirm(server, "t")
        other.expect(subscribed("t"))
        assert server.call(server.server.hub.subscribers, "t") == 1
    server.wait_for_connections(0)
    assert streams(server) == []
    assert broker.calls == [("subscribe", "t"), ("subscribe", "s"), ("unsubscribe", "s"), ("unsubscribe", "t")]


def test_streams_are_confirmed_in_the_brokers_order(server: LocalServer, broker: LateBroker) -> None:
    with server.connect() as client:
        ask(client, "a", "b", "c")
        for stream in "bca":
            confirm(server, stream)
        client.expect(*map(subscribed, "bca"))


class ClosingDialect(SimpleDialect):
    """Closes the third of the connections when the second is confirmed."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connections: list[Connection] = []
        self.order: list[Subscriber] = []

    def confirmed(self, subscriber: Subscriber, stream: str, key: object) -> None:
        self.order.append(subscriber)
        if subscriber is self.connections[1]:
            self.connections[2].close(4000)


def test_pending_subscribers_are_confirmed_in_the_order_in_which_they_asked(
    server: LocalServer, broker: LateBroker
) -> None:
    """One that is closed while its turn has not come gets no confirmation."""
    dialect = server.server.site.dialect = ClosingDialect(server.server.hub, WebSocketGroup, 32)
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(4)]
        connections = dialect.connections = server.call(server.server.cable.oldest, 4)
        for client in clients:
            ask(client, "s")
        confirm(server, "s")
        assert clients[2].read_close() == (4000, "")
        assert dialect.order == [connections[0], connections[1], connections[3]]
        assert server.call(server.server.hub.subscribers, "s") == 3
    # A connection holds its dialect, and the collector knows nothing of connections.
    dialect.connections, dialect.order = [], []


def test_who_joins_a_live_stream_is_confirmed_at_once(server: LocalServer, broker: LateBroker) -> None:
    with server.connect() as client, server.connect() as other:
        ask(client, "s")
        confirm(server, "s")
        client.expect(subscribed("s"))
        other.subscribe("s")
        confirm(server, "s")  # again, as after the broker's reconnection
        expect_nothing(client)
        expect_nothing(other)
        client.unsubscribe("s")
        expect_nothing(client)
        assert broker.calls == [("subscribe", "s")]
        other.unsubscribe("s")
        expect_nothing(other)
        assert broker.calls == [("subscribe", "s"), ("unsubscribe", "s")]


def test_a_pending_subscription_counts_for_the_limit(serve: Serve) -> None:
    server = serve(ticking=False, max_subscriptions=1)
    server.server.hub.broker = LateBroker(server.server.hub)
    with server.connect() as client:
        ask(client, "s", "s")
        client.command(type="subscribe", stream="t")
        client.expect({"type": "error", "stream": "t", "reason": "too many subscriptions"})
        confirm(server, "s")
        client.expect(subscribed("s"), subscribed("s"))
        assert streams(server) == ["s"]


def test_a_broker_that_fails_to_subscribe_costs_the_connection_and_leaves_no_stream(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BrokenBroker(LateBroker):
        def subscribe(self, stream: str) -> None:
            raise ConnectionError("no broker")

    server.server.hub.broker = BrokenBroker(server.server.hub)
    with server.connect() as client:
        client.command(type="subscribe", stream="s")
        assert client.read_end() == (1011, "internal error")
        assert streams(server) == []


def test_publish_raises_what_the_broker_raises(server: LocalServer) -> None:
    class BrokenBroker(LateBroker):
        def publish(self, stream: str, data: bytes, retain: bool, exclude: str | None, embedded: bool) -> None:
            raise ConnectionError("no broker")

    server.server.hub.broker = BrokenBroker(server.server.hub)
    with pytest.raises(ConnectionError, match="no broker"):
        server.publish("s", 1)


def test_a_broadcast_that_nobody_hears_is_counted_and_forgotten(server: LocalServer) -> None:
    server.publish("s", 1)
    assert server.call(lambda: server.server.hub.counters.broadcasts) == 1
    assert server.call(lambda: server.server.hub.idle)
    assert streams(server) == []


# Retained values


def retain(server: LocalServer, stream: str, data: bytes) -> None:
    server.call(server.server.hub.publish, stream, data, True)


def send_subscribe(client: Client, *streams: str) -> None:
    for stream in streams:
        client.command(type="subscribe", stream=stream)


def test_a_new_subscriber_gets_the_retained_value_right_behind_the_confirmation(server: LocalServer) -> None:
    retain(server, "s", b'{"heat":  4}')
    server.publish("s", "not retained")
    retain(server, "t", b"2")
    with server.connect() as client, server.connect("s") as other:
        send_subscribe(client, "s", "t", "u")
        assert client.read_frame() == (TEXT, b'{"type":"subscribed","stream":"s"}')
        assert client.read_frame() == (TEXT, b'{"type":"message","stream":"s","data":{"heat":  4}}')
        client.expect(subscribed("t"), message("t", 2), subscribed("u"))
        other.expect(message("s", {"heat": 4}))
        retain(server, "s", b"5")
        for each in client, other:
            each.expect(message("s", 5))
            expect_nothing(each)
        assert server.call(lambda: server.server.hub.counters.deliveries) == 5


def test_who_subscribes_again_is_not_new_and_who_comes_back_is(server: LocalServer) -> None:
    retain(server, "s", b"1")
    with server.connect() as client:
        send_subscribe(client, "s", "s")
        client.expect(subscribed("s"), message("s", 1), subscribed("s"))
        client.unsubscribe("s")
        send_subscribe(client, "s")
        client.expect(subscribed("s"), message("s", 1))
        expect_nothing(client)


def test_null_is_delivered_and_retained_no_more(server: LocalServer) -> None:
    with server.connect("s") as client:
        retain(server, "s", b"1")
        retain(server, "s", b"null")
        client.expect(message("s", 1), message("s", None))
        with server.connect() as other:
            send_subscribe(other, "s")
            other.expect(subscribed("s"))
            expect_nothing(other)


def test_the_retained_value_waits_for_the_brokers_confirmation(server: LocalServer, broker: LateBroker) -> None:
    retain(server, "s", b"1")
    with server.connect() as client:
        ask(client, "s", "s")
        expect_nothing(client)
        retain(server, "s", b"2")
        confirm(server, "s")
        client.expect(subscribed("s"), message("s", 2), subscribed("s"))
        expect_nothing(client)


def test_thousands_of_readers_that_stall_share_one_copy_of_a_retained_value(serve: Serve) -> None:
    server = serve(ticking=False)
    value = b'"%b"' % (b"x" * 100_000)
    retain(server, "s", value)
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect(receive_buffer=4096)) for _ in range(20)]
        tracemalloc.start()
        for client in clients:
            send_subscribe(client, "s")
        server.wait_until(lambda: server.server.hub.subscribers("s") == 20)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size < 5 * len(value)
        for client in clients:
            client.expect(subscribed("s"), message("s", "x" * 100_000))


def test_a_peer_that_lets_retained_values_pile_up_is_not_read(serve: Serve) -> None:
    server = serve(ticking=False, max_pending_bytes=500_000)
    retain(server, "s", b'"%b"' % (b"x" * 100_000))
    with server.connect(receive_buffer=4096) as client:
        for _ in range(50):
            send_subscribe(client, "s")
            client.unsubscribe("s")
        connection = server.connection()
        transport = connection.transport
        assert transport is not None
        server.wait_until(lambda: connection.outbox is not None and not transport.is_reading())
        outbox = connection.outbox
        assert outbox is not None
        assert 500_000 <= server.call(lambda: outbox.size) < 700_000
        for _ in range(50):
            client.expect(subscribed("s"), message("s", "x" * 100_000))


# Not back to the sender


def test_a_message_may_exclude_one_subscriber(server: LocalServer) -> None:
    with server.connect("s", "t") as sender, server.connect("s") as other:
        sender.command(type="hello")
        other.command(type="hello")
        socket, same = sender.receive()["socket"], other.receive()["socket"]
        assert socket != same
        for body, status in (({"stream": "s", "data": 1, "exclude": socket}, 200), ({"stream": "s", "data": 2}, 200)):
            assert post(server.port, body) == (status, {"subscribers": 2})
        assert post(server.port, [{"stream": "t", "data": 3, "exclude": same}])[0] == 200
        sender.expect(message("s", 2), message("t", 3))
        other.expect(message("s", 1), message("s", 2))
        sender.command(type="hello")
        sender.expect({"type": "hello", "socket": socket})
        expect_nothing(other)


def test_a_message_is_kept_from_the_sender_alone_in_the_middle_of_others(server: LocalServer) -> None:
    with server.connect("s") as sender, server.connect("s") as other:
        sender.command(type="hello")
        socket = sender.receive()["socket"]

        def publish() -> None:
            for number in range(20):
                server.server.hub.publish("s", b"%d" % number, False, socket if number % 3 == 1 else None)

        server.call(publish)
        sender.expect(*[message("s", number) for number in range(20) if number % 3 != 1])
        other.expect(*[message("s", number) for number in range(20)])


def test_an_unknown_socket_id_excludes_nobody(server: LocalServer) -> None:
    with server.connect("s") as client:
        client.command(type="hello")
        socket = client.receive()["socket"]
        for exclude in ("", "nobody", socket[:-1], socket.upper() + "A", "\ud83c\udf2d"):
            assert post(server.port, {"stream": "s", "data": 1, "exclude": exclude})[0] == 200
            client.expect(message("s", 1))


def test_a_socket_id_ends_with_its_connection_and_holds_nothing(server: LocalServer) -> None:
    before = alive_connections()
    with server.connect("s") as other:
        with server.connect("s") as client:
            client.command(type="hello")
            socket = client.receive()["socket"]
        server.wait_for_connections(1)
        server.wait_until(lambda: alive_connections() == before + 1)
        assert post(server.port, {"stream": "s", "data": 1, "exclude": socket}) == (200, {"subscribers": 1})
        other.expect(message("s", 1))


@pytest.mark.parametrize("others", [0, 1])
def test_who_is_excluded_and_too_slow_is_closed_and_the_others_get_the_message(serve: Serve, others: int) -> None:
    """What was posted before is sent to the excluded one first; if that closes it, its group may end with it."""
    server = serve(ticking=False, slow_consumer="close", max_pending_messages=1)
    with server.connect("s", receive_buffer=4096) as slow, ExitStack() as stack:
        slow.command(type="hello")
        socket = slow.receive()["socket"]
        server.stall("s")
        clients = [stack.enter_context(server.connect("s")) for _ in range(others)]

        def publish() -> None:
            for number in range(4):
                server.server.hub.publish("s", b"%d" % number, False, socket if number == 3 else None)
            assert server.server.hub.counters.slow_closes == 1

        server.call(publish)
        for client in clients:
            client.expect(*[message("s", number) for number in range(4)])
        assert server.call(server.server.hub.subscribers, "s") == others
        server.wait_until(lambda: server.server.hub.idle and not server.server.hub.counters.backlog)
    server.wait_for_connections(0)


# Groups


class TaggedDialect:
    """`KEY STREAM` subscribes, `!KEY STREAM` unsubscribes; a message of the stream is then `<KEY MESSAGE>`."""

    ping = b"ping"
    timed_pings = loses_silently = False

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def opened(self, subscriber: Subscriber) -> None:
        subscriber.answer(b"welcome")

    def received(self, subscriber: Subscriber, text: bytes) -> None:
        key, stream = text.decode().split()
        if key.startswith("!"):
            self.hub.unsubscribe(subscriber, stream, key[1:])
        else:
            self.hub.subscribe(subscriber, stream, key)

    def confirmed(self, subscriber: Subscriber, stream: str, key: object) -> None:
        subscriber.answer(f"{key} {stream} confirmed".encode())

    def gap(self, stream: str, key: object, missed: int | None) -> bytes:
        return f"{key} {stream} missed {missed}".encode()

    def farewell(self, code: int, reason: str) -> bytes | None:
        return None

    def open_group(self, stream: str, key: object) -> Group:
        return WebSocketGroup(f"<{key} ".encode(), b">")


@pytest.fixture
def tagged(server: LocalServer) -> Callable[[], Client]:
    """Connects clients that speak the tagged dialect."""
    dialect = TaggedDialect(server.server.hub)

    def connect() -> Client:
        simple, server.server.site.dialect = server.server.site.dialect, dialect
        try:
            client = server.connect()
            expect_texts(client, "welcome")
            return client
        finally:
            server.server.site.dialect = simple

    return connect


def expect_texts(client: Client, *texts: str) -> None:
    for text in texts:
        assert client.read_frame() == (TEXT, text.encode())


def send_text(client: Client, text: str) -> None:
    client.send_frame(TEXT, text.encode())


def group_keys(server: LocalServer, stream: str) -> list[object]:
    return server.call(lambda: list(server.server.hub.streams[stream].groups))


def test_subscribers_with_different_envelopes_share_a_stream(
    server: LocalServer, tagged: Callable[[], Client]
) -> None:
    with server.connect("s") as simple, tagged() as one, tagged() as two, tagged() as same:
        for client, key in ((one, "a"), (two, "b"), (same, "a")):
            send_text(client, f"{key} s")
            expect_texts(client, f"{key} s confirmed")
        assert group_keys(server, "s") == [KEY, "a", "b"]
        assert server.call(lambda: server.server.hub.subscribers("s")) == 4
        server.publish("s", 1)
        simple.expect(message("s", 1))
        for client, key in ((one, "a"), (two, "b"), (same, "a")):
            expect_texts(client, f"<{key} 1>")
        send_text(two, "!b s")
        expect_nothing(two)
        assert group_keys(server, "s") == [KEY, "a"]
        server.publish("s", 2)
        simple.expect(message("s", 2))
        expect_texts(one, "<a 2>")
        expect_nothing(two)


def test_one_subscriber_may_be_in_two_groups_of_a_stream(server: LocalServer, tagged: Callable[[], Client]) -> None:
    """Two subscriptions, as of an Action Cable client with two identifiers: each gets the message."""
    with tagged() as client:
        for key in ("a", "b", "a"):
            send_text(client, f"{key} s")
            expect_texts(client, f"{key} s confirmed")
        server.publish("s", 1)
        assert {client.read_frame(), client.read_frame()} == {(TEXT, b"<a 1>"), (TEXT, b"<b 1>")}
        send_text(client, "!a s")
        expect_nothing(client)
        server.publish("s", 2)
        expect_texts(client, "<b 2>")
    server.wait_for_connections(0)
    assert streams(server) == []


# Slices. Turns are taken by hand, so that what happens between two of them is certain.


class Room:
    """Many clients subscribed to one stream, on a server whose turns are one slice each, and each slice one stride."""

    def __init__(self, server: LocalServer, stack: ExitStack) -> None:
        self.server = server
        self.hub = server.server.hub
        self.stack = stack
        self.clients: list[Client] = []

    def fill(self, count: int) -> None:
        for _ in range(count):
            self.clients.append(self.stack.enter_context(self.server.connect("big")))

    def connections(self) -> list[Connection]:
        """In the order in which they connected: the clock stands still, so the order of being heard never changes."""
        return self.server.server.cable.oldest(1000)

    def turns(self) -> list[int]:
        """Take turns until nothing is left; how many messages were delivered altogether after each."""
        delivered = []
        while not self.hub.idle:
            self.hub.turn()
            delivered.append(self.hub.counters.deliveries)
        return delivered

    def expect(self, clients: list[Client], *data: object) -> None:
        for client in clients:
            client.expect(*(message("big", one) for one in data))
            expect_nothing(client)


@pytest.fixture
def room(server: LocalServer) -> Iterator[Room]:
    server.server.hub.slice_ns = server.server.hub.turn_ns = 0
    with ExitStack() as stack:
        room = Room(server, stack)
        room.fill(200)
        yield room


def test_a_large_fan_out_is_cut_into_slices(room: Room) -> None:
    def act() -> list[int]:
        room.hub.publish("big", b"1")
        return room.turns()

    assert room.server.call(act) == [*range(STRIDE, 200, STRIDE), 200]
    room.expect(room.clients, 1)


def test_slices_are_taken_by_the_loop_itself_too(room: Room) -> None:
    for number in range(3):
        room.server.publish("big", number)
    room.expect(room.clients, 0, 1, 2)
    assert room.server.call(lambda: (room.hub.idle, room.hub.counters.deliveries)) == (True, 600)


def test_a_small_stream_overtakes_a_large_one(room: Room) -> None:
    def act() -> list[int]:
        room.hub.publish("big", b"1")
        room.hub.publish("small", b"2")
        return room.turns()

    with room.server.connect("small") as small:
        assert room.server.call(act) == [STRIDE, *range(STRIDE + 1, 201, STRIDE), 201]
        small.expect(message("small", 2))
    room.expect(room.clients, 1)


def test_messages_stay_in_order_over_slices(room: Room) -> None:
    def act() -> None:
        number = 0
        room.hub.publish("big", b"0")
        while not room.hub.idle:
            room.hub.turn()
            if number < 5:
                number += 1
                room.hub.publish("big", b"%d" % number)

    room.server.call(act)
    room.expect(room.clients, *range(6))
    assert room.server.call(lambda: room.hub.counters.deliveries) == 1200


def test_who_joins_in_the_middle_gets_what_is_posted_later(room: Room) -> None:
    def act() -> None:
        late = room.connections()[-1]
        room.hub.publish("big", b"1")
        room.hub.turn()
        room.hub.subscribe(late, "big", KEY)
        room.hub.publish("big", b"2")
        room.turns()

    with room.server.connect() as late:
        room.server.call(act)
        late.expect(subscribed("big"), message("big", 2))
        expect_nothing(late)
    room.expect(room.clients, 1, 2)


def test_who_leaves_in_the_middle_got_what_was_posted_before(room: Room) -> None:
    """Whether its turn has come (10) or not (150), and also what was posted but not even begun."""

    def act() -> None:
        connections = room.connections()
        room.hub.publish("big", b"1")
        room.hub.turn()
        room.hub.publish("big", b"2")
        for index in (10, 150):
            room.hub.unsubscribe(connections[index], "big", KEY)
        room.hub.publish("big", b"3")
        room.turns()

    room.server.call(act)
    left = [room.clients.pop(150), room.clients.pop(10)]
    room.expect(left, 1, 2)
    room.expect(room.clients, 1, 2, 3)
    assert room.server.call(lambda: room.hub.counters.deliveries) == 2 * 2 + 198 * 3


def test_who_leaves_and_comes_back_in_the_middle_misses_and_repeats_nothing(room: Room) -> None:
    def act() -> None:
        connections = room.connections()
        room.hub.publish("big", b"1")
        room.hub.turn()
        for index in (10, STRIDE - 1, STRIDE, 150, 199):
            room.hub.unsubscribe(connections[index], "big", KEY)
            room.hub.subscribe(connections[index], "big", KEY)
        room.hub.publish("big", b"2")
        room.turns()

    room.server.call(act)
    back = [room.clients.pop(index) for index in (199, 150, STRIDE, STRIDE - 1, 10)]
    for client in back:
        client.expect(message("big", 1), subscribed("big"), message("big", 2))
        expect_nothing(client)
    room.expect(room.clients, 1, 2)


def test_who_is_closed_in_the_middle_got_what_was_posted_before(room: Room) -> None:
    def act() -> None:
        connections = room.connections()
        room.hub.publish("big", b"1")
        room.hub.turn()
        connections[150].close(4000)
        room.turns()

    room.server.call(act)
    client = room.clients.pop(150)
    client.expect(message("big", 1))
    assert client.read_close() == (4000, "")
    room.expect(room.clients, 1)


@pytest.mark.parametrize("rest", [0, 1, 20, 199])
def test_members_may_vanish_in_the_middle(room: Room, rest: int) -> None:
    """Cut off by us, so that the transport tells us in the next turn of the loop, between two slices."""

    def act() -> None:
        room.hub.publish("big", b"1")
        room.hub.turn()
        for connection in room.connections()[rest:]:
            connection.abort()
        room.hub.publish("big", b"2")

    room.server.call(act)
    room.server.wait_for_connections(rest)
    room.server.wait_until(lambda: room.hub.idle)
    room.expect(room.clients[:rest], 1, 2)
    counters = room.hub.counters
    assert room.server.call(lambda: counters.deliveries + counters.drops) == 400
    assert room.server.call(room.hub.subscribers, "big") == rest
    room.fill(10)
    room.server.publish("big", 3)
    room.expect(room.clients[:rest] + room.clients[-10:], 3)


def test_peers_may_hang_up_in_the_middle(room: Room) -> None:
    def act() -> None:
        room.hub.publish("big", b"1")
        room.hub.turn()

    room.server.call(act)
    for client in room.clients[50:150]:
        client.reset()
    room.server.publish("big", 2)
    room.server.wait_for_connections(100)
    room.server.publish("big", 3)
    room.expect(room.clients[:50] + room.clients[150:], 1, 2, 3)


def test_everybody_may_leave_and_others_come_while_the_messages_wait(room: Room) -> None:
    """Tombstones are removed only when no fan-out is under way, and then they are."""

    def act() -> None:
        connections = room.connections()
        for round_ in range(4):
            room.hub.publish("big", b"%d" % round_)
            room.hub.turn()
            for connection in connections:
                room.hub.unsubscribe(connection, "big", KEY)
            for connection in connections:
                room.hub.subscribe(connection, "big", KEY)
        room.turns()

    room.server.call(act)
    for client in room.clients:
        for round_ in range(4):
            client.expect(message("big", round_), subscribed("big"))
        expect_nothing(client)
    assert room.server.call(room.hub.subscribers, "big") == 200


def test_messages_of_one_turn_come_in_few_pieces(serve: Serve) -> None:
    """Joined up to 64 KiB; order holds over the seams, whatever the sizes."""
    server = serve(ticking=False, max_pending_messages=0)
    sizes = [1, 100, 30_000, 65_500, 1, 2, 200_000, 40_000, 40_000, *[10] * 500]

    def act() -> None:
        for size in sizes:
            server.server.hub.publish("s", b'"%b"' % (b"x" * size))

    with server.connect("s") as one, server.connect("s") as two:
        server.call(act)
        for client in (one, two):
            client.expect(*(message("s", "x" * size) for size in sizes))


@pytest.mark.parametrize("count", [0, 1, STRIDE - 1, STRIDE, STRIDE + 1, 2 * STRIDE])
def test_groups_of_all_sizes_are_served_whole(server: LocalServer, count: int) -> None:
    server.server.hub.slice_ns = server.server.hub.turn_ns = 0
    with ExitStack() as stack:
        room = Room(server, stack)
        room.fill(count)
        server.call(functools.partial(server.server.hub.publish, "big", b"1"))
        room.expect(room.clients, 1)


# A broker that fails, a subscriber that asks and asks, publishers who are too fast


def test_a_broker_that_fails_to_unsubscribe_keeps_nobody(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(stream: str) -> None:
        raise OSError(f"no way to unsubscribe from {stream}")

    broker = LateBroker(server.server.hub)
    monkeypatch.setattr(broker, "subscribe", server.server.hub.confirmed)
    monkeypatch.setattr(broker, "unsubscribe", fail)
    server.server.hub.broker = broker
    with server.connect("a", "b"):
        pass
    server.wait_for_connections(0)
    assert streams(server) == []
    assert [record.message for record in caplog.records] == ["the broker failed"] * 2


@pytest.mark.parametrize(("asked", "confirmed"), [(1023, 1023), (1024, 1024), (1025, 1024)])
def test_confirmations_owed_to_one_who_asks_and_asks(
    server: LocalServer, broker: LateBroker, asked: int, confirmed: int
) -> None:
    with server.connect() as client:
        ask(client, *["s"] * asked)
        expect_nothing(client)
        confirm(server, "s")
        client.expect(*[subscribed("s")] * confirmed)
        expect_nothing(client)


@pytest.mark.parametrize(("size", "congested"), [(9, False), (10, True), (11, True)])
def test_the_backlog_has_a_limit(server: LocalServer, size: int, congested: bool) -> None:
    hub = server.server.hub
    hub.max_backlog = 10
    data = b"1" * size

    def publish() -> bool:
        hub.publish("s", data)
        return hub.congested

    with server.connect("s") as client:
        assert server.call(publish) is congested
        client.expect(message("s", int(data)))
        assert server.call(lambda: (hub.congested, hub.counters.backlog)) == (False, 0)


def test_what_nobody_is_left_for_is_no_backlog(server: LocalServer) -> None:
    hub = server.server.hub

    def publish_and_leave() -> None:
        hub.publish("s", b"1")
        server.server.cable.oldest(1)[0].fail(1000, "")
        hub.publish("s", b"2")

    with server.connect("s"):
        server.call(publish_and_leave)
        server.wait_until(lambda: hub.idle)
    assert hub.counters.backlog == 0


def test_after_an_interruption_those_who_were_subscribed_are_told_of_a_gap_and_others_confirmed(
    server: LocalServer, broker: LateBroker
) -> None:
    hub = server.server.hub

    def come_back() -> None:
        hub.deliver("s", b"2")  # on the way before the stream is heard as a whole again
        hub.confirmed("s")
        hub.deliver("s", b"3")

    with server.connect() as client, server.connect() as newcomer:
        ask(client, "s")
        confirm(server, "s")
        server.publish("s", 1)
        client.expect(subscribed("s"), message("s", 1))
        server.call(hub.interrupted)
        expect_nothing(client)
        ask(newcomer, "s")
        ask(client, "s")
        server.call(come_back)
        client.expect(subscribed("s"), message("s", 2), {"type": "gap", "stream": "s"}, message("s", 3))
        newcomer.expect(subscribed("s"), message("s", 3))
        assert broker.calls == [("subscribe", "s")]
        assert server.call(lambda: hub.counters.gaps) == 1


def test_an_interruption_in_which_nothing_was_missed_is_no_gap(server: LocalServer, broker: LateBroker) -> None:
    hub = server.server.hub
    with server.connect() as client:
        ask(client, "s")
        confirm(server, "s")
        client.expect(subscribed("s"))
        server.call(hub.interrupted)
        server.call(lambda: hub.confirmed("s", missed=False))
        expect_nothing(client)


def test_an_interruption_leaves_pending_streams_pending_and_their_subscribers_miss_nothing(
    server: LocalServer, broker: LateBroker
) -> None:
    with server.connect() as client:
        ask(client, "s")
        server.call(server.server.hub.interrupted)
        confirm(server, "s")
        client.expect(subscribed("s"))
        confirm(server, "s")
        expect_nothing(client)


def test_what_was_lost_is_told_in_its_place_to_each_subscriber_of_the_stream(server: LocalServer) -> None:
    hub = server.server.hub

    def lose() -> None:
        hub.deliver("s", b"1")
        hub.lost("s")
        hub.deliver("s", b"2")
        hub.lost("nobody's")

    with server.connect() as client, server.connect() as other:
        client.subscribe("s")
        other.subscribe("t")
        server.call(lose)
        client.expect(message("s", 1), {"type": "gap", "stream": "s"}, message("s", 2))
        expect_nothing(other)


def test_a_gap_of_the_brokers_waits_for_a_blocked_subscriber_whatever_else_is_dropped(serve: Serve) -> None:
    server = serve(ticking=False, max_pending_messages=1)
    hub = server.server.hub
    with server.connect(receive_buffer=4096) as client:
        client.subscribe("s")
        sent = 0
        while not server.call(lambda: hub.counters.drops):
            server.publish("s", [sent, "x" * 10_000])
            sent += 1
        server.call(hub.lost, "s")
        gaps: list[dict[str, object]] = []
        while len(gaps) < 2:
            frame = client.receive()
            if frame["type"] == "gap":
                gaps.append(frame)
        numbered = {"type": "gap", "stream": "s", "missed": server.call(lambda: hub.counters.drops)}
        assert sorted(gaps, key=len) == [{"type": "gap", "stream": "s"}, numbered]


def test_who_has_no_gap_on_its_wire_is_told_nothing_and_stays(serve: Serve) -> None:
    server = serve(ticking=False, public_streams=True)
    identifier = json.dumps({"channel": "$pubsub", "stream_name": "s"})
    with Client(server.port) as client:
        client.upgrade(CABLE_UPGRADE)
        assert client.receive()["type"] == "welcome"
        client.command(command="subscribe", identifier=identifier)
        assert client.receive() == {"identifier": identifier, "type": "confirm_subscription"}
        server.call(server.server.hub.lost, "s")
        expect_nothing(client)


def test_who_wants_to_know_is_told_of_streams_whose_subscribers_changed(server: LocalServer) -> None:
    hub = server.server.hub
    with server.connect() as client:
        client.subscribe("s")
        changed: set[str] = set()
        hub.on_change = changed.add
        client.subscribe("s")
        assert changed == set()
        client.subscribe("t")
        client.subscribe("u")
        client.unsubscribe("s")
        expect_nothing(client)
        assert changed == {"s", "t", "u"}
        changed.clear()
    server.wait_until(lambda: changed == {"t", "u"})
