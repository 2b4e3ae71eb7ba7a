"""Pings and the deadlines of silent and of stalled peers, counted in beats; and the clock that beats."""

from __future__ import annotations

import asyncio
import fcntl
import json
import struct
import termios
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any, cast

import pytest

from fastcable._connection import Connection
from fastcable._deadlines import Deadlines
from fastcable._heartbeat import Heartbeat
from fastcable.channels import Channel
from fastcable.heartbeat import Clock, beat_seconds
from fastcable.settings import Settings
from tests.harness import CABLE_UPGRADE, CLOSE, PING, PONG, TEXT, Client, LocalServer, Serve, frame

JSON_PING = (TEXT, b'{"type":"ping"}')
WEBSOCKET_PING = (PING, b"")
IDLE_CLOSE = (CLOSE, (1001).to_bytes(2, "big") + b"idle timeout")

# Beats are half a second: six to a ping interval, four to a write timeout, twelve to an idle timeout, and one more that
# had begun when the peer was last heard.
SMALL = {"ping_interval": 3.0, "idle_timeout": 6.0, "write_timeout": 2.0}
SLOTS, IDLE_BEATS, WRITE_BEATS = 6, 13, 4


class Beats:
    """Beats a server's clock, with a mark for all clients behind each beat, so that they can tell the beats apart
    without sending anything."""

    def __init__(self, server: LocalServer) -> None:
        assert server.server.heartbeat.seconds == 0.5
        # However busy the machine is, the marks of a beat have all been sent when the next one begins.
        server.server.hub.slice_ns = server.server.hub.turn_ns = 1 << 60
        self.server = server
        self.now = 0

    def pass_(self, count: int = 1) -> None:
        for _ in range(count):
            self.now += 1
            self.server.call(self._beat)

    def _beat(self) -> None:
        self.server.server.heartbeat.beat()
        self.server.server.hub.publish("beats", b"%d" % self.now)


class Listener:
    """A client that notes in `heard` what came in which beat, the close frame included."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.heard: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
        self.beat = 0
        self.closed = False

    def listen(self, until: int) -> list[tuple[int, bytes]]:
        """Read to the mark of a beat; what came in that beat."""
        since: list[tuple[int, bytes]] = []
        while self.beat < until and not self.closed:
            opcode, payload = frame = self.client.read_frame()
            if payload.startswith(b'{"type":"message"'):
                self.beat += 1
                assert payload.endswith(b":%d}" % self.beat)
                self.heard[self.beat], since = since, []
            else:
                since.append(frame)
                self.closed = opcode == CLOSE
        if self.closed:
            self.heard[self.beat + 1] = since
        return self.heard[until]

    def beats_of(self, frame: tuple[int, bytes]) -> list[int]:
        return [beat for beat, frames in sorted(self.heard.items()) for one in frames if one == frame]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


Rooms = Callable[..., tuple[Beats, list[Listener]]]


@pytest.fixture
def listeners(serve: Serve, stack: ExitStack) -> Rooms:
    """A server with these options and so many clients."""

    def start(count: int, **options: float) -> tuple[Beats, list[Listener]]:
        server = serve(ticking=False, **{**SMALL, **options})
        return Beats(server), [Listener(stack.enter_context(server.connect("beats"))) for _ in range(count)]

    return start


def answer(client: Client, opcode: int, payload: bytes) -> None:
    """Send a frame and wait until it has been read. (Any bytes count as life: what waits for it does no harm.)"""
    client.send_frame(opcode, payload)
    client.send_frame(PING, b"read?")
    assert client.read_frame() == (PONG, b"read?")


# Pings


def test_each_connection_gets_one_ping_per_interval_in_a_phase_of_its_own(listeners: Rooms) -> None:
    """A storm of connects at one moment is spread evenly over the ring."""
    beats, clients = listeners(4 * SLOTS, idle_timeout=0)
    beats.pass_(5 * SLOTS)
    phases = Counter[int]()
    for client in clients:
        client.listen(beats.now)
        pings = client.beats_of(JSON_PING)
        assert pings == list(range(pings[0], beats.now + 1, SLOTS))
        assert 1 <= pings[0] <= SLOTS
        phases[pings[0]] += 1
    assert phases == dict.fromkeys(range(1, SLOTS + 1), 4)


def test_phases_stay_even_when_some_leave(listeners: Rooms) -> None:
    beats, clients = listeners(2 * SLOTS, idle_timeout=0)
    for client in clients[::2]:
        client.client.close()
    beats.server.wait_for_connections(SLOTS)
    beats.pass_(SLOTS)
    for client in clients[1::2]:
        client.listen(beats.now)
        assert len(client.beats_of(JSON_PING)) == 1


def test_who_connects_later_is_pinged_within_an_interval(listeners: Rooms) -> None:
    beats, _ = listeners(0, idle_timeout=0)
    beats.pass_(100)
    with beats.server.connect("beats") as client:
        late = Listener(client)
        late.beat = beats.now
        beats.pass_(2 * SLOTS)
        late.listen(beats.now)
        pings = late.beats_of(JSON_PING)
        assert len(pings) == 2
        assert pings[1] - pings[0] == SLOTS


def test_a_silent_peer_gets_a_websocket_ping_with_its_next_ping_at_the_latest(listeners: Rooms) -> None:
    beats, clients = listeners(SLOTS, idle_timeout=0)
    beats.pass_(4 * SLOTS)
    for client in clients:
        client.listen(beats.now)
        first, *later = client.beats_of(JSON_PING)
        probes = client.beats_of(WEBSOCKET_PING)
        assert first < min(probes) <= later[0]
        assert set(later) <= set(probes)


def test_who_answers_pings_as_the_protocol_says_gets_no_websocket_ping(listeners: Rooms) -> None:
    beats, (client, *_) = listeners(1)
    for _ in range(10 * SLOTS):
        beats.pass_()
        if JSON_PING in client.listen(beats.now):
            answer(client.client, TEXT, b'{"type":"pong"}')
    assert len(client.beats_of(JSON_PING)) == 10
    assert client.beats_of(WEBSOCKET_PING) == []


@pytest.mark.parametrize(
    "options", [{}, {"idle_timeout": 5.0}, {"ping_interval": 30.0, "idle_timeout": 60.0}],
    ids=["half", "more-than-half", "default"],
)
@pytest.mark.parametrize("answered", [0, 2, 3], ids=["never", "every-second", "every-third"])
@pytest.mark.parametrize("phase", range(SLOTS))
def test_who_answers_websocket_pings_stays_for_ever(
    listeners: Rooms, options: dict[str, float], answered: int, phase: int
) -> None:
    """As wscat, `ws` and idle pages of other protocols do, whatever else they send. (Between a sign of life and the
    next WebSocket ping lie one and a half ping intervals at most: that long the idle timeout must be.)"""
    beats, clients = listeners(phase + 1, **options)
    client = clients[-1]
    for other in clients[:-1]:
        other.client.close()
    pings = 0
    for _ in range(round(12 * options.get("ping_interval", 3.0))):
        beats.pass_()
        frames = client.listen(beats.now)
        assert not client.closed
        if JSON_PING in frames:
            pings += 1
        if WEBSOCKET_PING in frames or (JSON_PING in frames and answered and pings % answered == 0):
            answer(client.client, PONG, b"")
    assert client.beats_of(WEBSOCKET_PING)


# Timed pings, for clients of Action Cable

BEATS_CHANNEL = (Channel("Beats", "beats", public=True), Channel("S", "s", public=True))


def connect_cable(server: LocalServer, channel: str = "Beats", **options: int) -> Client:
    client = Client(server.port, **options)
    client.upgrade(CABLE_UPGRADE)
    assert client.receive()["type"] == "welcome"
    identifier = json.dumps({"channel": channel})
    client.command(command="subscribe", identifier=identifier)
    client.expect({"identifier": identifier, "type": "confirm_subscription"})
    return client


@pytest.fixture
def cables(serve: Serve, stack: ExitStack) -> Callable[..., tuple[Beats, list[Cable]]]:
    """A server with these options and so many clients of Action Cable. Its time goes on by two beats a second."""

    def start(count: int, **options: float) -> tuple[Beats, list[Cable]]:
        server = serve(ticking=False, channels=BEATS_CHANNEL, **{**SMALL, "ping_interval": 12.0, **options})
        beats = Beats(server)
        server.server.heartbeat.time = lambda: NOW + beats.now * 0.5
        return beats, [Cable(stack.enter_context(connect_cable(server))) for _ in range(count)]

    return start


NOW = 1_700_000_000


class Cable(Listener):
    def listen(self, until: int) -> list[tuple[int, bytes]]:
        """Read to the mark of a beat; what came in that beat."""
        since: list[tuple[int, bytes]] = []
        while self.beat < until and not self.closed:
            opcode, payload = frame = self.client.read_frame()
            if payload.startswith(b'{"identifier"'):
                self.beat += 1
                assert payload.endswith(b'"message":%d}' % self.beat)
                self.heard[self.beat], since = since, []
            else:
                since.append(frame)
                self.closed = opcode == CLOSE
        if self.closed:
            self.heard[self.beat + 1] = since
        return self.heard[until]

    def pings(self) -> dict[int, int]:
        """The numbers of its pings, by the beat in which each came."""
        found = {}
        for beat, frames in self.heard.items():
            for opcode, payload in frames:
                if opcode == TEXT:
                    message = json.loads(payload)
                    assert payload == b'{"type":"ping","message":%d}' % message["message"]
                    assert beat not in found
                    found[beat] = message["message"]
        return found


def test_timed_pings_come_every_three_seconds_in_a_phase_of_its_own(cables: Callable[..., Any]) -> None:
    beats, clients = cables(24, idle_timeout=0)
    beats.pass_(60)
    phases = Counter[int]()
    for client in clients:
        client.listen(beats.now)
        pings = client.pings()
        first = min(pings)
        assert list(pings) == list(range(first, 61, 6))
        assert pings == {beat: NOW + beat // 2 for beat in pings}
        phases[first] += 1
    assert phases == dict.fromkeys(range(1, 7), 4)


def test_websocket_pings_of_these_come_no_more_often_than_to_others(cables: Callable[..., Any]) -> None:
    """Twice in a ping interval to one who says nothing at all, whose stack would have answered the first."""
    beats, clients = cables(24, idle_timeout=0)
    beats.pass_(24 * 5)
    phases = Counter[int]()
    for client in clients:
        client.listen(beats.now)
        probes = client.beats_of(WEBSOCKET_PING)
        assert probes == list(range(probes[0], beats.now + 1, 12))
        phases[probes[0]] += 1
    assert phases == dict.fromkeys(range(13, 37), 1)


def test_pages_that_never_say_a_word_stay(cables: Callable[..., Any]) -> None:
    beats, clients = cables(7, idle_timeout=24.0)
    for _ in range(24 * 6):
        beats.pass_()
        for client in clients:
            if WEBSOCKET_PING in client.listen(beats.now):
                answer(client.client, PONG, b"")
    assert not any(client.closed for client in clients)


def test_the_dead_are_closed_with_a_word_to_come_back(cables: Callable[..., Any]) -> None:
    beats, (client,) = cables(1)
    beats.pass_(IDLE_BEATS)
    client.listen(beats.now)
    farewell = (TEXT, b'{"type":"disconnect","reason":"idle_timeout","reconnect":true}')
    assert client.heard[IDLE_BEATS][-2:] == [farewell, IDLE_CLOSE]


@pytest.mark.parametrize("clock", [
    lambda: NOW, lambda: NOW - 3600, lambda: NOW + 3600, iter([NOW, NOW - 9, NOW + 9] * 100).__next__,
], ids=["standing-still", "set-back", "set-forward", "erratic"])
def test_the_numbers_grow_whatever_the_clock_does(cables: Callable[..., Any], clock: Callable[[], float]) -> None:
    beats, (client,) = cables(1, idle_timeout=0)
    beats.pass_(12)
    beats.server.server.heartbeat.time = clock
    beats.pass_(48)
    client.listen(beats.now)
    numbers = list(client.pings().values())
    assert len(numbers) == 10
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(("ping_interval", "timed", "period", "probes"), [
    (12.0, 1.0, 4, 24), (30.0, 3.0, 6, 30), (7.0, 3.0, 6, 6), (1.0, 3.0, 12, 2), (2.0, 3.0, 4, 2), (12.0, 0.0, 0, 12),
    (0.0, 3.0, 6, 0), (0.0, 0.0, 0, 0), (3.0, 3.0, 6, 3), (86400.0, 3.0, 6, 0), (12.0, 86400.0, 31_992, 12),
])
def test_any_two_intervals_go_together(
    serve: Serve, ping_interval: float, timed: float, period: int, probes: int
) -> None:
    """One is shortened to what the other is a multiple of, if need be. (`probes` is half of its beats.)"""
    options = {"ping_interval": ping_interval, "actioncable_ping_interval": timed, "idle_timeout": 0}
    server = serve(ticking=False, channels=BEATS_CHANNEL, **options)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect_cable(server))
        cable = Cable(stack.enter_context(connect_cable(server)))
        for beat in range(1, 121):
            server.call(server.server.heartbeat.beat)
            server.publish("beats", beat)
        cable.listen(120)
        pings, websocket_pings = list(cable.pings()), cable.beats_of(WEBSOCKET_PING)
    assert pings == (list(range(pings[0], 121, period)) if period else [])
    assert websocket_pings == (list(range(websocket_pings[0], 121, probes)) if probes else [])


def test_timed_pings_pass_a_full_queue_one_at_a_time(serve: Serve, stack: ExitStack) -> None:
    """A page whose messages pile up would else take its connection for stale, and come back for more."""
    server = serve(
        ticking=False, channels=BEATS_CHANNEL, ping_interval=0, idle_timeout=0, write_timeout=0,
        max_pending_messages=1)
    client = stack.enter_context(connect_cable(server, "S", receive_buffer=4096))
    server.stall("s")
    connection = server.connection()
    outbox = connection.outbox
    assert outbox is not None
    server.publish("s", "waits")
    server.beat(60)
    assert server.call(lambda: outbox.frames) == 1
    assert client.receive()["message"][0] == "x"
    assert client.receive()["type"] == "ping"
    assert client.receive()["message"] == "waits"
    server.wait_until(lambda: connection.outbox is None)
    server.beat(3)
    assert client.receive()["type"] == "ping"
    # And blocked once more, it gets one again.
    server.stall("s")
    server.beat(60)
    assert [client.receive().get("type") for _ in range(2)] == [None, "ping"]


def test_a_ping_ahead_does_not_count_as_progress(serve: Serve, stack: ExitStack) -> None:
    server = serve(ticking=False, channels=BEATS_CHANNEL, **{**SMALL, "actioncable_ping_interval": 2.0})
    stack.enter_context(connect_cable(server, "S", receive_buffer=4096))
    server.stall("s")
    connection = server.connection()
    seen: list[int] = []

    def beat() -> bool:
        seen.append(unsent(connection))
        server.server.heartbeat.beat()
        assert connection.transport is not None
        return connection.transport.is_closing()

    while not server.call(beat):
        pass
    moved = [index for index in range(1, len(seen)) if seen[index] < seen[index - 1]]
    assert len(seen) - 1 - max(moved, default=0) == WRITE_BEATS


def test_no_timed_ping_reaches_the_blocked_of_the_simple_protocol(serve: Serve, stack: ExitStack) -> None:
    server, client, connection = stalled(serve, stack, write_timeout=0)
    server.beat(60)
    assert client.receive()["type"] == "message"
    server.wait_until(lambda: connection.outbox is None)
    server.publish("s", "next")
    client.expect({"type": "message", "stream": "s", "data": "next"})


def test_timed_pings_end_with_the_connection(serve: Serve) -> None:
    """While its close frame waits behind what was on its way, it is in no ring any more."""
    server = serve(ticking=False, channels=BEATS_CHANNEL, **SMALL, close_timeout=0)
    with connect_cable(server, "S", receive_buffer=4096) as client:
        server.stall("s")
        server.call(server.connection().close, 1001, "server stopping")
        server.beat(1.5)
        assert client.receive()["message"][0] == "x"
        assert client.receive() == {"type": "disconnect", "reason": "server_restart", "reconnect": True}
        assert client.read_close() == (1001, "server stopping")


# Names of connections


def test_socket_ids_are_found_while_their_connection_is_open(serve: Serve) -> None:
    server = serve(ticking=False, **SMALL, channels=BEATS_CHANNEL)
    ids = server.server.heartbeat
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect("s")) for _ in range(20)]
        clients += [stack.enter_context(connect_cable(server)) for _ in range(20)]
        connections = server.call(server.server.cable.oldest, 40)
        names = server.call(lambda: [ids.id_of(connection) for connection in connections])
        assert len(set(names)) == 40
        assert server.call(lambda: [ids.find(name) for name in names]) == connections
        for client in clients[::2]:
            client.close()
        server.wait_for_connections(20)
        remaining = server.call(server.server.cable.oldest, 40)
        found = server.call(lambda: [ids.find(name) for name in names])
        assert [each for each in found if each] == [each for each in connections if each in remaining]
        # Nor does who comes next inherit a name.
        stack.enter_context(server.connect("s"))
        assert server.call(lambda: sum(ids.find(name) is not None for name in names)) == 20


@pytest.mark.parametrize(
    "name", ["", "x", "0" * 31, "0" * 32, "f" * 32, "0" * 33, "é" * 32, " " * 32, "0" * 16 + "\n" * 16])
def test_what_is_no_socket_id_finds_nobody(serve: Serve, name: str) -> None:
    server = serve(ticking=False)
    with server.connect("s"):
        assert server.call(server.server.heartbeat.find, name) is None


# Silence


def test_who_says_nothing_is_closed_after_idle_timeout_and_not_one_beat_earlier(listeners: Rooms) -> None:
    beats, clients = listeners(SLOTS)
    beats.pass_(IDLE_BEATS - 1)
    assert beats.server.call(lambda: len(beats.server.server.cable.oldest(100))) == SLOTS
    beats.pass_(1)
    for client in clients:
        client.listen(beats.now)
        assert client.heard[IDLE_BEATS][-1] == IDLE_CLOSE


@pytest.mark.parametrize("spoken", [1, 5, IDLE_BEATS - 1])
@pytest.mark.parametrize(
    "data", [b"\x81", b"\x81\xfe\x01", b"\x8a\x80\1\2\3\4", b"\x81\x80\1\2\3\4"],
    ids=["one-octet", "half-a-header", "pong", "empty-text"],
)
def test_any_bytes_count_as_life(listeners: Rooms, data: bytes, spoken: int) -> None:
    """F11: and half a frame is no more than life."""
    beats, (quiet, loud) = listeners(2)
    cable = beats.server.server.cable
    beats.pass_(spoken)
    for client in (loud, quiet):  # heard in this order, if only `loud` is heard again
        client.listen(beats.now)
    _, connection = beats.server.call(cable.oldest, 2)
    answer(quiet.client, PONG, b"")
    loud.client.send(data)
    beats.server.wait_until(lambda: cable.oldest(2)[-1] is connection)
    beats.pass_(IDLE_BEATS - 1)
    assert beats.server.call(lambda: len(cable.oldest(2))) == 2
    beats.pass_(1)
    assert beats.server.call(lambda: len(cable.oldest(2))) == 0
    loud.listen(beats.now)
    assert loud.beats_of(IDLE_CLOSE) == [spoken + IDLE_BEATS]


def test_the_silent_are_closed_in_the_order_of_their_silence(listeners: Rooms) -> None:
    beats, clients = listeners(5)
    for index in (3, 0, 4, 1, 2):
        beats.pass_()
        for client in clients:
            client.listen(beats.now)
        answer(clients[index].client, PONG, b"")
    beats.pass_(IDLE_BEATS)
    for client in clients:
        client.listen(beats.now)
    assert [clients[index].beats_of(IDLE_CLOSE) for index in (3, 0, 4, 1, 2)] == [
        [heard + IDLE_BEATS] for heard in range(1, 6)]


def test_a_close_does_not_wait_for_the_silent_for_ever(listeners: Rooms) -> None:
    beats, (client,) = listeners(1)
    beats.server.call(setattr, beats.server.server.cable, "clock", lambda: 100.0)
    beats.pass_(IDLE_BEATS)
    client.listen(beats.now)
    assert client.closed
    beats.server.expire(105)
    client.client.read_cut()


# 0 switches off


def test_idle_timeout_0_keeps_the_silent(listeners: Rooms) -> None:
    beats, (client,) = listeners(1, idle_timeout=0)
    beats.pass_(20 * IDLE_BEATS)
    client.listen(beats.now)
    assert not client.closed


def test_ping_interval_0_sends_no_pings(listeners: Rooms) -> None:
    beats, (client,) = listeners(1, ping_interval=0)
    beats.pass_(IDLE_BEATS - 1)
    client.listen(beats.now)
    assert not any(client.heard.values())
    beats.pass_(1)
    client.listen(beats.now)
    assert client.closed


def test_all_switched_off(listeners: Rooms) -> None:
    beats, (client,) = listeners(1, ping_interval=0, idle_timeout=0, write_timeout=0)
    beats.pass_(300)
    client.listen(beats.now)
    assert not any(client.heard.values())


# Stalled peers


def unsent(connection: Connection) -> int:
    """Bytes that the peer's side has not taken, as `Connection.stalled` sees them."""
    transport = connection.transport
    assert transport is not None
    queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", queued)[0]) + transport.get_write_buffer_size()


def stalled(serve: Serve, stack: ExitStack, **options: float) -> tuple[LocalServer, Client, Connection]:
    server = serve(ticking=False, **{**SMALL, "idle_timeout": 0, **options})
    client = stack.enter_context(server.connect("s", receive_buffer=4096))
    server.stall("s")
    return server, client, server.connection()


def test_who_takes_no_byte_is_cut_off_after_exactly_write_timeout(serve: Serve, stack: ExitStack) -> None:
    while True:
        server, _, connection = stalled(serve, stack)
        server.publish("s", 1)
        seen: list[tuple[int, int]] = []  # before and after each beat

        def beat(server: LocalServer, connection: Connection, seen: list[tuple[int, int]]) -> bool:
            before = unsent(connection)
            server.server.heartbeat.beat()
            assert connection.transport is not None
            closing = connection.transport.is_closing()
            seen.append((before, before if closing else unsent(connection)))
            return closing

        while not server.call(beat, server, connection, seen):
            pass
        server.wait_for_connections(0)
        # The kernel may have moved some bytes in the first beats; if during one, it is unknown whether the beat saw it.
        if all(before == after for before, after in seen):
            break
    left = [before for before, _ in seen]
    assert len(left) - 1 - left.index(left[-1]) == WRITE_BEATS
    counters = server.server.hub.counters
    assert server.call(lambda: (counters.slow_closes, counters.deliveries, counters.drops)) == (1, 1, 1)


def test_who_takes_a_little_now_and_then_is_not_cut_off(serve: Serve, stack: ExitStack) -> None:
    server, client, connection = stalled(serve, stack)
    for _ in range(10):
        before = server.call(unsent, connection)
        while server.call(unsent, connection) == before:
            assert client.socket.recv(500)
        for _ in range(WRITE_BEATS):
            server.call(server.server.heartbeat.beat)
        assert connection.transport is not None
        assert not connection.transport.is_closing()


def test_write_timeout_0_waits_for_ever(serve: Serve, stack: ExitStack) -> None:
    server, client, _ = stalled(serve, stack, write_timeout=0)
    server.beat(1000)
    assert client.receive()["type"] == "message"


def test_no_pings_wait_for_a_blocked_peer(serve: Serve, stack: ExitStack) -> None:
    server, client, connection = stalled(serve, stack, write_timeout=0)
    outbox = connection.outbox
    assert outbox is not None
    server.beat(30)
    assert server.call(lambda: (outbox.frames, outbox.size)) == (0, 0)
    assert client.receive()["type"] == "message"
    server.wait_until(lambda: connection.outbox is None)
    server.beat(SMALL["ping_interval"])
    assert {client.read_frame() for _ in range(3)} == {JSON_PING, WEBSOCKET_PING}


def test_who_is_closing_can_stall_as_well(serve: Serve, stack: ExitStack) -> None:
    server, _, connection = stalled(serve, stack, close_timeout=0)
    server.call(connection.close, 1001)
    while server.call(lambda: server.server.cable.connections):
        server.beat(0.5)


# How long a beat is


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({}, 0.5),
        ({"ping_interval": 0}, 0.5),
        ({"ping_interval": 0, "idle_timeout": 0, "write_timeout": 0, "handshake_timeout": 0, "keepalive_timeout": 0,
          "close_timeout": 0}, 0.5),
        ({"ping_interval": 1}, 0.25),
        ({"ping_interval": 0.2, "idle_timeout": 0.4}, 0.05),
        ({"ping_interval": 7}, 0.5),
        ({"ping_interval": 7.2}, 0.48),
        ({"idle_timeout": 1}, 0.25),
        ({"write_timeout": 0.4}, 0.1),
        ({"handshake_timeout": 1.2}, 0.3),
        ({"keepalive_timeout": 0.8}, 0.2),
        ({"close_timeout": 1}, 0.25),
        ({"ping_interval": 0, "close_timeout": 0.001}, 0.01),
    ],
)
def test_a_beat_is_a_quarter_of_the_shortest_time_and_half_a_second_at_most(
    options: dict[str, float], seconds: float
) -> None:
    settings = Settings(**options)  # type: ignore[arg-type]
    assert beat_seconds(settings) == pytest.approx(seconds)


# The clock


class Handle:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """An event loop whose time the test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.handles: list[Handle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        self.handles.append(Handle(when, callback))
        return self.handles[-1]

    def advance(self, to: float) -> list[float]:
        """Let the process run at the time `to`; when what is scheduled then wants to be called."""
        self.now = to
        due = [handle for handle in self.handles if handle.when <= to]
        self.handles = [handle for handle in self.handles if handle.when > to]
        for handle in due:
            handle.callback()
        return [handle.when for handle in self.handles]


class FakeHeartbeat:
    seconds = 0.5

    def __init__(self) -> None:
        self.beats = 0

    def beat(self) -> None:
        self.beats += 1


class Waiter:
    def __init__(self) -> None:
        self.told: list[Deadlines] = []

    def deadline_passed(self, queue: Deadlines) -> None:
        self.told.append(queue)


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def heartbeat() -> FakeHeartbeat:
    return FakeHeartbeat()


def start_clock(loop: FakeLoop, heartbeat: FakeHeartbeat, *queues: Deadlines) -> Clock:
    return Clock(cast(asyncio.AbstractEventLoop, loop), cast(Heartbeat, heartbeat), queues)


def test_the_clock_beats_at_even_intervals_even_if_the_loop_is_late(loop: FakeLoop, heartbeat: FakeHeartbeat) -> None:
    start_clock(loop, heartbeat)
    assert heartbeat.beats == 0
    assert loop.advance(100.5) == [101.0]
    assert loop.advance(101.2) == [101.5]
    assert loop.advance(101.9) == [102.0]
    assert heartbeat.beats == 3


@pytest.mark.parametrize("pause", [0.5, 0.75, 10, 3600])
def test_the_clock_stands_still_while_the_process_is_stopped(
    loop: FakeLoop, heartbeat: FakeHeartbeat, pause: float
) -> None:
    start_clock(loop, heartbeat)
    assert loop.advance(100.5) == [101.0]
    assert loop.advance(101.0 + pause) == [101.5 + pause]
    assert heartbeat.beats == 2


def test_each_beat_looks_at_the_deadlines(loop: FakeLoop, heartbeat: FakeHeartbeat) -> None:
    one, two = Deadlines(1.0), Deadlines(2.0)
    start_clock(loop, heartbeat, one, two)
    waiter = Waiter()
    one.add(waiter, 100.0)
    two.add(waiter, 100.0)
    loop.advance(100.5)
    assert waiter.told == []
    loop.advance(101.0)
    assert waiter.told == [one]
    loop.advance(101.9)
    loop.advance(102.1)
    assert waiter.told == [one, two]


def test_a_stopped_clock_is_cancelled(loop: FakeLoop, heartbeat: FakeHeartbeat) -> None:
    clock = start_clock(loop, heartbeat)
    loop.advance(100.5)
    clock.stop()
    assert [handle.cancelled for handle in loop.handles] == [True]


@pytest.mark.parametrize(("write_timeout", "stays"), [(1000, True), (0, False)])
def test_who_is_not_read_is_not_taken_for_silent(serve: Serve, write_timeout: float, stays: bool) -> None:
    """A peer whose answers pile up may be talking: the write timeout watches it, if there is one."""
    limits = {**SMALL, "write_timeout": write_timeout, "max_pending_messages": 4, "send_buffer": 4096}
    server = serve(ticking=False, **limits)
    with server.connect(receive_buffer=4096) as client:
        connection = server.connection()
        question = b'{"type":"subscribe","stream":"%b"}' % (b"s" * 200)
        client.socket.setblocking(False)
        with suppress(BlockingIOError):  # when the server reads no more
            while True:
                client.socket.send(frame(TEXT, question))
        server.wait_until(lambda: connection.transport and not connection.transport.is_reading())
        server.beat(3 * SMALL["idle_timeout"])
        assert server.call(server.server.cable.oldest, 1) == ([connection] if stays else [])


@pytest.mark.parametrize(("write_timeout", "stays"), [(1000, True), (0, False)])
def test_a_slow_reader_that_was_sent_no_ping_is_not_taken_for_silent(
    serve: Serve, stack: ExitStack, write_timeout: float, stays: bool
) -> None:
    """A full socket gets none, so a peer that only answers has nothing to say until it has caught up."""
    server, client, connection = stalled(serve, stack, idle_timeout=6.0, write_timeout=write_timeout)
    server.beat(3 * SMALL["idle_timeout"])
    assert server.call(server.server.cable.oldest, 1) == ([connection] if stays else [])
    if stays:
        assert len(client.receive()["data"]) == 1 << 20
        server.wait_until(lambda: connection.outbox is None)
        server.beat(2 * SMALL["idle_timeout"] + 2 * server.server.heartbeat.seconds)
        assert server.call(server.server.cable.oldest, 1) == []


def test_who_was_closed_for_being_slow_and_is_then_cut_off_counts_once(serve: Serve) -> None:
    server = serve(ticking=False, **SMALL, slow_consumer="close", max_pending_messages=1, close_timeout=1000)
    with server.connect("s", receive_buffer=4096):
        server.stall("s")
        for _ in range(2):
            server.publish("s", 1)
        server.wait_until(lambda: server.server.hub.counters.slow_closes)
        server.beat(3 * SMALL["write_timeout"])
        server.wait_for_connections(0)
        assert server.server.hub.counters.slow_closes == 1
