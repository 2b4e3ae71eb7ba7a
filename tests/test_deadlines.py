"""Deadlines: a queue with one allowance for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fastcable._deadlines import Deadlines

if TYPE_CHECKING:
    from fastcable._deadlines import Waiting


class Item:
    def deadline_passed(self, queue: Deadlines) -> None:
        raise AssertionError("the owner of the queue calls this")


def items(count: int) -> list[Waiting]:
    return [Item() for _ in range(count)]


@pytest.mark.parametrize(("passed", "expires"), [(9.75, False), (10.0, True), (10.25, True)], ids=["-1", "0", "+1"])
def test_an_item_expires_when_its_allowance_has_passed(passed: float, expires: bool) -> None:
    queue = Deadlines(10)
    (item,) = items(1)
    queue.add(item, 100.0)
    assert queue.expired(100.0 + passed) == ([item] if expires else [])
    assert (item in queue) is not expires


def test_items_expire_in_the_order_in_which_they_were_added() -> None:
    queue = Deadlines(10)
    first, second, third = items(3)
    for now, item in enumerate((first, second, third)):
        queue.add(item, now)
    assert queue.expired(11) == [first, second]
    assert queue.expired(11) == []
    assert queue.expired(100) == [third]


def test_adding_an_item_again_gives_it_the_whole_allowance() -> None:
    queue = Deadlines(10)
    first, second = items(2)
    queue.add(first, 0)
    queue.add(second, 1)
    queue.add(first, 2)
    assert len(queue) == 2
    assert queue.expired(11) == [second]
    assert queue.expired(12) == [first]


def test_a_discarded_item_does_not_expire() -> None:
    queue = Deadlines(10)
    first, second = items(2)
    queue.add(first, 0)
    queue.add(second, 0)
    queue.discard(first)
    queue.discard(first)
    assert queue.expired(10) == [second]


def test_without_seconds_nothing_ever_expires() -> None:
    queue = Deadlines(0)
    (item,) = items(1)
    queue.add(item, 0)
    assert item not in queue
    assert queue.expired(float("inf")) == []


def test_removed_heads_leave_no_holes_to_be_crossed() -> None:
    queue = Deadlines(10)
    many = items(1000)
    for item in many:
        queue.add(item, 0)
    for item in many[:-1]:
        queue.discard(item)
    size = queue.deadlines.__sizeof__()
    assert queue.expired(1) == []
    assert queue.deadlines.__sizeof__() < size / 50
    assert queue.expired(10) == many[-1:]


def test_an_item_that_is_added_over_and_over_leaves_no_holes() -> None:
    queue = Deadlines(10)
    (item,) = items(1)
    for now in range(1000):
        queue.add(item, now)
        queue.expired(now)
    assert queue.deadlines.__sizeof__() <= 2 * {item: 0}.__sizeof__()
