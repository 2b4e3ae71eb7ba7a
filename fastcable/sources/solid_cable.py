"""What Solid Cable, Rails 8's default, keeps in its table (rails/solid_cable, app/models/solid_cable/message.rb)."""

from __future__ import annotations

import hashlib

TABLE = "solid_cable_messages"
"""id, channel (bytes), payload (bytes of JSON), channel_hash; and created_at, which nobody reads here."""

CHECK = f"SELECT id, channel, payload, channel_hash FROM {TABLE} LIMIT 0"
"""Fails where the table is not there, is another, or may not be read."""


def channel_name(prefix: str | None, stream: str) -> bytes:
    """A stream's channel, before which Rails puts the channel_prefix of cable.yml."""
    return (f"{prefix}:{stream}" if prefix else stream).encode()


def channel_hash(channel: bytes) -> int:
    """The first eight bytes of the SHA-256 as a signed integer, big end first: `unpack1("q>")`."""
    return int.from_bytes(hashlib.sha256(channel).digest()[:8], "big", signed=True)
