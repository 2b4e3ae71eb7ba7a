"""Connections that wait for the next request."""

from __future__ import annotations

from collections import deque

from fastcable.client.connection import Connection

MAX_KEPT = 32


class Kept:
    """The last one back is the first one out. For any number of threads: there is no lock, which a fork could leave
    locked for ever in the child, since taking from a deque and adding to it are atomic."""

    def __init__(self) -> None:
        self._connections: deque[Connection] = deque()

    def take(self) -> Connection | None:
        """A connection that may be used, as far as can be seen; those that may not are closed."""
        while (connection := self._take()) is not None:
            if connection.ours and connection.fresh and connection.silent:
                return connection
            connection.close()
        return None

    def _take(self) -> Connection | None:
        try:
            return self._connections.pop()
        except IndexError:
            return None

    def add(self, connection: Connection) -> None:
        connection.rest()
        if connection.ours and len(self._connections) < MAX_KEPT:
            self._connections.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        while (connection := self._take()) is not None:
            connection.close()

    __del__ = close  # a publisher need not be closed at the end of a program
