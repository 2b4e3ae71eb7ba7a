"""Names of connections: nobody can guess one, and none outlives its connection."""

from __future__ import annotations

import pytest

from fastcable._hub import Subscriber
from fastcable.socket_ids import RandomSocketIds, SealedNumbers


def test_a_name_is_the_subscribers_own_until_it_is_forgotten() -> None:
    ids = RandomSocketIds()
    one, other = Subscriber(), Subscriber()
    name = ids.id_of(one)
    assert ids.id_of(one) == name != ids.id_of(other)
    assert ids.find(name) is one
    ids.forget(one)
    ids.forget(one)
    assert ids.find(name) is None
    assert len(ids) == 1
    assert ids.id_of(one) != name


@pytest.mark.parametrize("number", [0, 1, 0xFFFF, 1 << 16, 1 << 48, (1 << 64) - 1])
def test_a_sealed_number_can_be_opened_by_who_sealed_it(number: int) -> None:
    numbers = SealedNumbers()
    text = numbers.seal(number)
    assert len(text) == 32
    assert numbers.seal(number) == text
    assert numbers.open(text) == number
    assert SealedNumbers().open(text) is None


def test_every_character_counts() -> None:
    numbers = SealedNumbers()
    text = numbers.seal(7)
    for index in range(32):
        other = "0" if text[index] != "0" else "1"
        assert numbers.open(text[:index] + other + text[index + 1 :]) is None
    assert numbers.open(text.upper()) is None or text.isdigit()
    assert numbers.open(text[:31]) is numbers.open(text + "0") is numbers.open(" " + text[:31]) is None


def test_sealed_numbers_do_not_show_what_they_have_in_common() -> None:
    texts = [SealedNumbers().seal(number) for number in range(100)] + list(map(SealedNumbers().seal, range(100)))
    assert len({text[:8] for text in texts}) == len({text[-8:] for text in texts}) == 200
