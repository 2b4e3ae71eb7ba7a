"""What a stream may be called."""

from __future__ import annotations

import re

MAX_STREAM_NAME = 255  # bytes of UTF-8, as in Centrifugo (soketi: 100)

_CONTROL = re.compile("[\0-\x1f\x7f]")


def stream_name_error(name: object) -> str | None:
    """What is wrong with a decoded JSON value as the name of a stream, to be put behind the field's name; or None."""
    if type(name) is not str:
        return "must be a string"
    if not name:
        return "must not be empty"
    # An ASCII name, the usual case, has as many bytes as characters and its printable ones are the allowed ones.
    if name.isascii() and name.isprintable() and len(name) <= MAX_STREAM_NAME:
        return None
    if _CONTROL.search(name):
        return "must not contain control characters"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "must not contain lone surrogates"
    return f"must be at most {MAX_STREAM_NAME} bytes of UTF-8" if size > MAX_STREAM_NAME else None
