"""The last values of streams: what is kept, for how long, and what goes first."""

from __future__ import annotations

import sys
import tracemalloc

import pytest

from fastcable.retained import OVERHEAD, Retained, retained_size


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def retained(clock: Clock) -> Retained:
    return Retained(0, 0, clock)


def test_the_last_value_of_a_stream_is_kept(retained: Retained) -> None:
    retained.keep("s", b"1")
    retained.keep("t", b'"t"')
    retained.keep("s", b"2")
    assert (retained.get("s"), retained.get("t"), retained.get("u")) == (b"2", b'"t"', None)
    assert len(retained) == 2
    assert retained.size == retained_size("s", b"2") + retained_size("t", b'"t"')


@pytest.mark.parametrize("data", [b"0", b"false", b'""', b'"null"', b"[null]", b"{}"])
def test_only_null_forgets(retained: Retained, data: bytes) -> None:
    retained.keep("s", data)
    assert retained.get("s") == data
    retained.keep("s", b"null")
    assert (retained.get("s"), len(retained), retained.size) == (None, 0, 0)
    retained.keep("s", b"null")


def test_a_value_counts_with_its_name_in_utf_8_and_some_overhead() -> None:
    assert retained_size("Zürich", b"12345") == 7 + 5 + OVERHEAD


def test_overhead_is_about_what_python_needs() -> None:
    """So that `max_retained_bytes` bounds memory for small values, too."""
    count = 10_000
    retained = Retained(0, 0, lambda: float(sys.maxsize))
    tracemalloc.start()
    for number in range(count):
        retained.keep(f"{number:09}", b"%010d" % number)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.6 * retained.size < size < 1.2 * retained.size


@pytest.mark.parametrize(("more", "kept"), [(-1, 3), (0, 3), (1, 2)])
def test_over_max_bytes_the_oldest_go(clock: Clock, more: int, kept: int) -> None:
    retained = Retained(3 * retained_size("a", b"1234"), 0, clock)
    for stream in "abc":
        retained.keep(stream, b"1234")
    retained.keep("c", b"1" * (4 + more))
    assert [stream for stream in "abc" if retained.get(stream)] == ["a", "b", "c"][3 - kept :]


def test_a_value_that_is_kept_anew_is_the_youngest(clock: Clock) -> None:
    retained = Retained(3 * retained_size("a", b"1"), 0, clock)
    for stream in "abcad":
        retained.keep(stream, b"1")
    assert [stream for stream in "abcd" if retained.get(stream)] == ["a", "c", "d"]


def test_one_large_value_may_cost_all_others(clock: Clock) -> None:
    retained = Retained(retained_size("large", b"1" * 5000), 0, clock)
    for number in range(10):
        retained.keep(str(number), b"1")
    retained.keep("large", b"1" * 5000)
    assert (len(retained), retained.get("large")) == (1, b"1" * 5000)


@pytest.mark.parametrize(("more", "fits"), [(-1, True), (0, True), (1, False)])
def test_a_value_larger_than_max_bytes_is_not_kept_and_neither_is_the_one_before(
    clock: Clock, more: int, fits: bool
) -> None:
    retained = Retained(retained_size("s", b"1" * 100), 0, clock)
    retained.keep("s", b"1")
    data = b"2" * (100 + more)
    assert retained.fits("s", data) is fits
    retained.keep("s", data)
    assert retained.get("s") == (data if fits else None)


@pytest.mark.parametrize(("elapsed", "kept"), [(9.0, True), (10.0, False), (11.0, False)])
def test_a_value_is_kept_for_some_time(clock: Clock, elapsed: float, kept: bool) -> None:
    retained = Retained(0, 10.0, clock)
    retained.keep("s", b"1")
    clock.now += elapsed
    assert (retained.get("s") is not None) is kept
    assert (retained.size > 0) is kept


def test_values_nobody_asks_for_go_with_the_next_that_comes(clock: Clock) -> None:
    retained = Retained(0, 10.0, clock)
    for stream in "abc":
        retained.keep(stream, b"1")
        clock.now += 5
    retained.keep("d", b"1")
    assert (len(retained), retained.get("c"), retained.get("d")) == (2, b"1", b"1")


def test_0_is_no_limit(clock: Clock) -> None:
    retained = Retained(0, 0, clock)
    retained.keep("s", b"1" * 100_000_000)
    clock.now += 1e9
    assert retained.get("s") is not None


def test_values_are_handed_on_with_their_age(clock: Clock) -> None:
    """Who takes them over forgets them when the first one would have."""
    retained, successor = Retained(0, 10.0, clock), Retained(0, 10.0, clock)
    for stream in "abc":
        retained.keep(stream, b'"%b"' % stream.encode())
        clock.now += 4
    assert list(retained.items()) == [("b", b'"b"', 8.0), ("c", b'"c"', 4.0)]
    assert retained.age("c") == 4.0
    for stream, data, age in retained.items():
        successor.keep(stream, data, age)
    clock.now += 2
    assert (successor.get("b"), successor.get("c")) == (None, b'"c"')
