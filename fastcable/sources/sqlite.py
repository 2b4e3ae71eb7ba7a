"""Solid Cable's table in an SQLite file, read beside the application that writes it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import quote

import orjson

from fastcable.sources import MOST_ROWS, Look, Row, SourceError
from fastcable.sources.solid_cable import CHECK, TABLE

BUSY_SECONDS = 0.5  # for a writer without WAL to finish

_HIGH = f"SELECT ifnull(max(id), 0) FROM {TABLE}"
_LOOK = f"SELECT id, channel_hash, ifnull(length(payload), 0) FROM {TABLE} WHERE id > ? ORDER BY id LIMIT {MOST_ROWS}"
_LOOK_FOR = _LOOK.replace("ORDER", "AND channel_hash IN (SELECT value FROM json_each(?)) ORDER")
_READ = (f"SELECT id, cast(channel AS blob), cast(payload AS blob) FROM {TABLE} "
         "WHERE id IN (SELECT value FROM json_each(?)) AND payload IS NOT NULL ORDER BY id")

_T = TypeVar("_T")


class SqliteReader:
    """Works in a thread of its own: a disk may be slow, and a file locked. Between two calls nothing is held that the
    application would have to wait for, its checkpoints included."""

    __slots__ = ("_connection", "_file", "_path", "_thread")

    def __init__(self, path: str) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "fastcable-source")
        # In the thread only
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    async def open(self) -> None:
        await self._call(self._open)

    async def look(self, hashes: list[int] | None, above: int | None) -> Look:
        return await self._call(lambda: self._look(hashes, above))

    async def read(self, ids: list[int]) -> list[tuple[int, bytes, bytes]]:
        return await self._call(lambda: self._fetch(_READ, orjson.dumps(ids).decode()))

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)

    def end(self) -> None:
        self._thread.shutdown(wait=False)

    async def _call(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise SourceError(str(error)) from error
        except OSError as error:
            raise SourceError((error.strerror or str(error)).lower()) from error

    # In the thread

    def _open(self) -> None:
        self._file = self._there()
        self._connection = sqlite3.connect(
            f"file:{quote(self._path)}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None)
        self._fetch(CHECK)

    def _there(self) -> tuple[int, int]:
        status = os.stat(self._path)
        if not stat.S_ISREG(status.st_mode):
            raise SourceError("not a file")
        return status.st_dev, status.st_ino

    def _look(self, hashes: list[int] | None, above: int | None) -> Look:
        if self._there() != self._file:  # somebody put another file there: this one is read by nobody else any more
            self._close()
            self._open()
        rows: list[Any] = []
        self._fetch("BEGIN")
        try:
            ((high,),) = self._fetch(_HIGH)
            if above is not None and high > above:
                rows = self._fetch(_LOOK, above) if hashes is None else self._fetch(
                    _LOOK_FOR, above, orjson.dumps(hashes).decode())
        finally:
            self._fetch("ROLLBACK")
        return Look(self._file, high, [Row(*row) for row in rows])

    def _fetch(self, sql: str, *parameters: object) -> list[Any]:
        assert self._connection is not None
        return self._connection.execute(sql, parameters).fetchall()

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
