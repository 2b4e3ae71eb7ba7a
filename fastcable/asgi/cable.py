"""What all connections of one middleware share: the hub, the dialects, and whose turn it is."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from fastcable._endpoints import Endpoints
from fastcable._hub import Hub
from fastcable._outbox import Limits
from fastcable._texts import TextGroup
from fastcable.brokers.memory import MemoryBroker
from fastcable.configuration import FIXED_PATHS
from fastcable.dialects.configured import configured
from fastcable.origins import AllowedOrigins
from fastcable.retained import Retained
from fastcable.settings import Settings


class Cable:
    """The hub belongs to no event loop, because there may be none yet, or several (each of a test client's requests
    may bring its own), and because a synchronous view publishes from a thread. So whatever concerns the hub is done in
    `with cable:`, by one thread at a time, and what was posted is delivered at the end of it. Nothing waits in there.
    """

    def __init__(self, settings: Settings) -> None:
        # Settings
        self.settings = settings
        self.limits = Limits(settings)
        self.strict_limits = Limits(settings, "close")
        # Rooms
        self._turns: deque[Callable[[], None]] = deque()
        retained = Retained(settings.max_retained_bytes, settings.retain_seconds, time.monotonic)
        self.hub = Hub(self._turns.append, settings.max_subscriptions, retained)
        self.hub.broker = MemoryBroker(self.hub)
        self.endpoints = Endpoints(settings, self.hub, cable=True, broadcast=True, demo=False)
        self.path = settings.cable_path.encode()
        # Whether the application is well is its own to say.
        own = (settings.cable_path, settings.broadcast_path, *FIXED_PATHS)
        self.paths = frozenset(path.encode() for path in own if path != "/health")
        self.allowed_origins = AllowedOrigins(settings.allowed_origins) if settings.allowed_origins else None
        self.dialects = configured(settings, self.hub, TextGroup)
        self.admission = None
        if settings.auth == "jwt":
            from fastcable.admission import Admission

            self.admission = Admission(settings)
        # State
        self._connections = 0
        self._lock = threading.Lock()

    def enter(self) -> bool:
        """Count one more connection, unless there are `max_connections`."""
        with self:
            if 0 < (self.settings.max_connections or 0) <= self._connections:
                return False
            self._connections += 1
            return True

    def leave(self) -> None:
        with self:
            self._connections -= 1

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        try:
            while self._turns:
                self._turns.popleft()()
        finally:
            self._lock.release()
