"""The wire protocols: one file for each, from the bytes of a command to calls on the hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fastcable._hub import Group, Subscriber

Encoding = Callable[[bytes, bytes], Group]
"""Opens a group whose subscribers get each message between these two byte strings, the envelope."""


class Dialect(Protocol):
    """What a subscriber's transport and the hub call; one object serves all its subscribers.

    `key` names the envelope: subscribers of a stream who have the same key get the same bytes.
    """

    ping: bytes
    """The text sent to each subscriber every `ping_interval`."""

    def opened(self, subscriber: Subscriber) -> None:
        """The connection is open, nothing has been read yet."""

    def received(self, subscriber: Subscriber, text: bytes) -> None:
        """A whole message, valid UTF-8."""

    def confirmed(self, subscriber: Subscriber, stream: str, key: object) -> None:
        """A subscription is live, or was asked for again."""

    def gap(self, stream: str, key: object, missed: int) -> bytes:
        """The text that tells a subscriber that it missed messages of a stream."""
        ...

    def open_group(self, stream: str, key: object) -> Group: ...
