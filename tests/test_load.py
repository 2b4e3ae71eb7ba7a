"""The benchmark's load client tells apart what a server can do wrong, and speaks every peer's protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, Self

import pytest

from bench.load import Load, LoadError, build
from bench.peers.peer import Target
from fastcable._frames import FrameParser, encode_close, encode_frame
from tests.harness import CLOSE, PATIENCE, PING, PONG, TEXT, Serve

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
ACCEPT = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
         b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"

Treat = Callable[[int, bytes], Iterable[bytes]]
"""What a subscriber gets for the n-th message of its stream: the frame as it should be → the bytes that are written."""


def honest() -> Treat:
    return lambda number, frame: [frame]


class Fake:
    """A server on a port of its own that does as it is told. `treat` makes, for each subscriber, what distorts its
    messages; `answer` gives the answer to the n-th post, None to hang up instead."""

    def __init__(
        self, treat: Callable[[], Treat] = honest, answer: Callable[[int], bytes | None] = lambda number: OK,
        accept: bytes = ACCEPT + b"\r\n", wire: str = "simple", publish: str = "simple",
    ) -> None:
        self.treat, self.answer, self.accept = treat, answer, accept
        self.wire, self.publish = wire, publish
        self.greets = self.closes = True
        self.posts: list[Any] = []
        """Bodies, decoded."""
        self.requests: list[bytes] = []
        """Heads of all requests."""
        self.received: list[tuple[int, bytes]] = []
        """Control frames from clients."""
        self._members: dict[str, list[tuple[asyncio.StreamWriter, Treat]]] = {}
        self._numbers: dict[str, int] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake")

    def __enter__(self) -> Self:
        self._thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(PATIENCE)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(self, *exception: object) -> None:
        async def stop() -> None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), PATIENCE)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head)
                if head.startswith(b"GET "):
                    writer.write(self.accept)
                    await self._websocket(reader, writer)
                    break
                size = int(head.partition(b"Content-Length: ")[2].partition(b"\r")[0])
                self._post(json.loads(await reader.readexactly(size)))
                answer = self.answer(len(self.posts))
                if answer is None:
                    break
                writer.write(answer)
                if b"Connection: close" in answer:
                    break
        writer.close()

    async def _websocket(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = FrameParser(0, 0)
        if self.wire == "action_cable":
            send(writer, {"type": "welcome"})
        while data := await reader.read(65536):
            parser.feed(data)
            while opcode := parser.next():
                assert opcode > 0
                if opcode == TEXT:
                    self._command(writer, json.loads(parser.payload))
                    continue
                self.received.append((opcode, parser.payload))
                if opcode == CLOSE and self.closes:
                    writer.write(encode_close(1000))
                    return

    def _command(self, writer: asyncio.StreamWriter, command: dict[str, Any]) -> None:
        if not self.greets:
            return
        if self.wire == "simple":
            stream = command["stream"]
            send(writer, {"type": "subscribed", "stream": stream})
        elif self.wire == "action_cable":
            assert command["command"] == "subscribe"
            stream = json.loads(command["identifier"])["name"]
            send(writer, {"identifier": command["identifier"], "type": "confirm_subscription"})
        elif command == {}:
            self.received.append((PONG, b"{}"))
            return
        elif "connect" in command:
            send(writer, {"id": command["id"], "connect": {"client": "c", "ping": 25, "pong": True}})
            return
        else:
            stream = command["subscribe"]["channel"]
            send(writer, {"id": command["id"], "subscribe": {}})
        self._members.setdefault(stream, []).append((writer, self.treat()))

    def _post(self, body: Any) -> None:
        self.posts.append(body)
        answer = self.answer(len(self.posts))
        if answer is not None and answer[9:10] != b"2":
            return
        for message in body if isinstance(body, list) else [body]:
            stream = message["channel" if self.publish == "centrifugo" else "stream"]
            data = json.loads(message["data"]) if self.publish == "anycable" else message["data"]
            number = self._numbers[stream] = self._numbers.get(stream, 0) + 1
            frame = encode_frame(TEXT, dump({
                "simple": {"type": "message", "stream": stream, "data": data},
                "action_cable": {"identifier": dump({"channel": "C", "name": stream}).decode(), "message": data},
                "centrifugo": {"push": {"channel": stream, "pub": {"data": data}}},
            }[self.wire]))
            for writer, treat in self._members.get(stream, []):
                for piece in treat(number, frame):
                    if piece:
                        writer.write(piece)
                    else:
                        writer.close()


def dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def send(writer: asyncio.StreamWriter, value: object) -> None:
    writer.write(encode_frame(TEXT, dump(value)))


# Treatments: every fifth message, the third of them, is done wrong.


def loses() -> Treat:
    return lambda number, frame: [] if number % 5 == 3 else [frame]


def duplicates() -> Treat:
    return lambda number, frame: [frame, frame] if number % 5 == 3 else [frame]


def loses_and_duplicates() -> Treat:
    return lambda number, frame: [] if number % 5 == 3 else [frame, frame] if number % 5 == 4 else [frame]


def reorders(distance: int = 1) -> Callable[[], Treat]:
    """A message comes after the `distance` ones that were posted after it."""

    def make() -> Treat:
        held: list[tuple[int, bytes]] = []

        def treat(number: int, frame: bytes) -> Iterator[bytes]:
            if number % 5 == 3 and not held:
                held.append((number, frame))
                return
            yield frame
            if held and number == held[0][0] + distance:
                yield held.pop()[1]

        return treat

    return make


def from_third(*pieces: bytes) -> Callable[[], Treat]:
    """Something else instead of the third message."""
    return lambda: lambda number, frame: pieces if number == 3 else [frame]


def changes(offset: int, byte: bytes) -> Callable[[], Treat]:
    """Another byte at an offset from the third frame's end."""

    def treat(number: int, frame: bytes) -> Iterable[bytes]:
        return [frame[:offset] + byte + frame[offset + 1 :] if number == 3 else frame]

    return lambda: treat


def dribbles() -> Treat:
    """Cut into single bytes, in the middle of which others' frames come and go."""
    return lambda number, frame: [frame[i : i + 1] for i in range(len(frame))]


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[Fake, Load]]]:
    """A fake server and a load client for it: `start(loses)`."""
    with ExitStack() as stack:

        def start(*arguments: Any, **options: Any) -> tuple[Fake, Load]:
            fake = stack.enter_context(Fake(*arguments, **options))
            identifier = '{"channel":"C","name":"%s"}'
            target = Target(fake.port, wire=fake.wire, identifier=identifier, publish=fake.publish)
            return fake, stack.enter_context(Load(target))

        yield start


Start = Callable[..., tuple[Fake, Load]]
FAULTS = ("lost", "duplicates", "reordered")


def faults(result: dict[str, Any]) -> tuple[int, int, int]:
    lost, duplicated, reordered = (result[name] for name in FAULTS)
    return lost, duplicated, reordered


class TestFastcable:
    @pytest.fixture
    def load(self, serve: Serve) -> Iterator[Load]:
        with Load(Target(serve().port)) as load:
            yield load

    def test_broadcasts_reach_every_subscriber(self, load: Load) -> None:
        connected = load.command("connect", group="g", count=50)
        assert (connected["count"], connected["latency"]["count"]) == (50, 50)
        result = load.command("fanout", group="g", size=100, seconds=0, min=4, histogram=True)
        assert (result["broadcasts"], result["deliveries"]) == (4, 200)
        assert (result["last"]["count"], result["each"]["count"]) == (4, 200)
        assert sum(count for _, count in result["each"]["histogram"]) == 200
        assert faults(result) == (0, 0, 0)
        assert load.command("stats")["messages"] == 200

    # The frame's length field takes 1, 3 and 9 bytes; and a frame larger than one recv.
    @pytest.mark.parametrize("length", [125, 126, 65535, 65536, 400_000])
    def test_frames_of_every_kind_of_length_are_read(self, load: Load, length: int) -> None:
        load.command("connect", group="g", count=2)
        size = length - len(dump({"type": "message", "stream": "g-0", "data": 0})) + 1
        result = load.command("fanout", group="g", size=size, seconds=0, min=3, window=3)
        assert (result["deliveries"], *faults(result)) == (6, 0, 0, 0)

    @pytest.mark.parametrize("words", [{}, {"connections": 3}], ids=["pipelined", "on three connections"])
    def test_a_burst_is_delivered_whole(self, load: Load, words: dict[str, int]) -> None:
        load.command("connect", group="g", count=5)
        result = load.command("burst", group="g", size=50, messages=40, repeat=2, **words)
        assert (result["deliveries"], result["last"]["count"], result["answer"]["count"]) == (400, 2, 80)
        assert faults(result) == (0, 0, 0)

    @pytest.mark.parametrize("batch", [0, 1, 7])
    def test_posts_are_counted_with_their_messages(self, load: Load, batch: int) -> None:
        load.command("connect", group="g", count=2)
        result = load.command("posts", group="g", size=36, seconds=0.1, connections=3, batch=batch)
        assert result["messages"] == result["posts"] * (batch or 1)
        assert (result["deliveries"], *faults(result)) == (result["messages"] * 2, 0, 0, 0)
        assert result["answer"]["count"] == result["posts"] >= 3

    def test_random_streams_each_have_their_own_sequence(self, load: Load) -> None:
        load.command("connect", group="g", count=20, streams=10)
        result = load.command("random", group="g", streams=10, size=64, seconds=0.1, connections=4)
        assert (result["deliveries"], *faults(result)) == (result["messages"] * 2, 0, 0, 0)

    def test_a_probe_runs_beside_other_commands(self, load: Load) -> None:
        load.command("connect", group="one", count=1)
        load.command("connect", group="many", count=20)
        load.command("probe", group="one", size=50, every=2)
        beside = load.command("fanout", group="many", size=100, seconds=0.1)
        result = load.command("probe_stop")
        assert result["last"]["count"] == result["deliveries"] == result["posts"] > 3
        assert faults(beside) == faults(result) == (0, 0, 0)

    def test_what_a_stalled_reader_missed_is_no_loss(self, load: Load) -> None:
        load.command("connect", group="g", count=4, rcvbuf=4096)
        assert load.command("stall", group="g", percent=50)["stalled"] == 2
        # More than the server keeps for a connection: it drops, and says so.
        result = load.command("fanout", group="g", size=40_000, seconds=0, min=60)
        assert (result["deliveries"], *faults(result)) == (120, 0, 0, 0)
        read = load.command("read", group="g", quiet=0.3)
        assert read["missed"] == read["told"] == 120 - read["received"] > 0
        after = load.command("fanout", group="g", size=50, seconds=0, min=3)
        assert (after["deliveries"], *faults(after)) == (12, 0, 0, 0)

    @pytest.mark.parametrize("abort", [False, True])
    def test_closed_connections_are_not_waited_for(self, load: Load, abort: bool) -> None:
        load.command("connect", group="g", count=10)
        assert load.command("close", group="g", count=4, abort=abort)["closed"] == 4
        assert load.command("fanout", group="g", size=50, seconds=0, min=2)["deliveries"] == 12
        load.command("close", group="g", abort=abort)
        assert load.command("stats")["connections"] == 0

    def test_a_group_can_grow(self, load: Load) -> None:
        for _ in range(3):
            load.command("connect", group="g", count=2, streams=2)
            load.command("fanout", group="g", stream=1, size=50, seconds=0, min=2)
        assert load.command("fanout", group="g", stream=1, size=50, seconds=0, min=1)["deliveries"] == 3


@pytest.mark.parametrize(
    ("treat", "deliveries", "expected"),
    [
        (honest, 40, (0, 0, 0)),
        (loses, 32, (8, 0, 0)),
        (duplicates, 40, (0, 8, 0)),
        (loses_and_duplicates, 32, (8, 8, 0)),
        (reorders(1), 40, (0, 0, 8)),
        # Without its duplicate being taken for the missing one, in whichever order they come.
        (lambda: lambda number, frame: [] if number == 20 else [frame, frame, frame], 38, (2, 76, 0)),
    ],
    ids=["honest", "loses", "duplicates", "loses and duplicates", "reorders", "loses the last, all others thrice"],
)
def test_faults_are_told_apart(
    start: Start, treat: Callable[[], Treat], deliveries: int, expected: tuple[int, int, int]
) -> None:
    _, load = start(treat)
    load.command("connect", group="g", count=2)
    result = load.command("burst", group="g", size=50, messages=20, quiet=0.1)
    assert (result["deliveries"], faults(result)) == (deliveries, expected)


# The client keeps the last 64 numbers at hand.
@pytest.mark.parametrize("distance", [62, 63, 64, 65, 2000])
def test_a_message_may_be_late_by_any_distance(start: Start, distance: int) -> None:
    _, load = start(reorders(distance))
    load.command("connect", group="g", count=3)
    result = load.command("burst", group="g", size=50, messages=3 + distance, quiet=0.1)
    assert (result["deliveries"], faults(result)) == (3 * (3 + distance), (0, 0, 3))


@pytest.mark.parametrize("distance", [62, 63, 64, 65, 2000])
def test_a_duplicate_may_be_late_by_any_distance(start: Start, distance: int) -> None:
    def treat(number: int, frame: bytes) -> list[bytes]:
        if number == 3:
            third.append(frame)
        # The second never comes, and is not to be taken for the third.
        return [] if number == 2 else [frame, third[0]] if number == 3 + distance else [frame]

    third: list[bytes] = []
    _, load = start(lambda: treat)
    load.command("connect", group="g", count=2)
    result = load.command("burst", group="g", size=50, messages=3 + distance, quiet=0.1)
    assert (result["deliveries"], faults(result)) == (2 * (2 + distance), (2, 2, 0))


def test_messages_in_the_opposite_order_are_only_reordered(start: Start) -> None:
    def make() -> Treat:
        held: list[bytes] = []

        def treat(number: int, frame: bytes) -> Iterable[bytes]:
            held.append(frame)
            return reversed(held) if number == 300 else []

        return treat

    _, load = start(make)
    load.command("connect", group="g", count=2)
    result = load.command("burst", group="g", size=50, messages=300)
    assert (result["deliveries"], faults(result)) == (600, (0, 0, 598))


def test_a_loss_is_not_carried_over(start: Start) -> None:
    _, load = start(loses)
    load.command("connect", group="g", count=2)
    results = [load.command("fanout", group="g", size=50, seconds=0, min=2, window=2, quiet=0.1) for _ in range(3)]
    assert [faults(result)[0] for result in results] == [0, 2, 0]
    assert [result["deliveries"] for result in results] == [4, 2, 4]


def test_a_late_message_is_not_counted_for_another_command(start: Start) -> None:
    _, load = start(reorders(1))
    load.command("connect", group="g", count=1)
    assert faults(load.command("burst", group="g", size=50, messages=3, quiet=0.1)) == (1, 0, 0)
    result = load.command("burst", group="g", size=70, messages=2, quiet=0.1)
    assert (result["deliveries"], faults(result)) == (2, (0, 0, 1))


def test_what_a_server_says_it_left_out_is_lost_without_waiting(start: Start) -> None:
    gap = encode_frame(TEXT, dump({"type": "gap", "stream": "g-0", "missed": 1}))
    _, load = start(from_third(gap))
    load.command("connect", group="g", count=1)
    result = load.command("burst", group="g", size=50, messages=5, quiet=PATIENCE)
    assert (result["missed"], result["deliveries"], faults(result)) == (1, 4, (1, 0, 0))


def text(value: object) -> bytes:
    return encode_frame(TEXT, dump(value))


@pytest.mark.parametrize(
    ("treat", "reason"),
    [
        (changes(-5, b"~"), "wrong byte: 0x7e instead of"),
        (changes(-50, b"x"), "wrong byte: 0x78 instead of '\"' at 1"),
        (changes(-16, b"9"), "wrong byte: 0x39 instead of"),
        (changes(-36, b"9"), "message 900000000003 of publishing connection 0: never posted"),
        (changes(-45, b"5"), "message 3 of publishing connection 50: never posted"),
        (from_third(text({"type": "message", "stream": "other", "data": 1})), "not for its stream"),
        (from_third(text({"type": "message", "stream": "g-0", "data": 1})), "data that was never posted"),
        (from_third(text({"type": "error", "reason": "tired"})), "tired"),
        (from_third(text([])), "no JSON object"),
        (from_third(encode_frame(2, b"x")), "RFC 6455"),
        (from_third(encode_frame(TEXT, b"x", b"abcd")), "RFC 6455"),
        (from_third(b"\x01\x01x"), "RFC 6455"),
        (from_third(b"\xc1\x01x"), "RFC 6455"),
        (from_third(encode_close(1011, "tired"), b""), 'was closed with 1011 "tired"'),
        (from_third(encode_frame(CLOSE, b""), b""), "was closed without a code"),
        (from_third(b""), "was cut off without a close frame"),
    ],
    ids=[
        "padding", "brace", "member", "number", "publisher", "stream", "data", "error", "no object", "binary", "masked",
        "fragment", "reserved bit", "close", "close without code", "cut off",
    ],
)
def test_what_must_not_happen_ends_the_client(start: Start, treat: Callable[[], Treat], reason: str) -> None:
    _, load = start(treat)
    load.command("connect", group="g", count=1)
    with pytest.raises(LoadError) as problem:
        load.command("burst", group="g", size=50, messages=3, quiet=0.5)
    assert reason in str(problem.value)
    with pytest.raises(LoadError, match="has ended"):
        load.command("stats")


def test_unexpected_closes_are_counted(start: Start) -> None:
    _, load = start(from_third(b""))
    load.command("connect", group="g", count=7)
    told = r"7 connections ended unexpectedly \(0 are left\); the first: connection [0-6] of"
    with pytest.raises(LoadError, match=told):
        load.command("burst", group="g", size=50, messages=3)


def test_a_stalled_connection_may_be_closed(start: Start) -> None:
    _, load = start(from_third(encode_close(1013), b""))
    load.command("connect", group="g", count=2)
    load.command("stall", group="g")
    load.command("posts", group="g", size=50, seconds=0.02, connections=3)
    assert load.command("read", group="g", quiet=0.1)["closed"] == 2
    assert load.command("stats")["connections"] == 0


# HTTP


def body(status: str, *fields: str, content: str = "{}") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, "", content]).encode()


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        body("201 Created", "content-length:2"),
        body("200 OK", "Transfer-Encoding: chunked", content="2;x=y\r\n{}\r\n00\r\nTrailer: x\r\n\r\n"),
        b"HTTP/1.1 204 No Content\r\n\r\n",
        body("200 OK", "Content-Length: 2", "Connection: close"),
        body("200 OK", "Connection: close"),
        OK.replace(b"1.1", b"1.0").replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"),
    ],
    ids=["length", "201", "chunked", "204", "close", "until close", "HTTP/1.0"],
)
def test_every_form_of_answer_is_read(start: Start, answer: bytes) -> None:
    fake, load = start(answer=lambda number: answer)
    load.command("connect", group="g", count=1)
    result = load.command("fanout", group="g", size=50, seconds=0, min=5)
    assert (result["deliveries"], *faults(result)) == (5, 0, 0, 0)
    assert len(fake.posts) == 5


def test_posts_behind_an_announced_close_are_posted_again(start: Start) -> None:
    fake, load = start(answer=lambda number: body("200 OK", "Content-Length: 2", "Connection: close"))
    load.command("connect", group="g", count=1)
    result = load.command("burst", group="g", size=50, messages=6)
    assert (result["deliveries"], *faults(result)) == (6, 0, 0, 0)
    assert len(fake.posts) == 6


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (body("500 Internal Server Error", "Content-Length: 4", content="oops"), "500 Internal Server Error: oops"),
        (body("404 Not Found", "Content-Length: 0", content=""), "404 Not Found"),
        (body("503 Service Unavailable", "Content-Length: 0", content=""), "503 Service Unavailable"),
        (body("200 OK", "Content-Length: x"), "not HTTP/1.1"),
        (body("200 OK", "Transfer-Encoding: chunked", content="x\r\n"), "not HTTP/1.1"),
        (b"FTP/1.1 200 OK\r\n\r\n", "not HTTP/1.1"),
        (OK + OK, "an answer that was not asked for"),
        (None, "the server closed it with 1 of its posts unanswered"),
    ],
    ids=["500", "404", "503", "length", "chunk", "protocol", "two", "hang-up"],
)
def test_a_post_that_is_not_accepted_ends_the_client(start: Start, answer: bytes | None, reason: str) -> None:
    _, load = start(answer=lambda number: answer if number == 2 else OK)
    load.command("connect", group="g", count=1)
    with pytest.raises(LoadError, match=reason):
        load.command("fanout", group="g", size=50, seconds=0, min=3)


def test_a_hang_up_in_the_middle_of_a_burst_is_an_error(start: Start) -> None:
    _, load = start(answer=lambda number: None if number == 3 else OK)
    load.command("connect", group="g", count=1)
    with pytest.raises(LoadError, match=r"with [78] of its posts unanswered"):
        load.command("burst", group="g", size=50, messages=10)


def test_a_refusal_with_retry_after_is_posted_again(start: Start) -> None:
    busy = body("503 Service Unavailable", "Retry-After: 0", "Content-Length: 0", content="")
    _, load = start(answer=lambda number: busy if number % 3 == 2 else OK)
    load.command("connect", group="g", count=1)
    result = load.command("fanout", group="g", size=50, seconds=0, min=10)
    assert (result["retries"], result["deliveries"], *faults(result)) == (5, 10, 0, 0, 0)


# Connecting


@pytest.mark.parametrize(
    ("accept", "reason"),
    [
        (body("503 Service Unavailable", "Retry-After: 1"), "the upgrade was answered with HTTP/1.1 503"),
        (b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n", "wrong Sec-WebSocket-Accept"),
        (ACCEPT + b"Sec-WebSocket-Protocol: x\r\n\r\n", "subprotocol"),
        (ACCEPT + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "extension"),
        (b"SSH-2.0-x\r\n\r\n", "not HTTP"),
    ],
    ids=["refused", "accept", "subprotocol", "extension", "not HTTP"],
)
def test_a_wrong_handshake_ends_the_client(start: Start, accept: bytes, reason: str) -> None:
    _, load = start(accept=accept)
    with pytest.raises(LoadError, match=reason):
        load.command("connect", group="g", count=1)


def test_nobody_listening_is_an_error() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with Load(Target(held.getsockname()[1])) as load, pytest.raises(LoadError, match="Connection refused"):
            load.command("connect", group="g", count=3)


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("connect", {"group": "h", "count": 2}),
        ("fanout", {"group": "g", "size": 50, "seconds": 0}),
        ("burst", {"group": "g", "size": 50}),
        ("posts", {"group": "g", "size": 50, "seconds": 0.01}),
        ("close", {"group": "g"}),
    ],
)
def test_waiting_has_an_end(start: Start, verb: str, words: dict[str, Any]) -> None:
    fake, load = start(answer=lambda number: b"HTTP/1.1 200 OK\r\n")
    load.command("connect", group="g", count=2)
    fake.greets = fake.closes = False
    with pytest.raises(LoadError, match=f"{verb}: timeout: of"):
        load.command(verb, timeout=0.1, **words)


def test_pings_are_answered(start: Start) -> None:
    fake, load = start(lambda: lambda number, frame: [encode_frame(PING, b"p" * 125), frame])
    load.command("connect", group="g", count=1)
    load.command("fanout", group="g", size=50, seconds=0, min=2)
    load.command("close", group="g")
    assert fake.received == [(PONG, b"p" * 125)] * 2 + [(CLOSE, b"\x03\xe8")]


def test_frames_may_come_byte_by_byte(start: Start) -> None:
    _, load = start(dribbles)
    load.command("connect", group="g", count=3)
    result = load.command("burst", group="g", size=300, messages=5)
    assert (result["deliveries"], *faults(result)) == (15, 0, 0, 0)


# The other protocols


@pytest.mark.parametrize("publish", ["simple", "anycable"])
def test_action_cable(start: Start, publish: str) -> None:
    ping = encode_frame(TEXT, dump({"type": "ping", "message": 1}))
    fake, load = start(
        lambda: lambda number, frame: [ping, frame], wire="action_cable", publish=publish,
        accept=ACCEPT + b"Sec-WebSocket-Protocol: actioncable-v1-json\r\n\r\n",
    )
    load.command("connect", group="g", count=4, streams=2)
    result = load.command("random", group="g", streams=2, size=80, seconds=0.05, connections=2)
    assert (result["deliveries"], *faults(result)) == (result["messages"] * 2, 0, 0, 0)
    assert load.command("stats")["pings"] >= result["deliveries"]
    assert b"\r\nSec-WebSocket-Protocol: actioncable-v1-json\r\n" in fake.requests[0]
    assert type(fake.posts[0]["data"]) is (str if publish == "anycable" else dict)


def test_a_probe_may_take_several_streams_in_turn(start: Start) -> None:
    fake, load = start()
    load.command("connect", group="g", count=8, streams=4)
    load.command("probe", group="g", size=50, every=2, streams=3)
    while load.command("stats")["messages"] < 14:  # two of each
        time.sleep(0.002)
    result = load.command("probe_stop")
    assert result["deliveries"] == 2 * result["posts"]
    assert faults(result) == (0, 0, 0)
    posted = [post["stream"] for post in fake.posts]
    assert posted == [f"g-{number % 3}" for number in range(result["posts"])]


def test_centrifugo(start: Start) -> None:
    # Replies that are ready at the same time share a frame, one per line; {} is a ping.
    fake, load = start(
        lambda: lambda number, frame: [encode_frame(TEXT, b"{}\n" + frame[2:] + b"\n{}")],
        wire="centrifugo", publish="centrifugo",
    )
    load.command("connect", group="g", count=2)
    result = load.command("burst", group="g", size=50, messages=5)
    assert (result["deliveries"], *faults(result)) == (10, 0, 0, 0)
    load.command("close", group="g")
    assert fake.received.count((PONG, b"{}")) == 20


def test_an_error_in_an_answer_of_centrifugo_is_one(start: Start) -> None:
    refusal = body("200 OK", "Content-Length: 25", content='{"error":{"message":"x"}}')
    _, load = start(wire="centrifugo", publish="centrifugo", answer=lambda number: refusal)
    load.command("connect", group="g", count=1)
    with pytest.raises(LoadError, match="error"):
        load.command("burst", group="g", size=50, messages=1)


# Commands


@pytest.mark.parametrize(
    ("verb", "words", "reason"),
    [
        ("dance", {}, 'there is no verb "dance"'),
        ("connect", {"count": 1}, "connect: group must be a name"),
        ("connect", {"group": "a-b", "count": 1}, "connect: group must be a name"),
        ("connect", {"group": "x"}, "connect: count is missing"),
        ("connect", {"group": "x", "count": 0}, "connect: count must be a whole number from 1 to"),
        ("connect", {"group": "x", "count": "1e3"}, "connect: count must be a whole number"),
        ("connect", {"group": "x", "count": 1 << 20}, "descriptors"),
        ("connect", {"group": "x", "count": 1, "color": "red"}, "connect: there is no word color"),
        ("fanout", {"size": 50}, "fanout: group is missing"),
        ("fanout", {"group": "x", "size": 50}, "fanout: there is no group x"),
        ("fanout", {"group": "g", "size": 35}, "fanout: size must be a whole number from 36 to"),
        ("fanout", {"group": "g", "size": (16 << 20) + 1}, "fanout: size must be a whole number from 36 to 16777216"),
        ("fanout", {"group": "g", "size": 50, "stream": 1}, "fanout: stream g-1 has no subscribers"),
        ("fanout", {"group": "g", "size": 50, "seconds": "long"}, "fanout: seconds must be a number of seconds"),
        ("posts", {"group": "g", "size": 50, "connections": 100}, "posts: connections must be .* from 1 to 99"),
        ("random", {"group": "g", "size": 50, "streams": 1}, "random: streams must not be fewer than connections"),
        ("probe", {"group": "g", "size": 50, "streams": 0}, "probe: streams must be a whole number from 1 to"),
        ("probe", {"group": "g", "size": 50, "streams": 2}, "probe: group g has no 2 streams"),
        ("probe_stop", {}, "probe_stop: there is no probe"),
        ("stall", {"group": "g", "percent": 101}, "stall: percent must be a whole number from 1 to 100"),
        ("close", {"group": "g", "count": 2}, "close: count must be a whole number from 0 to 1"),
    ],
)
def test_a_word_that_is_wrong_is_named(start: Start, verb: str, words: dict[str, Any], reason: str) -> None:
    _, load = start()
    load.command("connect", group="g", count=1)
    with pytest.raises(LoadError, match=reason):
        load.command(verb, **words)
    assert load.command("stats")["connections"] == 1


@pytest.mark.parametrize("verb", ["connect", "close", "stall", "read", "probe"])
def test_who_is_counted_on_does_not_change_under_a_probe(start: Start, verb: str) -> None:
    _, load = start()
    load.command("connect", group="g", count=1)
    load.command("probe", group="g", size=50)
    words = {"connect": {"count": 1}, "probe": {"size": 50}}.get(verb, {})
    with pytest.raises(LoadError, match="probe_stop first"):
        load.command(verb, group="g", **words)


def test_progress_is_shown(start: Start) -> None:
    shown: list[tuple[str, int, int]] = []
    _, load = start()
    load._on_progress = lambda *progress: shown.append(progress)
    load.command("connect", group="g", count=1)
    load.command("posts", group="g", size=50, seconds=0.6)
    ((verb, done, of),) = shown
    assert verb == "posts"
    assert 0 < done <= of


def test_it_ends_when_told_or_left(start: Start) -> None:
    _, load = start()
    load.command("quit")
    assert load._process.wait(PATIENCE) == 0
    _, load = start()
    load._stdin.close()
    assert load._process.wait(PATIENCE) == 0


def test_it_is_compiled_once() -> None:
    program = build()
    made = program.stat()
    assert build() == program
    assert program.stat().st_ino == made.st_ino
