"""Whose connections there are: those of a user, say, which the application may end by one command."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastcable._hub import Subscriber


class Sessions:
    """Subscribers by the identifier that their application gave them: a text that is compared, not read."""

    __slots__ = ("_identifiers", "_subscribers")

    def __init__(self) -> None:
        self._identifiers: dict[Subscriber, str] = {}
        self._subscribers: dict[str, set[Subscriber]] = {}

    def __len__(self) -> int:
        return len(self._identifiers)

    def add(self, identifier: str, subscriber: Subscriber) -> None:
        """Say whose a subscriber is, that is connected; instead of what was said before. The hub discards it again."""
        self.discard(subscriber)
        self._identifiers[subscriber] = identifier
        self._subscribers.setdefault(identifier, set()).add(subscriber)

    def discard(self, subscriber: Subscriber) -> None:
        """A subscriber has disconnected; not said of each only once."""
        identifier = self._identifiers.pop(subscriber, None)
        if identifier is not None:
            subscribers = self._subscribers[identifier]
            subscribers.discard(subscriber)
            if not subscribers:
                del self._subscribers[identifier]

    def identifiers(self) -> list[str]:
        """Those of which there are subscribers."""
        return list(self._subscribers)

    def disconnect(self, identifier: str, reconnect: bool) -> int:
        """Close all connections of this identifier, which are told whether to come back; how many there were."""
        reason = "closed remotely" if reconnect else "closed remotely for good"
        subscribers = list(self._subscribers.get(identifier, ()))  # a copy: closing discards
        for subscriber in subscribers:
            subscriber.close(1000, reason)
        return len(subscribers)
