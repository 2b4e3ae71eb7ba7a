"""Who may connect where `auth` is jwt, and until when."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Protocol

from fastcable.dialects.refusal import EXPIRED, UNAUTHORIZED
from fastcable.log import Throttle
from fastcable.settings import Settings
from fastcable.token_places import find_token
from fastcable.tokens import BadToken, Claims, TokenVerifier

_REASONS = {"expired": EXPIRED, "invalid": UNAUTHORIZED}


class Admission:
    """Verifies the token of a handshake. Raises `SettingsError` for keys that are none."""

    def __init__(self, settings: Settings) -> None:
        self._verifier = TokenVerifier.configured(settings)
        self._cookie = settings.jwt_cookie
        self._refused = Throttle()

    def decide(self, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Claims | str:
        """What the request's token claims, or the reason with which to close the connection. The log says more, and
        nothing of the token."""
        try:
            token = find_token(target, headers, self._cookie)
            if token is None:
                raise BadToken("there is none")
            return self._verifier.verify(token)
        except BadToken as problem:
            self._refused.log(logging.INFO, "a client's token was refused: %s", problem)
            return _REASONS[problem.reason]


class Holder(Protocol):
    """A connection that was let in by a token."""

    @property
    def claims(self) -> Claims: ...


class Expiries:
    """Connections by the second in which their tokens expire, by the system's clock: for hundreds of thousands there
    are only as many entries to keep in order as there are such seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._due: dict[int, dict[Holder, None]] = {}
        self._order: list[int] = []  # a heap of the seconds; those whose connections have all gone stay for a while

    def __len__(self) -> int:
        return sum(map(len, self._due.values()))

    def add(self, holder: Holder) -> None:
        if holder.claims.expires is None:
            return
        second = math.ceil(holder.claims.expires)
        if second in self._due:
            self._due[second][holder] = None
            return
        self._due[second] = {holder: None}
        heappush(self._order, second)

    def discard(self, holder: Holder) -> None:
        if holder.claims.expires is None:
            return
        second = math.ceil(holder.claims.expires)
        due = self._due.get(second)
        if due is None or due.pop(holder, self) is self:
            return
        if not due:
            del self._due[second]
            if len(self._order) > 2 * len(self._due) + 64:
                self._order = list(self._due)
                heapify(self._order)

    def expired(self, now: float) -> list[Holder]:
        """Take out those whose token has expired; `now`, by the monotonic clock, says nothing about that."""
        seconds = self.clock()
        passed: list[Holder] = []
        while self._order and self._order[0] <= seconds:
            passed += self._due.pop(heappop(self._order), ())
        return passed
