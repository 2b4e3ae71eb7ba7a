"""Whatever ten thousand messages do to a server, no reference, no object and no memory of them is left, without the
help of the garbage collector."""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from fastcable.channels import Channel
from tests.harness import PING, TEXT, LocalServer, frame
from tests.redis_server import RedisServer
from tests.swarm import Member, Swarm

MESSAGES = 10_000
AT_ONCE = 100
"""So many messages are sent before their answers are read."""
BOUNDS = {"references": 100, "tracked objects": 50, "blocks": 100, "bytes of malloc": 256 << 10}
"""By how much each may differ after any number of messages: far less than one of each per message."""


pytestmark = pytest.mark.usefixtures("no_collector")


class MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc: mallinfo(3)."""

    _fields_: ClassVar = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]


class Books:
    """What Python and malloc count, and the references to each object that lives when these books are opened: None,
    numbers, interned strings, types, functions and constants as well as the server's own."""

    def __init__(self) -> None:
        objects = gc.get_objects()
        watched = {id(each): each for each in itertools.chain(objects, gc.get_referents(*objects)) if counted(each)}
        watched.pop(id(objects), None)
        watched.pop(id(watched), None)
        self._watched = list(watched.values())
        del objects, watched
        self._malloc_info = getattr(ctypes.CDLL(None), "mallinfo2", None)
        if self._malloc_info:
            self._malloc_info.restype = MallocInfo
        self._references = self._count()
        self._totals = self._total()

    def _count(self) -> array[int]:
        return array("q", map(sys.getrefcount, self._watched))

    def _total(self) -> dict[str, int]:
        totals = {"blocks": sys.getallocatedblocks(), "tracked objects": len(gc.get_objects())}
        if self._malloc_info:
            info = self._malloc_info()
            totals["bytes of malloc"] = info.uordblks + info.hblkhd
        return totals

    def grown(self) -> tuple[dict[str, int], list[tuple[int, str]]]:
        """By how much everything has grown since the last time, and which objects have gained or lost most
        references."""
        before, self._totals = self._totals, self._total()
        then, self._references = self._references, self._count()
        changes = [(now - was, index) for index, (was, now) in enumerate(zip(then, self._references, strict=True))
                   if now != was]
        changes.sort(key=lambda each: -abs(each[0]))
        growth = {name: count - before[name] for name, count in self._totals.items()}
        growth["references"] = sum(by for by, _ in changes)
        return growth, [(by, f"{type(self._watched[index]).__name__} {self._watched[index]!r:.100}")
                        for by, index in changes[:5]]


def counted(each: object) -> bool:
    """Functions and coroutines that Cython (3.3) makes never give back the reference to their type, of which there is
    one for all: a number that grows, and nothing else."""
    return type(each).__name__ != "_common_types_metatype"


class Traffic:
    """A server, and clients of it of whose answers only the marks are counted."""

    def __init__(self, server: LocalServer, swarm: Swarm) -> None:
        self.server = server
        self.swarm = swarm
        self.seen = 0

    def count(self, member: Member, mark: bytes) -> None:
        """Count this mark in what a member gets, which may come in pieces: bytes that end one are looked at again."""
        rest = b""

        def received(data: bytes) -> None:
            nonlocal rest
            data = rest + data
            self.seen += data.count(mark)
            rest = data[max(data.rfind(mark) + len(mark), len(data) - len(mark) + 1):]

        member.received = received

    def send(self, member: Member, messages: bytes, marks: int) -> None:
        """Send this, and wait until all members together have got so many marks more."""
        self.seen -= marks
        member.send(messages)
        self.swarm.run_until(lambda: self.seen >= 0)
        assert self.seen == 0

    def publisher(self, mark: bytes = b"HTTP/1.1 200 ") -> Member:
        (member,) = self.swarm.open(1)
        member.head = b"of no answer"
        self.count(member, mark)
        return member


def post(body: bytes) -> bytes:
    head = b"POST /_broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def command(**fields: object) -> bytes:
    return frame(TEXT, json.dumps(fields).encode())


MESSAGE = b'{"stream":"s","data":{"n":1.50,"text":"caf\\u00e9"}}'
CABLE = {"channels": (Channel("S", "s", public=True),)}
Turn = Callable[[], None]
"""AT_ONCE messages, and everything that comes of them."""


def both_dialects(traffic: Traffic) -> list[Member]:
    members = traffic.swarm.connect(2, "s", "t") + traffic.swarm.connect_cable(2, '{"channel":"S"}')
    for member in members:
        traffic.count(member, b"caf")
    return members


def posts(traffic: Traffic) -> Turn:
    members, publisher = both_dialects(traffic), traffic.publisher()
    return lambda: traffic.send(publisher, post(MESSAGE) * AT_ONCE, AT_ONCE * (1 + len(members)))


def batches(traffic: Traffic) -> Turn:
    members, publisher = both_dialects(traffic), traffic.publisher()
    batch = post(b"[%b]" % b",".join([MESSAGE] * AT_ONCE))
    return lambda: traffic.send(publisher, batch, 1 + AT_ONCE * len(members))


def retained_values(traffic: Traffic) -> Turn:
    """New values of a few streams, each forgotten again."""
    publisher = traffic.publisher()
    body = b"".join(
        post(b'{"stream":"r%d","data":%b,"retain":true}' % (number % 10, b"null" if number >= 90 else b'"%d"' % number))
        for number in range(AT_ONCE)
    )
    return lambda: traffic.send(publisher, body, AT_ONCE)


BAD_POSTS = [
    post(b"{"), post(b"[]]"), post(b'{"data":1}'), post(b'{"stream":"s"}'), post(b'{"stream":"","data":1}'),
    post(b'{"stream":7,"data":1}'), post(b'[{"stream":"s","data":1},{}]'), post(b"\xff"),
    post(b'{"stream":"\\n","data":1}'), post(b'{"stream":"s","data":1e}'),
]  # fmt: skip


def rejected_posts(traffic: Traffic) -> Turn:
    publisher = traffic.publisher(b'{"error":')
    return lambda: traffic.send(publisher, b"".join(BAD_POSTS) * (AT_ONCE // len(BAD_POSTS)), AT_ONCE)


def subscriptions(traffic: Traffic) -> Turn:
    (member,) = traffic.swarm.connect(1, "s")
    traffic.count(member, b'"subscribed"')
    pair = command(type="subscribe", stream="u") + command(type="unsubscribe", stream="u")
    return lambda: traffic.send(member, pair * (AT_ONCE // 2), AT_ONCE // 2)


def cable_subscriptions(traffic: Traffic) -> Turn:
    (member,) = traffic.swarm.connect_cable(1)
    traffic.count(member, b'"confirm_subscription"')
    pair = b"".join(command(command=verb, identifier='{"channel":"S"}') for verb in ("subscribe", "unsubscribe"))
    return lambda: traffic.send(member, pair * (AT_ONCE // 2), AT_ONCE // 2)


def bad_commands(traffic: Traffic) -> Turn:
    (member,) = traffic.swarm.connect(1, "s")
    traffic.count(member, b'"error"')
    bad = [frame(TEXT, b"?"), command(type="other"), command(type="subscribe"), command(type="subscribe", stream=""),
           command(type="unsubscribe", stream=7)]  # fmt: skip
    return lambda: traffic.send(member, b"".join(bad) * (AT_ONCE // len(bad)), AT_ONCE)


def pings_and_fragments(traffic: Traffic) -> Turn:
    (member,) = traffic.swarm.connect(1, "s")
    traffic.count(member, b"\x8a\x02me")
    cut = frame(TEXT, b'{"type":', fin=False) + frame(PING, b"me") + frame(0, b'"pong"}')
    return lambda: traffic.send(member, cut * AT_ONCE, AT_ONCE)


def slow_readers(traffic: Traffic) -> Turn:
    """One stalls, and of a thousand messages it loses all but four, which it is told."""
    server, hub = traffic.server, traffic.server.server.hub
    (member,) = traffic.swarm.connect(1, "s", receive_buffer=4096)
    traffic.count(member, b'"data":"last"')
    large = b'"%b"' % (b"." * 300_000)

    def publish(count: int, data: bytes) -> None:
        for _ in range(count):
            hub.publish("s", data)

    def turn() -> None:
        traffic.swarm.stall(member)
        server.call(publish, 1, large)
        server.wait_until(lambda: hub.idle and server.server.cable.blocked)
        dropped = hub.counters.drops
        for _ in range(10):
            server.call(publish, AT_ONCE, b'"one of many"')
            server.wait_until(lambda: hub.idle)
        assert hub.counters.drops == dropped + 10 * AT_ONCE - PENDING
        traffic.swarm.resume(member)
        traffic.swarm.run_until(lambda: not server.server.cable.blocked)
        traffic.seen = -1
        server.call(publish, 1, b'"last"')
        traffic.swarm.run_until(lambda: not traffic.seen)

    return turn


def threads(traffic: Traffic) -> Turn:
    """As many subscribers as are written to by several threads."""
    members = traffic.swarm.connect(SHARED, "s")
    for member in members:
        traffic.count(member, b"caf")
    publisher = traffic.publisher()
    return lambda: traffic.send(publisher, post(MESSAGE) * 10, 10 * (1 + len(members)))


PENDING = 4
SHARED = 50


@dataclass
class Way:
    """Messages of one kind, so many in each turn, to a server with these options."""

    begin: Callable[[Traffic], Turn]
    options: dict[str, Any] = field(default_factory=dict)
    messages: int = AT_ONCE


WAYS = [
    Way(posts, CABLE),
    Way(batches, CABLE),
    Way(retained_values, {"retain_seconds": 1000.0}),
    Way(rejected_posts),
    Way(subscriptions),
    Way(cable_subscriptions, CABLE),
    Way(bad_commands, {"max_errors": 0}),
    Way(pings_and_fragments),
    Way(slow_readers, {"max_pending_messages": PENDING, "write_timeout": 0.0}, messages=10 * AT_ONCE),
    Way(threads, {"fanout_threads": 2}, messages=10 * SHARED),
]


def assert_flat(server: LocalServer, turn: Turn, messages: int) -> None:
    """Looked at after a third of the messages and after the rest of them: what is left grows with neither."""

    def run(count: int) -> None:
        for _ in range(count // messages):
            turn()
        server.call(lambda: None)

    run(MESSAGES // 5)
    books = server.call(Books)
    run(MESSAGES // 10)
    server.call(books.grown)
    for share in (MESSAGES // 3, MESSAGES * 2 // 3):
        run(share)
        growth, most = server.call(books.grown)
        over = {name: by for name, by in growth.items() if abs(by) > BOUNDS[name]}
        assert not over, f"after {share} more messages: {over}; references gained and lost by {most}"


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.begin.__name__)
def test_ten_thousand_messages_leave_nothing(serve: Callable[..., LocalServer], way: Way) -> None:
    server = serve(ticking=False, ping_interval=0.0, idle_timeout=0.0, **way.options)
    with Swarm(server.port) as swarm:
        assert_flat(server, way.begin(Traffic(server, swarm)), way.messages)


def test_ten_thousand_messages_through_redis_leave_nothing(
    serve: Callable[..., LocalServer], redis: RedisServer
) -> None:
    redis.start()
    server = serve(ticking=False, ping_interval=0.0, idle_timeout=0.0, broker=redis.url, **CABLE)
    with Swarm(server.port) as swarm:
        assert_flat(server, posts(Traffic(server, swarm)), AT_ONCE)
