"""What is handed over to Redis: messages and commands, in order, each answered or failed within a time.

Theory of operation
-------------------
An item *waits* until the connection is up, known to be that of a master, and not full; then it is *sent*, and then
answered. It has a deadline from the start, the same time for all, so deadlines pass in the order of the items. An
item whose deadline passed while it waited is not sent any more. One that was sent and not answered when the
connection broke fails at once: it may have arrived, and sending it again would make two of it. So an item that failed
may have been delivered all the same, and one that did not fail was.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from fastcable.brokers import HandoverError
from fastcable.brokers.redis_connection import RedisConnection, Unusable
from fastcable.brokers.redis_endpoint import Endpoint
from fastcable.brokers.redis_health import Health
from fastcable.brokers.redis_replies import Reply, ReplyError

if TYPE_CHECKING:
    from fastcable.brokers import Handover

MOST_AT_ONCE = 256 << 10  # bytes of one write

OUT_OF_SERVICE = ("LOADING", "MASTERDOWN", "READONLY", "NOAUTH", "CLUSTERDOWN", "MOVED")
"""How errors start that concern the whole of Redis, not the one command."""


class Item:
    """Commands that are handed over together. It is answered by as many replies, and done for good or with an error."""

    __slots__ = ("_replies", "commands", "deadline", "done", "error")

    def __init__(self, commands: bytes, replies: int, deadline: float, done: Handover) -> None:
        self.commands = commands
        self.deadline = deadline
        self.done = done
        self.error: str | None = None
        self._replies = replies

    def take(self, reply: Reply) -> bool:
        """A reply; True: it was the last."""
        for each in reply if isinstance(reply, list) else (reply,):  # an EXEC has several
            if isinstance(each, ReplyError) and self.error is None:
                self.error = str(each)
        self._replies -= 1
        return not self._replies

    def succeed(self) -> None:
        if not self.done.done():
            self.done.set_result(0)

    def fail(self, problem: str) -> None:
        if not self.done.done():
            self.done.set_exception(HandoverError(problem))
            self.done.exception()  # who asked may be gone, and then asyncio would log it


class Publishing:
    """The connection that publishes. `seconds` is what an item has, `most` the bytes of all; 0 = no limit."""

    def __init__(
        self, endpoint: Endpoint, loop: asyncio.AbstractEventLoop, health: Health, seconds: float, most: int
    ) -> None:
        self._connection = RedisConnection(endpoint, loop, self)
        self._endpoint = endpoint
        self._loop = loop
        self._health = health
        self._seconds = seconds
        self._most = most
        # State
        self._scheduled = False
        self._waiting: deque[Item] = deque()
        self._sent: deque[Item] = deque()
        self._held = 0  # bytes of both
        self._due: deque[Item] = deque()  # those of both that are not done, and perhaps others behind the first
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._connection.start()

    async def stop(self) -> None:
        """Hand over what was accepted, as far as it is possible in the time that it has, and close."""
        while pending := [item.done for item in (*self._sent, *self._waiting) if not item.done.done()]:
            await asyncio.wait(pending)
        if self._timer is not None:
            self._timer.cancel()
        await self._connection.stop()

    def hand_over(self, commands: bytes, replies: int = 1) -> Handover:
        """Send these commands, which Redis answers with so many replies. Fails with `HandoverError`."""
        item = Item(commands, replies, self._loop.time() + self._seconds, self._loop.create_future())
        if self._held and self._held + len(commands) > self._most:
            item.fail("redis: more is posted than it takes")
            return item.done
        self._held += len(commands)
        self._waiting.append(item)
        if self._seconds:
            self._due.append(item)
            if self._timer is None:
                self._timer = self._loop.call_at(item.deadline, self._expire)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._send)
        return item.done

    def _send(self) -> None:
        """Send what waits, as far as the connection takes it; the rest when it does (`writable`)."""
        self._scheduled = False
        while self._waiting and self._connection.up and not self._connection.full:
            batch: list[bytes] = []
            size = replies = 0
            while self._waiting and size < MOST_AT_ONCE:
                item = self._waiting.popleft()
                self._sent.append(item)
                batch.append(item.commands)
                size += len(item.commands)
                replies += 1
            self._connection.write(batch, self._answered, replies)

    def _answered(self, reply: Reply) -> bool:
        item = self._sent[0]
        if not item.take(reply):
            return False
        self._sent.popleft()
        self._held -= len(item.commands)
        if item.error is None:
            item.succeed()
            self._forget_done()
            return True
        error = self._endpoint.line(item.error)
        item.fail(f"redis: {error}")
        if error.startswith(OUT_OF_SERVICE):
            raise Unusable(error)
        return True

    def _expire(self) -> None:
        """Fail what has been here for too long."""
        self._timer = None
        now = self._loop.time()
        while self._due and (self._due[0].done.done() or self._due[0].deadline <= now):
            problem = self._health.problem or "redis: no answer"
            self._due.popleft().fail(f"{problem} (for {self._seconds:g} s)")
        while self._waiting and self._waiting[0].done.done():
            self._held -= len(self._waiting.popleft().commands)
        if self._due:
            self._timer = self._loop.call_at(self._due[0].deadline, self._expire)

    def _forget_done(self) -> None:
        while self._due and self._due[0].done.done():
            self._due.popleft()

    # The connection's role

    def opened(self) -> None:
        self._health.up("publishing")
        self._send()

    def down(self, reason: str) -> None:
        self._health.down("publishing", reason)
        for item in self._sent:
            self._held -= len(item.commands)
            item.fail(f"redis: {reason}")
        self._sent.clear()
        self._forget_done()

    def message(self, push: tuple[Reply, ...]) -> None:
        pass

    def writable(self) -> None:
        self._send()
