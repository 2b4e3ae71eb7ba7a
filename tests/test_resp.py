"""Replies of Redis out of bytes, however they come, and what breaks the protocol."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastcable._resp import Reply, ReplyError, ReplyParser

REPLIES: dict[str, tuple[bytes, Reply]] = {
    "simple string": (b"+OK\r\n", b"OK"),
    "empty simple string": (b"+\r\n", b""),
    "integer": (b":12\r\n", 12),
    "negative integer": (b":-3\r\n", -3),
    "big number": (b"(3492890328409238509324850943850943825024385\r\n", b"3492890328409238509324850943850943825024385"),
    "double": (b",1.5\r\n", 1.5),
    "true": (b"#t\r\n", True),
    "false": (b"#f\r\n", False),
    "null": (b"_\r\n", None),
    "string": (b"$7\r\na\r\nb\0\xffc\r\n", b"a\r\nb\0\xffc"),
    "empty string": (b"$0\r\n\r\n", b""),
    "null string": (b"$-1\r\n", None),
    "verbatim string": (b"=5\r\ntxt:a\r\n", b"txt:a"),
    "array": (b"*3\r\n:1\r\n$1\r\na\r\n*1\r\n_\r\n", [1, b"a", [None]]),
    "empty array": (b"*0\r\n", []),
    "null array": (b"*-1\r\n", None),
    "set": (b"~1\r\n:1\r\n", [1]),
    "map": (b"%2\r\n+a\r\n:1\r\n+b\r\n:2\r\n", [b"a", 1, b"b", 2]),
    "push": (b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nd\r\n", (b"message", b"c", b"d")),
    "empty push": (b">0\r\n", ()),
    "reply with attributes": (b"|1\r\n+ttl\r\n:3\r\n:7\r\n", 7),
}
ERRORS = {"simple": b"-ERR what\r\n", "bulk": b"!8\r\nERR what\r\n"}


@pytest.mark.parametrize(("text", "reply"), REPLIES.values(), ids=REPLIES)
def test_each_kind_of_reply(text: bytes, reply: Reply) -> None:
    assert ReplyParser().feed(text) == [reply]


@pytest.mark.parametrize("text", ERRORS.values(), ids=ERRORS)
def test_an_error_is_a_reply(text: bytes) -> None:
    (error,) = ReplyParser().feed(text)
    assert isinstance(error, ReplyError)
    assert str(error) == "ERR what"


@given(st.lists(st.sampled_from(sorted(REPLIES))), st.data())
def test_replies_come_in_order_wherever_the_bytes_are_cut(names: list[str], data: st.DataObject) -> None:
    text = b"".join(REPLIES[name][0] for name in names)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=20)))
    parser, replies = ReplyParser(), []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        replies += parser.feed(text[start:end])
    assert replies == [REPLIES[name][1] for name in names]
    assert parser.problem is None


@given(st.binary(max_size=200))
def test_anything_else_is_a_problem_or_the_start_of_a_reply(text: bytes) -> None:
    ReplyParser().feed(text)


BROKEN = {
    "another protocol": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no reply starts so"),
    "a line without an end": (b"+" + b"x" * 65537, "a line has no end"),
    "half a line break": (b"+OK\rx", "a line ends in half a line break"),
    "no number": (b":\r\n", "a number is none"),
    "letters in a number": (b":1a\r\n", "a number is none"),
    "only a sign": (b":-\r\n", "a number is none"),
    "too many digits": (b":1234567890123456789\r\n", "a number is none"),
    "no double": (b",x\r\n", "a double is none"),
    "no boolean": (b"#x\r\n", "a boolean is none"),
    "negative length": (b"$-2\r\n", "a length is negative"),
    "negative count": (b"~-1\r\n", "a length is negative"),
    "too large a value": (b"$67108865\r\n", "a value of 67108865 bytes is too large"),
    "a value that goes on": (b"$1\r\nabc", "a value does not end where it should"),
    "too many items": (b"*65537\r\n", "a reply has too many items or levels"),
    "too many levels": (b"*1\r\n" * 9, "a reply has too many items or levels"),
    "a bad item": (b"*2\r\n:1\r\nx\r\n", "no reply starts so"),
}


@pytest.mark.parametrize(("text", "problem"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_the_protocol_is_told_after_what_came_before(text: bytes, problem: str) -> None:
    parser = ReplyParser()
    assert parser.feed(b"+OK\r\n" + text) == [b"OK"]
    assert parser.problem == problem
    assert parser.feed(b"+OK\r\n") == []


def test_the_limits_themselves_are_no_problem() -> None:
    for text in (b"$67108864\r\n", b"*65536\r\n", b"*1\r\n" * 8, b"+" + b"x" * 65536):
        parser = ReplyParser()
        assert parser.feed(text) == []
        assert parser.problem is None
