"""The opening handshake (RFC 6455 §4), pure: a request's head in, the 101 or a refusal out.

Hostile values cost linear time: they are only ever split at commas or compared whole, and nothing that a client sent
is echoed. Extensions are not negotiated.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Iterable
from typing import NamedTuple

try:
    from _sha1 import sha1  # type: ignore[import-not-found]  # hashlib takes 0.7 MB
except ImportError:
    from hashlib import sha1

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")  # 16 bytes in base64: the last digit holds two bits
_ORIGIN = re.compile(rb"([a-z][a-z0-9+.-]*)://((?:\*\.)?[a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {b"http": 80, b"https": 443, b"ws": 80, b"wss": 443}
_UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"


class Accept(NamedTuple):
    """The 101 to send, and the dialect spoken afterwards."""

    response: bytes
    dialect: str


class Refusal(NamedTuple):
    """The status to answer with before closing, header lines (each with its CRLF), and one line of explanation."""

    status: int
    headers: bytes
    message: str


class Origin(NamedTuple):
    """The parts of an `Origin` (RFC 6454 §6.2), in lower case."""

    scheme: bytes
    host: bytes
    port: int | None
    """None for a scheme without a well-known port where none is given."""


def parse_origin(value: bytes) -> Origin | None:
    """None for what does not name a host, such as `null` and `file://`."""
    match = _ORIGIN.fullmatch(value.lower())
    if match is None:
        return None
    scheme, host, port = match.groups()
    return Origin(scheme, host, int(port) if port else _DEFAULT_PORTS.get(scheme))


class AllowedOrigins:
    """The pages that may connect: exact origins, and `https://*.example.com` for any subdomain (not the domain itself).

    Raises ValueError for an entry of another form.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._exact = set()
        self._subdomains = []
        for text in allowed:
            origin = parse_origin(text.encode())
            if origin is None:
                raise ValueError(f"allowed_origins: expected SCHEME://HOST[:PORT], got {text!r}")
            if origin.host.startswith(b"*."):
                self._subdomains.append(origin._replace(host=origin.host[1:]))
            else:
                self._exact.add(origin)

    def __contains__(self, value: bytes) -> bool:
        """Whether an Origin header's value is allowed."""
        origin = parse_origin(value)
        if origin is None or b"*" in origin.host:
            return False
        return origin in self._exact or any(
            origin.scheme == scheme and origin.port == port and origin.host.endswith(domain) and origin.host != domain
            for scheme, domain, port in self._subdomains
        )


def negotiate(offers: list[bytes]) -> tuple[str, bytes | None]:
    """The dialect to speak for the subprotocols a client offers, and the one of ours to name in the answer."""
    return "simple", None


def handshake(
    method: bytes, version: str, headers: list[tuple[bytes, bytes]], allowed_origins: AllowedOrigins | None
) -> Accept | Refusal:
    """Decide on a request for the cable path. Header names are lower case; `allowed_origins` None lets all connect."""
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        fields.setdefault(name, []).append(value)

    if method != b"GET":
        return Refusal(405, b"Allow: GET\r\n", "the cable path takes WebSocket clients: GET only")
    if b"transfer-encoding" in fields or any(length.strip(b"0") for length in fields.get(b"content-length", ())):
        return Refusal(400, b"", "a WebSocket handshake has no body")
    if b"websocket" not in _tokens(fields.get(b"upgrade")) or b"upgrade" not in _tokens(fields.get(b"connection")):
        return Refusal(426, _UPGRADE, "this is a WebSocket endpoint: the request has no Connection: Upgrade with "
                                      "Upgrade: websocket (does a proxy remove them?)")
    if version != "1.1":
        return Refusal(400, b"", "a WebSocket handshake needs HTTP/1.1")
    if len(fields.get(b"host", ())) != 1:
        return Refusal(400, b"", "a WebSocket handshake needs exactly one Host header")
    if fields.get(b"sec-websocket-version") != [b"13"]:
        return Refusal(426, _UPGRADE + b"Sec-WebSocket-Version: 13\r\n", "Sec-WebSocket-Version must be 13")
    keys = fields.get(b"sec-websocket-key", [])
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        return Refusal(400, b"", "exactly one Sec-WebSocket-Key with 16 bytes in base64 is needed")
    origins = fields.get(b"origin", [])
    if allowed_origins is not None and origins and (len(origins) > 1 or origins[0] not in allowed_origins):
        return Refusal(403, b"", "this Origin is not in allowed_origins")

    dialect, protocol = negotiate(fields.get(b"sec-websocket-protocol", []))
    return Accept(
        b"HTTP/1.1 101 Switching Protocols\r\n%bSec-WebSocket-Accept: %b\r\n%b\r\n"
        % (_UPGRADE, accept_key(keys[0]), b"Sec-WebSocket-Protocol: %b\r\n" % protocol if protocol else b""),
        dialect,
    )


def accept_key(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 §4.2.2)."""
    digest: bytes = sha1(key + _GUID).digest()
    return b2a_base64(digest, newline=False)


def _tokens(values: list[bytes] | None) -> list[bytes]:
    """The members, in lower case, of a comma-separated list that may stand on several lines (RFC 9110 §5.6.1)."""
    return [token.strip(b" \t") for token in b",".join(values).lower().split(b",")] if values else []
