"""However a connection ends, nothing of it is left, without the help of the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from fastcable._connection import alive_connections
from fastcable._fanout import WebSocketGroup
from fastcable._hub import Subscriber
from fastcable.channels import Channel
from fastcable.descriptors import HTTP_DESCRIPTORS
from fastcable.dialects._simple import SimpleDialect
from fastcable.tokens import issue
from tests.harness import CABLE_UPGRADE, CLOSE, PATIENCE, TEXT, UPGRADE, LocalServer, frame
from tests.swarm import Member, Swarm

CONNECTIONS = 1000
SECRET = "s" * 32
KEEPALIVE = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


pytestmark = pytest.mark.usefixtures("no_collector")


class BrokenDialect(SimpleDialect):
    __slots__ = ()

    def received(self, subscriber: Subscriber, text: bytes) -> None:
        raise RuntimeError("a fault in a dialect")


@dataclass
class Scene:
    """A server and clients of it, so many at a time."""

    server: LocalServer
    swarm: Swarm
    count: int

    def connect(self, **options: Any) -> list[Member]:
        return self.swarm.connect(self.count, "s", "t", **options)

    def publish(self, size: int) -> None:
        self.server.publish("s", "." * size)
        self.server.wait_until(lambda: self.server.server.hub.idle)

    def close_all(self) -> None:
        def close() -> None:
            for connection in self.server.server.cable.oldest(self.count):
                connection.close(1001, "done")

        self.server.call(close)

    def time_out(self) -> None:
        """Let every deadline pass."""
        self.server.expire(self.server.loop.time() + 100.0)

    def ended(self, members: list[Member], how: str = "closed", code: int | None = None) -> None:
        self.swarm.run_until(lambda: all(member.ended for member in members))
        assert {member.ended for member in members} == {how}
        if code is not None:
            assert {member.close_code for member in members} == {code}

    def answered(self, members: list[Member], status: bytes, how: str = "closed") -> None:
        self.ended(members, how)
        assert {member.head[:12] for member in members} == {b"HTTP/1.1 " + status}


def closed_by_the_client(scene: Scene) -> None:
    members = scene.connect()
    for member in members:
        member.polite = False
        member.send(frame(CLOSE, b"\x03\xe8"))
    scene.ended(members, code=1000)


def closed_by_the_server(scene: Scene) -> None:
    members = scene.connect()
    scene.close_all()
    scene.ended(members, code=1001)


def protocol_failure(scene: Scene) -> None:
    members = scene.connect()
    for member in members:
        member.send(b"\x81\x02{}")  # not masked
    scene.ended(members, code=1002)


def failure_in_the_middle_of_a_message(scene: Scene) -> None:
    members = scene.connect()
    for member in members:
        member.send(frame(TEXT, b'{"type":', fin=False) + frame(TEXT, b'"pong"}'))
    scene.ended(members, code=1002)


def token_refused(scene: Scene) -> None:
    scene.ended(scene.swarm.open(scene.count, UPGRADE), code=1008)
    members = scene.swarm.open(scene.count, CABLE_UPGRADE)
    scene.ended(members, code=1008)
    assert {member.messages[0]["reason"] for member in members} == {"unauthorized"}


def token_expired(scene: Scene) -> None:
    expiries = scene.server.server.cable.expiries
    assert expiries is not None
    expiries.clock = time.time
    expires = int(time.time()) + 100
    jid = b"X-JID: %b\r\n\r\n" % issue({"exp": expires}, SECRET).encode()
    subscribe = frame(TEXT, b'{"type":"subscribe","stream":"s"}')
    members = scene.swarm.open(scene.count, UPGRADE[:-2] + jid + subscribe)
    scene.swarm.run_until(lambda: all(member.frames for member in members))
    assert len(expiries) == scene.count
    expiries.clock = lambda: expires
    scene.server.expire(scene.server.loop.time())
    scene.ended(members, code=1008)


def fin_without_a_close_frame(scene: Scene) -> None:
    members = scene.connect()
    for member in members:
        member.send(frame(TEXT, b'{"type":"pong"}')[:5])
        member.socket.shutdown(socket.SHUT_WR)
    scene.ended(members)


def reset(scene: Scene) -> None:
    for member in scene.connect():
        member.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        scene.swarm.remove(member)


def reset_while_stalled(scene: Scene) -> None:
    members = scene.connect(receive_buffer=4096)
    for member in members:
        scene.swarm.stall(member)
    scene.publish(200_000)
    scene.publish(200_000)
    assert len(scene.server.server.cable.blocked) == scene.count
    for member in members:
        scene.swarm.remove(member)


def reset_while_the_newest_messages_wait(scene: Scene) -> None:
    members = scene.connect(receive_buffer=4096)
    for member in members:
        scene.swarm.stall(member)
    for _ in range(4):
        scene.publish(200_000)
    for member in members:
        scene.swarm.remove(member)


def gone_after_hello(scene: Scene) -> None:
    members = scene.connect()
    for member in members:
        member.command(type="hello")
    scene.swarm.run_until(lambda: all(member.frames and b'"hello"' in member.frames[-1][1] for member in members))
    scene.publish(10)
    scene.close_all()
    scene.ended(members, code=1001)


def idle_timeout(scene: Scene) -> None:
    members = scene.connect()
    scene.server.beat(60.0 + scene.server.server.heartbeat.seconds)
    scene.ended(members, code=1001)


def write_timeout(scene: Scene) -> None:
    members = scene.connect(receive_buffer=4096)
    for member in members:
        scene.swarm.stall(member)
    scene.publish(200_000)
    scene.publish(200_000)
    blocked = scene.server.server.cable.blocked
    assert len(blocked) == scene.count
    # The kernel still moves a little into the clients' buffers.
    for _ in range(10):
        scene.server.beat(11.0)
    scene.server.wait_until(lambda: not blocked)
    for member in members:
        scene.swarm.resume(member)
    scene.ended(members, "reset")


def close_timeout(scene: Scene) -> None:
    members = scene.connect()
    for member in members:
        member.polite = False
    scene.close_all()
    scene.swarm.run_until(lambda: all(member.frames for member in members))
    scene.time_out()
    scene.ended(members, code=1001)


def linger_timeout(scene: Scene) -> None:
    members = scene.connect()
    for member in members:
        scene.swarm.stall(member)
        member.send(b"\x81\x02{}")
    scene.server.wait_until(lambda: len(scene.server.server.cable.lingering) == scene.count)
    scene.time_out()
    for member in members:
        scene.swarm.resume(member)
    scene.ended(members, code=1002)


def refused_handshake(scene: Scene) -> None:
    request = UPGRADE.replace(b"Version: 13", b"Version: 12")
    scene.answered(scene.swarm.open(scene.count, request), b"426")


def bad_request(scene: Scene) -> None:
    scene.answered(scene.swarm.open(scene.count, b"GET / HTTP/1.1\r\n\r\n"), b"400")


def handshake_timeout(scene: Scene) -> None:
    members = scene.swarm.open(scene.count, UPGRADE[:50])
    scene.server.wait_until(lambda: len(scene.server.server.requests) == scene.count)
    scene.swarm.turn()
    scene.time_out()
    scene.answered(members, b"408")


def silence(scene: Scene) -> None:
    members = scene.swarm.open(scene.count)
    scene.server.wait_until(lambda: len(scene.server.server.requests) == scene.count)
    scene.time_out()
    scene.ended(members)


def keepalive_closed_by_the_client(scene: Scene) -> None:
    members = scene.swarm.open(scene.count, KEEPALIVE)
    scene.swarm.run_until(lambda: all(member.head for member in members))
    for member in members:
        scene.swarm.remove(member)


def keepalive_timeout(scene: Scene) -> None:
    members = scene.swarm.open(scene.count, KEEPALIVE)
    scene.swarm.run_until(lambda: all(member.head for member in members))
    scene.time_out()
    scene.answered(members, b"200")


def dialect_error(scene: Scene) -> None:
    server = scene.server.server
    whole, server.site.dialect = server.site.dialect, BrokenDialect(server.hub, WebSocketGroup, 32)
    members = scene.swarm.connect(scene.count)
    server.site.dialect = whole
    for member in members:
        member.send(frame(TEXT, b"{}"))
    scene.ended(members, code=1011)


def slow_consumer(scene: Scene) -> None:
    members = scene.connect(receive_buffer=4096)
    for member in members:
        scene.swarm.stall(member)
    for _ in range(4):
        scene.publish(100_000)
    assert scene.server.server.hub.subscribers("s") == 0
    for member in members:
        scene.swarm.resume(member)
    scene.ended(members, code=1013)


def gone_from_action_cable(scene: Scene) -> None:
    """Half of them hang up, half are disconnected for being slow, with pings ahead of what waits."""
    gone, *slow = (scene.swarm.connect_cable(
        scene.count // 2, '{"channel":"S"}', '{"channel":"T"}', receive_buffer=size) for size in (0, 4096))
    for member in gone:
        scene.swarm.remove(member)
    scene.server.wait_for_connections(len(slow[0]))
    for member in slow[0]:
        scene.swarm.stall(member)
    scene.publish(200_000)
    scene.server.beat(3)
    for _ in range(3):
        scene.publish(100_000)
    assert scene.server.server.hub.subscribers("s") == 0
    for member in slow[0]:
        scene.swarm.resume(member)
    scene.ended(slow[0], code=1013)


def gone_while_compressing(scene: Scene) -> None:
    """Each in the middle of a compressed message; half of them hang up, half end it with garbage."""
    offer = UPGRADE[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    members = scene.swarm.open(scene.count, offer + frame(TEXT, b'{"type":"subscribe","stream":"s"}'))
    scene.swarm.run_until(lambda: all(member.frames for member in members))
    assert all(b"permessage-deflate" in member.head for member in members)
    heard: list[bytes] = []
    sorting = [member.received for member in members]
    for member in members:
        member.received = heard.append  # what is compressed is not sorted
    scene.publish(1000)
    scene.swarm.run_until(lambda: len(heard) == scene.count)
    assert {data[0] for data in heard} == {0xC1}
    for member, received in zip(members, sorting, strict=True):
        member.received = received
        member.send(frame(TEXT, b"\xaa", fin=False, rsv=4))
    for member in members[::2]:
        scene.swarm.remove(member)
    for member in members[1::2]:
        member.send(frame(0, b"\xff\xff"))
    scene.ended(members[1::2], code=1007)


def server_full(scene: Scene) -> None:
    members = scene.swarm.connect(1)
    refused = scene.swarm.open(scene.count - 1, UPGRADE)
    scene.answered(refused, b"503")
    scene.swarm.remove(members[0])


def no_room_for_more(scene: Scene) -> None:
    members = scene.swarm.open(scene.count)
    scene.swarm.run_until(lambda: sum(bool(member.ended) for member in members) == scene.count - HTTP_DESCRIPTORS - 1)
    for member in members:
        if not member.ended:
            scene.swarm.remove(member)


def drain(scene: Scene) -> None:
    members = scene.connect()
    idle = scene.swarm.open(10, KEEPALIVE)
    silent = scene.swarm.open(10)
    scene.server.wait_until(lambda: len(scene.server.server.requests) == 20)
    draining = asyncio.run_coroutine_threadsafe(scene.server.server.drain(), scene.server.loop)
    scene.ended(members, code=1001)
    scene.ended([*idle, *silent])
    draining.result(PATIENCE)


def abort(scene: Scene) -> None:
    members = scene.connect()
    members += scene.swarm.open(10, UPGRADE[:50])
    scene.server.wait_until(lambda: len(scene.server.server.requests) == 10)
    scene.server.call(scene.server.server.abort)
    scene.ended(members)


@dataclass
class Way:
    """A way to end; `batch` connections at a time, on a server with these options."""

    end: Callable[[Scene], None]
    options: dict[str, Any] = field(default_factory=dict)
    batch: int = 250


WAYS = [
    Way(closed_by_the_client),
    Way(closed_by_the_server),
    Way(protocol_failure),
    Way(failure_in_the_middle_of_a_message),
    Way(token_refused, {"auth": "jwt", "jwt_secret": (SECRET,)}, batch=500),
    Way(token_expired, {"auth": "jwt", "jwt_secret": (SECRET,)}),
    Way(fin_without_a_close_frame),
    Way(reset),
    Way(reset_while_stalled),
    Way(reset_while_the_newest_messages_wait, {"slow_consumer": "latest", "max_pending_messages": 1}),
    Way(gone_after_hello),
    Way(idle_timeout, {"ping_interval": 0.0}),
    Way(write_timeout, {"ping_interval": 0.0, "idle_timeout": 0.0}),
    Way(close_timeout),
    Way(linger_timeout),
    Way(refused_handshake, batch=50),
    Way(bad_request, batch=50),
    Way(handshake_timeout, batch=50),
    Way(silence, batch=50),
    Way(keepalive_closed_by_the_client, batch=50),
    Way(keepalive_timeout, batch=50),
    Way(dialect_error),
    Way(slow_consumer, {"slow_consumer": "close", "max_pending_messages": 1}),
    Way(gone_from_action_cable, {
        "channels": (Channel("S", "s", public=True), Channel("T", "t", public=True)), "max_pending_messages": 1}),
    Way(gone_while_compressing, {"compression": True}),
    Way(server_full, {"max_connections": 1}, batch=50),
    Way(no_room_for_more, {"max_connections": 1}),
    Way(drain, {"drain_timeout": 2.0}, batch=CONNECTIONS),
    Way(abort),
]


def ours() -> Counter[str]:
    """How many objects that the garbage collector knows of are ours, or a transport, by type."""
    types = Counter(type(each) for each in gc.get_objects())
    return Counter({
        str(kind): count for kind, count in types.items()
        if str(kind).startswith("<class 'fastcable.") or kind.__name__ == "TCPTransport"
    })


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.end.__name__)
def test_nothing_is_left_of_a_connection(
    serve: Callable[..., LocalServer], caplog: pytest.LogCaptureFixture, way: Way
) -> None:
    # A captured record of an exception would keep its frames, and they what they worked with.
    caplog.set_level(logging.CRITICAL, "fastcable")
    server = serve(ticking=False, **way.options)
    cable, hub = server.server.cable, server.server.hub
    alive, objects, files = alive_connections(), ours(), descriptors()
    for _ in range(CONNECTIONS // way.batch):
        with Swarm(server.port) as swarm:
            way.end(Scene(server, swarm, way.batch))
        server.wait_until(lambda: not cable.connections and not server.server.requests)
    server.run(asyncio.sleep(0))
    server.run(asyncio.sleep(0))
    assert alive_connections() == alive
    assert ours() - objects == Counter()
    assert server.call(lambda: (hub.streams, hub.idle)) == ({}, True)
    assert server.call(lambda: (cable.connections, cable.blocked, cable.everybody())) == (0, {}, [])
    assert [len(queue) for queue in server.server._queues] == [0] * len(server.server._queues)
    server.wait_until(lambda: descriptors() == files - (1 if way.end is drain else 0))
