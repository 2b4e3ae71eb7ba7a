"""What each path of a listener answers.

A request is decided at the end of its head (`begin`), before anything of its body is taken in; only for a broadcast
that may be posted does the body follow (`publish`). Paths are compared as they came, without decoding or normalising:
what is not exactly a known path is not found.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import orjson

from fastcable._json import member_spans
from fastcable.handshake import Accept, AllowedOrigins, Refusal, handshake, parse_origin
from fastcable.response import Response, error, json_response
from fastcable.stream_name import stream_name_error

if TYPE_CHECKING:
    from fastcable.request import Request
    from fastcable.settings import Settings

_CLIENT = os.path.join(os.path.dirname(__file__), "client")
# A page of another origin may import the module, as the application's pages will in development.
_JAVASCRIPT = b"Content-Type: text/javascript; charset=utf-8\r\nAccess-Control-Allow-Origin: *\r\n"
_HTML = (
    b"Content-Type: text/html; charset=utf-8\r\n"
    b"Content-Security-Policy: default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; "
    b"img-src 'self' data:; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'\r\n"
)
_LOOPBACK_HOST = re.compile(rb"(?:[a-z0-9_-]+\.)*localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]")

_NOT_FOUND = error(404, "not found")
_HEALTHY = json_response(200, {"status": "ok"})
_NO_KEY = error(401, "Authorization: Bearer with the broadcast_key is required", b"WWW-Authenticate: Bearer\r\n")
_NOT_LOCAL = error(403, "without a broadcast_key only this machine may publish: set broadcast_key and send it as "
                        "Authorization: Bearer KEY")
_FORWARDED = error(403, "without a broadcast_key no forwarded request may publish: set broadcast_key and send it as "
                        "Authorization: Bearer KEY, or post to the server directly, not through a proxy")
_FOREIGN_PAGE = error(403, "without a broadcast_key no page of another host may publish: set broadcast_key and post "
                           "from the application, with Authorization: Bearer KEY")
_NOT_JSON = error(415, "Content-Type must be application/json")
_CONGESTED = error(503, "more is posted than can be sent: try again later", b"Retry-After: 1\r\n")
_ENCODED = error(415, "a Content-Encoding is not taken")


class Hub(Protocol):
    """Where broadcasts go. `data` is the raw text of a JSON value."""

    def publish(self, stream: str, data: bytes) -> object: ...
    def subscribers(self, stream: str) -> int: ...
    @property
    def congested(self) -> bool: ...


class Peer(Protocol):
    """The connection a request came on."""

    def is_loopback(self) -> bool:
        """Whether the other end is on this machine."""
        ...


class Refused(Exception):
    """A body that is not taken as a broadcast: why, and the status to say so with."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Endpoints:
    """The paths of one listener. `cable` and `broadcast` say whether it has these; `demo` adds a page at `/`."""

    def __init__(self, settings: Settings, hub: Hub, *, cable: bool, broadcast: bool, demo: bool) -> None:
        self._settings = settings
        self._hub = hub
        self._cable_path = settings.cable_path.encode() if cable else None
        self._broadcast_path = settings.broadcast_path.encode() if broadcast else None
        self._allowed_origins = AllowedOrigins(settings.allowed_origins) if settings.allowed_origins else None
        self._key = settings.broadcast_key.encode() if settings.broadcast_key else b""
        self._files = {b"/fastcable.js": ("fastcable.js", _JAVASCRIPT)}
        if demo:
            self._files[b"/"] = ("demo.html", _HTML)

    def begin(self, request: Request, peer: Peer) -> Response | Accept | None:
        """Decide at the end of the head; None: the body is wanted, to be given to `publish`."""
        path = request.path
        if path == self._broadcast_path:
            return self._begin_broadcast(request, peer)
        if path == self._cable_path:
            answer = handshake(request.method, request.version, request.headers, self._allowed_origins)
            if isinstance(answer, Refusal):
                # Closed, because a proxy that only saw an Upgrade may keep a tunnel open.
                return error(answer.status, answer.message, answer.headers, close=True)
            return answer
        if path != b"/health" and path not in self._files:
            return _NOT_FOUND
        if request.method not in (b"GET", b"HEAD"):
            return error(405, "GET and HEAD only", b"Allow: GET, HEAD\r\n")
        if path == b"/health":
            return _HEALTHY
        return _file(request, *self._files[path])

    def _begin_broadcast(self, request: Request, peer: Peer) -> Response | None:
        if request.method != b"POST":
            return error(405, "broadcasts are posted: POST only", b"Allow: POST\r\n")
        refusal = self._check_key(request) if self._key else _check_local(request, peer)
        if refusal is not None:
            return refusal
        content_type = request.fields.get(b"content-type", b"")
        if content_type != b"application/json" and (
            content_type.partition(b";")[0].rstrip().lower() != b"application/json"
            or len(request.values(b"content-type")) > 1
        ):
            return _NOT_JSON
        if b"content-encoding" in request.fields:
            return _ENCODED
        limit = self._settings.max_broadcast_size
        if request.length is not None and 0 < limit < request.length:
            return error(413, f"body is larger than max_broadcast_size ({limit} bytes)")
        return None

    def _check_key(self, request: Request) -> Response | None:
        import hmac

        credentials = request.values(b"authorization")
        if len(credentials) == 1:
            scheme, _, key = credentials[0].partition(b" ")
            if scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(b" "), self._key):
                return None
        return _NO_KEY

    def publish(self, body: bytes) -> Response:
        """Accept a broadcast or a batch of them as a whole, or refuse it."""
        if self._hub.congested:
            return _CONGESTED
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as problem:
            return error(400, _json_problem(body, problem))
        hub = self._hub
        subscribers = 0
        try:
            if type(value) is dict:
                _check(value)
                subscribers = hub.subscribers(value["stream"])
                hub.publish(value["stream"], member_spans(body, b"data")[0])
            elif type(value) is list:
                self._check_batch(value)
                for item, data in zip(value, member_spans(body, b"data"), strict=True):
                    subscribers += hub.subscribers(item["stream"])
                    hub.publish(item["stream"], data)
            else:
                raise Refused("body must be an object with stream and data, or an array of such objects")
        except Refused as problem:
            return error(problem.status, str(problem))
        return _published(subscribers)

    def _check_batch(self, items: list[object]) -> None:
        limit = self._settings.max_batch
        if 0 < limit < len(items):
            raise Refused(f"a batch has at most max_batch ({limit}) messages, not {len(items)}", 413)
        for index, item in enumerate(items):
            try:
                _check(item)
            except Refused as problem:
                raise Refused(f"message {index} of the batch: {problem}") from None


@lru_cache(maxsize=64)
def _published(subscribers: int) -> Response:
    return json_response(200, {"subscribers": subscribers})


def _check(message: object) -> None:
    if type(message) is not dict:
        raise Refused("must be an object with stream and data")
    if "stream" not in message:
        raise Refused("stream is missing")
    problem = stream_name_error(message["stream"])
    if problem is not None:
        raise Refused(f"stream {problem}")
    if "data" not in message:
        raise Refused("data is missing")


def _json_problem(body: bytes, problem: ValueError) -> str:
    """orjson has one error for everything, and reasons that name no text of the body."""
    if not body:
        return "body is empty: a JSON object with stream and data is expected"
    try:
        body.decode()
    except UnicodeDecodeError:
        return "body is not UTF-8"
    return f"body is not JSON: {problem}"


def _check_local(request: Request, peer: Peer) -> Response | None:
    """Who may publish without a key: not a proxy or a page that merely connects from this machine."""
    if not peer.is_loopback():
        return _NOT_LOCAL
    if b"forwarded" in b"\n".join(request.fields) and any(
        name == b"forwarded" or name.startswith(b"x-forwarded-") for name in request.fields
    ):
        return _FORWARDED
    if b"origin" in request.fields:
        for value in request.values(b"origin"):
            origin = parse_origin(value)
            if origin is None or not _LOOPBACK_HOST.fullmatch(origin.host):
                return _FOREIGN_PAGE
    return None


def _file(request: Request, name: str, headers: bytes) -> Response:
    content, etag = _load(name)
    headers += b"ETag: %b\r\nCache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\n" % etag
    known = b",".join(request.values(b"if-none-match")).split(b",")
    if any(tag.strip(b" \t").removeprefix(b"W/") in (etag, b"*") for tag in known):
        return Response(304, content, headers)
    return Response(200, content, headers)


@lru_cache
def _load(name: str) -> tuple[bytes, bytes]:
    """A file of the client folder and its entity tag."""
    from hashlib import sha1

    with open(os.path.join(_CLIENT, name), "rb") as file:
        content = file.read()
    return content, b'"%b"' % sha1(content, usedforsecurity=False).hexdigest()[:20].encode()
