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
    """The text of a JSON ping; with `timed_pings` it holds a %d, for the seconds since 1970."""

    timed_pings: bool
    """Whether it is sent every `actioncable_ping_interval`, and to blocked connections, too: clients rely on it. Else
    every `ping_interval`."""

    loses_silently: bool
    """Whether it has no `gap`: a subscriber that would lose messages is closed, whatever `slow_consumer` says."""

    def opened(self, subscriber: Subscriber) -> None:
        """The connection is open, nothing has been read yet."""

    def received(self, subscriber: Subscriber, text: bytes) -> None:
        """A whole message, valid UTF-8."""

    def confirmed(self, subscriber: Subscriber, stream: str, key: object) -> None:
        """A subscription is live, or was asked for again."""

    def gap(self, stream: str, key: object, missed: int | None) -> bytes:
        """The text that tells a subscriber that it missed messages of a stream; None: it is not known how many."""
        ...

    def farewell(self, code: int, reason: str) -> bytes | None:
        """The text sent before the close frame that has this code and reason; None: there is none."""

    def open_group(self, stream: str, key: object) -> Group: ...
