"""Solid Cable's table, made and written as Rails does it: what an application's processes do.

`python -m tests.solid_cable DATABASE PROCESS COUNT CHANNEL…` is such a process. Its writers, of which there are several
in PostgreSQL, each write `[writer, number]` with numbers from 0 to COUNT to the channels in turn. In PostgreSQL their
transactions overlap, commit late and are sometimes rolled back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fastcable.sources.solid_cable import channel_hash

# cable_schema.rb, as Rails' adapters carry it out
SQLITE_SCHEMA = """
CREATE TABLE "solid_cable_messages" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "channel" blob(1024) NOT NULL,
    "payload" blob(536870912) NOT NULL, "created_at" datetime(6) NOT NULL, "channel_hash" integer(8) NOT NULL);
"""
POSTGRESQL_SCHEMA = """
CREATE TABLE "solid_cable_messages" ("id" bigserial primary key, "channel" bytea NOT NULL, "payload" bytea NOT NULL,
    "created_at" timestamp(6) NOT NULL, "channel_hash" bigint NOT NULL);
"""
INDEXES = "".join(
    f'CREATE INDEX "index_solid_cable_messages_on_{column}" ON "solid_cable_messages" ("{column}");\n'
    for column in ("channel", "channel_hash", "created_at"))

# SolidCable::Message.broadcast
INSERT = """INSERT INTO "solid_cable_messages" ("created_at", "channel", "payload", "channel_hash")
VALUES (CURRENT_TIMESTAMP, $1, $2, $3) ON CONFLICT DO NOTHING"""

TOGETHER = 4  # writers of one process in PostgreSQL


def values(channel: str, payload: bytes) -> tuple[bytes, bytes, int]:
    name = channel.encode()
    return name, payload, channel_hash(name)


class SqliteTable:
    """A connection of an application, which writes."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        # What Rails sets for each connection
        self.connection.execute("PRAGMA journal_mode = wal")
        self.connection.execute("PRAGMA synchronous = normal")

    def create(self) -> SqliteTable:
        self.connection.executescript(SQLITE_SCHEMA + INDEXES)
        return self

    def write(self, channel: str, *messages: object) -> None:
        for message in messages:
            self.write_raw(channel, json.dumps(message).encode())

    def write_raw(self, channel: str, payload: bytes) -> None:
        self.execute(INSERT, *values(channel, payload))

    def execute(self, sql: str, *parameters: object) -> None:
        self.connection.execute(sql, parameters)

    def __enter__(self) -> SqliteTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


def start_writer(database: str, writer: int, count: int, channels: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tests.solid_cable", database, str(writer), str(count), *channels])


def write_sqlite(path: str, writer: int, count: int, channels: Sequence[str]) -> None:
    with SqliteTable(Path(path)) as table:
        for number in range(0, count, 5):
            table.execute("BEGIN IMMEDIATE")
            for each in range(number, min(number + 5, count)):
                table.write(channels[each % len(channels)], [writer, each])
            table.execute("COMMIT")


async def write_postgresql(url: str, writer: int, count: int, channels: Sequence[str]) -> None:
    import asyncpg

    chance = random.Random(writer)
    connection = await asyncpg.connect(url)
    insert = await connection.prepare(INSERT)
    number = 0
    while number < count:
        size = chance.choice((1, 1, 2, 10, 20))
        transaction = connection.transaction()
        await transaction.start()
        for each in range(number, min(number + size, count)):
            # Some in a savepoint, which is a transaction of its own to those who look.
            async with connection.transaction() if chance.random() < 0.3 else contextlib.nullcontext():
                await insert.fetch(*values(channels[each % len(channels)], json.dumps([writer, each]).encode()))
        await asyncio.sleep(0.2 if chance.random() < 0.02 else chance.choice((0, 0, 0, 0.005, 0.02)))
        if chance.random() < 0.05:
            await transaction.rollback()
        else:
            await transaction.commit()
            number += size
    await connection.close()


async def write_postgresql_together(url: str, writer: int, count: int, channels: Sequence[str]) -> None:
    await asyncio.gather(*(
        write_postgresql(url, writer * TOGETHER + each, count, channels) for each in range(TOGETHER)))


def main(database: str, writer: str, count: str, *channels: str) -> None:
    if database.startswith("postgresql:"):
        asyncio.run(write_postgresql_together(database, int(writer), int(count), channels))
    else:
        write_sqlite(database, int(writer), int(count), channels)


if __name__ == "__main__":
    main(*sys.argv[1:])
