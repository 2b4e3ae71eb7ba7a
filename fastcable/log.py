"""The log on stderr: one line per event, as text or as JSON. Times are UTC. Logging never breaks serving."""

from __future__ import annotations

import errno
import logging
import os
import select
import stat
import sys
import time
from collections.abc import Callable
from typing import TextIO

import orjson

log = logging.getLogger("fastcable")

_USUAL = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"))
"""Attributes of every record; what a record has besides is a field the caller gave with `extra`."""


def configure(level: str, form: str, stream: TextIO | None = None, *, worker: int = 0) -> None:
    """Send everything logged in this process to stderr, as `text` or `json`; `level` is for our own logger. `worker` is
    its process id where it is one of several, and is named in each line."""
    stream = stream or sys.stderr
    root = logging.getLogger()
    root.handlers[:] = [_handler(stream)]
    root.handlers[0].setFormatter(JsonFormatter(worker) if form == "json" else TextFormatter(worker))
    root.setLevel(logging.WARNING)
    log.setLevel(level.upper())
    logging.raiseExceptions = False
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def _handler(stream: TextIO | None) -> logging.Handler:
    """stderr is None when the process was started with it closed."""
    try:
        return DescriptorHandler(stream.fileno()) if stream is not None else logging.NullHandler()
    except (OSError, ValueError):
        return logging.StreamHandler(stream)


class DescriptorHandler(logging.Handler):
    """Writes to a descriptor, but never waits for it: a line that does not fit now is lost, and the next one says so.

    A pipe whose reader sleeps would otherwise hold up every client. The descriptor is not made non-blocking, because
    that would change it for the parent's shell too. Pipes and sockets can be written to as if it were; for the others,
    and where the kernel has no such call, `poll` promises room for PIPE_BUF bytes, so no more are written without
    asking again. (Of several processes that ask at the same time, all but one may be promised too much.)
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.lost = 0
        self._descriptor = descriptor
        self._torn = False  # the last line was begun and not ended
        mode = os.fstat(descriptor).st_mode
        self._at_once = hasattr(os, "RWF_NOWAIT") and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode))
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.lost and self._write(self._line(_lines_lost(self.lost))):
                self.lost = 0
            if self.lost or not self._write(self._line(record)):
                self.lost += 1
        except Exception:  # a bad format string: nowhere left to say so
            self.lost += 1

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode("utf-8", "backslashreplace") + b"\n"

    def _write(self, line: bytes) -> bool:
        """False when the line, or the rest of a long one, was given up."""
        left = memoryview(b"\n" + line if self._torn else line)
        while left:
            written = self._write_some(left[: select.PIPE_BUF])
            if not written:
                return False
            left = left[written:]
            self._torn = len(left) > 0
        return True

    def _write_some(self, data: memoryview) -> int:
        """How much there was room for now; 0, too, for a full disk and for a pipe without a reader."""
        try:
            if self._at_once:
                try:
                    return os.pwritev(self._descriptor, (data,), -1, os.RWF_NOWAIT)
                except OSError as error:
                    if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM):
                        return 0
                    self._at_once = False
            return os.write(self._descriptor, data) if self._room.poll(0) else 0
        except OSError:
            return 0


def _lines_lost(count: int) -> logging.LogRecord:
    return log.makeRecord(log.name, logging.WARNING, "", 0, "%d log lines lost: stderr was full", (count,), None)


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:34:56.789Z WARNING [worker 1234] message field=value`"""

    def __init__(self, worker: int = 0) -> None:
        super().__init__()
        self._worker = f"[worker {worker}] " if worker else ""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage().replace("\n", "\\n")
        fields = "".join(f" {name}={value}" for name, value in extra_fields(record).items())
        line = f"{utc(record.created, ' ')} {record.levelname:<7} {self._worker}{message}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """`{"time":"2026-01-31T12:34:56.789Z","level":"warning","message":"…","worker":1234,"field":…}`"""

    def __init__(self, worker: int = 0) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": utc(record.created, "T"), "level": record.levelname.lower(), "message": record.getMessage()}
        if self._worker:
            entry["worker"] = self._worker
        entry |= {name: value for name, value in extra_fields(record).items() if name not in entry}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(entry, default=str).decode()
        except TypeError:  # lone surrogates, integers beyond 64 bits, keys that are no strings
            return orjson.dumps({name: escape(str(value), 2000) for name, value in entry.items()}).decode()


def extra_fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _USUAL}


def utc(seconds: float, separator: str) -> str:
    milliseconds = int(seconds * 1000)
    day_and_time = time.strftime(f"%Y-%m-%d{separator}%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{day_and_time}.{milliseconds % 1000:03}Z"


def escape(text: bytes | str, limit: int = 200) -> str:
    """Text of a peer for the log or a terminal: what does not print is escaped, and past `limit` characters comes …"""
    if isinstance(text, bytes):
        text = text[: 4 * limit + 4].decode("utf-8", "backslashreplace")  # no character is longer than four bytes
    pieces: list[str] = []
    room = limit
    for character in text[: limit + 1]:
        piece = character if character.isprintable() else character.encode("unicode_escape").decode()
        room -= len(piece)
        if room < 0:
            pieces.append("…")
            break
        pieces.append(piece)
    return "".join(pieces)


class Throttle:
    """Logs an event that may come in floods: at most one line per `seconds`, which says how many were left out."""

    __slots__ = ("_clock", "_left_out", "_logged", "_logger", "_seconds")

    def __init__(
        self, seconds: float = 10.0, clock: Callable[[], float] = time.monotonic, logger: logging.Logger = log
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._logger = logger
        self._logged = -seconds
        self._left_out = 0

    def log(self, level: int, message: str, *args: object) -> None:
        now = self._clock()
        if now - self._logged < self._seconds:
            self._left_out += 1
            return
        if self._left_out:
            message, args = message + " (%d more in the last %.0f s)", (*args, self._left_out, now - self._logged)
        self._logged, self._left_out = now, 0
        self._logger.log(level, message, *args)
