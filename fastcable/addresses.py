"""Where clients are, and how many connections each of these addresses has.

An address is that of the TCP connection; where that is a trusted proxy's, what the proxy says in X-Forwarded-For: of
that list each proxy adds to the right whom it was called by, so the rightmost that is not a trusted proxy itself is the
client. What stands left of it anybody can have written, and is not looked at. Where the list holds what is no address,
the one who sent that counts.

An IPv6 client has a whole network, so its first 64 bits count.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence

from fastcable._request import Request
from fastcable.log import Throttle

UNIX = b""
"""The address of all peers of a Unix socket."""
_MAPPED = bytes(10) + b"\xff\xff"


def packed(text: str) -> bytes | None:
    """4 or 16 bytes; None: it is no address. An IPv4 address that is mapped into IPv6 is an IPv4 address."""
    try:
        if ":" not in text:
            return socket.inet_pton(socket.AF_INET, text)
        address = socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    except (OSError, ValueError):
        return None
    return address.removeprefix(_MAPPED)


def forwarded(entry: bytes) -> bytes | None:
    """An entry of X-Forwarded-For, which some proxies write with a port."""
    text = entry.strip(b" \t").decode("latin-1")
    if text.startswith("["):
        text, bracket, _ = text[1:].partition("]")
        return packed(text) if bracket and ":" in text else None
    if text.count(":") == 1:
        text = text.partition(":")[0]
    return packed(text)


def shown(key: bytes) -> str:
    """As people write what was counted."""
    if len(key) == 8:
        return socket.inet_ntop(socket.AF_INET6, key + bytes(8)) + "/64"
    return socket.inet_ntop(socket.AF_INET, key) if key else "unix"


class Networks:
    """Those of `trusted_proxies`."""

    def __init__(self, texts: Sequence[str]) -> None:
        from ipaddress import ip_network

        self._unix = "unix" in texts
        self._networks = []
        for text in texts:
            if text != "unix":
                network = ip_network(text)
                shift = network.max_prefixlen - network.prefixlen
                size = network.max_prefixlen // 8
                self._networks.append((size, shift, int(network.network_address) >> shift))

    def __contains__(self, address: bytes) -> bool:
        if address == UNIX:
            return self._unix
        number = int.from_bytes(address, "big")
        return any(len(address) == size and number >> shift == start for size, shift, start in self._networks)


class PerAddress:
    """At most `limit` connections for each address."""

    def __init__(self, limit: int, trusted: Sequence[str]) -> None:
        self.limit = limit
        self._trusted = Networks(trusted) if trusted else None
        self.counts: dict[bytes, int] = {}
        self._places: dict[object, bytes] = {}
        self._refused = Throttle()

    def key(self, transport: asyncio.BaseTransport, request: Request) -> bytes:
        """What counts as the address of this client."""
        address = _peer(transport)
        if self._trusted is not None and address in self._trusted:
            for entry in reversed(b",".join(request.values(b"x-forwarded-for")).split(b",")):
                before = forwarded(entry)
                if before is None:
                    break
                address = before
                if address not in self._trusted:
                    break
        return address[:8] if len(address) == 16 else address

    def is_full(self, key: bytes) -> bool:
        if self.counts.get(key, 0) < self.limit:
            return False
        self._refused.log(
            logging.INFO, "%s has max_connections_per_address (%d) already: refused (if it is a proxy, see "
            "trusted_proxies)", shown(key), self.limit)
        return True

    def opened(self, connection: object, key: bytes) -> None:
        self._places[connection] = key
        self.counts[key] = self.counts.get(key, 0) + 1

    def left(self, connection: object) -> None:
        key = self._places.pop(connection, None)
        if key is None:
            return
        self.counts[key] -= 1
        if not self.counts[key]:
            del self.counts[key]


def _peer(transport: asyncio.BaseTransport) -> bytes:
    name = transport.get_extra_info("peername")
    return (packed(name[0]) if isinstance(name, tuple) and name else None) or UNIX
