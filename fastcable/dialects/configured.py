"""The dialects of one cable, as the options say."""

from __future__ import annotations

from fastcable._hub import Hub
from fastcable.authorization import authorizer, stream_verifier
from fastcable.dialects import Dialect, Encoding
from fastcable.dialects._actioncable import variants
from fastcable.dialects._simple import GuardedDialect, SimpleDialect
from fastcable.settings import Settings


def configured(settings: Settings, hub: Hub, encoding: Encoding) -> dict[str, Dialect]:
    """By the names that `negotiate` gives them, and `simple`."""
    claimed = settings.auth == "jwt"
    signed = settings.signed_streams == "required"
    dialects = variants(hub, encoding, authorizer(settings), settings.max_identifier_size, claimed)
    if claimed or signed:
        verifier = stream_verifier(settings) if signed else None
        dialects["simple"] = GuardedDialect(
            hub, encoding, settings.max_errors, verifier, settings.max_identifier_size, claimed)
    else:
        dialects["simple"] = SimpleDialect(hub, encoding, settings.max_errors)
    dialects["default"] = dialects[settings.default_protocol]
    return dialects
