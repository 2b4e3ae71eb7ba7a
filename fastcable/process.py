"""The life of a server that is one process (`workers` = 1)."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from typing import TYPE_CHECKING

import uvloop

from fastcable.server import Server
from fastcable.settings import Settings
from fastcable.systemd import Watchdog, notify, watchdog_seconds
from fastcable.terminal import Meaning, Terminal

if TYPE_CHECKING:
    from fastcable.reload import Reload

logger = logging.getLogger("fastcable")

IDLE = ""
"""Among the names of signals: nobody was connected for `exit_when_idle`, and nobody is."""
STATUS_SECONDS = 10.0


def run(settings: Settings, *, demo: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises `SettingsError` and `CannotListen`."""
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_Process(Server(settings, loop, demo=demo)).serve())
    finally:
        loop.close()


class _Process:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._stopping: asyncio.Queue[str] = asyncio.Queue()
        self._draining = False
        self._terminal = Terminal()
        self._reloading: Reload | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._status: asyncio.TimerHandle

    async def serve(self) -> int:
        server = self._server
        for number in (signal.SIGTERM, signal.SIGINT):
            server.loop.add_signal_handler(number, self._stopping.put_nowait, number.name)
        server.loop.add_signal_handler(signal.SIGHUP, self._reload)
        if seconds := watchdog_seconds():
            server.watches.append(Watchdog(seconds, lambda: notify("WATCHDOG=1")))
        await server.start(leave=self._leave)
        notify("READY=1")
        self._tell_status()
        # What lives from here to the end need not be looked at by the garbage collector.
        gc.collect()
        gc.freeze()
        name = await self._stopping.get()
        self._draining = True
        self._status.cancel()
        notify("STOPPING=1", f"STATUS=closing {server.cable.connections} connections")
        if name == IDLE:
            logger.info("idle for %g s: stopped until somebody connects", server.settings.exit_when_idle)
            await server.stop()
            return 0
        logger.info("%s: closing %d connections", name, server.cable.connections)
        draining = asyncio.ensure_future(self._drain())
        again = asyncio.ensure_future(self._stopping.get())
        await asyncio.wait((draining, again), return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        if not draining.done():
            draining.cancel()
            logger.warning("second signal: cutting off %d connections", server.cable.connections)
            if self._reloading is not None:
                self._reloading.kill()
            server.abort()
            await server.stop()
            return 1
        draining.result()
        await server.stop()
        logger.info("stopped")
        return 0

    def _tell_status(self) -> None:
        notify(f"STATUS={self._server.cable.connections} connections")
        self._status = self._server.loop.call_later(STATUS_SECONDS, self._tell_status)

    def _leave(self) -> None:
        """Nobody was connected for `exit_when_idle`."""
        if not (self._is_stopping() or (self._reloading is not None and self._reloading.under_way)):
            self._leaving = asyncio.ensure_future(self._stop_if_idle())

    async def _stop_if_idle(self) -> None:
        if await self._server.leave() and not self._is_stopping():
            self._stopping.put_nowait(IDLE)

    async def _drain(self) -> None:
        if self._reloading is None:
            await self._server.drain()
        else:
            await asyncio.gather(self._reloading.stop(), self._server.drain())

    def _is_stopping(self) -> bool:
        return self._draining or not self._stopping.empty()

    def _reload(self) -> None:
        """SIGHUP came."""
        meaning = self._terminal.sighup()
        if meaning is Meaning.STOP:
            self._stopping.put_nowait("terminal closed")
        if meaning is not Meaning.RELOAD or self._is_stopping():
            return
        if self._reloading is None:
            from fastcable.reload import Reload

            self._reloading = Reload(self._server, self._is_stopping, nohup=self._terminal.nohup)
        self._reloading.request()
