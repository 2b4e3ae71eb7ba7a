"""One clock for all connections: the beats of the cable, and the queues of deadlines."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from fastcable._heartbeat import Heartbeat
from fastcable._histogram import Histogram
from fastcable.settings import Settings

LONGEST_BEAT = 0.5  # seconds


def beat_seconds(settings: Settings) -> float:
    """How long a beat is: at most half a second and a quarter of the shortest allowance, and a whole number of beats
    to a ping interval."""
    allowances = (
        settings.ping_interval, settings.idle_timeout, settings.write_timeout, settings.handshake_timeout,
        settings.keepalive_timeout, settings.close_timeout, settings.actioncable_ping_interval,
    )
    beat = max(min([LONGEST_BEAT, *(seconds / 4 for seconds in allowances if seconds)]), 0.01)
    return settings.ping_interval / math.ceil(settings.ping_interval / beat) if settings.ping_interval else beat


class Queue(Protocol):
    def __len__(self) -> int: ...
    def expired(self, now: float) -> Sequence[Any]:
        """Take out those whose time is over."""
        ...


class Clock:
    """Calls `Heartbeat.beat` at even intervals, tells who waits in `queues` when its deadline has passed, and then
    `watches` what time it is. `lag` is told how late it was called itself."""

    __slots__ = ("_handle", "_heartbeat", "_lag", "_loop", "_next", "_queues", "_watches")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, heartbeat: Heartbeat, queues: Sequence[Queue],
        watches: Sequence[Callable[[float], None]] = (), lag: Histogram | None = None,
    ) -> None:
        self._loop = loop
        self._heartbeat = heartbeat
        self._queues = queues
        self._watches = watches
        self._lag = lag
        self._next = loop.time()
        self._schedule()

    def stop(self) -> None:
        self._handle.cancel()

    def _schedule(self) -> None:
        self._next += self._heartbeat.seconds
        self._handle = self._loop.call_at(self._next, self._beat)

    def _beat(self) -> None:
        now = self._loop.time()
        if self._lag is not None:
            self._lag.observe(max(now - self._next, 0.0))
        if now - self._next >= self._heartbeat.seconds:
            # Beats that were missed while the process was stopped or the machine slept are not made up for.
            self._next = now
        self._schedule()
        self._heartbeat.beat()
        for queue in self._queues:
            for item in queue.expired(now):
                item.deadline_passed(queue)
        for watch in self._watches:
            watch(now)
