"""Who may subscribe to what, as the options say."""

from __future__ import annotations

from fastcable.channels import Authorizer, Verifier
from fastcable.settings import Settings


def stream_verifier(settings: Settings) -> Verifier | None:
    """None: no secret is set, so no name can have been signed."""
    if not (settings.turbo_secret or settings.secret_key_base):
        return None
    from fastcable.signing import StreamVerifier, stream_keys

    return StreamVerifier(
        stream_keys(settings.turbo_secret, settings.secret_key_base, settings.secret_key_base_digest))


def authorizer(settings: Settings) -> Authorizer:
    """What Action Cable's identifiers open; where clients must bring a token, channels that are not public, too."""
    return Authorizer(settings.channels, stream_verifier(settings), settings.public_streams,
                      every_channel=settings.auth == "jwt")
