"""The form in which messages cross a broker: what goes in comes out, and what is none is refused in one line."""

from __future__ import annotations

import json
import marshal
import pickle

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastcable.brokers.message import PLAIN, Message, decode, decode_at, encode, head

texts = st.text(st.characters(codec="utf-8"))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
datas = st.builds(lambda value, indent: json.dumps(value, indent=indent).encode(), values, st.sampled_from([None, 1]))
exclusions = st.none() | texts
members = st.fixed_dictionaries({"data": values}, optional={
    "v": st.integers(0, 3) | values, "retain": st.booleans() | values, "exclude": exclusions | values,
    "embedded": st.booleans() | values, "later": values})


@given(datas, st.booleans(), exclusions, st.booleans())
def test_what_goes_in_comes_out(data: bytes, retain: bool, exclude: str | None, embedded: bool) -> None:
    if embedded:
        data, retain = orjson.dumps(data.decode()), False
    message = Message(data, retain, exclude, embedded)
    text = encode(*message)
    assert decode(text) == message
    assert decode_at(text, len(head(retain, exclude, embedded))) == message


@given(members.flatmap(lambda members: st.permutations(list(members.items())).map(dict)))
def test_any_object_is_taken_whole_or_refused(members: dict[str, object]) -> None:
    """Whatever the order of the members, and whatever others there are: data stays what the JSON says."""
    try:
        message = decode(json.dumps(members, indent=1).encode())
    except ValueError:
        return
    assert type(members["v"]) is int
    assert json.loads(message.data) == members["data"]


@given(st.binary() | st.binary().map(lambda rest: PLAIN + rest) | st.binary().map(lambda rest: PLAIN + rest + b"}"))
def test_any_bytes_are_a_message_or_a_value_error(text: bytes) -> None:
    try:
        message = decode(text)
    except ValueError:
        return
    orjson.loads(message.data)


def test_the_usual_message_is_short() -> None:
    assert encode(b"[1,2]") == b'{"v":1,"data":[1,2]}'


def test_all_options_are_told_by_name() -> None:
    assert encode(b"1", retain=True, exclude='a"b') == b'{"v":1,"retain":true,"exclude":"a\\"b","data":1}'
    assert encode(b'"1"', embedded=True) == b'{"v":1,"embedded":true,"data":"1"}'


@pytest.mark.parametrize(("text", "message"), [
    pytest.param(b'{"v":1,"data":1.0000000000000000000001}', Message(b"1.0000000000000000000001"), id="digits"),
    pytest.param(b'{"v":1,"data":%b}' % (b"[" * 1023 + b"]" * 1023), Message(b"[" * 1023 + b"]" * 1023), id="deep"),
    pytest.param(b' { "data" : [ 1 ] , "v" : 1 } ', Message(b"[ 1 ]"), id="order and white space"),
    pytest.param(b'{"v":1,"data": 1\n}', Message(b"1"), id="white space around data"),
    pytest.param(b'{"v":1,"data":1,"data":2}', Message(b"2"), id="of data twice the last"),
    pytest.param(b'{"v":1,"data":{},"retain":true}', Message(b"{}", retain=True), id="options behind"),
    pytest.param(b'{"v":1,"data":{"x":1},"y":{"z":2}}', Message(b'{"x":1}'), id="an object behind"),
    pytest.param(b'{"v":2,"ttl":5,"data":null}', Message(b"null"), id="a later version"),
    pytest.param(b'{"v":1,"retain":false,"exclude":null,"embedded":false,"data":0}', Message(b"0"), id="usual values"),
])
def test_other_writers_messages_are_understood(text: bytes, message: Message) -> None:
    assert decode(text) == message


@pytest.mark.parametrize(("text", "problem"), [
    pytest.param(b"", "not JSON", id="nothing"),
    pytest.param(b"\xff", "not JSON", id="no UTF-8"),
    pytest.param(b'{"v":1,"data":"\xff"}', "not JSON", id="data is no UTF-8"),
    pytest.param(b'{"v":1,"data":1', "not JSON", id="cut off"),
    pytest.param(b'{"v":1,"data":12', "not JSON", id="cut off in a number"),
    pytest.param(b'{"v":1,"data":}', "not JSON", id="data is missing its value"),
    pytest.param(b'{"v":1,"data":1}}', "not JSON", id="a brace too many"),
    pytest.param(b'{"v":1,"data":1}{"v":1,"data":2}', "not JSON", id="two messages"),
    pytest.param(b'{"v":1,"data":NaN}', "not JSON", id="NaN"),
    pytest.param(b'{"v":1,"data":"\\ud800"}', "not JSON", id="lone surrogate"),
    pytest.param(b'{"v":1,"data":%b}' % (b"[" * 1025 + b"]" * 1025), "not JSON", id="too deep"),
    pytest.param(pickle.dumps({"v": 1, "data": 1}), "not JSON", id="A20-pickle"),
    pytest.param(marshal.dumps({"v": 1, "data": 1}), "not JSON", id="A20-marshal"),
    pytest.param(b"[]", "must be an object", id="array"),
    pytest.param(b'"{}"', "must be an object", id="string"),
    pytest.param(b"{}", "no data", id="empty object"),
    pytest.param(b'{"v":1}', "no data", id="no data"),
    pytest.param(b'{"data":1}', "v of a message", id="no version"),
    pytest.param(b'{"v":0,"data":1}', "v of a message", id="version 0"),
    pytest.param(b'{"v":-1,"data":1}', "v of a message", id="negative version"),
    pytest.param(b'{"v":"1","data":1}', "v of a message", id="version is a string"),
    pytest.param(b'{"v":1.5,"data":1}', "v of a message", id="version is a fraction"),
    pytest.param(b'{"v":true,"data":1}', "v of a message", id="version is true"),
    pytest.param(b'{"v":1,"retain":1,"data":1}', "retain of a message", id="retain is a number"),
    pytest.param(b'{"v":1,"retain":null,"data":1}', "retain of a message", id="retain is null"),
    pytest.param(b'{"v":1,"embedded":"true","data":"1"}', "embedded of a message", id="embedded is a string"),
    pytest.param(b'{"v":1,"exclude":7,"data":1}', "exclude of a message", id="exclude is a number"),
    pytest.param(b'{"v":1,"embedded":true,"data":{}}', "must be a string", id="embedded object"),
    pytest.param(b'{"v":1,"embedded":true,"retain":true,"data":"1"}', "cannot be retained", id="embedded and retained"),
])
def test_what_is_no_message_is_refused_in_one_line(text: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        decode(text)
    assert "\n" not in str(caught.value)
