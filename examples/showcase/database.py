"""SQLite, spoken to directly: the answers come from memory within microseconds, so the event loop may wait for them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from examples.showcase import seed

Row = sqlite3.Row


class Database:
    """The database of all events; created with two of them where there is none. `folder` keeps what is too large."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.folder = path.parent
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=10)
        self._connection.row_factory = Row
        # Jobs write from processes of their own (job.py): with a write-ahead log nobody waits for a reader.
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            self.run(f"PRAGMA {pragma}")
        with self.transaction():
            if not self.all("SELECT 1 FROM sqlite_master WHERE name = 'event'"):
                for statement in Path(__file__).with_name("schema.sql").read_text().split(";\n"):
                    self.run(statement)
                seed.plant(self)

    def close(self) -> None:
        self._connection.close()

    def all(self, sql: str, *values: object) -> list[Row]:
        return self._connection.execute(sql, values).fetchall()

    def one(self, sql: str, *values: object) -> Row:
        """The first row, which must be there."""
        row = self._connection.execute(sql, values).fetchone()
        if row is None:
            raise LookupError(f"no row: {sql} {values}")
        return row  # type: ignore[no-any-return]

    def find(self, sql: str, *values: object) -> Row | None:
        return self._connection.execute(sql, values).fetchone()  # type: ignore[no-any-return]

    def value(self, sql: str, *values: object) -> Any:
        return self.one(sql, *values)[0]

    def run(self, sql: str, *values: object) -> int:
        """Execute, and return the new row's id."""
        return self._connection.execute(sql, values).lastrowid or 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.run("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.run("ROLLBACK")
            raise
        self.run("COMMIT")
