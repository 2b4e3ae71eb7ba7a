"""Whether Redis can be used, and the one log line when that changes."""

from __future__ import annotations

import logging

logger = logging.getLogger("fastcable")


class Health:
    """Of several parts that must all be up; `problem` is what is the matter with one of them, or None."""

    __slots__ = ("_parts", "_said_lost")

    def __init__(self, *parts: str) -> None:
        self._parts: dict[str, str | None] = dict.fromkeys(parts, "not connected yet")
        self._said_lost = False

    @property
    def problem(self) -> str | None:
        return next((f"redis: {reason}" for reason in self._parts.values() if reason is not None), None)

    def down(self, part: str, reason: str) -> None:
        self._parts[part] = reason
        if not self._said_lost:
            self._said_lost = True
            logger.warning("redis: %s; trying again until it is there", reason)

    def up(self, part: str) -> None:
        self._parts[part] = None
        if self._said_lost and self.problem is None:
            self._said_lost = False
            logger.info("redis: connected again")
