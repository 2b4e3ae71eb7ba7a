"""The form in which a message crosses a broker, the same for all of them: versioned JSON.

`{"v":1,"retain":true,"exclude":"…","embedded":true,"data":D}`. Members with their usual value (false, none) are left
out, and those that nobody here knows are ignored: servers of two versions run side by side while one replaces the
other, so members are only ever added, and a later `v` is read, too. The bytes of `data` stay as they were posted.
"""

from __future__ import annotations

from typing import NamedTuple

import orjson

from fastcable._json import member_spans

PLAIN = b'{"v":1,"data":'
"""What stands before the data of a message without options; behind any message's data there is one brace."""


class Message(NamedTuple):
    """A message to the subscribers of a stream; the options are those of `Hub.publish`."""

    data: bytes
    retain: bool = False
    exclude: str | None = None
    embedded: bool = False


def head(retain: bool, exclude: str | None, embedded: bool) -> bytes:
    """What stands before the data of a message with these options."""
    if not (retain or embedded) and exclude is None:
        return PLAIN
    options: dict[str, object] = {"v": 1}
    if retain:
        options["retain"] = True
    if exclude is not None:
        options["exclude"] = exclude
    if embedded:
        options["embedded"] = True
    return orjson.dumps(options)[:-1] + b',"data":'


def encode(data: bytes, retain: bool = False, exclude: str | None = None, embedded: bool = False) -> bytes:
    """The text of a message; `data` are the bytes of one JSON value, valid and without white space around it."""
    return b"%b%b}" % (head(retain, exclude, embedded), data)


def decode(text: bytes) -> Message:
    """A message from its text, which anybody may have written; ValueError says in one line why it is none."""
    if text.startswith(PLAIN):
        data = text[len(PLAIN) : -1]
        if _is_value(data) and text.endswith(b"}"):
            return Message(data)
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"a message is not JSON: {error}") from None
    if type(message) is not dict:
        raise ValueError("a message must be an object")
    if "data" not in message:
        raise ValueError("a message has no data")
    options = _options(message)
    if options.embedded and type(message["data"]) is not str:
        raise ValueError("data of an embedded message must be a string")
    return options._replace(data=member_spans(text, b"data")[0])


def decode_at(text: bytes, at: int) -> Message:
    """As `decode`, for a text that a process of this server encoded and whose data is known to start there."""
    data = text[at:-1]
    if at == len(PLAIN):
        return Message(data)
    return _options(orjson.loads(text[:at] + b"null}"))._replace(data=data)


def _is_value(data: bytes) -> bool:
    """Whether this is one JSON value without white space around it."""
    if data[:1].isspace() or data[-1:].isspace():
        return False
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def _options(message: dict[str, object]) -> Message:
    """The options of a message, without its data; ValueError for what they must not be."""
    version = message.get("v")
    if type(version) is not int or version < 1:
        raise ValueError("v of a message must be a version: 1 or above")
    retain, embedded = _flag(message, "retain"), _flag(message, "embedded")
    if retain and embedded:
        raise ValueError("an embedded message cannot be retained")
    exclude = message.get("exclude")
    if exclude is not None and type(exclude) is not str:
        raise ValueError("exclude of a message must be a string")
    return Message(b"", retain, exclude, embedded)


def _flag(message: dict[str, object], name: str) -> bool:
    value = message.get(name, False)
    if type(value) is not bool:
        raise ValueError(f"{name} of a message must be true or false")
    return value
