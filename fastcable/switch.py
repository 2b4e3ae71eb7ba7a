"""The switch between the workers of one host: it puts their messages into one order, which all of them see.

Theory of operation
-------------------
Members are the workers' links, each a number of the caller's. Bytes that a member sent come in by `feed`; bytes for it
wait in its queue, from `pieces` until `wrote`. Nothing here reads, writes or waits (`fastcable.bus` has the frames).

The order of all messages is that in which their frames come to an end in `feed`. A message goes to all other members
as it came, and back to its origin goes ACCEPTED, with the number of the stream's subscribers elsewhere: at its place in
the order, at which the origin then delivers its own. Messages that follow each other in what was read, a *run*, are one
piece in the queues of all others, which share it, and one ACCEPTED.

How many subscribers a stream has at each member is what that member last reported.

A member that reads slower than the others write has a *full* queue once `max_queue` bytes wait (tested before adding,
so one run may overshoot). From then on messages for it are dropped, until its queue is empty. Then it is told LOST,
and the retained messages that it missed; what was not a message (ACCEPTED, counts, commands) it got in the meantime.
If even that is too much, or a member breaks the form of frames, it has *failed*: it is left to the caller to make it
leave.

What is retained is replayed to a member that joins, before anything else. It does not fill the queue.

`export` and `restore` carry all of this over the exec of the process: records in the form of frames, those of workers
(RETAINED, COUNTS) among them.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

import orjson

from fastcable import bus
from fastcable.brokers.message import PLAIN, decode_at
from fastcable.bus import HEADER
from fastcable.retained import Retained

MAX_PIECES = 64  # of one write
RETAIN = b'"retain":true'  # what the head of a message that is to be retained has in it
MISSED_OVERHEAD = 128  # bytes that a stream whose retained message was missed counts for, besides its name

_STATE, _MEMBER, _REST, _WAITING, _MISSED = range(100, 105)  # records of an exported state


class Member:
    """One worker's link."""

    __slots__ = (
        "beyond", "counts", "failed", "full", "greeted", "limit", "missed", "number", "queue", "rest", "size", "start")

    def __init__(self, number: int, limit: int) -> None:
        self.number = number
        # What it sends
        self.greeted = False
        self.rest = bus.Rest()
        self.counts: dict[bytes, int] = {}  # live subscribers by stream, as reported
        # What is sent to it
        self.queue: deque[bytes] = deque()
        self.start = 0  # bytes of the first piece that are written already
        self.size = 0
        self.limit = limit
        self.beyond = 0  # bytes of what is not dropped that came when the queue had no room
        self.full = False
        self.missed: dict[str, None] = {}  # streams
        self.failed = False


class Switch:
    """`retained` is the switch's own store of last values, None where no messages cross it; `on_control` is called with
    a member and what it says in a CONTROL frame (there, members must neither join nor leave)."""

    def __init__(
        self,
        retained: Retained | None = None,
        *,
        max_queue: int = 32 << 20,
        on_control: Callable[[int, dict[str, object]], None] = lambda member, message: None,
    ) -> None:
        self._retained = retained
        self._max_queue = max_queue
        self._on_control = on_control
        self._members: dict[int, Member] = {}
        self._counts: dict[bytes, int] = {}  # of all members
        self._failed: dict[int, str] = {}
        self.waiting: set[int] = set()
        """Members with something to be written."""

    def __contains__(self, member: int) -> bool:
        return member in self._members

    def __iter__(self) -> Iterator[int]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def count(self, stream: str) -> int:
        """Live subscribers of a stream at all members."""
        return self._counts.get(stream.encode(), 0)

    def join(self, number: int) -> None:
        """A worker's link is there."""
        member = self._members[number] = Member(number, self._max_queue)
        self._add(member, bus.frame(bus.HELLO, bus.GREETING))
        if self._retained is not None:
            self._replay(member, ((stream.encode(), data, age) for stream, data, age in self._retained.items()))
        self._add(member, bus.frame(bus.REPLAYED))

    def leave(self, number: int) -> None:
        """A worker's link has ended."""
        member = self._members.pop(number, None)
        if member is None:
            return
        self.waiting.discard(number)
        self._failed.pop(number, None)
        for name in member.counts:
            self._report(member, name, 0, forget=False)

    def take_failed(self) -> list[tuple[int, str]]:
        """Members to be made leave, each with a line that says why; once."""
        failed, self._failed = self._failed, {}
        return list(failed.items())

    # What members send

    def feed(self, number: int, data: bytes) -> None:
        """Take in what was read from a member's link."""
        member = self._members[number]
        if member.failed:
            return
        try:
            self._parse(member, member.rest.followed_by(data))
        except (ValueError, struct.error) as problem:
            self._fail(member, f"broken frame: {problem}")

    def _parse(self, member: Member, data: bytes) -> None:
        at, end = 0, len(data)
        if not member.greeted and end >= HEADER.size:
            if data[4] != bus.HELLO:
                raise ValueError("HELLO is expected first")
            member.greeted = True
        run = 0  # where messages began that are not passed on yet
        accepted: list[int] = []
        commands: list[bytes] = []
        retained: list[str] = []
        totals, own = self._counts, member.counts
        unpack, header, plain = HEADER.unpack_from, HEADER.size, len(PLAIN)
        while end - at >= header:
            length, kind, p, q = unpack(data, at)
            start = at + header
            stop = start + length
            if stop > end:
                break
            if kind == bus.MESSAGE:
                if p + q >= length:
                    raise ValueError("a message without data")
                name = data[start : start + p]
                accepted.append(totals.get(name, 0) - own.get(name, 0))
                if q != plain and data.find(RETAIN, start, start + p + q) >= 0:
                    message = decode_at(data[start + p : stop], q)
                    if message.retain and self._retained is not None:
                        retained.append(stream := name.decode())
                        self._retained.keep(stream, message.data)
            elif kind == bus.DISCONNECT:
                accepted.append(0)
                commands.append(data[at:stop])
            else:
                if accepted:
                    self._pass_on(member, data[run:at], accepted, commands, retained)
                    accepted, commands, retained = [], [], []
                run = stop
                self._take(member, kind, data, start, stop)
            at = stop
        if accepted:
            self._pass_on(member, data[run:at], accepted, commands, retained)
        if at < end:
            member.rest.keep(data, at)

    def _pass_on(
        self, origin: Member, run: bytes, accepted: list[int], commands: list[bytes], retained: list[str]
    ) -> None:
        for member in self._members.values():
            if member is origin:
                continue
            if not member.full and member.size < member.limit:
                self._queue(member, run)
            else:
                member.full = True
                self._miss(member, commands, retained)
        count = len(accepted)
        self._add(origin, HEADER.pack(4 * count, bus.ACCEPTED, 0, 0) + struct.pack(f">{count}I", *accepted))

    def _miss(self, member: Member, commands: list[bytes], retained: list[str]) -> None:
        for command in commands:
            self._add(member, command)
        for stream in retained:
            if stream not in member.missed:
                member.missed[stream] = None
                self._squeeze(member, len(stream) + MISSED_OVERHEAD)

    def _take(self, member: Member, kind: int, data: bytes, start: int, stop: int) -> None:
        """A frame that is no message."""
        if kind == bus.COUNTS:
            for name, count in bus.counts_in(data, start, stop):
                self._report(member, name, count)
        elif kind == bus.COUNT:
            name = data[start:stop]
            count = self._counts.get(name, 0) - member.counts.get(name, 0)
            self._add(member, bus.frame(bus.COUNTED, count.to_bytes(4, "big")))
        elif kind in (bus.CONTROL, bus.HELLO):
            message = orjson.loads(data[start:stop])
            if type(message) is not dict:
                raise ValueError("CONTROL and HELLO are objects")
            if kind == bus.CONTROL:
                self._on_control(member.number, message)

    def _report(self, member: Member, name: bytes, count: int, *, forget: bool = True) -> None:
        total = self._counts.get(name, 0) - member.counts.get(name, 0) + count
        if total:
            self._counts[name] = total
        else:
            self._counts.pop(name, None)
        if count:
            member.counts[name] = count
        elif forget:
            member.counts.pop(name, None)

    # What is sent to them

    def control(self, number: int, message: Mapping[str, object]) -> None:
        """Tell a worker something that only it and the caller understand."""
        self._add(self._members[number], bus.frame(bus.CONTROL, orjson.dumps(message)))

    def pieces(self, number: int) -> list[bytes | memoryview]:
        """What is to be written to a member next: some pieces, to be written in turn; none if nothing waits."""
        member = self._members[number]
        pieces: list[bytes | memoryview] = list(islice(member.queue, MAX_PIECES))
        if member.start:
            pieces[0] = memoryview(member.queue[0])[member.start :]
        return pieces

    def wrote(self, number: int, size: int) -> None:
        """So many bytes of the pieces were written."""
        member = self._members[number]
        queue = member.queue
        member.size -= size
        if member.size:
            size += member.start
            while size >= len(queue[0]):
                size -= len(queue.popleft())
            member.start = size
        else:
            queue.clear()
            member.start = 0
            self.waiting.discard(number)
            member.limit = self._max_queue
            member.beyond = 0
            if member.full:
                self._recover(member)

    def _recover(self, member: Member) -> None:
        """Its queue was full and is empty now."""
        member.full = False
        missed, member.missed = member.missed, {}
        self._add(member, bus.frame(bus.LOST))
        if self._retained is not None:
            self._replay(member, (self._now_retained(stream) for stream in missed))

    def _now_retained(self, stream: str) -> tuple[bytes, bytes, float]:
        assert self._retained is not None
        data = self._retained.get(stream)
        return stream.encode(), data or b"null", 0.0 if data is None else self._retained.age(stream)

    def _replay(self, member: Member, entries: Iterator[tuple[bytes, bytes, float]]) -> None:
        piece: list[bytes] = []
        filled = 0
        for entry in entries:
            piece.append(bus.retained_frame(*entry))
            filled += len(piece[-1])
            if filled >= bus.BATCH:
                self._queue_replayed(member, b"".join(piece))
                piece, filled = [], 0
        if piece:
            self._queue_replayed(member, b"".join(piece))

    def _queue_replayed(self, member: Member, piece: bytes) -> None:
        member.limit += len(piece)
        self._queue(member, piece)

    def _add(self, member: Member, frame: bytes) -> None:
        """Queue what must not be dropped."""
        if member.size >= member.limit:
            self._squeeze(member, len(frame))
        self._queue(member, frame)

    def _squeeze(self, member: Member, size: int) -> None:
        member.beyond += size
        if member.beyond >= self._max_queue:
            self._fail(member, "does not read its link")

    def _queue(self, member: Member, piece: bytes) -> None:
        if not member.failed:
            member.queue.append(piece)
            member.size += len(piece)
            self.waiting.add(member.number)

    def _fail(self, member: Member, reason: str) -> None:
        if not member.failed:
            member.failed = True
            member.queue.clear()
            member.start = member.size = 0
            self.waiting.discard(member.number)
            self._failed[member.number] = reason

    # Over an exec

    def export(self) -> Iterator[bytes]:
        """All of the state, in pieces, for `restore` in the next program of this process."""
        yield bus.frame(_STATE, b'{"v":1}')
        if self._retained is not None:
            for stream, data, age in self._retained.items():
                yield bus.retained_frame(stream.encode(), data, age)
        for member in self._members.values():
            if member.failed:
                continue
            facts = {"member": member.number, "greeted": member.greeted, "full": member.full, "beyond": member.beyond}
            yield bus.frame(_MEMBER, orjson.dumps(facts))
            yield from bus.counts_frames(member.counts.items())
            yield bus.frame(_REST, bytes(member.rest.data))
            for index, piece in enumerate(member.queue):
                yield bus.frame(_WAITING, piece[member.start :] if index == 0 else piece)
            for stream in member.missed:
                yield bus.frame(_MISSED, stream.encode())

    def restore(self, state: bytes) -> None:
        """Take over what another switch exported; this one is new. ValueError: that is no such state."""
        at = 0
        member: Member | None = None
        while at < len(state):
            if len(state) - at < HEADER.size:
                raise ValueError("the switch's state is cut off")
            length, kind, p, _ = HEADER.unpack_from(state, at)
            start = at + HEADER.size
            stop = start + length
            if stop > len(state) or (at == 0 and kind != _STATE):
                raise ValueError("the switch's state is cut off, or is none")
            if kind == bus.RETAINED:
                if self._retained is not None:
                    self._retained.keep(*bus.retained_in(state, start, stop, p))
            elif kind == _MEMBER:
                facts = orjson.loads(state[start:stop])
                member = self._members[facts["member"]] = Member(facts["member"], self._max_queue)
                member.greeted, member.full, member.beyond = facts["greeted"], facts["full"], facts["beyond"]
            elif member is not None:
                self._restore(member, kind, state, start, stop)
            at = stop

    def _restore(self, member: Member, kind: int, state: bytes, start: int, stop: int) -> None:
        if kind == bus.COUNTS:
            for name, count in bus.counts_in(state, start, stop):
                self._report(member, name, count)
        elif kind == _REST:
            if start < stop:
                member.rest.keep(state[start:stop], 0)
        elif kind == _WAITING:
            self._queue_replayed(member, state[start:stop])
        elif kind == _MISSED:
            member.missed[state[start:stop].decode()] = None
