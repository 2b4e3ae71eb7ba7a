"""What a stream may be called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastcable.stream_name import stream_name_error

TOO_LONG = "must be at most 255 bytes of UTF-8"


@pytest.mark.parametrize("name", [
    pytest.param("chat", id="word"),
    pytest.param(" chat ", id="spaces-are-kept"),
    pytest.param("a\x80\x85", id="C1-controls-are-characters"),
    pytest.param("\u200b\ufeff", id="invisible"),
    pytest.param("* > . : %", id="P10-patterns"),
    pytest.param("x" * 254, id="P9-254-bytes"),
    pytest.param("x" * 255, id="P9-255-bytes"),
    pytest.param("é" * 127, id="254-bytes-of-UTF-8"),
    pytest.param("é" * 127 + "x", id="255-bytes-of-UTF-8"),
    pytest.param("😀" * 63 + "éx", id="255-bytes-in-fours"),
])
def test_good_names(name: str) -> None:
    assert stream_name_error(name) is None


@pytest.mark.parametrize(("name", "problem"), [
    pytest.param("", "must not be empty", id="B16-empty"),
    pytest.param(None, "must be a string", id="P8-null"),
    pytest.param(5, "must be a string", id="P8-number"),
    pytest.param(True, "must be a string", id="P8-boolean"),
    pytest.param([], "must be a string", id="P8-array"),
    pytest.param({}, "must be a string", id="P8-object"),
    pytest.param("x" * 256, TOO_LONG, id="P9-256-bytes"),
    pytest.param("é" * 128, TOO_LONG, id="256-bytes-of-UTF-8"),
    pytest.param("x" * (1 << 20), TOO_LONG, id="P9-1-MiB"),
    pytest.param("\ud800", "must not contain lone surrogates", id="P6-lone-surrogate"),
    *(pytest.param(f"a{chr(code)}b", "must not contain control characters", id=f"B16-control-{code:02x}")
      for code in [*range(0x20), 0x7F]),
])
def test_bad_names(name: object, problem: str) -> None:
    assert stream_name_error(name) == problem


@given(st.text(max_size=300))
def test_the_rule_is_the_one_in_the_contract(name: str) -> None:
    good = 0 < len(name.encode()) <= 255 and not any(ord(c) < 0x20 or ord(c) == 0x7F for c in name)
    assert (stream_name_error(name) is None) is good
