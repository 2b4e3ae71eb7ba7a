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

if TYPE_CHECKING:
    from fastcable.reload import Reload

logger = logging.getLogger("fastcable")


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
        self._reloading: Reload | None = None

    async def serve(self) -> int:
        server = self._server
        for number in (signal.SIGTERM, signal.SIGINT):
            server.loop.add_signal_handler(number, self._stopping.put_nowait, number.name)
        server.loop.add_signal_handler(signal.SIGHUP, self._reload)
        await server.start()
        # What lives from here to the end need not be looked at by the garbage collector.
        gc.collect()
        gc.freeze()
        name = await self._stopping.get()
        self._draining = True
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

    async def _drain(self) -> None:
        if self._reloading is None:
            await self._server.drain()
        else:
            await asyncio.gather(self._reloading.stop(), self._server.drain())

    def _is_stopping(self) -> bool:
        return self._draining or not self._stopping.empty()

    def _reload(self) -> None:
        """SIGHUP came."""
        if self._is_stopping():
            return
        if self._reloading is None:
            from fastcable.reload import Reload

            self._reloading = Reload(self._server, self._is_stopping)
        self._reloading.request()
