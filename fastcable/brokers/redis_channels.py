"""What things are called in Redis."""

from __future__ import annotations

import re

ANYCABLE = b"__anycable__"
"""Where AnyCable's `redis` broadcast adapter publishes."""

# What acts in a pattern of Redis (as of PSUBSCRIBE, of KEYS, or of an ACL), and what the encoding is made of.
_ENCODED = {ord(character): f"%{ord(character):02X}" for character in "%*?[]^\\"}


class Channels:
    """The names of one installation. `prefix` is the `channel_prefix` of Rails' cable.yml, in front of all of them but
    AnyCable's, so that several installations can share a Redis; it may be empty."""

    __slots__ = ("_own", "_rails", "control", "rails_disconnects", "rails_disconnects_pattern")

    def __init__(self, prefix: str = "") -> None:
        self._rails = f"{prefix}:" if prefix else ""
        self._own = self._rails + "fastcable:"
        self.control = f"{self._rails}fastcable!control".encode()
        """Commands to all servers."""
        self.rails_disconnects = f"{self._rails}action_cable/".encode()
        """Rails' remote disconnects: this and the identifier of a connection."""
        self.rails_disconnects_pattern = _escaped(self.rails_disconnects) + b"*"

    def stream(self, name: str) -> bytes:
        """The channel of the messages of a stream."""
        return (self._own + name.translate(_ENCODED)).encode()

    def retained(self, name: str) -> bytes:
        """The key of the retained value of a stream."""
        return f"{self._own}retained:{name.translate(_ENCODED)}".encode()

    def rails(self, name: str) -> bytes | None:
        """The channel that Rails' `redis` adapter broadcasts to a stream on. None for one that carries something else,
        which clients who may choose a stream must not get to read: our own, Rails' own, and those of Redis and
        AnyCable."""
        channel = self._rails + name
        own = self._own[:-1]
        if channel.startswith(("__", "_action_cable_internal", f"{self._rails}action_cable/", f"{own}:", f"{own}!")):
            return None
        return channel.encode()


def _escaped(text: bytes) -> bytes:
    """A pattern that only this text matches."""
    return re.sub(rb"[*?\[\]^\\]", rb"\\\g<0>", text)
