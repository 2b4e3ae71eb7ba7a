"""Random keys: what makes a link, a stream's name or a download impossible to guess."""

from __future__ import annotations

import secrets


def new_key() -> str:
    """22 characters that stand for 128 random bits, the size that nobody can try out."""
    return secrets.token_urlsafe(16)
