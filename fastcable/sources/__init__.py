"""Databases through which applications broadcast already: messages are read from where they are written anyway."""

from __future__ import annotations

from typing import NamedTuple, Protocol

MOST_ROWS = 100_000
"""Rows that one look tells, the first by id; only then it may look past rows that are committed late."""

START_ROWS = 10_000
"""How far below the highest id the first look begins, for rows that are being written at that moment."""


class SourceError(Exception):
    """One line: why a table cannot be read at present."""


class Row(NamedTuple):
    """A message in the table, without what it says."""

    id: int
    channel_hash: int
    size: int


class Look(NamedTuple):
    """What a table holds at one moment."""

    table: object
    """Another value: another table, though its name is the same."""
    high: int
    """The highest id of all rows; 0: there are none."""
    rows: list[Row]
    """At most MOST_ROWS, by id."""
    running: tuple[int, int] | None = None
    """The oldest transaction that may still commit, and the next that will begin; None: none of those that may still
    commit has written an id below `high`."""


class Reader(Protocol):
    """Reads Solid Cable's table in one kind of database. Everything but `close` raises `SourceError`."""

    async def open(self) -> None: ...

    async def look(self, hashes: list[int] | None, above: int | None) -> Look:
        """Rows of the channels with these hashes (None: of all) with ids above this one (None: `START_ROWS` below the
        highest, where rows of lower ids may still be committed)."""
        ...

    async def read(self, ids: list[int]) -> list[tuple[int, bytes, bytes]]:
        """Id, channel and payload of these rows, by id, without those that are gone."""
        ...

    async def close(self) -> None:
        """Let go of the connection; it may be opened again."""

    def end(self) -> None:
        """Let go of everything else."""
