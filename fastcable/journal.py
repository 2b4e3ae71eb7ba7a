"""What the log says of each connection at its end, with `log_level = debug`."""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

from fastcable.log import escape

if TYPE_CHECKING:
    from fastcable._connection import Connection

logger = logging.getLogger("fastcable")


class Journal:
    """Remembers when connections were opened and how they ended, until they are gone. Who does not log that has none,
    because it takes some 300 bytes for each connection."""

    def __init__(self) -> None:
        self._entries: dict[Connection, tuple[float, str, str]] = {}  # opened at; by whom; how it ended

    def opened(self, connection: Connection) -> None:
        assert connection.transport is not None
        self._entries[connection] = (monotonic(), _peer(connection.transport.get_extra_info("peername")), "cut off")

    def ended(self, connection: Connection, by: str, code: int) -> None:
        """By the `server`, the `client` or, without a close frame, `none`."""
        if by != "none":
            began, peer, _ = self._entries[connection]
            self._entries[connection] = (began, peer, f"closed by the {by} with {code}")

    def lost(self, connection: Connection) -> None:
        began, peer, end = self._entries.pop(connection)
        logger.debug("connection of %s: %s after %.1f s", peer, end, monotonic() - began)


def _peer(name: object) -> str:
    if isinstance(name, tuple):
        return escape(f"{name[0]}:{name[1]}")
    return "a Unix socket"
