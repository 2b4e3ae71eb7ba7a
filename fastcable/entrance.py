"""Whom the process lets in, beyond max_connections: by its memory, by the client's address, and by the handshakes of
this second. In this order, so that nobody whom another limit refuses takes a handshake from the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastcable._request import Request
from fastcable.response import Response, error

if TYPE_CHECKING:
    from fastcable.addresses import PerAddress
    from fastcable.memory import MemoryWatch

_MEMORY = error(503, "no more connections are taken: memory is short", b"Retry-After: 5\r\n", close=True)
_ADDRESS = error(429, "this address has max_connections_per_address already", b"Retry-After: 5\r\n", close=True)
_RATE = error(503, "more than max_handshakes_per_second", b"Retry-After: 1\r\n", close=True)


class Bucket:
    """`rate` tokens come in each second, and it holds as many."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._tokens = float(rate)
        self._looked = clock()

    def take(self) -> bool:
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._looked) * self._rate, self._rate)
        self._looked = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Entrance:
    """What the limits that are on say to a handshake; None: off."""

    def __init__(self, memory: MemoryWatch | None, addresses: PerAddress | None, handshakes: Bucket | None) -> None:
        self._memory = memory
        self._addresses = addresses
        self._handshakes = handshakes

    def refusal(self, transport: asyncio.BaseTransport, request: Request) -> Response | None:
        """None: it may come in."""
        if self._memory is not None and self._memory.problem is not None:
            return _MEMORY
        if self._addresses is not None and self._addresses.is_full(self._addresses.key(transport, request)):
            return _ADDRESS
        if self._handshakes is not None and not self._handshakes.take():
            return _RATE
        return None
