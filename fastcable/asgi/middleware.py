"""The middleware: which requests are the cable's, and the application's way to publish."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import orjson

from fastcable.asgi.cable import Cable
from fastcable.asgi.http import answer, oversize, path_of
from fastcable.asgi.websocket import serve
from fastcable.client.errors import Refused, TooLarge
from fastcable.client.messages import message
from fastcable.configuration import load_keywords
from fastcable.response import Response

if TYPE_CHECKING:
    from fastcable.asgi.types import Application, Receive, Scope, Send

logger = logging.getLogger("fastcable")

OPTIONS = (
    "cable_path", "allowed_origins", "broadcast_path", "broadcast_key", "default_protocol",
    "secret", "turbo_secret", "secret_key_base", "secret_key_base_digest", "signed_streams", "public_streams",
    "auth", "jwt_secret", "jwt_public_key", "jwt_audience", "jwt_require_exp", "jwt_cookie",
    "ping_interval", "actioncable_ping_interval", "close_timeout",
    "max_message_size", "max_broadcast_size", "max_batch", "max_errors", "max_connections", "max_subscriptions",
    "max_identifier_size", "max_pending_messages", "max_pending_bytes", "slow_consumer",
    "max_retained_bytes", "retain_seconds", "channels",
)
"""What is configured as for `fastcable serve`; all other options are the ASGI server's business."""


class CableMiddleware:
    """Serves the cable's paths in front of an ASGI application, which gets everything else as it came.

        app = CableMiddleware(app)

    Options are those of `fastcable serve` that concern streams and their subscribers (`OPTIONS`), as keyword arguments
    or from their `FASTCABLE_` variables. `channels` are the tables of fastcable.toml:
    `{"Room": {"stream": "room:{id}", "public": True}}`. Raises `SettingsError`.
    """

    def __init__(self, app: Application, **options: object) -> None:
        loaded = load_keywords(options, OPTIONS, os.environ, type(self).__name__)
        for warning in loaded.warnings:
            logger.warning("%s", warning)
        self.app = app
        self._cable = Cable(loaded.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cable = self._cable
        if scope["type"] == "websocket" and path_of(scope) == cable.path:
            await serve(cable, scope, receive, send)
        elif scope["type"] == "http" and path_of(scope) in cable.paths:
            await answer(cable, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def broadcast(self, stream: str, data: object, *, retain: bool = False, exclude: str | None = None) -> int:
        """Publish one message to the subscribers of this process, and return how many there are: what a `Publisher`
        does, without HTTP. May be called by any thread, and waits for nobody.

        Raises what `Publisher.broadcast` raises: `BadStream`, `BadData`, `Refused`, `TooLarge`.
        """
        body = message(stream, data, retain, exclude)
        cable = self._cable
        with cable:
            response = oversize(len(body), cable.settings.max_broadcast_size) or cable.endpoints.publish(body)
        assert isinstance(response, Response)  # with the memory broker nothing has to be waited for
        content = orjson.loads(response.content)
        if response.status != 200:
            kind = TooLarge if response.status == 413 else Refused
            raise kind(f"{response.status} {content['error']}", response.status, content["error"])
        return int(content["subscribers"])
