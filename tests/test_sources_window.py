"""Which rows of a table are new, whatever the order in which transactions make them visible."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcable.sources import MOST_ROWS, START_ROWS, Look, Row
from fastcable.sources.window import GRACE, LATE_SECONDS, Window


def rows(*ids: int) -> list[Row]:
    return [Row(each, 0, 1) for each in ids]


@dataclass
class Table:
    """PostgreSQL's, in short: ids are given out when rows are written, and show when their transactions commit."""

    last_id: int = 0
    next_transaction: int = 100
    open: dict[int, list[int]] = field(default_factory=dict)
    visible: set[int] = field(default_factory=set)
    name: str = "table"

    def begin(self) -> int:
        self.next_transaction += 1
        self.open[self.next_transaction - 1] = []
        return self.next_transaction - 1

    def write(self, transaction: int) -> int:
        self.last_id += 1
        self.open[transaction].append(self.last_id)
        return self.last_id

    def commit(self, transaction: int) -> None:
        self.visible.update(self.open.pop(transaction))

    def rollback(self, transaction: int) -> None:
        del self.open[transaction]

    def insert(self) -> int:
        transaction = self.begin()
        number = self.write(transaction)
        self.commit(transaction)
        return number

    def look(self, window: Window) -> Look:
        high = max(self.visible, default=0)
        above = max(high - START_ROWS, 0) if window.floor is None else window.floor
        shown = sorted(each for each in self.visible if each > above)[:MOST_ROWS]
        oldest = min(self.open, default=self.next_transaction)
        return Look(self.name, high, rows(*shown), (oldest, self.next_transaction))

    def new(self, window: Window, now: float) -> list[int]:
        return [row.id for row in window.sift(self.look(window), now)]


def test_a_row_that_is_committed_late_is_new_then_and_only_then() -> None:
    table, window = Table(), Window()
    table.insert()
    assert table.new(window, 0) == [1]
    late = table.begin()
    assert table.write(late) == 2
    assert table.insert() == 3
    assert table.new(window, 1) == [3]
    assert table.insert() == 4
    table.commit(late)
    assert table.new(window, LATE_SECONDS) == [2, 4]
    assert table.new(window, LATE_SECONDS) == []


@pytest.mark.parametrize(("seconds", "found"), [(-1, [1]), (0, []), (1, [])], ids=["in time", "at the end", "too late"])
def test_a_transaction_is_waited_for_so_long_and_no_longer(seconds: int, found: list[int]) -> None:
    table, window = Table(), Window()
    late = table.begin()
    table.write(late)
    table.insert()
    table.new(window, 0)
    table.new(window, LATE_SECONDS + seconds)
    table.commit(late)
    assert table.new(window, LATE_SECONDS + seconds) == found


@pytest.mark.parametrize(("seconds", "floor"), [(-0.1, 0), (0, 1), (0.1, 1)], ids=["before", "at", "after"])
def test_the_window_closes_when_all_who_may_have_taken_an_id_are_done(seconds: float, floor: int) -> None:
    table, window = Table(), Window()
    table.insert()
    table.new(window, 0)
    table.insert()
    table.new(window, GRACE + seconds)
    assert window.floor == floor


def test_where_writers_take_turns_the_window_is_always_closed() -> None:
    window = Window()
    window.sift(Look("file", 7, []), 0)
    assert window.floor == 7
    assert window.sift(Look("file", 9, rows(8, 9)), 0) == rows(8, 9)
    assert window.floor == 9


@pytest.mark.parametrize(("count", "behind"), [(-1, False), (0, True), (1, True)], ids=["-1", "0", "+1"])
def test_a_flood_is_looked_at_in_parts(count: int, behind: bool) -> None:
    table, window = Table(), Window()
    table.new(window, 0)
    flood = table.begin()
    ids = [table.write(flood) for _ in range(MOST_ROWS + count)]
    table.commit(flood)
    found = table.new(window, 1)
    assert window.behind == behind
    found += table.new(window, 2)
    assert not window.behind
    assert found == ids


@pytest.mark.parametrize(
    ("look", "other"),
    [
        (Look("table", 5, [], (1, 1)), False),
        (Look("table", 4, [], (1, 1)), True),
        (Look("table", 0, [], (1, 1)), True),
        (Look("another", 6, [], (1, 1)), True),
        (Look("table", 6, [], (1, 1)), False),
    ],
    ids=["nothing new", "the highest id fell", "emptied", "made anew", "rows were added"],
)
def test_another_table_of_the_same_name_is_noticed(look: Look, other: bool) -> None:
    window = Window()
    assert not window.other(look)
    window.sift(Look("table", 5, rows(5), (1, 1)), 0)
    assert window.other(look) == other


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["begin", "write", "commit", "rollback", "look", "wait"]), max_size=80), st.randoms())
def test_what_is_committed_in_time_is_found_exactly_once(steps: list[str], random: object) -> None:
    assert hasattr(random, "choice")
    table, window, now = Table(), Window(), 0.0
    begun: dict[int, float] = {}
    due: set[int] = set()
    found: list[int] = []
    table.new(window, now)
    for step in [*steps, "look"]:
        if step == "wait":
            now += GRACE / 2
        elif step == "look":
            found += table.new(window, now)
            assert set(found) >= due
        elif step == "begin" or not table.open:
            begun[table.begin()] = now
        else:
            transaction = random.choice(list(table.open))
            if step == "write":
                table.write(transaction)
            elif step == "rollback":
                table.rollback(transaction)
            else:
                if now - begun[transaction] < LATE_SECONDS:
                    due.update(table.open[transaction])
                table.commit(transaction)
    assert len(found) == len(set(found))
