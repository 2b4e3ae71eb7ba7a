"""The negotiation of permessage-deflate (RFC 6455 §9.1, RFC 7692 §7.1), pure.

There are no contexts: neither side may refer to an earlier message, so that a server needs no compressor for each
connection, and can send the same bytes to many. It takes the first offer that allows for this.

Hostile values cost linear time: a header is gone through once, by an expression that finds each of its characters in
one place only, and nothing that a client sent is repeated.
"""

from __future__ import annotations

import re

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
# A token, and its value if it has one, up to what ends it. Possessive: nothing is tried twice.
_PART = re.compile(
    rb"[ \t]*+(?P<name>%b)[ \t]*+(?:=[ \t]*+(?P<value>%b|\"(?:[^\"\\]|\\.)*+\")[ \t]*+)?(?P<end>[;,]|\Z)"
    % (_TOKEN, _TOKEN), re.DOTALL)
_EMPTY = re.compile(rb"(?:[ \t]*+,)*+[ \t]*+")
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_BITS = {b"%d" % bits: bits for bits in range(8, 16)}

_Parameters = list[tuple[bytes, bytes | None]]


def negotiate(header: bytes, window_bits: int) -> bytes | None:
    """What to answer to a `Sec-WebSocket-Extensions` header: the parameters agreed on, for a compressor with a window
    of 2 ** `window_bits` bytes. None: no offer can be accepted, or the header is malformed."""
    for name, parameters in _offers(header):
        if name == b"permessage-deflate":
            answer = _accept(parameters, window_bits)
            if answer is not None:
                return answer
    return None


def _accept(parameters: _Parameters, window_bits: int) -> bytes | None:
    answer = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    seen = set()
    for name, value in parameters:
        if name in seen:
            return None
        seen.add(name)
        if name in (b"server_no_context_takeover", b"client_no_context_takeover"):
            if value is not None:
                return None
        elif name == b"server_max_window_bits":
            if value is None or _BITS.get(value, 0) < window_bits:
                return None
            answer += b"; server_max_window_bits=%d" % window_bits
        elif name != b"client_max_window_bits" or (value is not None and value not in _BITS):
            return None
    return answer


def _offers(header: bytes) -> list[tuple[bytes, _Parameters]]:
    """Each extension with its parameters, in the order of preference; none if the header is malformed."""
    offers: list[tuple[bytes, _Parameters]] = []
    at = _EMPTY.match(header).end()  # type: ignore[union-attr]
    first = True
    while at < len(header) or not first:
        part = _PART.match(header, at)
        if part is None:
            return []
        name, value, end = part["name"], part["value"], part["end"]
        at = part.end()
        if first:
            if value is not None:
                return []
            offers.append((name, []))
        else:
            offers[-1][1].append((name, _unquoted(value)))
        first = end != b";"
        if first:
            at = _EMPTY.match(header, at).end()  # type: ignore[union-attr]
    return offers


def _unquoted(value: bytes | None) -> bytes | None:
    if value is None or not value.startswith(b'"'):
        return value
    return _ESCAPED.sub(rb"\1", value[1:-1])
