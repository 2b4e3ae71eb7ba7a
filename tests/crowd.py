"""Clients of all kinds, each with a mind of its own, on one loop: those who stay and keep accounts of what they get,
and those who come and go, stall, vanish, and send garbage.

Theory of operation. What a client does stands in a generator, which yields the seconds to wait until it goes on; the
crowd calls each when its time has come, and lets everybody read meanwhile. Each message has a number in its stream and
tells both, so every client knows on its own whether one is missing that it was not told of, comes twice, or comes from
before its subscription: what it may get is what a `Ledger` says was posted when.
"""

from __future__ import annotations

import heapq
import json
import random
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from tests.harness import CABLE_UPGRADE, CLOSE, PING, PONG, TEXT, UPGRADE, frame
from tests.swarm import Member, Swarm, split_frames

VANISHING = "127.9.0.0/16"
"""Where those who vanish come from: the network must not let their machines answer with RST."""
TCP_REPAIR = 19
RECEIVE_BUFFER = 4096
TURN = 0.001
"""Seconds that pass at least until one goes on, so that the others come to read."""

PATIENCE = 60.0

Plan = Iterator[float]

_MESSAGE = re.compile(rb'\{"n":(\d+),"s":"(\w+)"')
_GAP = re.compile(rb'\{"type":"gap","stream":"(\w+)","missed":(\d+)\}')
_CONFIRMED = re.compile(rb'\{"type":"subscribed","stream":"(\w+)"\}|\{"identifier":.*stream_name\\":\\"(\w+)\\".*'
                        rb'"type":"confirm_subscription"\}')
_PING_TEXT = b'{"type":"ping"}'
_PONG_FRAME = frame(TEXT, b'{"type":"pong"}')
_CORPUS = Path(__file__).parent / "corpus"


def body(stream: str, number: int, size: int) -> dict[str, object]:
    """One message, as it is posted."""
    return {"stream": stream, "data": {"n": number, "s": stream, "x": "x" * size}}


class Ledger:
    """What was posted to one stream: up to which number, up to which it was accepted, and how many deliveries the
    server promised for that."""

    def __init__(self) -> None:
        self.posted = 0
        self.accepted = 0
        self.promised = 0
        self.got = 0
        self.missed = 0


class Subscription:
    """One client's account of one stream."""

    __slots__ = ("_floor", "_last", "_ledger", "_missed", "ceiling")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._floor = ledger.accepted  # what was accepted before I asked does not come
        self.ceiling = 0
        self._last = 0
        self._missed = 0

    def confirmed(self) -> None:
        self.ceiling = self._ledger.posted + 1  # everything from here on does

    def gap(self, missed: int) -> None:
        self._missed += missed
        self._ledger.missed += missed

    def message(self, number: int) -> bool:
        """Whether this is what has to come now."""
        due = number - self._missed
        self._missed = 0
        self._ledger.got += 1
        right = due == self._last + 1 if self._last else self._floor < due <= self.ceiling
        self._last = number
        return right

    @property
    def complete(self) -> bool:
        """Nothing is to come any more."""
        return self._last + self._missed == self._ledger.posted


class Client:
    """One of the crowd, connected or not."""

    def __init__(self, crowd: Crowd, kind: str, dialect: str) -> None:
        self.crowd = crowd
        self.kind = kind
        self.dialect = dialect
        self.plan: Plan = iter(())
        self.member: Member | None = None
        self.subscriptions: dict[str, Subscription] = {}
        self.close_code = 0
        """Of the server's close frame."""
        self._buffer = b""

    @property
    def confirmed(self) -> bool:
        """Whether all subscriptions are."""
        return all(each.ceiling for each in self.subscriptions.values())

    @property
    def connected(self) -> bool:
        return self.member is not None and not self.member.ended

    def connect(self, *streams: str, receive_buffer: int = 0, source: str = "", data: bytes = b"") -> None:
        """Connect, and ask for these streams; or send these bytes instead."""
        self.subscriptions = {}
        self._buffer = b""
        if not data:
            data = UPGRADE if self.dialect == "simple" else CABLE_UPGRADE
            for stream in streams:
                data += frame(TEXT, self._command("subscribe", stream))
                self.subscriptions[stream] = Subscription(self.crowd.ledgers[stream])
        self.member = self.crowd.swarm.begin(data, receive_buffer=receive_buffer, source=source)
        self.member.received = self._received

    def _command(self, command: str, stream: str) -> bytes:
        if self.dialect == "simple":
            return json.dumps({"type": command, "stream": stream}).encode()
        identifier = json.dumps({"channel": "$pubsub", "stream_name": stream}, separators=(",", ":"))
        return json.dumps({"command": command, "identifier": identifier}).encode()

    def unsubscribe(self, stream: str) -> None:
        del self.subscriptions[stream]
        self.send(frame(TEXT, self._command("unsubscribe", stream)))

    def send(self, data: bytes) -> None:
        """What finds nobody or does not fit is lost."""
        if self.member is not None and not self.member.ended:
            with suppress(OSError, AssertionError):
                self.member.send(data)

    def stall(self) -> None:
        if self.member is not None and not self.member.ended:
            self.crowd.swarm.stall(self.member)

    def resume(self) -> None:
        if self.member is not None and not self.member.ended:
            self.crowd.swarm.resume(self.member)

    def leave(self, how: str) -> None:
        """By a `close` frame, by `FIN`, `RST`, or without a word to anybody (`vanish`)."""
        if self.member is None or self.member.ended:
            return
        if how == "close":
            self.send(frame(CLOSE, b"\x03\xe8"))
        elif how == "RST":
            self.member.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "vanish":
            self.member.socket.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        self.crowd.swarm.remove(self.member)
        self.member = None

    def _received(self, data: bytes) -> None:
        assert self.member is not None
        if not self.member.head.startswith(b"HTTP/1.1 101 "):
            self.crowd.answers[self.member.head[9:12].decode("latin-1")] += 1
            self.member.received = lambda data: None
            return
        frames, self._buffer = split_frames(self._buffer + data)
        for opcode, payload in frames:
            if opcode == TEXT:
                self._text(payload)
            elif opcode == PING:
                self.send(frame(PONG, payload))
            elif opcode == CLOSE:
                self.close_code = int.from_bytes(payload[:2], "big")
                self.send(frame(CLOSE, payload[:2]))

    def _text(self, payload: bytes) -> None:
        if payload == _PING_TEXT:
            self.send(_PONG_FRAME)
        elif found := _MESSAGE.search(payload, 0, 300):
            self.crowd.got += 1
            subscription = self.subscriptions.get(found[2].decode())
            if subscription is not None and not subscription.message(int(found[1])):
                self.crowd.wrong.append(f"a {self.kind} client ({self.dialect}) got {found[0].decode()} out of turn")
        elif found := _GAP.fullmatch(payload):
            self.crowd.missed += int(found[2])
            if found[1].decode() in self.subscriptions:
                self.subscriptions[found[1].decode()].gap(int(found[2]))
        elif found := _CONFIRMED.fullmatch(payload):
            subscription = self.subscriptions.get((found[1] or found[2]).decode())
            if subscription is not None:
                subscription.confirmed()


class Asker:
    """An HTTP connection that is kept alive."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._member: Member | None = None
        self._buffer = b""
        self.answer: tuple[int, bytes] | None = None
        self.refused = 0

    def ask(self, method: str, path: str, content: bytes = b"") -> Plan:
        """Yields until there is an answer, connecting again if the connection was closed before."""
        request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
        data = request.encode() + b"Content-Type: application/json\r\n\r\n" + content
        self.answer = None
        if self._member is None or self._member.ended:
            self._member = self._swarm.begin(data)
            self._member.head, self._buffer = b"-", b""  # it reads all heads itself
            self._member.received = self._received
        else:
            self._swarm.send(self._member, data)
        while self.answer is None:
            if self._member.ended:
                raise ConnectionError(f"{method} {path} was not answered")
            yield 0

    def post(self, ledger: Ledger, stream: str, count: int, size: int) -> Plan:
        """Post so many messages at once, and enter them in the stream's ledger."""
        ledger.posted += count
        messages = [body(stream, number, size) for number in range(ledger.accepted + 1, ledger.posted + 1)]
        content = json.dumps(messages if count > 1 else messages[0], separators=(",", ":")).encode()
        while True:
            yield from self.ask("POST", "/_broadcast", content)
            assert self.answer is not None
            status, answer = self.answer
            if status == 200:
                break
            if status != 503:
                raise ValueError(f"a broadcast was answered {status} {answer.decode()}")
            self.refused += 1  # it was congested, and took nothing
            yield 0.1
        ledger.accepted = ledger.posted
        ledger.promised += json.loads(answer)["subscribers"]

    def close(self) -> None:
        if self._member is not None and not self._member.ended:
            self._swarm.remove(self._member)
            self._member = None

    def _received(self, data: bytes) -> None:
        self._buffer += data
        head, mark, rest = self._buffer.partition(b"\r\n\r\n")
        found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        if mark and len(rest) >= (length := int(found[1]) if found else 0):
            self.answer = int(head[9:12]), rest[:length]
            self._buffer = rest[length:]


class Crowd:
    """Everybody. `steady` are the streams of those who stay, `mixed` those of the others, every other one of both
    `bursting`: Action Cable has no word for a gap, so its clients that stay are on the quiet ones. `patience` is for
    how long the server lets a client not read."""

    def __init__(self, swarm: Swarm, chance: random.Random, streams: int, patience: float) -> None:
        self.swarm = swarm
        self.chance = chance
        self.patience = patience
        self.steady = [f"steady{number}" for number in range(streams)]
        self.mixed = [f"mixed{number}" for number in range(streams)]
        self.bursting = {*self.steady[::2], *self.mixed[::2]}
        self.ledgers = {stream: Ledger() for stream in [*self.steady, *self.mixed]}
        self.clients: list[Client] = []
        self.answers: Counter[str] = Counter()
        """Of handshakes and garbage that got no 101, by status."""
        self.wrong: list[str] = []
        self.got = 0
        self.missed = 0
        self.held_up = 0.0
        """The longest time in which they could not read, in seconds."""
        self._plans: list[tuple[float, int, Plan]] = []
        self._numbers = count()
        self._sources = count(1)
        self._garbage = _garbage()

    # The loop

    def start(self, plan: Plan, delay: float = 0.0) -> None:
        heapq.heappush(self._plans, (time.monotonic() + delay, next(self._numbers), plan))

    def calm_down(self) -> None:
        """From now on the clients do nothing but read and answer."""
        mine = {id(client.plan) for client in self.clients}
        self._plans = [entry for entry in self._plans if id(entry[2]) not in mine]
        heapq.heapify(self._plans)
        for client in self.clients:
            client.resume()

    def run_until(self, condition: Callable[[], object], end: float) -> bool:
        """Let them all do what they do until the condition is true, which is the answer, or the clock says `end`."""
        before = time.monotonic()
        while not (met := condition()) and (now := time.monotonic()) < end:
            self.held_up, before = max(self.held_up, now - before), now
            while self._plans and self._plans[0][0] <= now:
                _, number, plan = heapq.heappop(self._plans)
                with suppress(StopIteration):
                    heapq.heappush(self._plans, (now + max(next(plan), TURN), number, plan))
            self.swarm.turn(min(0.01, max(self._plans[0][0] - now, 0.0)) if self._plans else 0.01)
        return bool(met)

    def carry_out(self, plan: Plan) -> None:
        """Carry out a plan to its end, while the others go on with theirs. TimeoutError: that takes too long."""
        done: list[bool] = []

        def whole() -> Plan:
            yield from plan
            done.append(True)

        self.start(whole())
        if not self.run_until(lambda: done, time.monotonic() + PATIENCE):
            raise TimeoutError("the server does not answer")

    # Who there is

    def invite(self, number: int, seconds: float) -> None:
        """So many clients, within so many seconds."""
        kinds = (
            (0.54, "steady", self._stay), (0.6, "pausing", self._pause), (0.8, "churning", self._churn),
            (0.9, "stalling", self._stall), (0.95, "vanishing", self._vanish), (1.0, "raving", self._rave),
        )
        for index in range(number):
            kind, plan = next((kind, plan) for share, kind, plan in kinds if index < share * number)
            dialect = "simple" if plan == self._pause else self.chance.choice(("simple", "actioncable"))
            client = Client(self, kind, dialect)
            client.plan = plan(client)
            self.clients.append(client)
            self.start(client.plan, self.chance.uniform(0, seconds))

    def _some(self, streams: list[str]) -> list[str]:
        return self.chance.sample(streams, min(self.chance.choice((1, 1, 1, 2, 3)), len(streams)))

    def _stay(self, client: Client) -> Plan:
        client.connect(*self._some(self.steady if client.dialect == "simple" else self.steady[1::2]))
        yield 0

    def _pause(self, client: Client) -> Plan:
        """Stops reading now and then for longer than the buffers last, and not for as long as to be cut off."""
        client.connect(*self._some(self.steady), receive_buffer=RECEIVE_BUFFER)
        while True:
            yield self.chance.uniform(1, 2 * self.patience)
            client.stall()
            yield self.chance.uniform(0, self.patience / 2)
            client.resume()

    def _churn(self, client: Client) -> Plan:
        while True:
            client.connect(*self._some(self.mixed))
            yield self.chance.expovariate(1 / 10)
            if self.chance.random() < 0.3 and client.subscriptions:
                client.unsubscribe(next(iter(client.subscriptions)))
                yield self.chance.uniform(0, 0.1)
            client.leave(self.chance.choice(("close", "FIN", "RST")))
            yield self.chance.uniform(0, 1)

    def _stall(self, client: Client) -> Plan:
        while True:
            client.connect(*self._some(self.mixed), receive_buffer=RECEIVE_BUFFER)
            yield self.chance.uniform(0, 2)
            client.stall()
            yield self.chance.uniform(0, 3 * self.patience)
            client.resume()
            yield self.chance.uniform(0, 2)
            client.leave(self.chance.choice(("close", "FIN", "RST")))

    def _vanish(self, client: Client) -> Plan:
        while True:
            # An address of its own each time: to the server the old connection is still there.
            number = next(self._sources) % 65024
            client.connect(*self._some(self.mixed), source=f"127.9.{number // 254}.{number % 254 + 1}")
            yield self.chance.uniform(0, self.patience)
            if self.chance.random() < 0.3:
                client.stall()
                yield self.chance.uniform(0, self.patience)
            client.leave("vanish")
            yield self.chance.uniform(0, 1)

    def _rave(self, client: Client) -> Plan:
        """Sends garbage, at once or after a good start, whole or cut off, and leaves or waits for what comes."""
        while True:
            data = self.chance.choice(self._garbage)
            if self.chance.random() < 0.3:
                data = data[: self.chance.randrange(len(data)) + 1]
            if self.chance.random() < 0.3:
                data += self.chance.randbytes(self.chance.randrange(200))
            if self.chance.random() < 0.3:
                client.connect(*self._some(self.mixed))
                yield self.chance.uniform(0, 2)
                for _ in range(self.chance.choice((1, 1, 40))):
                    client.send(frame(TEXT, data) if self.chance.random() < 0.5 else data)
            else:
                client.connect(data=data)
            yield self.chance.uniform(0, self.patience)
            client.leave(self.chance.choice(("FIN", "RST")))


def _garbage() -> list[bytes]:
    """What fuzzing has found, as a client would send it; without what publishes, which would spoil the accounts."""
    found = [path.read_bytes()[1:] for path in sorted(_CORPUS.glob("http/*"))]
    for upgrade, folder, skip in (UPGRADE, "frames", 2), (UPGRADE, "simple", 0), (CABLE_UPGRADE, "actioncable", 1):
        for path in sorted(_CORPUS.glob(f"{folder}/*")):
            data = path.read_bytes()[skip:]
            found += [upgrade + data, upgrade + b"".join(frame(TEXT, line) for line in data.split(b"\n"))]
    post = b"POST /_broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    found += [
        post + b"Content-Length: 9\r\n\r\n{\"stream\"", post + b"Content-Length: 99999999\r\n\r\n",
        post + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{\"str\r\nzz\r\n", b"\0" * 100, b"\x16\x03\x01\x02\0\x01\0\1",
        UPGRADE + b"\x82\x80\0\0\0\0", UPGRADE + b"\x81\xff\x7f" + b"\xff" * 7, UPGRADE + b"\x89\x80\0\0\0\0" * 300,
        UPGRADE + frame(TEXT, b"{}") * 40, UPGRADE[:-2] + b"X: %b\r\n" % (b"x" * 20000),
    ]
    return [data for data in found if data and b'"data"' not in data]
