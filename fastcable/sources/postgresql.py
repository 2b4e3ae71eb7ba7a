"""Solid Cable's table in PostgreSQL."""

from __future__ import annotations

from typing import Any

import asyncpg

from fastcable.sources import MOST_ROWS, START_ROWS, Look, Row, SourceError
from fastcable.sources.solid_cable import CHECK, TABLE

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 8.0
"""A server that has not answered by then is taken for unreachable."""

# One statement, so that all of it is true at the same moment.
_LOOK = f"""
WITH rows AS (
    SELECT id, channel_hash, coalesce(octet_length(payload), 0) AS size FROM {TABLE}
    WHERE id > coalesce($1::bigint, (SELECT max(id) FROM {TABLE}) - {START_ROWS})
    ORDER BY id LIMIT {MOST_ROWS}
)
SELECT '{TABLE}'::regclass::oid::bigint AS identity, coalesce((SELECT max(id) FROM {TABLE}), 0) AS high,
    txid_snapshot_xmin(snapshot) AS oldest, txid_snapshot_xmax(snapshot) AS upcoming,
    (SELECT array_agg(id) FROM rows) AS ids,
    (SELECT array_agg(channel_hash) FROM rows) AS hashes,
    (SELECT array_agg(size) FROM rows) AS sizes
FROM txid_current_snapshot() AS snapshot
"""
_LOOK_FOR = _LOOK.replace("ORDER", "AND channel_hash = ANY($2::bigint[]) ORDER")
_READ = f"SELECT id, channel, payload FROM {TABLE} WHERE id = ANY($1::bigint[]) AND payload IS NOT NULL ORDER BY id"

_FAILURES = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


class PostgresqlReader:
    __slots__ = ("_connection", "_url")

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: asyncpg.Connection[Any] | None = None

    async def open(self) -> None:
        try:
            self._connection = await asyncpg.connect(
                self._url, timeout=CONNECT_SECONDS, command_timeout=ANSWER_SECONDS,
                server_settings={"application_name": "fastcable"})
        except (*_FAILURES, ValueError) as error:  # ValueError: of what the URL says
            raise SourceError(_line(error)) from error
        await self._fetch(CHECK)

    async def look(self, hashes: list[int] | None, above: int | None) -> Look:
        (found,) = await (self._fetch(_LOOK, above) if hashes is None else self._fetch(_LOOK_FOR, above, hashes))
        rows = zip(found["ids"] or (), found["hashes"] or (), found["sizes"] or (), strict=True)
        return Look(found["identity"], found["high"], [Row(*row) for row in rows], (found["oldest"], found["upcoming"]))

    async def read(self, ids: list[int]) -> list[tuple[int, bytes, bytes]]:
        return [(row[0], _bytes(row[1]), _bytes(row[2])) for row in await self._fetch(_READ, ids)]

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _fetch(self, sql: str, *parameters: object) -> list[Any]:
        assert self._connection is not None
        try:
            return await self._connection.fetch(sql, *parameters)
        except _FAILURES as error:
            raise SourceError(_line(error)) from error

    def end(self) -> None:
        pass


def _bytes(value: bytes | str) -> bytes:
    """The first versions of Solid Cable had text in these columns."""
    return value.encode() if isinstance(value, str) else value


def _line(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).partition("\n")[0] or type(error).__name__
