"""Which pages may connect: the `Origin` header (RFC 6454) against a list."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_ORIGIN = re.compile(rb"([a-z][a-z0-9+.-]*)://((?:\*\.)?[a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {b"http": 80, b"https": 443, b"ws": 80, b"wss": 443}


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
