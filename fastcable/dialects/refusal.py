"""The dialect of those who are not let in: the connection is made, because a browser tells a page nothing of a refused
handshake, and closed with the reason."""

from __future__ import annotations

from fastcable._hub import Group, Subscriber
from fastcable.dialects import Dialect

POLICY_VIOLATION = 1008
UNAUTHORIZED = "unauthorized"
EXPIRED = "token expired"
"""The close code and the reasons where a token is missing, bad, or was good once."""


class Refusal:
    """Says goodbye in another dialect, and nothing else."""

    def __init__(self, dialect: Dialect, reason: str) -> None:
        self.ping = dialect.ping
        self.timed_pings = dialect.timed_pings
        self.loses_silently = dialect.loses_silently
        self.farewell = dialect.farewell
        self._reason = reason

    def opened(self, subscriber: Subscriber) -> None:
        subscriber.close(POLICY_VIOLATION, self._reason)

    def received(self, subscriber: Subscriber, text: bytes) -> None:
        """No command is carried out."""

    def confirmed(self, subscriber: Subscriber, stream: str, key: object) -> None:
        raise NotImplementedError("who was not let in has no subscription")

    def gap(self, stream: str, key: object, missed: int | None) -> bytes:
        raise NotImplementedError("who was not let in has no subscription")

    def open_group(self, stream: str, key: object) -> Group:
        raise NotImplementedError("who was not let in has no subscription")
