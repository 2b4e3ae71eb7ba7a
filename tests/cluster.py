"""Load for servers that share their streams: subscribers that come back, publishers that hop from server to server, and
the account of what became of each message.

Publishers number their messages and post one after the other, each to the next server: so the messages of one publisher
have an order. What came of each post is noted: 200, 503, or None where the connection ended before the answer.

A session is one connection of a subscriber. It owes an account of each message that was answered with 200, posted to
one of its streams after it was told that it is subscribed, and before it ended: it got the message or, between those of
that publisher that it got before and after it, was told of a gap. It gets none twice, and those answered with 200 in
the order of their publisher.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from fastcable._frames import FrameParser
from tests.harness import CLOSE, PATIENCE, TEXT, UPGRADE, frame

POST = (
    b"POST /_broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)


async def until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Return when a condition, looked at now and then, is true."""
    async with asyncio.timeout(patience):
        while not condition():  # noqa: ASYNC110 (nobody tells of these)
            await asyncio.sleep(0.005)


# --- publishers -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Posted:
    """A message: when it was posted, to which stream, and the status of the answer."""

    stream: str
    at: float
    status: int | None = None


class Poster(asyncio.Protocol):
    """A connection that posts, one after the other."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[int | None] | None = None
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    @property
    def closed(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._transport.abort()

    def post(self, body: bytes) -> asyncio.Future[int | None]:
        """The status; None if the connection ends before."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(POST % (len(body), body))
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, mark, body = self._buffer.partition(b"\r\n\r\n")
        if mark and len(body) >= int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            self._buffer = b""
            if b"\r\nconnection: close" in head.lower():
                self._transport.close()
            self._answered(int(head.split(b" ", 2)[1]))

    def eof_received(self) -> None:
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._answered(None)

    def _answered(self, status: int | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)


class Publisher:
    """Posts [its number, the number of the message] to the servers in turn."""

    RETRY = 0.1  # seconds after a 503

    def __init__(self, number: int, ports: Sequence[int]) -> None:
        self.posted: list[Posted] = []
        self.refused = 0
        self._number = number
        self._ports = ports
        self._posts = 0
        self._posters: dict[int, Poster] = {}

    async def post(self, *streams: str) -> int | None:
        """A message to this stream, or a batch with one to each of these; the status."""
        port = self._ports[(self._number + self._posts) % len(self._ports)]
        self._posts += 1
        poster = self._posters.get(port)
        if poster is None or poster.closed:
            poster = self._posters[port] = await self._connect(port)
        first = len(self.posted)
        self.posted += [Posted(stream, time.monotonic()) for stream in streams]
        body = [
            {"stream": stream, "data": [self._number, message]} for message, stream in enumerate(streams, first)
        ]
        async with asyncio.timeout(PATIENCE):
            status = await poster.post(orjson.dumps(body if len(body) > 1 else body[0]))
        for note in self.posted[first:]:
            note.status = status
        return status

    async def _connect(self, port: int) -> Poster:
        loop = asyncio.get_running_loop()
        while True:
            try:
                return (await loop.create_connection(Poster, "127.0.0.1", port))[1]
            except ConnectionRefusedError:
                self.refused += 1
                await asyncio.sleep(self.RETRY)

    async def run(self, streams: Iterator[str], pause: float = 0.0, going: asyncio.Event | None = None) -> None:
        """Post to these streams, while `going` is set."""
        for stream in streams:
            if going is not None:
                await going.wait()
            if await self.post(stream) != 200:
                await asyncio.sleep(self.RETRY)
            elif pause:
                await asyncio.sleep(pause)

    def close(self) -> None:
        for poster in self._posters.values():
            poster.close()


# --- subscribers ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Heard:
    """What a session heard of one stream since it was subscribed: (publisher, number) of each message, None for a gap;
    and the last number of each publisher."""

    since: float = 0.0
    events: list[tuple[int, int] | None] = field(default_factory=list)
    last: dict[int, int] = field(default_factory=dict)

    @property
    def gaps(self) -> int:
        return self.events.count(None)


class Session(asyncio.Protocol):
    """One connection of a subscriber to a port. `ended` is when it did, `code` that of the close frame."""

    def __init__(self, port: int, streams: Sequence[str], done: Callable[[Session], None]) -> None:
        self.port = port
        self.heard = {stream: Heard() for stream in streams}
        self.ended: float | None = None
        self.code: int | None = None
        self.strange: list[bytes] = []
        self._parser = FrameParser(0, 0, masked=False)
        self._head = b""
        self._upgraded = False
        self._done = done

    @property
    def subscribed(self) -> bool:
        return all(heard.since for heard in self.heard.values())

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        commands = [orjson.dumps({"type": "subscribe", "stream": stream}) for stream in self.heard]
        transport.write(UPGRADE + b"".join(frame(TEXT, command) for command in commands))

    def data_received(self, data: bytes) -> None:
        if not self._upgraded:
            self._head, mark, data = (self._head + data).partition(b"\r\n\r\n")
            if not mark:
                return
            self._upgraded = self._head.startswith(b"HTTP/1.1 101 ")
            if not self._upgraded:
                self._transport.close()
                return
        parser = self._parser
        parser.feed(data)
        while (opcode := parser.next()) > 0:
            if opcode == TEXT:
                self._receive(parser.payload)
            elif opcode == CLOSE:
                self.code = parser.code
                self._transport.write(frame(CLOSE, b""))
                self._transport.close()
        assert opcode == 0, parser.reason

    def _receive(self, payload: bytes) -> None:
        told = orjson.loads(payload)
        match told["type"]:
            case "message":
                publisher, number = told["data"]
                heard = self.heard[told["stream"]]
                heard.events.append((publisher, number))
                heard.last[publisher] = number
            case "gap" if "missed" not in told:
                self.heard[told["stream"]].events.append(None)
            case "subscribed":
                self.heard[told["stream"]].since = time.monotonic()
            case "ping":
                self._transport.write(frame(TEXT, b'{"type":"pong"}'))
            case _:
                self.strange.append(payload)

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = time.monotonic()
        self._done(self)

    def close(self) -> None:
        self._transport.abort()


class Cluster:
    """Subscribers of several servers, and publishers to all of them, in one loop.

    `sessions` are all there ever were; those of a subscriber whose connection ended begin anew until `close`.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.sessions: list[Session] = []
        self.publishers: list[Publisher] = []
        self._refused = 0
        self._ports = ports
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def connected(self) -> list[Session]:
        return [session for session in self.sessions if session.ended is None]

    @property
    def refused(self) -> int:
        """How many connections were."""
        return self._refused + sum(publisher.refused for publisher in self.publishers)

    def answers(self) -> Counter[int | None]:
        """How many posts got which status."""
        return Counter(note.status for publisher in self.publishers for note in publisher.posted)

    async def subscribe(self, *streams: Sequence[str]) -> None:
        """A subscriber of each of these lists of streams, at the servers in turn; they are subscribed on return."""
        for first in range(0, len(streams), 100):
            await asyncio.gather(*(
                self._begin(self._ports[number % len(self._ports)], streams[number])
                for number in range(first, min(first + 100, len(streams)))
            ))  # fmt: skip
        await until(lambda: all(session.subscribed for session in self.connected))

    async def _begin(self, port: int, streams: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()

        def done(session: Session) -> None:
            if not self._closing:
                task = loop.create_task(again())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

        async def again() -> None:
            await asyncio.sleep(0.1)
            await self._begin(port, streams)

        session = Session(port, streams, done)
        try:
            await loop.create_connection(lambda: session, "127.0.0.1", port)
        except ConnectionRefusedError:
            self._refused += 1
            done(session)
        else:
            self.sessions.append(session)

    def publisher(self) -> Publisher:
        publisher = Publisher(len(self.publishers), self._ports)
        self.publishers.append(publisher)
        return publisher

    async def hear_all(self, streams: Sequence[str]) -> None:
        """Return when all subscribers hear what is posted, to each stream at each server: nobody is deaf, and all that
        was answered with 200 before that is heard or lost."""
        probe = self.publisher()

        def deaf() -> list[tuple[Session, str]]:
            return [
                (session, stream)
                for session in self.connected for stream, heard in session.heard.items()
                if not heard.since or (heard.since < first and heard.last.get(number, -1) < last[stream])
            ]

        number = self.publishers.index(probe)
        patience = 1.0
        while True:
            first = time.monotonic()
            for _ in self._ports:
                await probe.post(*streams)
            last = {note.stream: message for message, note in enumerate(probe.posted)}
            with suppress(TimeoutError):
                return await until(lambda: not deaf(), patience)
            patience *= 2
            if patience > PATIENCE:
                found = deaf()
                session, stream = found[0]
                raise AssertionError(
                    f"{len(found)} subscriptions are deaf, such as that on port {session.port} to {stream}, "
                    f"{first - session.heard[stream].since} s old: {session.heard[stream]}")

    async def close(self) -> None:
        self._closing = True
        for task in self._tasks:
            task.cancel()
        for session in self.connected:
            session.close()
        for publisher in self.publishers:
            publisher.close()
        await asyncio.sleep(0)

    # --- the account ---

    def complaints(self) -> list[str]:
        """What sessions have to complain of, a line each."""
        posted: dict[str, list[list[int]]] = {}
        for number, publisher in enumerate(self.publishers):
            for message, note in enumerate(publisher.posted):
                lists = posted.setdefault(note.stream, [[] for _ in self.publishers])
                if note.status == 200:
                    lists[number].append(message)
        found = []
        for index, session in enumerate(self.sessions):
            found += [f"session {index}: strange: {payload!r}" for payload in session.strange]
            for stream, heard in session.heard.items():
                if heard.since:
                    found += [
                        f"session {index}, {stream}: {complaint}"
                        for complaint in self._complaints(heard, posted.get(stream, []), session.ended)
                    ]
        return found

    def _complaints(self, heard: Heard, accepted: list[list[int]], ended: float | None) -> Iterator[str]:
        messages = [event for event in heard.events if event is not None]
        if len(set(messages)) < len(messages):
            yield f"got twice: {sorted(each for each in set(messages) if messages.count(each) > 1)[:5]}"
        gaps_before = []  # each event's
        gaps = 0
        for event in heard.events:
            gaps_before.append(gaps)
            gaps += event is None
        for publisher, numbers in enumerate(accepted):
            posted = self.publishers[publisher].posted
            got = {number: gaps_before[at] for at, event in enumerate(heard.events)
                   if event is not None and (number := event[1]) >= 0 and event[0] == publisher}
            order = [number for number in got if posted[number].status == 200]
            if order != sorted(order):
                yield f"publisher {publisher}'s out of order: {order}"
            behind = 0  # gaps before the last message that was got
            missing: list[int] = []
            for number in numbers:
                if number in got:
                    if missing and got[number] == behind:
                        yield f"publisher {publisher}'s missing without a gap: {missing} before {number}"
                    behind, missing = got[number], []
                elif posted[number].at > heard.since:
                    missing.append(number)
            if missing and ended is None and gaps == behind:
                yield f"publisher {publisher}'s missing without a gap at the end: {missing}"
