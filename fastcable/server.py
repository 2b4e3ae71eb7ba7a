"""What one process serves, from its start to its end: start, then drain or retire, then stop."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from fastcable import __version__, listeners
from fastcable._connection import Cable
from fastcable._deadlines import Deadlines
from fastcable._endpoints import Endpoints
from fastcable._fanout import NegotiatedGroup, WebSocketGroup
from fastcable._heartbeat import Heartbeat
from fastcable._http import HttpProtocol, Site
from fastcable._hub import Hub
from fastcable._threads import ThreadPool
from fastcable.brokers.configured import broker
from fastcable.colleagues import Colleagues
from fastcable.cores import available_cores
from fastcable.descriptors import HTTP_DESCRIPTORS, connection_limit
from fastcable.dialects import Encoding
from fastcable.dialects.configured import configured
from fastcable.entrance import Bucket, Entrance
from fastcable.heartbeat import Clock, Queue, beat_seconds
from fastcable.idle import IdleWatch
from fastcable.listeners import Listening
from fastcable.memory import MemoryWatch, memory_limit
from fastcable.reports import Reports
from fastcable.retained import Retained
from fastcable.settings import Settings
from fastcable.statistics import Statistics

if TYPE_CHECKING:
    from fastcable._endpoints import Report
    from fastcable.link import Link

logger = logging.getLogger("fastcable")

LINGER_SECONDS = 2.0
DRAIN_STEP = 0.05  # seconds between two groups of closes while draining
LAST_SECONDS = 1.0  # of a drain, for the answers to the last close frames
HANDSHAKE_SECONDS = 3.0  # beyond the time to retire, for handshakes that were under way
REPORT_SECONDS = 10.0
LAST_TURNS = 3  # of the loop, in which what a listener accepted before it was closed becomes a connection


class Server:
    """Everything one process serves. `start`, then `drain`, `retire` or `abort`, then `stop`."""

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop, *, demo: bool = False) -> None:
        self.settings = settings
        self.loop = loop
        self.demo = demo
        self.max_connections = connection_limit(settings)
        # Rooms
        retained = Retained(settings.max_retained_bytes, settings.retain_seconds, loop.time)
        self.hub = Hub(loop.call_soon, settings.max_subscriptions, retained)
        self.hub.broker = broker(settings, self.hub, loop)
        self.hub.max_backlog = settings.max_pending_total // 2 or sys.maxsize
        self.threads = ThreadPool(min(settings.fanout_threads, available_cores()))
        encoding: Encoding = functools.partial(WebSocketGroup, threads=self.threads)
        if settings.compression:
            from fastcable.deflate import deflate

            encoding = functools.partial(NegotiatedGroup, deflate=deflate, threads=self.threads)
        dialects = configured(settings, self.hub, encoding)
        closing = Deadlines(settings.close_timeout)
        lingering = Deadlines(LINGER_SECONDS)
        self.cable = Cable(settings, self.hub, closing, lingering, loop.time)
        self.heartbeat = Heartbeat(
            self.cable, dialects["simple"].ping, beat_seconds(settings), settings, dialects["actioncable"].ping)
        if logger.isEnabledFor(logging.DEBUG):
            from fastcable.journal import Journal

            self.cable.journal = Journal()
        self.cable.heartbeat = self.hub.socket_ids = self.heartbeat
        admission = None
        if settings.auth == "jwt":
            from fastcable.admission import Admission, Expiries

            admission, self.cable.expiries = Admission(settings), Expiries()
        self.site = Site(
            settings, loop.time, lingering, self.cable, dialects["default"], self.max_connections, HTTP_DESCRIPTORS,
            dialects, admission)
        self.requests = self.site.requests
        self.statistics = Statistics(self.hub, self.cable, self.heartbeat, self.requests, self.max_connections)
        statistics = Colleagues(loop, "statistics", self.statistics.snapshot)
        status = Colleagues(loop, "status", self.statistics.status)
        self.colleagues = (statistics, status)
        self._reports = Reports(loop, settings, self.hub, statistics, status)
        self.memory: MemoryWatch | None = None
        # State
        self.listening = Listening()
        self.owner = False
        """Whether the Unix socket's file goes with the listeners."""
        self._queues: list[Queue] = [self.site.handshakes, self.site.keepalives, lingering, closing]
        if self.cable.expiries is not None:
            self._queues.append(self.cable.expiries)
        self._acceptors: list[asyncio.AbstractServer] = []
        self._idle: IdleWatch | None = None
        self._left = Listening()  # what it has stopped accepting on for the time being
        self.watches: list[Callable[[float], None]] = []
        """Are told the time with each beat of the clock; to be filled before the start."""
        self._limit_entrance()
        self._clock: Clock | None = None
        self._reporter: asyncio.TimerHandle | None = None
        self._reported = (0, 0)

    def _limit_entrance(self) -> None:
        settings = self.settings
        if settings.max_connections_per_address:
            from fastcable.addresses import PerAddress

            self.cable.addresses = PerAddress(settings.max_connections_per_address, settings.trusted_proxies)
        limit = memory_limit(settings)
        if limit:
            self.memory = MemoryWatch(limit, self.cable.kernel_memory, self._tell_trouble)
            self.watches.append(self.memory)
        handshakes = None
        if settings.max_handshakes_per_second:
            handshakes = Bucket(settings.max_handshakes_per_second, self.loop.time)
        if self.memory or self.cable.addresses or handshakes:
            self.site.entrance = Entrance(self.memory, self.cable.addresses, handshakes)

    def _tell_trouble(self, problem: str | None) -> None:
        self.hub.trouble = problem

    def join(self, link: Link) -> None:
        """From now on be one of several workers."""
        self.hub.broker = self.hub.broker.join(link)
        for each in self.colleagues:
            each.control = link.control

    def told(self, message: Mapping[str, object]) -> None:
        """What whoever runs the switch says to this worker."""
        for each in self.colleagues:
            each.told(message)

    @property
    def sockets(self) -> list[socket.socket]:
        """Those that it accepts on."""
        return self.listening.sockets

    async def start(self, listening: Listening | None = None, leave: Callable[[], None] | None = None) -> None:
        """Accept on these sockets, which are others' too; without any open some, and log the one line that says where.
        `leave` is called after `exit_when_idle` where the sockets are systemd's. Raises `listeners.CannotListen`."""
        self.owner = listening is None
        try:
            self.listening = listeners.open_listening(self.settings) if listening is None else listening
            if leave is not None and self.listening.kept and self.settings.exit_when_idle:
                self._idle = IdleWatch(self.settings.exit_when_idle, self.loop.time(), self.is_busy, leave)
                self.watches.append(self._idle)
            await self.hub.broker.start()
            await self._accept()
        except BaseException:
            await self.stop()
            raise
        self._clock = Clock(self.loop, self.heartbeat, self._queues, self.watches, self.statistics.lag)
        self._report()
        if self.owner:
            announce(self.settings, self.listening, self.max_connections)

    async def _accept(self) -> None:
        own = bool(self.listening.broadcast)
        cable = Endpoints(self.settings, self.hub, cable=True, broadcast=not own, demo=self.demo)
        # The page holds no secret; where there is a key, it asks for it.
        status: dict[bytes, Report] = {
            b"/_status": (self._reports.page, bool(self.settings.broadcast_key or self.settings.secret)),
            b"/_status.json": (self._reports.status_apart if own else self._reports.status, False),
        }
        if not own:
            cable.reports.update(status)
        if self.settings.metrics:
            cable.reports[b"/metrics"] = (self._reports.metrics, False)
        await self._listen(self.listening.cable, cable)
        if self.listening.metrics:
            metrics = Endpoints(self.settings, self.hub, cable=False, broadcast=False, demo=False)
            metrics.reports[b"/metrics"] = (self._reports.metrics, True)
            await self._listen(self.listening.metrics, metrics)
        if own:
            broadcast = Endpoints(self.settings, self.hub, cable=False, broadcast=True, demo=False)
            broadcast.reports.update(status)
            await self._listen(self.listening.broadcast, broadcast)

    async def _listen(self, sockets: Sequence[socket.socket], endpoints: Endpoints) -> None:
        protocol = functools.partial(self._create if self._idle else HttpProtocol, self.site, endpoints)
        for sock in sockets:
            create = self.loop.create_unix_server if sock.family == socket.AF_UNIX else self.loop.create_server
            self._acceptors.append(await create(protocol, sock=sock, backlog=self.settings.backlog))

    def _create(self, site: Site, endpoints: Endpoints) -> HttpProtocol:
        if self._idle is not None:
            self._idle.touch(self.loop.time())
        return HttpProtocol(site, endpoints)

    def is_busy(self) -> bool:
        """Whether anybody is connected, or may yet come for a last value that is kept here."""
        retained = self.hub.retained
        return bool(self.cable.connections or self.requests or (retained is not None and retained.holds_any()))

    def is_quiet(self) -> bool:
        """Whether nobody was connected for `exit_when_idle`."""
        return self._idle is not None and self._idle.is_over(self.loop.time())

    async def leave(self) -> bool:
        """Stop accepting on systemd's sockets; False, and go on, if somebody came in until then. (See `idle`.)"""
        left = self.listening.copy()
        self.close_listeners()
        self._left = left
        for _ in range(LAST_TURNS):
            await asyncio.sleep(0)
        if self.is_busy():
            await self.come_back()
            return False
        return True

    async def come_back(self) -> None:
        """Accept again after `leave`, unless the listeners were closed for good meanwhile."""
        left, self._left = self._left, Listening()
        if left.sockets:
            self.listening = left
            await self._accept()

    async def drain(self) -> None:
        """Take nothing new, finish what was accepted, close all clients (1001) evenly over most of `drain_timeout`."""
        seconds = self.settings.drain_timeout
        end = self.loop.time() + seconds
        spread = seconds - _last(seconds)
        self.site.draining = True
        self.close_listeners()
        self._close_idle_requests()
        step = max(math.ceil(self.cable.connections * DRAIN_STEP / spread), 50) if spread else sys.maxsize
        while True:
            self._close_oldest(step, "server stopping")
            if not (self.cable.connections or self.requests) or self.loop.time() >= end:
                break
            await asyncio.sleep(DRAIN_STEP if self.cable.oldest(1) else DRAIN_STEP / 10)
        self.abort()

    async def retire(self, seconds: float) -> None:
        """Leave new connections to a successor that listens already, and close all clients evenly over
        `seconds` (1001).

        Clients whose handshake is under way are let in before they are sent on, and publishers are told to come anew
        with an answer, as long as they post.
        """
        latest = self.loop.time() + seconds - _last(seconds)
        spread = seconds - _last(seconds)
        self.close_listeners()
        for _ in range(LAST_TURNS):
            await asyncio.sleep(0)
        step = math.ceil(self.cable.connections * DRAIN_STEP / spread) if spread else sys.maxsize
        while (self.cable.connections and self.loop.time() < latest) or (
            len(self.site.handshakes) and self.loop.time() < latest + HANDSHAKE_SECONDS
        ):
            self._close_oldest(step, "server restarting")
            await asyncio.sleep(DRAIN_STEP)
        self.site.draining = True
        end = max(self.loop.time(), latest) + _last(seconds)
        idle = min(self.loop.time() + LAST_SECONDS, end)
        while (self.cable.connections or self.requests) and self.loop.time() < end:
            self._close_oldest(sys.maxsize, "server restarting")
            if self.loop.time() >= idle:
                self._close_idle_requests()
            await asyncio.sleep(DRAIN_STEP)
        self.abort()

    def _close_oldest(self, count: int, reason: str) -> None:
        for client in self.cable.oldest(count):
            client.close(1001, reason)

    def _close_idle_requests(self) -> None:
        for protocol in list(self.requests):
            protocol.close_if_idle()

    def abort(self) -> None:
        """Cut off everybody who is still connected."""
        for client in self.cable.everybody():
            client.abort()
        for protocol in list(self.requests):
            protocol.abort()

    async def stop(self) -> None:
        """Let go of the listeners, the broker, the clock and the threads."""
        self.close_listeners()
        self._reports.stop()
        await self.hub.broker.stop()
        if self._clock is not None:
            self._clock.stop()
        if self._reporter is not None:
            self._reporter.cancel()
        self.threads.stop()
        await asyncio.sleep(0)  # the transports tell their protocols of the end in the next turn

    def close_listeners(self) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        if self.owner and self.listening.sockets:
            listeners.remove_path(self.settings)
        self.listening.close()
        self._left.close()

    def _report(self) -> None:
        """Now and then say what slow clients lost."""
        counters = self.hub.counters
        drops, closes = counters.drops - self._reported[0], counters.slow_closes - self._reported[1]
        slow = counters.take_dropping()
        if drops or closes:
            # Who left before its turn for a message has lost it, too, but was not slow.
            logger.warning(
                "slow clients: dropped %s messages on %s connections, closed %s in the last %d s",
                f"{drops:,}", f"{slow:,}", f"{closes:,}", REPORT_SECONDS)
        self._reported = (counters.drops, counters.slow_closes)
        self._reporter = self.loop.call_later(REPORT_SECONDS, self._report)


def announce(settings: Settings, listening: Listening, connections: int, workers: str = "") -> None:
    """Log the one line that says what listens where."""
    logger.info(
        "fastcable %s listens on %s: WebSockets (at most %d) on %s, broadcasts on %s%s%s",
        __version__, listening.names(), connections, settings.cable_path,
        ",".join(map(listeners.name, listening.broadcast)) if listening.kept else settings.broadcast_listen or "",
        settings.broadcast_path, workers)


def _last(seconds: float) -> float:
    """How much of the time for a drain is left to the answers to the last close frames."""
    return min(LAST_SECONDS, seconds / 2)
