"""Names of connections for a message to exclude: unguessable, the same for a connection's life."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

try:
    from _sha1 import sha1  # type: ignore[import-not-found]  # hashlib takes 0.7 MB
except ImportError:
    from hashlib import sha1

if TYPE_CHECKING:
    from fastcable._hub import Subscriber


class SocketIds(Protocol):
    """What the hub asks for names."""

    def id_of(self, subscriber: Subscriber) -> str:
        """The name of a subscriber that is connected."""
        ...

    def find(self, socket: str) -> Subscriber | None:
        """Who has this name; None: nobody, or nobody any more."""
        ...

    def forget(self, subscriber: Subscriber) -> None:
        """A subscriber has disconnected; not said of each only once."""


class RandomSocketIds:
    """Names that are given when asked for, and remembered: for subscribers of any kind."""

    __slots__ = ("_names", "_subscribers")

    def __init__(self) -> None:
        self._names: dict[Subscriber, str] = {}
        self._subscribers: dict[str, Subscriber] = {}

    def __len__(self) -> int:
        return len(self._names)

    def id_of(self, subscriber: Subscriber) -> str:
        name = self._names.get(subscriber)
        if name is None:
            name = self._names[subscriber] = os.urandom(12).hex()
            self._subscribers[name] = subscriber
        return name

    def find(self, socket: str) -> Subscriber | None:
        return self._subscribers.get(socket)

    def forget(self, subscriber: Subscriber) -> None:
        name = self._names.pop(subscriber, None)
        if name is not None:
            del self._subscribers[name]


class SealedNumbers:
    """Numbers below 2**64 as text that tells nothing of them, and that nobody else can write.

    The text is the number's authenticator, and the number under a mask made from that, as in SIV (RFC 5297). SHA-1 with
    a secret in front is sound for both: all that is hashed is of one length, and of the hash only a part is shown.
    """

    __slots__ = ("_secrets",)

    def __init__(self) -> None:
        self._secrets = os.urandom(32), os.urandom(32)

    def seal(self, number: int) -> str:
        plain = number.to_bytes(8, "big")
        authenticator = sha1(self._secrets[0] + plain).digest()[:8]
        mask = int.from_bytes(sha1(self._secrets[1] + authenticator).digest()[:8], "big")
        return f"{authenticator.hex()}{number ^ mask:016x}"

    def open(self, text: str) -> int | None:
        """The number, if the text is one of ours."""
        if len(text) != 32:
            return None
        try:
            sealed = bytes.fromhex(text)
        except ValueError:
            return None
        mask = int.from_bytes(sha1(self._secrets[1] + sealed[:8]).digest()[:8], "big")
        number = int.from_bytes(sealed[8:], "big") ^ mask
        # Compared whole: capitals and white space are not ours. How long that takes tells nobody anything, because any
        # other number has quite another authenticator.
        return number if self.seal(number) == text else None
