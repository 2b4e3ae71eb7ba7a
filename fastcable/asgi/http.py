"""Requests of an ASGI server, put before the same endpoints as the server's own."""

from __future__ import annotations

from asyncio import Future
from typing import TYPE_CHECKING

from fastcable._broadcasts import is_loopback_address
from fastcable._handshake import Accept
from fastcable._request import BadRequest, Request
from fastcable.response import Response, error

if TYPE_CHECKING:
    from fastcable.asgi.cable import Cable
    from fastcable.asgi.types import Receive, Scope, Send

_NO_WEBSOCKETS = error(501, "this ASGI server takes no WebSockets: does it lack a package (uvicorn needs websockets)?")
_OF_THE_CONNECTION = (b"connection", b"upgrade")


class Peer:
    """Who sent a request (`_broadcasts.Peer`)."""

    def __init__(self, scope: Scope) -> None:
        self._client = scope.get("client")
        self._server = scope.get("server")

    def is_loopback(self) -> bool:
        if self._client:
            return is_loopback_address(self._client[0])
        # A Unix socket has a path and no port; its peers have no address.
        return self._server is not None and self._server[1] is None


def target_of(scope: Scope) -> bytes:
    return b"%b?%b" % (path_of(scope), scope.get("query_string", b""))


def path_of(scope: Scope) -> bytes:
    """The path as it came, less the prefix that the server or a router has taken care of (`root_path`)."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    prefix = scope.get("root_path", "").encode()
    rest = path.removeprefix(prefix)
    return rest if rest.startswith(b"/") else path


async def answer(cable: Cable, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request for one of the cable's paths."""
    try:
        request = Request(scope["method"].encode(), target_of(scope), "1.1", list(scope["headers"]), True)
        with cable:
            response = cable.endpoints.begin(request, Peer(scope))
        assert not isinstance(response, Future)  # with the memory broker nothing has to be waited for
        if isinstance(response, Accept):
            response = _NO_WEBSOCKETS
        elif response is None:
            response = await _publish(cable, request, receive)
            if response is None:
                return
    except BadRequest as problem:
        response = error(problem.status, str(problem))
    await respond(scope, send, response, "http.response")


async def _publish(cable: Cable, request: Request, receive: Receive) -> Response | None:
    """Read the body of a broadcast and accept it; None if the client has gone."""
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        body += event.get("body", b"")
        refusal = oversize(len(body), cable.settings.max_broadcast_size)
        if refusal is not None:
            return refusal
        if not event.get("more_body"):
            with cable:
                response = cable.endpoints.publish(bytes(body), request)
                assert isinstance(response, Response)  # as above
                return response


def oversize(size: int, limit: int) -> Response | None:
    return error(413, f"body is larger than max_broadcast_size ({limit} bytes)") if 0 < limit < size else None


async def respond(scope: Scope, send: Send, response: Response, event: str) -> None:
    """Send a response as "http.response" or, in place of a WebSocket, as "websocket.http.response"."""
    headers = [
        (name.lower(), value)
        for name, value in (line.split(b": ", 1) for line in response.headers.splitlines())
        if scope["http_version"] < "2" or name.lower() not in _OF_THE_CONNECTION
    ]
    content = response.content
    if response.status == 304:
        content = b""
    else:
        headers.append((b"content-length", b"%d" % len(content)))
        if scope.get("method") == "HEAD":
            content = b""
    await send({"type": f"{event}.start", "status": response.status, "headers": headers})
    await send({"type": f"{event}.body", "body": content})
