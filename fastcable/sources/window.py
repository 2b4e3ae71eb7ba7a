"""Which rows of a table are new.

Theory of operation
-------------------
Ids grow, but with several writers they do not appear in their order: PostgreSQL gives out an id when a row is written,
and others see the row when its transaction commits. Whoever asks for ids above the highest that he saw misses the late
ones. So what is asked for again and again is a *window*: all above a *floor*, below which nothing can appear any more;
and the ids that were seen above it are remembered, to tell which rows are new.

The floor rises to what was the highest id at some earlier look, as soon as every transaction is over that had begun by
then: one that began later took a higher id. A row's id is taken a moment before its transaction counts as begun, hence
GRACE. A transaction that stays open would keep the floor down for ever and the window would grow; after LATE_SECONDS
the floor rises all the same, and rows that are committed later than that are missed. So are those that are committed
after MOST_ROWS others of higher ids.

Where writers take turns (SQLite), the floor is the highest id.

Rows that are deleted below make no difference. A highest id below the former one means that somebody emptied the table,
or made it anew: then the window begins anew, too.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from fastcable.sources import MOST_ROWS, START_ROWS, Look, Row

GRACE = 1.0
LATE_SECONDS = 10.0


class _Mark(NamedTuple):
    """A look at which all was told: its time, its highest id, and the first transaction that began after it."""

    time: float
    high: int
    next: int


class Window:
    __slots__ = ("_high", "_looks", "_seen", "_table", "behind", "floor")

    def __init__(self) -> None:
        self.floor: int | None = None
        self.behind = False
        """There may be more than the last look told."""
        self._table: object = None
        self._high = 0
        self._seen: set[int] = set()
        self._looks: deque[_Mark] = deque()

    def other(self, look: Look) -> bool:
        """Whether this look saw another table than the looks before it."""
        return self.floor is not None and (look.table != self._table or look.high < self._high)

    def sift(self, look: Look, now: float) -> list[Row]:
        """The rows that no look told before; `now` in seconds."""
        new = [row for row in look.rows if row.id not in self._seen]
        self._seen.update(row.id for row in new)
        self._table, self._high = look.table, look.high
        self.behind = len(look.rows) >= MOST_ROWS
        self._raise_floor(look.rows[-1].id if self.behind else self._settled(look, now))
        return new

    def _settled(self, look: Look, now: float) -> int:
        """The id up to which everything that will ever be has been told."""
        if look.running is None:
            return look.high
        floor = max(look.high - START_ROWS, 0) if self.floor is None else self.floor
        oldest, upcoming = look.running
        self._looks.append(_Mark(now, look.high, upcoming))
        while self._looks[0].time <= now - LATE_SECONDS or (
            self._looks[0].time <= now - GRACE and self._looks[0].next <= oldest
        ):
            floor = max(floor, self._looks.popleft().high)
        return floor

    def _raise_floor(self, floor: int) -> None:
        if floor != self.floor:
            self.floor = floor
            self._seen = {seen for seen in self._seen if seen > floor}
