"""Where Redis is, and how a connection to it is opened: what the `redis` package is for.

It knows the URLs with all their options, TLS, and the handshake (HELLO, AUTH, SELECT). Of the connection that it opens
only the transport is used then: its own reading costs a task, a timer and dozens of microseconds for each message.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from fastcable.log import escape
from fastcable.settings import SettingsError

CONNECT_SECONDS = 3.0
"""Time to connect, and for each answer of the handshake."""


class CannotOpen(Exception):
    """Why there is no connection, in one line without secrets."""


class Opened:
    """An open connection: its transport, and what has to be closed in the end."""

    __slots__ = ("_connection", "transport")

    def __init__(self, connection: Any, transport: asyncio.Transport) -> None:
        self._connection = connection
        self.transport = transport

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)


class Endpoint:
    """One Redis, by its URL (`redis.asyncio.from_url` has the forms). Raises `SettingsError`."""

    def __init__(self, url: str) -> None:
        try:
            import hiredis  # noqa: F401
            from redis.asyncio.connection import Connection, parse_url
            from redis.exceptions import RedisError
        except ImportError:
            raise SettingsError("broker: redis:// needs the redis package: pip install 'fastcable[redis]'") from None
        self._secrets: list[str] = []
        try:
            options: dict[str, Any] = dict(parse_url(url))
            self._secrets = [str(options[name]) for name in ("password", "ssl_password") if options.get(name)]
            self._class = options.pop("connection_class", Connection)
            for name in ("max_connections", "timeout"):  # of pools
                options.pop(name, None)
            # RESP3, so that a connection that subscribes can also ask; no chatter, and no retries but ours.
            self._options = options | {
                "protocol": 3, "driver_info": None, "health_check_interval": 0, "retry_on_timeout": False,
                "socket_timeout": CONNECT_SECONDS, "socket_connect_timeout": CONNECT_SECONDS}
            self._class(**self._options)
        except (ValueError, TypeError, RedisError) as error:
            problem = self.line(error)
            if problem.startswith("Port "):  # and then comes what may be half of a password
                problem = "bad port, or a password in which / ? or # is not percent-encoded"
            if "unexpected keyword" in problem:
                problem = f"unknown option in the URL: {problem.rpartition(' ')[2]}"
            raise SettingsError(f"broker: {problem}") from None
        self.name: str = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"

    async def open(self) -> Opened:
        """Connect, and log in. Raises `CannotOpen`."""
        connection = self._class(**self._options)
        try:
            await connection.connect()
            return Opened(connection, connection._writer.transport)
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if not isinstance(error, Exception):
                raise
            raise CannotOpen(f"{self.name}: {self._reason(error)}") from None

    def _reason(self, error: BaseException) -> str:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno and type(cause).__module__ == "builtins":
                return os.strerror(cause.errno).lower()
            cause = cause.__cause__ or cause.__context__
        text = self.line(error)
        if "HELLO" in text and "unknown command" in text:
            return "too old: Redis 6 or later is needed"
        return text

    def line(self, problem: object) -> str:
        """What the other end or the package said, fit for the log: Redis repeats what it does not understand, and that
        may have been the password."""
        text = str(problem)
        for secret in self._secrets:
            text = text.replace(secret, "****")
        return escape(text)
