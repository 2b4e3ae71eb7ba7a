"""Messages as the broadcast endpoint takes them."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from fastcable.client.errors import BadData, BadStream
from fastcable.log import escape
from fastcable.stream_name import stream_name_error


def message(stream: str, data: object, retain: bool = False, exclude: str | None = None) -> bytes:
    """One message. `retain` and `exclude` are only there when they are given.

    `data` is whatever orjson can write: besides JSON's own types dataclasses, enums, dates and times (RFC 3339),
    UUIDs, and as keys of a dict all of these, too. NaN and infinities become null, as JSON has none.
    `orjson.Fragment` is JSON already and goes as it is.
    """
    problem = stream_name_error(stream)
    if problem is not None:
        raise BadStream(f"stream {problem}, got '{escape(str(stream))}'")
    members: dict[str, object] = {"stream": stream, "data": data}
    if retain:
        members["retain"] = True
    if exclude:
        members["exclude"] = exclude
    try:
        return orjson.dumps(members, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError as error:
        raise BadData(f"stream '{escape(stream)}': its data cannot be written as JSON: {error}") from error


def batch(messages: Iterable[tuple[str, object]], retain: bool = False, exclude: str | None = None) -> bytes:
    """All messages as one body; nothing for none."""
    encoded = [message(stream, data, retain, exclude) for stream, data in messages]
    if len(encoded) > 1:
        return b"[" + b",".join(encoded) + b"]"
    return encoded[0] if encoded else b""
