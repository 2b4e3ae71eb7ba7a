"""How a server that is one process is replaced.

Theory of operation. On SIGHUP

    checking  A child process tries whether the server would start now. If not, one line says why, and nothing changes.
    joining   A switch begins in our loop. Our own hub becomes a member of it, as a worker's does, and our messages go
              through it from now on. The successor is started as a worker, on copies of our sockets.
    retiring  The successor listens. We do not any longer, and close our clients evenly over `reload_drain`. If the
              successor dies now, another one follows.
    becoming  Nobody is connected to us. The program is executed anew in this process, as the supervisor of that worker,
              and gets the switch. So whoever started this process still has it.

A SIGHUP that comes meanwhile has its turn afterwards. SIGTERM ends us and the successor.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from fastcable import listeners, succession
from fastcable.check import SECONDS, Check
from fastcable.colleagues import relay
from fastcable.link import Link
from fastcable.listeners import Listening
from fastcable.retained import Retained
from fastcable.server import Server
from fastcable.switch import Switch
from fastcable.switch_ports import LoopPorts
from fastcable.systemd import notify

logger = logging.getLogger("fastcable")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PAUSE = 0.5
"""Seconds before a successor that died is followed by another."""
GRACE = 5.0
"""Seconds beyond its drain after which the successor is killed."""


class Reload:
    """`stopping` tells whether the server has been told to stop, so that there is to be no successor; `nohup` whether
    it was started so that it ignores SIGHUP."""

    def __init__(self, server: Server, stopping: Callable[[], bool], *, nohup: bool) -> None:
        self._server = server
        self._loop = server.loop
        self._stopping = stopping
        self._nohup = nohup
        # State
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self._bus: Bus | None = None
        self._listening = Listening()  # copies, for the successor
        self._successor: Successor | None = None
        self._owner = False  # of the Unix socket's file

    def request(self) -> None:
        """SIGHUP came."""
        if self.under_way:
            self._again = True
        else:
            self._task = asyncio.ensure_future(self._run())

    @property
    def under_way(self) -> bool:
        return self._task is not None and not self._task.done()

    async def stop(self) -> None:
        """Let the successor drain, and wait for its end."""
        if self._task is not None:
            self._task.cancel()
        self._listening.close()
        if self._owner:
            listeners.remove_path(self._server.settings)
        successor = self._successor
        if successor is not None and not successor.ended.done():
            os.kill(successor.pid, signal.SIGTERM)
            await asyncio.wait((successor.ended,), timeout=self._server.settings.drain_timeout + GRACE)
            if not successor.ended.done():
                logger.error("worker %d does not end: killing it", successor.pid)
                self.kill()

    def kill(self) -> None:
        """End the successor at once."""
        if self._successor is not None and not self._successor.ended.done():
            os.kill(self._successor.pid, signal.SIGKILL)

    async def _run(self) -> None:
        while True:
            self._again = False
            notify("RELOADING=1")
            try:
                problem = await self._reload()
            except OSError as error:
                problem = error.strerror or str(error)
            except Exception:
                logger.exception("reload")
                problem = "internal error"
            logger.error("SIGHUP: %s", problem)
            notify("READY=1")
            if not self._again:
                break

    async def _reload(self) -> str:
        """Returns only when it cannot be: with what hinders it."""
        server = self._server
        if problem := await self._checked():
            return f"nothing changed: {problem}"
        if self._bus is None:
            self._bus = Bus(server, self._told, self._link_ended)
            await self._bus.join()
            self._listening = server.listening.copy()
        if self._successor is None:
            successor = self._start(self._bus)
            await asyncio.wait((successor.ready, successor.ended), return_when=asyncio.FIRST_COMPLETED)
            if successor.ended.done():
                self._successor = None
                return f"nothing changed: worker {successor.pid} ended before it listened"
            self._owner, server.owner = server.owner, False
            seconds = server.settings.reload_drain
            logger.info("replaced by worker %d: closing %d connections within %g s",
                        successor.pid, server.cable.connections, seconds)
            keeping = asyncio.ensure_future(self._keep_one(self._bus))
            try:
                await server.retire(seconds)
            finally:
                keeping.cancel()
        return await self._become(self._bus)

    async def _checked(self) -> str | None:
        """What is wrong with the configuration or the code; None: nothing."""
        check = Check.begin()
        done = self._loop.create_future()

        def read() -> None:
            if not check.read() and not done.done():
                done.set_result(None)

        self._loop.add_reader(check.output, read)
        try:
            await asyncio.wait((done,), timeout=SECONDS)
            if not done.done():
                check.give_up()
                await done
        except asyncio.CancelledError:
            check.give_up()
            raise
        finally:
            self._loop.remove_reader(check.output)
            problem = check.end(self._server.settings)
        return problem

    # The successor

    def _start(self, bus: Bus) -> Successor:
        mine, its = socket.socketpair()
        with mine, its:
            state = succession.write({"link": its.fileno(), "listening": self._listening.descriptors})
            try:
                descriptors = [its.fileno(), *(sock.fileno() for sock in self._listening.sockets)]
                pid = succession.spawn(succession.WORKER, state, descriptors)
            finally:
                os.close(state)
            self._successor = Successor(pid, mine.dup(), self._loop)
            bus.ports.add(pid, self._successor.link)
        return self._successor

    async def _keep_one(self, bus: Bus) -> None:
        """While our clients are closed, let there be a successor."""
        while self._successor is not None:
            successor = self._successor
            await asyncio.wait((successor.ended,))
            logger.warning("worker %d ended, another one is started", successor.pid)
            await asyncio.sleep(PAUSE)
            try:
                self._start(bus)
            except OSError as error:
                logger.error("no worker can be started: %s", error.strerror)

    def _told(self, member: int, message: Mapping[str, object]) -> None:
        """What a member of the bus says."""
        successor = self._successor
        if self._bus is not None:
            able = {os.getpid()}
            if successor is not None and successor.ready.done():
                able.add(successor.pid)
            relay(member, message, [each for each in able if each in self._bus.switch], self._bus.switch.control)
        if successor is None or member != successor.pid:
            return
        if message.get("is") == "ready" and not successor.ready.done():
            successor.ready.set_result(None)

    def _link_ended(self, member: int, reason: str | None) -> None:
        successor = self._successor
        if successor is not None and member == successor.pid:
            if reason is not None:
                logger.error("worker %d: %s: killing it", member, reason)
                os.kill(member, signal.SIGKILL)
            self._reap(successor)

    def _reap(self, successor: Successor) -> None:
        if os.waitpid(successor.pid, os.WNOHANG)[0]:
            successor.ended.set_result(None)
        else:
            self._loop.call_later(0.01, self._reap, successor)

    # The exec

    async def _become(self, bus: Bus) -> str:
        """Be the supervisor of the successor; what hinders that."""
        await self._server.stop()
        await bus.leave()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until it has its handlers
        try:
            await asyncio.sleep(0.01)  # the loop may not have seen yet what came before
            if self._stopping():
                return "nothing is started: the server is told to stop"
            self._execute(bus.switch)
        except OSError as error:
            return f"{sys.executable}: {error.strerror}: another SIGHUP tries it again"
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return ""

    def _execute(self, switch: Switch) -> None:
        description: dict[str, Any] = {"again": self._again, "listening": [self._listening.descriptors], "workers": []}
        descriptors = [sock.fileno() for sock in self._listening.sockets]
        successor = self._successor
        if successor is not None and successor.pid in switch:
            link = successor.link.fileno()
            descriptors.append(link)
            description["workers"].append({
                "pid": successor.pid, "link": link, "index": 0, "began": successor.began, "ready": True,
                "retiring": False})
        state = succession.write(description, switch.export())
        try:
            succession.become(succession.ADOPT, state, descriptors, nohup=self._nohup)
        finally:
            os.close(state)


class Successor:
    """The process that replaces this one."""

    __slots__ = ("began", "ended", "link", "pid", "ready")

    def __init__(self, pid: int, link: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self.pid = pid
        self.link = link
        self.began = time.monotonic()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()


class Bus:
    """The switch in our loop, and our own hub's link with it."""

    def __init__(
        self,
        server: Server,
        on_control: Callable[[int, Mapping[str, object]], None],
        on_end: Callable[[int, str | None], None],
    ) -> None:
        settings = server.settings
        self._server = server
        self._retained = Retained(settings.max_retained_bytes, settings.retain_seconds, time.monotonic)
        self.switch = Switch(self._retained, on_control=on_control)
        self.ports = LoopPorts(self.switch, server.loop, self._ended)
        self._on_end = on_end
        self._left = asyncio.Event()
        self._link = Link(server.hub, server.loop, settings.publish_timeout, on_control=server.told)

    async def join(self) -> None:
        mine, its = socket.socketpair()
        self.ports.add(os.getpid(), mine)
        await self._link.start(its)
        self._server.join(self._link)
        if self._server.hub.retained is not None:
            for stream, data, age in self._server.hub.retained.items():
                self._retained.keep(stream, data, age)

    async def leave(self) -> None:
        """Our own end."""
        await self._link.finish()
        await self._left.wait()

    def _ended(self, member: int, reason: str | None) -> None:
        if member == os.getpid():
            self._left.set()
        else:
            self._on_end(member, reason)
