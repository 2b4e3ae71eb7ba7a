"""The life of a server that is several processes: the supervisor starts workers and keeps them, and carries their
messages from one to the others. It accepts nobody itself.

Theory of operation. Each worker has a slot: its listening sockets, which stay open when the worker dies or is replaced,
so that connections waiting there find its successor. The supervisor's end of a worker's link is a member of the switch.
There is no event loop here, only a selector and the wake-up descriptor of the signals, so that forking is safe at any
time; a forked worker makes its own.

    starting   the first worker is started alone, the others when it listens; one that ends now ends all (its error is
               the server's). When all listen, one line says so.
    running    a worker that ends is followed by another, at once if it had lived for a while, else after a time that
               doubles; meanwhile its sockets are closed, so that the kernel gives its share to the others, if there
               are any.
    checking   SIGHUP: a child process tries whether the server would start now. If not, one line says why, and nothing
               changes. Else the supervisor executes the program anew in its own process, which adopts the workers.
    replacing  slot by slot a successor is started on the same sockets. When all listen, all old workers are told to
               accept no more, and when all have said so, to retire, one after the other; so a client that is sent
               away by one meets none of the others, and moves once. A successor that fails ends this, and the old
               worker of its slot and those of the slots behind stay. A SIGHUP that comes meanwhile has its turn
               afterwards.
    draining   SIGTERM or SIGINT: each worker drains as a single process does. A second signal kills them.

When the supervisor itself is killed the links end, and the workers drain.
"""

from __future__ import annotations

import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

from fastcable import __version__, listeners, succession
from fastcable.check import Check
from fastcable.colleagues import relay
from fastcable.cores import available_cores
from fastcable.idle import Departure
from fastcable.listeners import Listening
from fastcable.retained import Retained
from fastcable.settings import Settings
from fastcable.succession import REPLACE, Succession
from fastcable.switch import Switch
from fastcable.switch_ports import Port
from fastcable.systemd import Watchdog, notify, watchdog_seconds
from fastcable.terminal import Meaning, Terminal

logger = logging.getLogger("fastcable")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
LIVED = 5.0
"""Seconds after which a worker's end is no longer put down to its start."""
BACK_OFF = 0.5
LONGEST_BACK_OFF = 30.0
GRACE = 5.0
"""Seconds beyond its drain after which a worker is killed."""


class Worker:
    """A worker process, as the supervisor knows it."""

    __slots__ = ("began", "deadline", "heard", "pid", "port", "ready", "retiring", "slot", "writing")

    def __init__(self, pid: int, slot: Slot, port: Port, began: float) -> None:
        self.pid = pid
        self.slot = slot
        self.port: Port | None = port  # None: its link has ended
        self.began = began
        self.heard = time.monotonic()  # when it last said something of itself
        self.writing = False  # waits until it can be written to its link
        self.ready = False
        self.retiring = False
        self.deadline: float | None = None  # to be killed then


class Slot:
    """The place of a worker: the listening sockets, and who accepts on them."""

    __slots__ = ("failures", "index", "listening", "old", "restart", "worker")

    def __init__(self, index: int, listening: list[Listening]) -> None:
        self.index = index
        self.listening = listening
        self.worker: Worker | None = None
        self.old: Worker | None = None  # who serves until the worker listens
        self.failures = 0  # workers in a row that did not live
        self.restart: float | None = None  # when to start the next one

    def close(self) -> None:
        for listening in self.listening:
            listening.close()


class Supervisor:
    def __init__(self, settings: Settings, *, demo: bool = False) -> None:
        # Settings
        self._settings = settings
        self._demo = demo
        self._count = settings.workers or available_cores()
        # Rooms
        retained = Retained(settings.max_retained_bytes, settings.retain_seconds, time.monotonic)
        self._switch = Switch(retained, on_control=self._told)
        self._selector = selectors.DefaultSelector()
        self._signals, self._wake_up = socket.socketpair()
        self._terminal = Terminal()
        self._watchdog_seconds = watchdog_seconds()
        self._watchdog = Watchdog(self._watchdog_seconds or 0.0, lambda: notify("WATCHDOG=1"))
        # State
        self._slots: list[Slot] = []
        self._workers: dict[int, Worker] = {}
        self._announced = False
        self._check: Check | None = None
        self._to_replace: deque[Slot] = deque()
        self._surplus: deque[Worker] = deque()
        self._accepting: set[int] = set()  # those of them that have not said yet that they accept no more
        self._step: Worker | None = None  # whose start or end the replacing waits for
        self._replacing = False
        self._failed = False  # not all could be replaced
        self._again = False  # SIGHUP came during a reload
        self._draining = False
        self._exit_code = 0
        self._departure = Departure(settings.exit_when_idle, self._switch.control, self._leave)

    def open(self) -> None:
        """Open the sockets and start the first worker. Raises `SettingsError` and `CannotListen`."""
        self._connections()
        self._slots.append(Slot(0, [listeners.open_listening(self._settings)]))
        self._add_slots()
        self._catch_signals()
        self._start(self._slots[0])

    def adopt(self, succession: Succession) -> None:
        """Go on for the process that this one was before, and replace its workers where that is our role."""
        description = succession.description
        self._announced = self._replacing = True
        self._again = description["again"]
        self._switch.restore(succession.state)
        listening = [Listening.inherited(each, self._settings) for each in description["listening"]]
        # What there is too much of goes to all in turn: a socket that is closed resets who waits there.
        self._slots += [
            Slot(index, listening[index :: self._count]) for index in range(min(self._count, len(listening)))]
        try:
            self._add_slots()
        except listeners.CannotListen as error:
            self._count = len(self._slots)
            logger.error("only %s: %s", _counted(self._count), error)
        self._catch_signals()
        for each in description["workers"]:
            self._adopt_worker(each)
        if succession.role == REPLACE:
            logger.info("fastcable %s replaces %s by %d", __version__, _counted(len(self._workers)), self._count)
            self._to_replace += self._slots
        else:
            self._to_replace += [slot for slot in self._slots if slot.worker is None]
        self._reap()

    def _adopt_worker(self, facts: Mapping[str, Any]) -> None:
        pid, index = facts["pid"], facts["index"]
        slot = self._slots[index] if index < len(self._slots) else Slot(index, [])
        port = Port(self._switch, pid, _inherited(facts["link"]))
        worker = self._workers[pid] = Worker(pid, slot, port, facts["began"])
        worker.ready = facts["ready"]
        self._selector.register(port.sock, selectors.EVENT_READ, worker)
        if facts["retiring"] or index >= len(self._slots):
            self._surplus.append(worker)
        else:
            slot.worker = worker

    def run(self) -> int:
        """Until all workers have ended; returns the exit code."""
        try:
            if self._to_replace:
                self._load()
            self._replace_next()
            while self._workers or not self._draining:
                self._turn()
        finally:
            self._close_listeners()
        if self._announced:
            logger.info("stopped")
        return self._exit_code

    def _add_slots(self) -> None:
        for index in range(len(self._slots), self._count):
            self._slots.append(Slot(index, [self._slots[0].listening[0].another(self._settings)]))

    def _connections(self) -> int:
        """The WebSockets that all workers take. Raises `SettingsError`."""
        from fastcable.descriptors import connection_limit
        from fastcable.worker import share

        return sum(connection_limit(share(self._settings, index, self._count)) for index in range(self._count))

    # The loop

    def _catch_signals(self) -> None:
        for end in (self._signals, self._wake_up):
            end.setblocking(False)
        self._selector.register(self._signals, selectors.EVENT_READ, self._read_signals)
        signal.set_wakeup_fd(self._wake_up.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # blocked when this process took the place of another

    def _load(self) -> None:
        """Load what new workers need, and go on carrying messages in between: who posts is waiting."""
        from fastcable.event_loop import import_event_loop

        for load in (import_event_loop, _import_server, partial(_import_all, self._settings)):
            self._turn(0.0)
            load()

    def _turn(self, patience: float | None = None) -> None:
        for key, events in self._selector.select(self._patience() if patience is None else patience):
            if not isinstance(key.data, Worker):
                key.data()
            elif events & selectors.EVENT_READ:
                self._read(key.data)
        for pid, reason in self._switch.take_failed():
            logger.error("worker %d: %s: killing it", pid, reason)
            self._end_link(self._workers[pid])
            os.kill(pid, signal.SIGKILL)
        self._write()
        now = time.monotonic()
        if self._watchdog_seconds is not None:
            self._watchdog(now)
            self._look_after(now - self._watchdog_seconds)
        if self._check is not None and self._check.deadline <= now:
            self._check.give_up()
        if self._departure.deadline is not None and self._departure.deadline <= now:
            self._departure.stay()
        for worker in self._workers.values():
            if worker.deadline is not None and worker.deadline <= now:
                logger.error("worker %d does not end: killing it", worker.pid)
                worker.deadline = None
                os.kill(worker.pid, signal.SIGKILL)
        for slot in self._slots:
            if slot.restart is not None and slot.restart <= now:
                self._restart(slot)

    def _look_after(self, limit: float) -> None:
        """systemd's watchdog sees to us, and we see to the workers."""
        for worker in self._workers.values():
            if worker.ready and worker.port is not None and worker.heard < limit:
                logger.error("worker %d gives no sign of life: killing it", worker.pid)
                self._end_link(worker)
                os.kill(worker.pid, signal.SIGKILL)

    def _patience(self) -> float | None:
        """Seconds until something is to be done."""
        times = [worker.deadline for worker in self._workers.values()] + [slot.restart for slot in self._slots]
        if self._check is not None:
            times.append(self._check.deadline)
        times.append(self._departure.deadline)
        if self._watchdog_seconds is not None:
            times.append(time.monotonic() + self._watchdog_seconds / 4)
        return min((max(at - time.monotonic(), 0.0) for at in times if at is not None), default=None)

    def _read(self, worker: Worker) -> None:
        if worker.port is not None and not worker.port.read():
            self._end_link(worker)

    def _write(self) -> None:
        for pid in list(self._switch.waiting):
            worker = self._workers[pid]
            if worker.port is None or not worker.port.write():
                self._end_link(worker)
        for worker in self._workers.values():
            waiting = worker.pid in self._switch.waiting
            if worker.port is not None and worker.writing != waiting:
                worker.writing = waiting
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if waiting else 0)
                self._selector.modify(worker.port.sock, events, worker)

    def _end_link(self, worker: Worker) -> None:
        """Let go of a link; without one a worker ends by itself."""
        port, worker.port = worker.port, None
        if port is not None:
            self._selector.unregister(port.sock)
            self._departure.ended(worker.pid)
            self._switch.leave(worker.pid)
            port.sock.close()

    # Signals

    def _read_signals(self) -> None:
        try:
            numbers = self._signals.recv(4096)
        except BlockingIOError:
            return
        for number in dict.fromkeys(numbers):
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGHUP:
                self._hang_up()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop(signal.Signals(number).name)

    def _stop(self, name: str) -> None:
        if self._draining:
            logger.warning("second signal: killing %s", _counted(len(self._workers)))
            self._exit_code = 1
            for worker in self._workers.values():
                os.kill(worker.pid, signal.SIGKILL)
            return
        logger.info("%s: stopping %s", name, _counted(len(self._workers)))
        notify("STOPPING=1", f"STATUS=stopping {_counted(len(self._workers))}")
        self._drain()

    def _leave(self) -> None:
        """Nobody was connected to any worker for `exit_when_idle`, and none accepts any more."""
        logger.info("idle for %g s: stopped until somebody connects", self._settings.exit_when_idle)
        notify("STOPPING=1")
        self._drain()

    def _drain(self) -> None:
        self._draining = True
        self._close_listeners()
        deadline = time.monotonic() + self._settings.drain_timeout + GRACE
        for worker in self._workers.values():
            worker.deadline = deadline
            os.kill(worker.pid, signal.SIGTERM)

    def _close_listeners(self) -> None:
        for slot in self._slots:
            slot.restart = None
            slot.close()
        listeners.remove_path(self._settings)

    # Workers

    def _start(self, slot: Slot) -> Worker | None:
        """Fork a worker for this slot; None: that failed."""
        _import_all(self._settings)
        mine, its = socket.socketpair()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # what is sent to the child must not wake its parent
        try:
            pid = os.fork()
            if pid == 0:
                self._become_worker(slot, mine, its)
        except OSError as error:
            logger.error("no worker can be started: %s", error.strerror)
            mine.close()
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            its.close()
        self._switch.join(pid)
        worker = self._workers[pid] = Worker(pid, slot, Port(self._switch, pid, mine), time.monotonic())
        self._selector.register(mine, selectors.EVENT_READ, worker)
        slot.worker = worker
        return worker

    def _become_worker(self, slot: Slot, mine: socket.socket, its: socket.socket) -> None:
        """Never returns. Nothing of the supervisor's or of other workers may stay open here: a link ends only when all
        copies of its end are closed."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            self._selector.close()
            for sock in (self._signals, self._wake_up, mine):
                sock.close()
            for worker in self._workers.values():
                if worker.port is not None:
                    worker.port.sock.close()
            for other in self._slots:
                if other is not slot:
                    other.close()
            if self._check is not None:
                os.close(self._check.output)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            from fastcable.worker import run, share

            settings = share(self._settings, slot.index, self._count)
            code = run(settings, listeners.together(slot.listening), its, demo=self._demo)
        except BaseException:
            logger.exception("worker failed")
        finally:
            os._exit(code)

    def _told(self, pid: int, message: Mapping[str, object]) -> None:
        """What a worker says of itself."""
        worker = self._workers[pid]
        worker.heard = time.monotonic()
        if message.get("is") == "ready":
            worker.ready = True
            if not self._announced:
                self._announce()
            elif self._step is worker:
                self._step = None
                self._replace_next()
        elif message.get("is") == "closed":
            if not self._draining:
                worker.deadline = None
            self._accepts_no_more(pid)
        elif not (self._draining or self._replacing or self._check is not None):
            self._departure.told(pid, message.get("is"), self._workers, worker.heard)
        able = [each.pid for each in self._workers.values() if each.ready and each.port is not None]
        relay(pid, message, able, self._switch.control)

    def _announce(self) -> None:
        """Say what listens, once all do."""
        for slot in self._slots:
            if slot.worker is None:
                self._start(slot)
        if all(slot.worker is not None and slot.worker.ready for slot in self._slots):
            from fastcable.server import announce

            self._announced = True
            announce(
                self._settings, self._slots[0].listening[0], self._connections(), f", {_counted(self._count)}")
            notify("READY=1", f"STATUS={_counted(self._count)}")
            if self._again:  # SIGHUP came meanwhile
                self._reload()

    def _reap(self) -> None:
        for worker in list(self._workers.values()):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                del self._workers[pid]
                self._end_link(worker)
                self._accepts_no_more(pid)
                self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: Worker, code: int) -> None:
        slot = worker.slot
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        if self._draining:
            if code not in (0, -signal.SIGTERM):  # which ends one that was just started
                self._exit_code = self._exit_code or 1
        elif not self._announced:
            self._exit_code = code if code > 0 else 1
            if code < 0:
                logger.error("worker %d ended before it listened (%s)", worker.pid, how)
            self._drain()
        elif slot.worker is worker:
            slot.worker, slot.old = slot.old, None
            if self._step is worker:
                self._stop_replacing(f"worker {worker.pid} ended before it listened ({how})")
            if slot.worker is None:
                logger.warning("worker %d ended (%s)", worker.pid, how)
                self._follow(slot, time.monotonic() - worker.began)
        else:
            if code:
                logger.warning("replaced worker %d ended (%s)", worker.pid, how)
            if slot.old is worker:
                slot.old = None
            if self._step is worker:
                self._step = None
                self._replace_next()

    def _follow(self, slot: Slot, lived: float) -> None:
        """Start another worker, the last having lived so many seconds: now, or later and with closed sockets."""
        if lived >= LIVED:
            slot.failures = 0
        slot.failures += 1
        if slot.failures > 1:
            wait = min(BACK_OFF * 2 ** (slot.failures - 2), LONGEST_BACK_OFF)
            logger.warning("another worker is started in %g s", wait)
            slot.restart = time.monotonic() + wait
            if len(self._slots) > 1:  # else nobody takes the connections in its place, and they may as well wait
                for listening in slot.listening:
                    listening.suspend()
        elif self._start(slot) is None:
            self._follow(slot, 0.0)

    def _restart(self, slot: Slot) -> None:
        slot.restart = None
        try:
            for listening in slot.listening:
                listening.resume(self._settings)
        except listeners.CannotListen as error:
            logger.error("%s", error)
            self._follow(slot, 0.0)
        else:
            if self._start(slot) is None:
                self._follow(slot, 0.0)

    # Reload

    def _hang_up(self) -> None:
        """SIGHUP came."""
        meaning = self._terminal.sighup()
        if meaning is Meaning.STOP:
            self._stop("terminal closed")
        elif meaning is Meaning.RELOAD:
            self._reload()

    def _reload(self) -> None:
        if self._draining:
            return
        if self._check is not None or self._replacing or not self._announced:
            self._again = True
            return
        self._again = False
        self._departure.stay()
        try:
            self._check = Check.begin()
        except OSError as error:
            logger.error("SIGHUP: nothing changed: %s", error.strerror)
        else:
            notify("RELOADING=1")
            self._selector.register(self._check.output, selectors.EVENT_READ, self._read_check)

    def _read_check(self) -> None:
        check = self._check
        if check is None or check.read():
            return
        self._check = None
        self._selector.unregister(check.output)
        problem = check.end(self._settings)
        if self._draining:
            return
        if problem is None:
            problem = self._become_anew()  # which returns only when it failed
        logger.error("SIGHUP: nothing changed: %s", problem)
        notify("READY=1")
        if self._again:
            self._reload()

    def _become_anew(self) -> str:
        """Execute the program anew in this process; what hinders that."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the handlers are there again
        try:
            self._read_signals()  # what came before
            if self._draining:
                return "the server is told to stop"
            for slot in self._slots:
                for each in slot.listening:
                    each.resume(self._settings)
            listening = [each for slot in self._slots for each in slot.listening]
            workers = [worker for worker in self._workers.values() if worker.port is not None]
            description = {
                "again": self._again,
                "listening": [each.descriptors for each in listening],
                "workers": [
                    {"pid": worker.pid, "link": worker.port.sock.fileno(), "index": worker.slot.index,
                     "began": worker.began, "ready": worker.ready, "retiring": worker.retiring}
                    for worker in workers if worker.port is not None],
            }
            state = succession.write(description, self._switch.export())
            try:
                descriptors = [sock.fileno() for each in listening for sock in each.sockets]
                descriptors += [worker.port.sock.fileno() for worker in workers if worker.port is not None]
                succession.become(REPLACE, state, descriptors, nohup=self._terminal.nohup)
            finally:
                os.close(state)
        except OSError as error:
            return f"{sys.executable}: {error.strerror}"
        except listeners.CannotListen as error:
            return str(error)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return ""

    def _replace_next(self) -> None:
        """Start the next successor, or, when all are there, retire the next old worker."""
        if self._draining or not self._replacing or self._step is not None:
            return
        if not self._to_replace:
            self._dismiss()
        if self._to_replace:
            slot = self._to_replace.popleft()
            slot.old = slot.worker
            self._step = self._start(slot)
            if self._step is None:
                slot.worker, slot.old = slot.old, None
                self._stop_replacing("no worker can be started")
        elif self._accepting:
            return
        elif self._surplus:
            self._retire(self._surplus.popleft())
        else:
            self._replacing = False
            if not self._failed:
                logger.info("reloaded")
            notify("READY=1", f"STATUS={_counted(self._count)}")
            if self._again:
                self._reload()

    def _dismiss(self) -> None:
        """Have the old workers whose successors listen accept no more; they are to retire."""
        for slot in self._slots:
            old, slot.old = slot.old, None
            if old is not None and old.port is not None:
                self._switch.control(old.pid, {"do": "close"})
                old.deadline = time.monotonic() + GRACE
                self._accepting.add(old.pid)
                self._surplus.append(old)

    def _accepts_no_more(self, pid: int) -> None:
        if pid in self._accepting:
            self._accepting.discard(pid)
            if not self._accepting:
                self._replace_next()

    def _retire(self, worker: Worker) -> None:
        if worker.pid not in self._workers or worker.port is None:
            self._replace_next()
            return
        seconds = self._settings.reload_drain / self._count
        self._step = worker
        worker.retiring = True
        worker.deadline = time.monotonic() + seconds + 2 * GRACE
        self._switch.control(worker.pid, {"do": "retire", "seconds": seconds})

    def _stop_replacing(self, why: str) -> None:
        logger.error("reload: %s: the old workers stay", why)
        self._step = None
        self._failed = True
        self._to_replace.clear()
        self._replace_next()


def _inherited(descriptor: int) -> socket.socket:
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    return sock


def _counted(workers: int) -> str:
    return f"{workers} worker{'s' * (workers != 1)}"


def _import_server() -> None:
    import fastcable.server  # noqa: F401


def _import_all(settings: Settings) -> None:
    """What workers need is loaded once, before the fork, and the objects that they will share are kept from the garbage
    collector, which would write to each of them."""
    if gc.get_freeze_count() == 0:
        from fastcable.event_loop import import_event_loop

        import_event_loop()  # before all those who import asyncio or uvloop themselves

        import fastcable.worker  # noqa: F401
        from fastcable.brokers.configured import load

        load(settings)
        gc.collect()
        gc.freeze()


def run(settings: Settings, *, demo: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises `SettingsError` and `CannotListen`."""
    supervisor = Supervisor(settings, demo=demo)
    supervisor.open()
    return supervisor.run()


def adopt(settings: Settings, succession: Succession, *, demo: bool = False) -> int:
    """As `run`, in the place of a process that was there before."""
    supervisor = Supervisor(settings, demo=demo)
    supervisor.adopt(succession)
    return supervisor.run()
