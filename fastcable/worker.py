"""The life of a worker: a process that serves beside others on the same port and belongs to a supervisor.

Theory of operation. A worker is given its listening sockets and its end of the link, and then it is

    STARTING  joined to the bus: retained values arrive; nobody is accepted yet
    SERVING   from {"is":"ready"} on, which it sends to the supervisor; at {"do":"close"} it stops accepting,
              and says so: {"is":"closed"}
    RETIRING  {"do":"retire","seconds":S} came: a successor listens on the same sockets, clients are sent there over S
    DRAINING  SIGTERM, or the supervisor's end of the link is closed: as a single process drains; then it ends

Ctrl-C and the hang-up of a terminal reach the whole process group, so what they mean is left to the supervisor; and
where a service manager sends SIGTERM to every process, a second one means nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import uvloop

from fastcable import log
from fastcable.cores import available_cores
from fastcable.link import Link
from fastcable.listeners import Listening
from fastcable.memory import memory_limit
from fastcable.server import Server
from fastcable.settings import Settings, SettingsError
from fastcable.standard_streams import complain
from fastcable.systemd import Watchdog, watchdog_seconds

logger = logging.getLogger("fastcable")


def share(settings: Settings, index: int, workers: int) -> Settings:
    """What one of several workers has of the limits of all."""
    connections = settings.max_connections
    if connections:
        connections = max(connections // workers + (index < connections % workers), 1)
    threads = min(settings.fanout_threads, max(available_cores() // workers, 1))
    memory = memory_limit(settings) // workers
    return replace(settings, max_connections=connections, fanout_threads=threads, memory_limit=memory)


def run(settings: Settings, listening: Listening, link: socket.socket, *, demo: bool = False) -> int:
    """Serve until told to stop; returns the exit code. The loop is made here, after any fork."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    log.configure(settings.log_level, settings.log_format, worker=os.getpid())
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_Worker(Server(settings, loop, demo=demo)).serve(listening, link))
    except SettingsError as error:
        complain(f"fastcable: {error}")
        return 2
    finally:
        loop.close()


def succeed(settings: Settings, description: Mapping[str, Any], *, demo: bool = False) -> int:
    """As `run`, for the successor of a process that was the whole server: a program of its own."""
    listening = Listening.inherited(description["listening"], settings)
    link = socket.socket(fileno=description["link"])
    link.set_inheritable(False)
    return run(share(settings, 0, settings.workers or available_cores()), listening, link, demo=demo)


class _Worker:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._link = Link(
            server.hub, server.loop, server.settings.publish_timeout, on_control=self._told, on_end=self._abandoned)
        self._retire_seconds: float | None = None
        self._draining = ""  # why
        self._changed = asyncio.Event()
        self._leaving: asyncio.Task[None] | None = None

    async def serve(self, listening: Listening, link: socket.socket) -> int:
        server = self._server
        server.loop.add_signal_handler(signal.SIGTERM, self._drain, "SIGTERM")
        try:
            await self._link.start(link)
        except ConnectionError:
            return 1  # the supervisor has ended meanwhile
        server.join(self._link)
        if seconds := watchdog_seconds(os.getppid()):
            server.watches.append(Watchdog(seconds, lambda: self._link.control({"is": "alive"})))
        await server.start(listening, lambda: self._link.control({"is": "idle"}))
        self._link.control({"is": "ready"})
        # What lives from here to the end need not be looked at by the garbage collector.
        gc.collect()
        gc.freeze()
        await self._changed.wait()
        if not self._draining:
            await self._retire(self._retire_seconds or 0.0)
        if self._draining:
            logger.info("%s: closing %d connections", self._draining, server.cable.connections)
            await server.drain()
        await server.stop()
        await self._link.finish()
        return 0

    async def _retire(self, seconds: float) -> None:
        """Retire, unless a drain comes in between."""
        server = self._server
        logger.info("replaced: closing %d connections within %g s", server.cable.connections, seconds)
        self._changed.clear()
        retiring = asyncio.ensure_future(server.retire(seconds))
        draining = asyncio.ensure_future(self._changed.wait())
        await asyncio.wait((retiring, draining), return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        retiring.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await retiring

    def _told(self, message: Mapping[str, object]) -> None:
        self._server.told(message)
        seconds = message.get("seconds")
        if message.get("do") == "close":
            self._server.close_listeners()
            self._link.control({"is": "closed"})
        elif message.get("do") == "retire" and self._retire_seconds is None and isinstance(seconds, int | float):
            self._retire_seconds = float(seconds)
            self._changed.set()
        elif message.get("do") == "leave":
            self._leaving = asyncio.ensure_future(self._leave())
        elif message.get("do") == "return":
            self._leaving = asyncio.ensure_future(self._server.come_back())

    async def _leave(self) -> None:
        """The supervisor asks: all workers say that nobody was connected for `exit_when_idle`."""
        left = not self._changed.is_set() and self._server.is_quiet() and await self._server.leave()
        self._link.control({"is": "left" if left else "busy"})

    def _abandoned(self) -> None:
        self._drain("the supervisor has ended")

    def _drain(self, why: str) -> None:
        if not self._draining:
            self._draining = why
            self._changed.set()
