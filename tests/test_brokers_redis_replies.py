"""Replies of Redis out of bytes, however they come, and what breaks the protocol."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastcable.brokers import redis_replies
from fastcable.brokers.redis_replies import Replies, Reply, ReplyError

REPLIES: dict[str, tuple[bytes, Reply]] = {
    "simple string": (b"+OK\r\n", b"OK"),
    "integer": (b":-3\r\n", -3),
    "false": (b"#f\r\n", False),
    "null": (b"_\r\n", None),
    "string": (b"$7\r\na\r\nb\0\xffc\r\n", b"a\r\nb\0\xffc"),
    "null string": (b"$-1\r\n", None),
    "array": (b"*3\r\n:1\r\n$1\r\na\r\n*1\r\n_\r\n", [1, b"a", [None]]),
    "empty array": (b"*0\r\n", []),
    "map": (b"%1\r\n+a\r\n:1\r\n", {b"a": 1}),
    "push": (b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nd\r\n", (b"message", b"c", b"d")),
    "empty push": (b">0\r\n", ()),
}


@given(st.lists(st.sampled_from(sorted(REPLIES))), st.data())
def test_replies_come_in_order_wherever_the_bytes_are_cut(names: list[str], data: st.DataObject) -> None:
    text = b"".join(REPLIES[name][0] for name in names)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=20)))
    parser, replies = Replies(), []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        replies += parser.feed(text[start:end])
    assert [(type(reply), reply) for reply in replies] == [(type(REPLIES[name][1]), REPLIES[name][1]) for name in names]
    assert parser.problem is None


def test_an_error_is_a_reply() -> None:
    error, other = Replies().feed(b"-ERR what \xff\r\n+OK\r\n")
    assert isinstance(error, ReplyError)
    assert str(error).startswith("ERR what ")
    assert other == b"OK"


@given(st.binary(max_size=200))
def test_anything_else_is_a_problem_or_the_start_of_a_reply(text: bytes) -> None:
    Replies().feed(text)


BROKEN = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "half a line break": b"+OK\rx\r\n",
    "no number": b":1a\r\n",
    "too many items": b"*99999999999\r\n",
    "a map of maps": b"%1\r\n%0\r\n:1\r\n",
    "a bad item": b"*2\r\n:1\r\nx\r\n",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_what_breaks_the_protocol_is_told_after_what_came_before(text: bytes) -> None:
    parser = Replies()
    assert parser.feed(b"+OK\r\n" + text) == [b"OK"]
    assert parser.problem
    assert "\n" not in parser.problem
    assert parser.feed(b"+OK\r\n") == []


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_what_is_not_there_whole_has_a_limit(monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    monkeypatch.setattr(redis_replies, "MOST_BYTES", 1 << 20)
    parser = Replies()
    assert parser.feed(b"$9000000\r\n".ljust((1 << 20) + more, b"x")) == []
    assert parser.problem == ("a reply has more than 1 MiB" if more > 0 else None)


def test_what_is_there_whole_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_replies, "MOST_BYTES", 1 << 20)
    assert Replies().feed(b"$3000000\r\n" + b"x" * 3_000_000 + b"\r\n") == [b"x" * 3_000_000]
