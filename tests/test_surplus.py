"""When memory is worth giving back, by the numbers that are looked at."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fastcable.surplus import Surplus


def given_back(numbers: Sequence[int | tuple[int, int]]) -> list[bool]:
    """The answers for `now`, or `(now, most)`, with 800 worth it, so that 100 are little."""
    surplus = Surplus(800)
    return [surplus.look(*each) if isinstance(each, tuple) else surplus.look(each, each) for each in numbers]


@pytest.mark.parametrize(("number", "worth_it"), [(799, False), (800, False), (801, True)])
def test_as_many_as_are_worth_it_have_to_be_gone(number: int, worth_it: bool) -> None:
    assert given_back([number, 0, 0]) == [False, False, worth_it]


@pytest.mark.parametrize(("left", "worth_it"), [(999, True), (1000, False), (1001, False)])
def test_more_than_are_left_have_to_be_gone(left: int, worth_it: bool) -> None:
    assert given_back([2000, left, left]) == [False, False, worth_it]


@pytest.mark.parametrize(("fallen", "worth_it"), [(99, True), (100, True), (101, False)])
def test_what_is_still_going_is_waited_for(fallen: int, worth_it: bool) -> None:
    assert given_back([2000, 400, 400 - fallen]) == [False, False, worth_it]


def test_what_came_and_is_going_between_two_looks_is_waited_for_too() -> None:
    assert given_back([0, (500, 2000), 0, 0]) == [False, False, False, True]


def test_it_is_done_once() -> None:
    assert given_back([2000, 0, 0, 0, 0]) == [False, False, True, False, False]


def test_few_that_were_left_the_last_time_are_worth_it_when_they_are_gone() -> None:
    assert given_back([2000, 700, 700, 400, 400, 100, 100, 0, 0]) == [
        False, False, True, False, False, False, True, False, False]


def test_few_are_not_worth_it_by_themselves() -> None:
    assert given_back([2000, 0, 0, 700, 0, 0]) == [False, False, True, False, False, False]


def test_more_that_come_after_some_were_left_are_worth_it_as_the_first_were() -> None:
    assert given_back([2000, 700, 700, 3000, 800, 800, 0, 0]) == [False, False, True, False, False, True, False, True]
