"""Joining and leaving in the middle of fan-outs: nobody gets a message twice, misses one, or gets one too early."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastcable._connection import Cable, Connection
from fastcable._deadlines import Deadlines
from fastcable._fanout import WebSocketGroup
from fastcable._heartbeat import Heartbeat
from fastcable._hub import Hub, Subscriber
from fastcable._threads import ThreadPool
from fastcable.brokers.memory import MemoryBroker
from fastcable.channels import Authorizer, Channel
from fastcable.dialects._actioncable import ActionCableDialect
from fastcable.dialects._simple import SimpleDialect
from fastcable.retained import Retained
from fastcable.settings import Settings
from tests.harness import CLOSE, TEXT, LocalServer, frame, post
from tests.swarm import Member, Swarm, split_frames


class History:
    """What each client must get, written down while the server carries things out, in the order in which it does.

    Only the order within a stream is promised, so each stream of a client has a list of its own: a number is a
    message, None an answer to `subscribe`.
    """

    def __init__(self) -> None:
        self.published = 0
        self.joined: dict[str, set[Subscriber]] = defaultdict(set)
        self.due: dict[Subscriber, dict[str, list[int | None]]] = defaultdict(lambda: defaultdict(list))
        self.again: dict[Subscriber, set[tuple[str, int]]] = defaultdict(set)
        """Answers to a `subscribe` while subscribed: these may overtake messages. (stream, which of its answers)"""
        self.retained: dict[str, int] = {}

    def subscribed(self, subscriber: Subscriber, stream: str) -> None:
        due = self.due[subscriber][stream]
        again = subscriber in self.joined[stream]
        if again:
            self.again[subscriber].add((stream, due.count(None)))
        self.joined[stream].add(subscriber)
        due.append(None)
        if stream in self.retained and not again:
            due.append(self.retained[stream])

    def unsubscribed(self, subscriber: Subscriber, stream: str) -> None:
        self.joined[stream].discard(subscriber)

    def left(self, subscriber: Subscriber) -> None:
        for members in self.joined.values():
            members.discard(subscriber)

    def broadcast(self, stream: str, number: int, retain: bool, excluded: Subscriber | None) -> None:
        if retain:
            self.retained[stream] = number
        for subscriber in self.joined[stream]:
            # Who was disconnected for being slow has left without a word.
            if subscriber is not excluded and subscriber.subscriptions:
                self.due[subscriber][stream].append(number)

    def check(self, subscriber: Subscriber, frames: list[tuple[int, bytes]], *, whole: bool = True) -> int:
        """Compare what a client got with what was due (or with the beginning of that); how much it missed, as told."""
        missed = 0
        position: dict[str, int] = defaultdict(int)  # in the messages due of a stream
        answers: dict[str, int] = defaultdict(int)
        due = self.due[subscriber]
        messages = {stream: [number for number in due[stream] if number is not None] for stream in due}
        joins = {stream: [index for index, entry in enumerate(due[stream]) if entry is None] for stream in due}
        for opcode, payload in frames:
            assert opcode == TEXT
            message = orjson.loads(payload)
            stream = message["stream"]
            if message["type"] == "gap":
                assert message["missed"] > 0
                position[stream] += message["missed"]
                missed += message["missed"]
            elif message["type"] == "message":
                assert message["data"][0] == messages[stream][position[stream]]
                position[stream] += 1
            else:
                assert message["type"] == "subscribed"
                if (stream, answers[stream]) not in self.again[subscriber]:
                    assert position[stream] == joins[stream][answers[stream]] - answers[stream]
                answers[stream] += 1
        for stream in due:
            assert position[stream] <= len(messages[stream])
            if whole:
                assert (position[stream], answers[stream]) == (len(messages[stream]), len(joins[stream]))
        return missed


class RecordedDialect(SimpleDialect):
    """The simple protocol, with a history of the commands and the ends of its subscribers."""

    __slots__ = ("_history",)

    def __init__(self, history: History, hub: Hub, threads: ThreadPool) -> None:
        super().__init__(hub, partial(WebSocketGroup, threads=threads), 32)
        self._history = history

    def received(self, subscriber: Subscriber, text: bytes) -> None:
        command = json.loads(text)
        record = {"subscribe": self._history.subscribed, "unsubscribe": self._history.unsubscribed}[command["type"]]
        record(subscriber, command["stream"])
        super().received(subscriber, text)


class RecordedCable(ActionCableDialect):
    """Action Cable's protocol, with the same history: the channel A is the stream a. Like the simple one it answers
    every `subscribe`."""

    __slots__ = ("_history",)

    def __init__(self, history: History, hub: Hub, threads: ThreadPool) -> None:
        channels = [Channel(stream.upper(), stream, public=True) for stream in STREAMS]
        super().__init__(hub, partial(WebSocketGroup, threads=threads), Authorizer(channels), 0, reconfirms=True)
        self._history = history

    def received(self, subscriber: Subscriber, text: bytes) -> None:
        command = json.loads(text)
        record = {"subscribe": self._history.subscribed, "unsubscribe": self._history.unsubscribed}[command["type"]]
        record(subscriber, command["stream"])
        identifier = json.dumps({"channel": command["stream"].upper()})
        super().received(subscriber, json.dumps({"command": command["type"], "identifier": identifier}).encode())


def as_simple(payload: bytes) -> bytes:
    """A frame of Action Cable as the simple protocol would say it."""
    frame = orjson.loads(payload)
    stream = json.loads(frame["identifier"])["channel"].lower()
    if "message" in frame:
        return orjson.dumps({"type": "message", "stream": stream, "data": frame["message"]})
    assert frame["type"] == "confirm_subscription"
    return orjson.dumps({"type": "subscribed", "stream": stream})


class RecordedBroker(MemoryBroker):
    """The memory broker, with a history of what was published. Data is [number, …]. `sockets` are socket ids."""

    __slots__ = ("_history", "sockets")

    def __init__(self, history: History, hub: Hub) -> None:
        super().__init__(hub)
        self._history = history
        self.sockets: dict[str, Subscriber] = {}

    def publish(self, stream: str, data: bytes, retain: bool, exclude: str | None, embedded: bool) -> None:
        excluded = None if exclude is None else self.sockets[exclude]
        self._history.broadcast(stream, json.loads(data)[0], retain, excluded)
        super().publish(stream, data, retain, exclude, embedded)


STREAMS = ["a", "b", "c", "d"]


def command(kind: str, stream: str) -> bytes:
    return json.dumps({"type": kind, "stream": stream}).encode()


def all_ended(members: Iterable[Member]) -> bool:
    return all(member.ended for member in members)


class Bustle:
    """A server whose slices are as short as can be, its clients, and what they do at random."""

    def __init__(
        self, server: LocalServer, swarm: Swarm, seed: int, threads: int, *, padding: str = ""
    ) -> None:
        self.random = random.Random(seed)
        self.server = server
        self.swarm = swarm
        self.threads = threads
        self.padding = padding
        self.history = History()
        self.clients: dict[Connection, Member] = {}
        hub = server.server.hub
        server.call(self._prepare, hub)
        assert server.server.site.dialect is not None
        self.dialect = server.server.site.dialect
        self.hub = hub

    def _prepare(self, hub: Hub) -> None:
        hub.slice_ns = hub.turn_ns = 0
        hub.broker = self.broker = RecordedBroker(self.history, hub)
        threads = ThreadPool(self.threads)
        threads.share = 1
        self.server.server.site.dialect = RecordedDialect(self.history, hub, threads)

    def connect(self, count: int, receive_buffer: int = 1 << 18) -> None:
        members = {
            member.socket.getsockname(): member for member in self.swarm.connect(count, receive_buffer=receive_buffer)
        }
        for connection in self.server.call(self.server.server.cable.oldest, len(self.clients) + count):
            if connection not in self.clients:
                assert connection.transport is not None
                self.clients[connection] = members[connection.transport.get_extra_info("peername")]
                self.broker.sockets[self.server.call(self.hub.socket_id, connection)] = connection

    def publish(self) -> None:
        number, self.history.published = self.history.published, self.history.published + 1
        stream = self.random.choice(STREAMS)
        retain = self.random.random() < 0.3
        exclude = None
        if self.random.random() < 0.3:
            exclude = self.random.choice(list(self.broker.sockets))
        self.hub.publish(stream, json.dumps([number, self.padding]).encode(), retain, exclude)

    async def act(self, steps: int, connections: list[Connection]) -> None:
        """In the server's thread: so many steps, each within the turns that a fan-out takes."""
        choose = self.random
        for _ in range(steps):
            for _ in range(choose.randrange(4)):
                self.publish()
            for connection in choose.sample(connections, choose.randrange(8)):
                kind = choose.choice(["subscribe", "subscribe", "unsubscribe"])
                self.dialect.received(connection, command(kind, choose.choice(STREAMS)))
            for _ in range(choose.randrange(6)):
                await asyncio.sleep(0)

    def run(self, coroutine: Any, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Run a coroutine in the server's thread while the clients read."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.server.loop)

        def done() -> bool:
            meanwhile()
            return future.done()

        self.swarm.run_until(done)
        future.result()

    def end(self, connections: list[Connection]) -> None:
        """Have the server close these, and wait until they have got everything and are gone."""

        def close() -> None:
            for connection in connections:
                self.history.left(connection)
                connection.close(1001, "done")

        self.server.call(close)
        members = [self.clients[connection] for connection in connections]
        self.swarm.run_until(partial(all_ended, members))
        for member in members:
            assert member.close_code == 1001
            member.frames.pop()

    def check(self, connections: list[Connection], *, whole: bool = True) -> int:
        return sum(
            self.history.check(connection, self.clients.pop(connection).frames, whole=whole)
            for connection in connections
        )


@pytest.mark.parametrize(("seed", "threads"), [(0, 1), (1, 1), (2, 2), (3, 4)])
def test_everybody_gets_exactly_what_was_posted_while_subscribed(
    serve: Callable[..., LocalServer], seed: int, threads: int
) -> None:
    """300 clients come, go, join and leave while each fan-out takes several turns of the loop."""
    server = serve(ticking=False)
    counters = server.server.hub.counters
    with Swarm(server.port) as swarm:
        bustle = Bustle(server, swarm, seed, threads)
        for _ in range(3):
            bustle.connect(300 - len(bustle.clients))
            connections = list(bustle.clients)
            bustle.run(bustle.act(300, connections))
            # Some are closed in the middle of it: they get all that was posted before.
            bustle.random.shuffle(connections)
            bustle.end(connections[:60])
            bustle.check(connections[:60])
        bustle.end(connections[60:])
        bustle.check(connections[60:])
        assert not bustle.clients
    assert bustle.history.published > 1000
    assert (counters.drops, counters.gaps) == (0, 0)


@pytest.mark.parametrize(("seed", "threads"), [(0, 1), (1, 3)])
def test_commands_and_ends_that_come_over_the_wire(
    serve: Callable[..., LocalServer], seed: int, threads: int
) -> None:
    """The order of things is the one in which the server reads them; who vanishes got a beginning of what was due."""
    server = serve(ticking=False)
    with Swarm(server.port) as swarm:
        bustle = Bustle(server, swarm, seed, threads)
        choose = bustle.random
        bustle.connect(250)
        connections = list(bustle.clients)
        for _ in range(40):
            for connection in choose.sample(list(bustle.clients), 100):
                kind = choose.choice(["subscribe", "subscribe", "unsubscribe"])
                bustle.clients[connection].command(type=kind, stream=choose.choice(STREAMS))
                if choose.random() < 0.1:
                    server.call(bustle.publish)
            number = bustle.history.published
            bustle.history.published += 5
            batch = [{"stream": choose.choice(STREAMS), "data": [number + index]} for index in range(5)]
            assert post(server.port, batch)[0] == 200
            gone = choose.sample(list(bustle.clients), 3)
            leaving = [bustle.clients[connection] for connection in gone]
            for connection, member, how in zip(gone, leaving, ["close", "fin", "abort"], strict=True):
                if how == "close":
                    member.send(frame(CLOSE, b"\x03\xe8"))
                elif how == "fin":
                    member.socket.shutdown(socket.SHUT_WR)
                else:
                    server.call(connection.abort)
            swarm.run_until(partial(all_ended, leaving))
            for connection, member in zip(gone, leaving, strict=True):
                if member.close_code:
                    member.frames.pop()
                server.call(bustle.history.left, connection)
            bustle.check(gone, whole=False)
        remaining = [connection for connection in connections if connection in bustle.clients]
        # Commands that are still on their way come before the answer to a ping.
        for connection in remaining:
            bustle.clients[connection].command(type="subscribe", stream="last")
        swarm.run_until(lambda: all(
            (TEXT, b'{"type":"subscribed","stream":"last"}') in bustle.clients[each].frames for each in remaining))
        bustle.end(remaining)
        bustle.check(remaining)


@pytest.mark.parametrize(
    ("seed", "threads", "slow_consumer"), [(0, 1, "drop"), (1, 1, "latest"), (2, 2, "latest"), (3, 4, "drop")]
)
def test_those_who_stall_are_told_exactly_what_they_missed(
    serve: Callable[..., LocalServer], seed: int, threads: int, slow_consumer: str
) -> None:
    server = serve(ticking=False, max_pending_messages=16, slow_consumer=slow_consumer)
    counters = server.server.hub.counters
    with Swarm(server.port) as swarm:
        bustle = Bustle(server, swarm, seed, threads, padding="." * 4000)
        bustle.connect(100)
        bustle.connect(50, receive_buffer=4096)
        connections = list(bustle.clients)
        stalled = [bustle.clients[connection] for connection in connections[100:110]]
        stalling = [bustle.clients[connection] for connection in connections[110:]]
        choose = random.Random(seed)
        turns = 0
        for member in stalled:
            swarm.stall(member)

        def meanwhile() -> None:
            nonlocal turns
            turns += 1
            if turns % 10 == 0:
                for member in choose.sample(stalling, 10):
                    swarm.stall(member)
                for member in choose.sample(stalling, 5):
                    swarm.resume(member)

        bustle.run(bustle.act(400, connections), meanwhile)
        assert server.call(lambda: len(server.server.cable.blocked))
        for member in stalled + stalling:
            swarm.resume(member)
        cable, hub = server.server.cable, bustle.hub
        swarm.run_until(lambda: server.call(lambda: not cable.blocked and hub.idle))
        bustle.end(connections)
        missed = bustle.check(connections)
        assert missed == counters.drops > 0


# The same on a small scale, without a loop: Hypothesis decides when a turn is run, who stalls, and shortens what fails.


class Wire:
    """A transport on one end of a pair of sockets, for one connection; it sends again when it is told to."""

    def __init__(self) -> None:
        self.socket, self.peer = socket.socketpair()
        self.socket.setblocking(False)
        self.peer.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)  # what Linux gives at least
        self.held = b""
        self.received = b""
        self.protocol: Any = None

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self.socket

    def set_protocol(self, protocol: Connection) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def write(self, data: bytes | memoryview) -> None:
        assert not self.held
        self.held = bytes(data)
        self.protocol.pause_writing()

    def read(self) -> None:
        """The peer reads everything, and what waits goes on its way."""
        while True:
            try:
                self.received += self.peer.recv(65536)
            except BlockingIOError:
                if not self.held:
                    return
                try:
                    self.held = self.held[self.socket.send(self.held) :]
                except BlockingIOError:
                    continue
                if not self.held:
                    self.protocol.resume_writing()

    def close(self) -> None:
        self.protocol.connection_lost(None)
        self.socket.close()
        self.peer.close()


class Nowhere(Wire):
    """A transport that takes everything; its socket is none, so that every frame comes by here."""

    def __init__(self) -> None:
        self.socket = self.peer = socket.socket()
        self.protocol = None

    def write(self, data: bytes | memoryview) -> None:
        pass


clients = st.integers(0, 2)
streams = st.sampled_from(["a", "b"])


class Membership(RuleBasedStateMachine):
    """Three clients, two streams, and between them as many members as make a slice of its own."""

    threads = 1
    slow_consumer = "drop"
    max_pending = 3
    cables: tuple[int, ...] = ()  # those of the clients who speak Action Cable

    def is_open(self, client: int) -> bool:
        return self.connections[client] in self.cable.oldest(len(self.wires + self.others))

    @initialize()
    def start(self) -> None:
        options = Settings(max_pending_messages=self.max_pending, slow_consumer=self.slow_consumer)
        self.turns: list[Callable[[], None]] = []
        self.hub = Hub(self.turns.append, retained=Retained(0, 0, lambda: 0.0))
        self.hub.slice_ns = self.hub.turn_ns = 0
        self.history = History()
        self.hub.broker = self.broker = RecordedBroker(self.history, self.hub)
        pool = ThreadPool(self.threads)
        pool.share = 1
        self.dialects: list[SimpleDialect | ActionCableDialect] = [
            (RecordedCable if index in self.cables else RecordedDialect)(self.history, self.hub, pool)
            for index in range(3)
        ]
        self.cable = Cable(options, self.hub, Deadlines(0), Deadlines(0), lambda: 0.0)
        self.cable.heartbeat = Heartbeat(self.cable, b"", 1.0, options)
        self.wires = [Wire() for _ in range(3)]
        self.others = [Nowhere() for _ in range(48)]
        self.connections = []
        for index, wire in enumerate(self.wires):
            self.connections.append(self.open(wire, index))
            self.broker.sockets[self.hub.socket_id(self.connections[-1])] = self.connections[-1]
            for other in self.others[index * 16 : index * 16 + 16]:
                connection = self.open(other, index)
                self.dialects[index].received(connection, command("subscribe", "a"))
                self.dialects[index].received(connection, command("subscribe", "b"))

    def open(self, wire: Wire, index: int) -> Connection:
        connection = Connection(self.cable, self.dialects[index], wire)  # type: ignore[arg-type]
        connection.open(b"", b"")
        return connection

    @rule(client=clients, stream=streams, kind=st.sampled_from(["subscribe", "unsubscribe"]))
    def command(self, client: int, stream: str, kind: str) -> None:
        if self.is_open(client):
            self.dialects[client].received(self.connections[client], command(kind, stream))

    @rule(
        stream=streams, size=st.sampled_from([0, 2000, 40_000]), retain=st.booleans(),
        excluded=st.none() | st.none() | clients,
    )
    def publish(self, stream: str, size: int, retain: bool, excluded: int | None) -> None:
        self.history.published += 1
        exclude = None
        if excluded is not None and self.is_open(excluded):
            exclude = self.hub.socket_id(self.connections[excluded])
        self.hub.publish(stream, json.dumps([self.history.published, "." * size]).encode(), retain, exclude)

    @rule()
    def turn(self) -> None:
        if self.turns:
            self.turns.pop()()

    @rule(client=clients)
    def read(self, client: int) -> None:
        self.wires[client].read()

    def frames_of(self, client: int) -> tuple[list[tuple[int, bytes]], bool]:
        """What a client got, as the simple protocol says it; and whether it was disconnected then."""
        frames, _ = split_frames(self.wires[client].received)
        if client not in self.cables or not frames:
            return frames, False
        assert frames.pop(0)[1].startswith(b'{"type":"welcome"')
        ended = bool(frames) and frames[-1][0] == CLOSE
        if ended:
            assert frames.pop()[1] == b"\x03\xf5too slow"
            assert frames.pop()[1] == b'{"type":"disconnect","reason":"too_slow","reconnect":true}'
        return [(opcode, as_simple(payload)) for opcode, payload in frames], ended

    @invariant()
    def nothing_is_wrong_so_far(self) -> None:
        for client, connection in enumerate(self.connections):
            self.history.check(connection, self.frames_of(client)[0], whole=False)

    def teardown(self) -> None:
        while self.turns:
            self.turn()
        missed = lost = 0
        for client, connection in enumerate(self.connections):
            self.wires[client].read()
            assert split_frames(self.wires[client].received)[1] == b""
            frames, ended = self.frames_of(client)
            assert ended is not self.is_open(client)
            missed += self.history.check(connection, frames, whole=not ended)
            if ended:
                due = sum(entry is not None for stream in self.history.due[connection].values() for entry in stream)
                lost += due - sum(b'"type":"message"' in payload for _, payload in frames)
            elif self.slow_consumer == "latest":
                last = {frame["stream"]: frame["type"] for _, payload in frames if (frame := orjson.loads(payload))}
                assert "gap" not in last.values()
        # A retained value is an answer: nobody is counted as having missed it.
        assert missed <= self.hub.counters.drops <= missed + lost
        for wire in [*self.wires, *self.others]:
            wire.close()
        # The collector does not see the circles from a connection over its dialect to these.
        self.history.joined.clear()
        self.history.due.clear()
        self.history.again.clear()
        self.broker.sockets.clear()
        assert not self.hub.streams
        assert not self.cable.connections


Membership.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestMembership = Membership.TestCase


class ThreadedMembership(Membership):
    threads = 3


ThreadedMembership.TestCase.settings = Membership.TestCase.settings
TestThreadedMembership = ThreadedMembership.TestCase


class LatestMembership(Membership):
    """A stale value never is the last that a slow client has."""

    threads = 2
    slow_consumer = "latest"


LatestMembership.TestCase.settings = Membership.TestCase.settings
TestLatestMembership = LatestMembership.TestCase


class MixedMembership(Membership):
    """Two who speak Action Cable, which has no word for a gap, beside one who speaks the simple protocol."""

    threads = 2
    max_pending = 1
    cables = (0, 2)

    @rule(stream=streams)
    def flood(self, stream: str) -> None:
        """More than fits for who does not read meanwhile."""
        for size in (40_000, 0, 0):
            self.history.published += 1
            self.hub.publish(stream, json.dumps([self.history.published, "." * size]).encode())
            while self.turns:
                self.turns.pop()()


MixedMembership.TestCase.settings = Membership.TestCase.settings
TestMixedMembership = MixedMembership.TestCase
