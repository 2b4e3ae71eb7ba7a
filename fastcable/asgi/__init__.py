"""fastcable inside an application's own ASGI server, for development: the same cable without a second process."""

from __future__ import annotations

from fastcable.asgi.middleware import CableMiddleware

__all__ = ["CableMiddleware"]
