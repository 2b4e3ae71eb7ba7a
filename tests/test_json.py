"""Raw spans of JSON members, held against what orjson reads."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastcable._json import member_spans


@pytest.mark.parametrize(("body", "spans"), [
    pytest.param(b'{"data":1}', [b"1"], id="number"),
    pytest.param(b' \t\r\n{ "data" : [ 1 , 2 ] , "x" : 2 } \n', [b"[ 1 , 2 ]"], id="white-space"),
    pytest.param(b'{"data":"a\\"b\\\\","x":1}', [rb'"a\"b\\"'], id="escapes"),
    pytest.param(b'{"data":{"data":{"data":"}]"}},"x":"{["}', [b'{"data":{"data":"}]"}}'], id="nested"),
    pytest.param(b'{"data":1e400}', [b"1e400"], id="P4-1e400"),
    pytest.param(b'{"data":-0.10E+2}', [b"-0.10E+2"], id="number-as-written"),
    pytest.param(b'{"data":%b}' % (b"9" * 100_000), [b"9" * 100_000], id="P4-100k-digits"),
    pytest.param(b'{"data":18446744073709551617}', [b"18446744073709551617"], id="P4-64-bit-overflow"),
    pytest.param(b'{"data":1,"data":2}', [b"2"], id="P5-last-of-two"),
    pytest.param(b'{"data":1,"d\\u0061t\\u0061":2}', [b"2"], id="P5-escaped-name"),
    pytest.param(b'{"d\\u0061ta":1,"data":2,"dat":3,"dataa":4}', [b"2"], id="P5-similar-names"),
    pytest.param(b'{"data":null,"":0}', [b"null"], id="null"),
    pytest.param(b'{"data":"\xc3\xa9"}', [b'"\xc3\xa9"'], id="UTF-8"),
    pytest.param(b"[]", [], id="empty-batch"),
    pytest.param(b" [ ] ", [], id="empty-batch-with-spaces"),
    pytest.param(b'[{"data":1},{"x":0,"data":[2]} , {"data":{}}]', [b"1", b"[2]", b"{}"], id="batch"),
    pytest.param(b'{"data":%b}' % (b"[" * 100_000 + b"]" * 100_000), [b"[" * 100_000 + b"]" * 100_000],
                 id="P2-deep-nesting-needs-no-stack"),
])
def test_spans(body: bytes, spans: list[bytes]) -> None:
    assert member_spans(body, b"data") == spans


def test_a_comma_too_many_in_an_object_is_left_to_the_parser() -> None:
    assert member_spans(b'{"data":1,}', b"data") == [b"1"]


@pytest.mark.parametrize("body", [
    b"", b" ", b"1", b'"data"', b"null", b"{", b"}", b"[", b"]", b"{}", b"[{}]", b"[1]", b'[{"data":1}', b'{"data":1',
    b'{"data":1}{', b'{"data":1} x', b'{"data"', b'{"data', b'{"data\\', b'{"data":', b'{"data":}', b'{"data":,}',
    b'{"data" 1}', b'{"data":"a}', b'{"data":"a\\', b'{"data":{"a":1}', b'{"data":[}', b'{"data":1"x"}', b'{data:1}',
    b'{"x":1}', b'[{"data":1},]', b'[{"data":1} {"data":1}]', b'[{"data":1},1]', b'[[{"data":1}]]',
    b'{"\\ud800":1,"data":1}', b'{"\\q":1,"data":1}', b'{"\\\xff":1,"data":1}',
])
def test_what_has_no_such_structure_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|line 1"):
        member_spans(body, b"data")


def test_arguments_must_be_bytes() -> None:
    with pytest.raises(TypeError):
        member_spans(None, b"data")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        member_spans(b"{}", "data")  # type: ignore[arg-type]


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | text
values = st.recursive(
    scalars.filter(lambda value: value not in (float("inf"), float("-inf"))),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(text, children, max_size=4), max_leaves=8)
names = st.sampled_from(["data", "dat", "data ", "x", "", "dåta", 'd"ata', "\\data"])


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """An object with a member `data`, names repeated and escaped at will, white space anywhere."""

    def space() -> bytes:
        return draw(st.text(" \t\r\n", max_size=2)).encode()

    def name(value: str) -> bytes:
        if draw(st.booleans()):
            return b'"%b"' % "".join(f"\\u{ord(c):04x}" for c in value).encode()
        return json.dumps(value, ensure_ascii=draw(st.booleans())).encode()

    def dump(value: Any) -> bytes:
        text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
        return text.encode()

    members = draw(st.lists(st.tuples(names, values), max_size=4))
    members.insert(draw(st.integers(0, len(members))), ("data", draw(values)))
    pairs = (space() + name(key) + space() + b":" + space() + dump(value) + space() for key, value in members)
    return space() + b"{" + b",".join(pairs) + b"}" + space()


@given(messages())
def test_an_objects_span_is_the_text_of_the_value_that_orjson_reads(body: bytes) -> None:
    (span,) = member_spans(body, b"data")
    assert orjson.loads(span) == orjson.loads(body)["data"]
    assert span in body
    assert span == span.strip()


@given(st.lists(messages(), max_size=4))
def test_a_batchs_spans_are_those_of_its_objects(bodies: list[bytes]) -> None:
    assert member_spans(b"[%b]" % b",".join(bodies), b"data") == [member_spans(body, b"data")[0] for body in bodies]


@settings(max_examples=300)
@given(messages(), st.data())
def test_damaged_text_is_refused_or_yields_parts_of_itself(body: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(body)))
    damaged = data.draw(st.sampled_from([
        body[:at], body[at:], body[:at] + body[at + 1 :], body[:at] + b'"' + body[at:], body[:at] + b"\\" + body[at:],
        body[:at] + b"}" + body[at:], body[:at] + b"[" + body[at:], b"[" + body + b"," + body[:at],
    ]))
    try:
        spans = member_spans(damaged, b"data")
    except ValueError:
        return
    assert all(span and span in damaged for span in spans)


@settings(max_examples=300)
@given(st.lists(st.sampled_from([b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b" ", b"1", b'"data"', b"\xff"])))
@example([b"[", b'{"data":1}', b"]"])
def test_any_bytes_are_safe(pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    try:
        spans = member_spans(body, b"data")
    except ValueError:
        return
    assert all(span and span in body for span in spans)
