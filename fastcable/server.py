"""The life of a server: start, run, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence

import uvloop

from fastcable import __version__, listeners
from fastcable._connection import Cable
from fastcable._deadlines import Deadlines
from fastcable._endpoints import Endpoints
from fastcable._fanout import WebSocketGroup
from fastcable._heartbeat import Heartbeat
from fastcable._http import HttpProtocol, Site
from fastcable._hub import Hub
from fastcable._threads import ThreadPool
from fastcable.brokers.memory import MemoryBroker
from fastcable.cores import available_cores
from fastcable.dialects.configured import configured
from fastcable.heartbeat import Clock, Queue, beat_seconds
from fastcable.retained import Retained
from fastcable.settings import Settings, SettingsError

logger = logging.getLogger("fastcable")

RESERVED_DESCRIPTORS = 128
"""Open files that are not for WebSockets: listeners, the loop's own, and plain HTTP."""

HTTP_DESCRIPTORS = 96
"""Of these, for connections that are not WebSockets (yet); more are cut off at once, so that accepting never runs out
of descriptors: libuv would then close the whole backlog unheard."""

LINGER_SECONDS = 2.0
DRAIN_STEP = 0.05  # seconds between two groups of closes while draining
REPORT_SECONDS = 10.0


class Server:
    """Everything one process serves. `start`, then `drain` or `abort`, then `stop`."""

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop, *, demo: bool = False) -> None:
        self.settings = settings
        self.loop = loop
        self.demo = demo
        self.max_connections = connection_limit(settings)
        # Rooms
        retained = Retained(settings.max_retained_bytes, settings.retain_seconds, loop.time)
        self.hub = Hub(loop.call_soon, settings.max_subscriptions, retained)
        self.hub.broker = MemoryBroker(self.hub)
        self.hub.max_backlog = settings.max_pending_total // 2 or sys.maxsize
        self.threads = ThreadPool(min(settings.fanout_threads, available_cores()))
        encoding = functools.partial(WebSocketGroup, threads=self.threads)
        dialects = configured(settings, self.hub, encoding)
        closing = Deadlines(settings.close_timeout)
        lingering = Deadlines(LINGER_SECONDS)
        self.cable = Cable(settings, self.hub, closing, lingering, loop.time)
        self.heartbeat = Heartbeat(
            self.cable, dialects["simple"].ping, beat_seconds(settings), settings, dialects["actioncable"].ping)
        self.cable.heartbeat = self.hub.socket_ids = self.heartbeat
        admission = None
        if settings.auth == "jwt":
            from fastcable.admission import Admission, Expiries

            admission, self.cable.expiries = Admission(settings), Expiries()
        self.site = Site(
            settings, loop.time, lingering, self.cable, dialects["default"], self.max_connections, HTTP_DESCRIPTORS,
            dialects, admission)
        self.requests = self.site.requests
        # State
        self.sockets: list[socket.socket] = []
        self._queues: list[Queue] = [self.site.handshakes, self.site.keepalives, lingering, closing]
        if self.cable.expiries is not None:
            self._queues.append(self.cable.expiries)
        self._listening: list[asyncio.AbstractServer] = []
        self._clock: Clock | None = None
        self._reporter: asyncio.TimerHandle | None = None
        self._reported = (0, 0)

    async def start(self) -> None:
        """Listen; logs the one line that says where. Raises `listeners.CannotListen`."""
        own = self.settings.broadcast_listen is not None
        cable = Endpoints(self.settings, self.hub, cable=True, broadcast=not own, demo=self.demo)
        try:
            await self._listen(listeners.open_sockets(self.settings), cable)
            if own:
                broadcast = Endpoints(self.settings, self.hub, cable=False, broadcast=True, demo=False)
                await self._listen(listeners.open_broadcast_sockets(self.settings), broadcast)
        except BaseException:
            await self.stop()
            raise
        self._clock = Clock(self.loop, self.heartbeat, self._queues)
        self._report()
        logger.info(
            "fastcable %s listens on %s: WebSockets (at most %d) on %s, broadcasts on %s%s",
            __version__, ", ".join(listeners.name(sock) for sock in self.sockets),
            self.max_connections, self.settings.cable_path,
            self.settings.broadcast_listen or "", self.settings.broadcast_path,
        )

    async def _listen(self, sockets: Sequence[socket.socket], endpoints: Endpoints) -> None:
        protocol = functools.partial(HttpProtocol, self.site, endpoints)
        self.sockets += sockets
        for sock in sockets:
            create = self.loop.create_unix_server if sock.family == socket.AF_UNIX else self.loop.create_server
            self._listening.append(await create(protocol, sock=sock, backlog=self.settings.backlog))

    async def drain(self) -> None:
        """Take nothing new, finish what was accepted, close all clients (1001) evenly over most of `drain_timeout`."""
        start = self.loop.time()
        end = start + self.settings.drain_timeout
        # The rest of the time is for the answers to the last close frames.
        spread = self.settings.drain_timeout - min(1.0, self.settings.drain_timeout / 2)
        self.site.draining = True
        self._close_listeners()
        for protocol in list(self.requests):
            protocol.close_if_idle()
        step = max(math.ceil(self.cable.connections * DRAIN_STEP / spread), 50) if spread else sys.maxsize
        while True:
            for client in self.cable.oldest(step):
                client.close(1001, "server stopping")
            if not (self.cable.connections or self.requests) or self.loop.time() >= end:
                break
            await asyncio.sleep(DRAIN_STEP if self.cable.oldest(1) else DRAIN_STEP / 10)
        self.abort()

    def abort(self) -> None:
        """Cut off everybody who is still connected."""
        for client in self.cable.everybody():
            client.abort()
        for protocol in list(self.requests):
            protocol.abort()

    async def stop(self) -> None:
        """Let go of the listeners, the clock and the threads."""
        self._close_listeners()
        if self._clock is not None:
            self._clock.stop()
        if self._reporter is not None:
            self._reporter.cancel()
        self.threads.stop()
        await asyncio.sleep(0)  # the transports tell their protocols of the end in the next turn

    def _close_listeners(self) -> None:
        for server in self._listening:
            server.close()
        for sock in self.sockets:
            sock.close()
        if self.settings.uds and self.sockets:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.settings.uds)
        self._listening, self.sockets = [], []

    def _report(self) -> None:
        """Now and then say what slow clients lost."""
        counters = self.hub.counters
        drops, closes = counters.drops - self._reported[0], counters.slow_closes - self._reported[1]
        if drops or closes:
            logger.warning(
                "slow clients: %d messages dropped and %d connections closed in the last %d s",
                drops, closes, REPORT_SECONDS)
        self._reported = (counters.drops, counters.slow_closes)
        self._reporter = self.loop.call_later(REPORT_SECONDS, self._report)


def connection_limit(settings: Settings) -> int:
    """`max_connections`, or what the open-files limit allows. Raises `SettingsError`."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    room = sys.maxsize if limit == resource.RLIM_INFINITY else limit - RESERVED_DESCRIPTORS
    wanted = settings.max_connections
    if wanted is None:
        if room <= 0:
            raise SettingsError(f"the open-files limit ({limit}) must be above {RESERVED_DESCRIPTORS}: see ulimit -n")
        return room
    if wanted > room:
        raise SettingsError(
            f"max_connections: {wanted} connections need {wanted + RESERVED_DESCRIPTORS} open files, "
            f"and the limit is {limit}: see ulimit -n")
    return wanted or room


def raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # some systems promise more than they grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(server: Server) -> int:
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        server.loop.add_signal_handler(number, signals.put_nowait, number)
    await server.start()
    # What lives from here to the end need not be looked at by the garbage collector.
    gc.collect()
    gc.freeze()
    name = signal.Signals(await signals.get()).name
    logger.info("%s: closing %d connections", name, server.cable.connections)
    draining = asyncio.ensure_future(server.drain())
    again = asyncio.ensure_future(signals.get())
    await asyncio.wait((draining, again), return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not draining.done():
        draining.cancel()
        logger.warning("second signal: cutting off %d connections", server.cable.connections)
        server.abort()
        await server.stop()
        return 1
    draining.result()
    await server.stop()
    logger.info("stopped")
    return 0


def run(settings: Settings, *, demo: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Errors are told in one line on stderr."""
    raise_descriptor_limit()
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_serve(Server(settings, loop, demo=demo)))
    except SettingsError as error:
        print(f"fastcable: {error}", file=sys.stderr)
        return 2
    except listeners.CannotListen as error:
        print(f"fastcable: {error}", file=sys.stderr)
        return 1
    finally:
        loop.close()
