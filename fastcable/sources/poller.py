"""Looks into a table at intervals, and hands on what is new there.

Theory of operation
-------------------
While a process has no subscribers, nothing is asked, and after IDLE_SECONDS the connection is let go. Else the table is
looked into every `interval` seconds, and at once when a stream was subscribed to. A look tells the ids of the rows of
all streams; `Window` says which are new; and these are read in portions, by id, so that the messages of one writer
arrive in its order, and the memory that a flood takes is bounded.

A stream is *fresh* until a look that began after it was subscribed to is over: rows which that look found are from
before, and those that it did not find will be new in a later one. Then the stream is live, and confirmed.

When the database cannot be read, all streams are interrupted: nobody is confirmed until it can be again. Then the rows
that came meanwhile are still there, and are delivered to those who were subscribed all along, before anybody is
confirmed; nothing was missed. Only after RESUME_SECONDS they would be history, and it starts anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING, Protocol

import orjson

from fastcable.log import Throttle, escape
from fastcable.sources import Reader, Row, SourceError
from fastcable.sources.solid_cable import channel_hash, channel_name
from fastcable.sources.window import Window

if TYPE_CHECKING:
    from fastcable._hub import Hub

logger = logging.getLogger("fastcable")

MOST_HASHES = 1000
"""With more streams than these the rows of all channels are looked at."""

PORTION_ROWS = 128
PORTION_BYTES = 2**20
PORTION_SECONDS = 0.002
"""What came since the last look comes at once: it is spread a little, and portions are well below what may wait for one
client by default (`max_pending_messages`)."""

RESUME_SECONDS = 60.0
IDLE_SECONDS = 60.0
FIRST_RETRY, LAST_RETRY = 0.1, 5.0
CONGESTED_SECONDS = 0.01


class Listener(Protocol):
    """Who wants to know what the poller hears."""

    def confirmed(self, poller: Poller, stream: str, missed: bool) -> None:
        """Every message of the stream arrives from now on; `missed`: some may not have, since the interruption."""

    def interrupted(self, poller: Poller) -> None:
        """No stream is heard, until each is confirmed again."""


class _Stream:
    """A stream with subscribers; another one when they went and others came."""

    __slots__ = ("hash", "live", "name")

    def __init__(self, name: str, hash: int) -> None:
        self.name = name
        self.hash = hash
        self.live = False


class Poller:
    def __init__(
        self,
        name: str,
        reader: Reader,
        hub: Hub,
        listener: Listener,
        *,
        interval: float,
        prefix: str | None,
        max_size: int,
    ) -> None:
        self.name = name
        self.problem: str | None = f"source {name}: not read yet"
        self._reader = reader
        self._hub = hub
        self._listener = listener
        self._interval = interval
        self._prefix = prefix
        self._max_size = max_size  # bytes; 0: no limit
        # Streams
        self._streams: dict[bytes, _Stream] = {}
        self._hashes: dict[int, int] = {}  # how many streams have it: 1, but for somebody's lucky day
        self._fresh: dict[_Stream, None] = {}
        self._wanted = asyncio.Event()  # there are fresh streams
        # The table
        self._window = Window()
        self._rows: list[Row] = []  # new ones that are still to be delivered
        self._open = self._failed = False
        self._interrupted = False
        self._missed = False  # rows, since the last confirmation
        self._looked = 0.0  # when the last look succeeded
        self._refused = Throttle()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._reader.close()
        self._reader.end()

    def subscribe(self, name: str) -> None:
        channel = channel_name(self._prefix, name)
        stream = self._streams[channel] = _Stream(name, channel_hash(channel))
        self._hashes[stream.hash] = self._hashes.get(stream.hash, 0) + 1
        self._fresh[stream] = None
        self._wanted.set()

    def unsubscribe(self, name: str) -> None:
        stream = self._streams.pop(channel_name(self._prefix, name))
        self._fresh.pop(stream, None)
        stream.live = False
        self._hashes[stream.hash] -= 1
        if not self._hashes[stream.hash]:
            del self._hashes[stream.hash]

    # The table

    async def _run(self) -> None:
        delay = FIRST_RETRY
        while True:
            try:
                if not self._open:
                    await self._reader.open()
                    self._open = True
                if self._streams:
                    await self._look()
                self._works()
            except SourceError as error:
                await self._fails(str(error))
            except Exception as error:  # not foreseen; whatever it is, this must not be the end
                if not self._failed:
                    logger.exception("source %s", self.name)
                await self._fails(f"failed in a way that was not foreseen: {type(error).__name__}")
            if self._open:
                delay = FIRST_RETRY
                await self._pause()
            else:
                await asyncio.sleep(delay * random.uniform(0.5, 1))
                delay = min(delay * 2, LAST_RETRY)

    async def _pause(self) -> None:
        """Until it is time to look again."""
        if not self._streams:
            self._window, self._rows = Window(), []  # what is written while nobody listens will be no news
            try:
                await asyncio.wait_for(self._wanted.wait(), IDLE_SECONDS)
            except TimeoutError:
                self._open = False  # a connection that says nothing for long may be cut off without a word
                await self._reader.close()
                await self._wanted.wait()
        elif not self._window.behind:
            await asyncio.sleep(self._interval / 10)  # many subscribe at once, and one look is enough for them
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self._interval * 9 / 10)

    async def _look(self) -> None:
        """Deliver what is new, and confirm the streams that were fresh when this began."""
        self._wanted.clear()
        fresh = list(self._fresh)
        hashes = list(self._hashes) if len(self._hashes) <= MOST_HASHES else None
        now = asyncio.get_running_loop().time()
        if self._interrupted and now - self._looked > RESUME_SECONDS:
            self._begin_anew()
        look = await self._reader.look(hashes, self._window.floor)
        if self._window.other(look):
            logger.warning("source %s: the table was emptied or made anew", self.name)
            missed = self._missed or bool(self._rows)
            self._begin_anew()
            if look.high:  # for a moment, or for years: nobody knows which of these rows are news
                look = await self._reader.look(hashes, None)
            else:
                self._missed = missed
        first = self._window.floor is None
        rows = self._window.sift(look, now)
        if not first:
            live = {stream.hash for stream in self._streams.values() if stream.live}
            self._rows = sorted([*self._rows, *(row for row in rows if row.channel_hash in live)])
        self._looked = now
        await self._deliver()
        if not self._window.behind:
            self._confirm(fresh)

    def _begin_anew(self) -> None:
        self._window, self._rows, self._missed = Window(), [], True

    async def _deliver(self) -> None:
        while self._rows:
            portion = self._portion()
            wanted = [row.id for row in portion if not self._too_large(row)]
            found = await self._reader.read(wanted) if wanted else []
            if len(found) < len(portion):
                self._leave_out({row.id: row for row in portion}, {found_id for found_id, _, _ in found})
            for _, channel, payload in found:
                self._hand_on(channel, payload.strip(b" \t\r\n"))
            del self._rows[: len(portion)]
            if self._rows:
                await asyncio.sleep(PORTION_SECONDS)
            while self._hub.congested:  # noqa: ASYNC110 (it does not tell of its end)
                await asyncio.sleep(CONGESTED_SECONDS)

    def _too_large(self, row: Row) -> bool:
        return 0 < self._max_size < row.size

    def _portion(self) -> list[Row]:
        size = 0
        for count, row in enumerate(self._rows[:PORTION_ROWS]):
            size += row.size
            if count and size > PORTION_BYTES:
                return self._rows[:count]
        return self._rows[:PORTION_ROWS]

    def _hand_on(self, channel: bytes, payload: bytes) -> None:
        stream = self._streams.get(channel)
        if stream is None or not stream.live:
            return
        try:
            orjson.loads(payload)
        except orjson.JSONDecodeError:
            self._refused.log(
                logging.WARNING, "source %s: a message of %s is not JSON: %s",
                self.name, escape(stream.name), escape(payload))
        else:
            self._hub.deliver(stream.name, payload)

    def _leave_out(self, portion: dict[int, Row], found: set[int]) -> None:
        """Tell of rows that are too large, or were deleted before they could be read."""
        for row in (row for row_id, row in portion.items() if row_id not in found):
            large = self._too_large(row)
            why = f"is over max_broadcast_size ({self._max_size})" if large else "was deleted before it was read"
            for stream in [each for each in self._streams.values() if each.live and each.hash == row.channel_hash]:
                self._refused.log(
                    logging.WARNING, "source %s: a message of %s (%d bytes) %s",
                    self.name, escape(stream.name), row.size, why)
                self._hub.lost(stream.name)

    # What others are told

    def _confirm(self, fresh: list[_Stream]) -> None:
        interrupted, missed = self._interrupted, self._missed
        self._interrupted = self._missed = False
        if interrupted or missed:
            for stream in [stream for stream in self._streams.values() if stream.live]:
                if interrupted:
                    self._listener.confirmed(self, stream.name, missed)
                else:
                    self._hub.lost(stream.name)
        for stream in fresh:
            if stream in self._fresh:  # nobody left meanwhile
                del self._fresh[stream]
                stream.live = True
                self._listener.confirmed(self, stream.name, False)

    def _works(self) -> None:
        if self.problem is not None:
            logger.info("source %s: reading", self.name)
        self.problem, self._failed = None, False
        if not self._streams:
            self._interrupted = self._missed = False

    async def _fails(self, why: str) -> None:
        self._open = False
        await self._reader.close()
        if not self._failed:
            logger.warning("source %s: %s; trying again", self.name, why)
        self.problem, self._failed = f"source {self.name}: {why}", True
        if not self._interrupted:
            self._interrupted = True
            self._listener.interrupted(self)
