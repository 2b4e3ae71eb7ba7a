# cython: language_level=3
"""What is posted to the broadcast path: who may, in what form, and what becomes of it.

The order of the checks is part of the interface: method, permission, type, size (`begin`), then the body (`publish`).
"""

from fastcable._request cimport Request

import re
from functools import lru_cache

import orjson

from fastcable._json import member_spans
from fastcable.origins import parse_origin
from fastcable.response import error, json_response
from fastcable.stream_name import stream_name_error

cdef object _is_loopback_host = re.compile(
    rb"(?:[a-z0-9_-]+\.)*localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]"
).fullmatch

cdef object _NOT_POST = error(405, "broadcasts are posted: POST only", b"Allow: POST\r\n")
cdef object _NO_KEY = error(
    401, "Authorization: Bearer with the broadcast_key is required", b"WWW-Authenticate: Bearer\r\n")
cdef object _NOT_LOCAL = error(
    403, "without a broadcast_key only this machine may publish: set broadcast_key and send it as "
         "Authorization: Bearer KEY")
cdef object _FORWARDED = error(
    403, "without a broadcast_key no forwarded request may publish: set broadcast_key and send it as "
         "Authorization: Bearer KEY, or post to the server directly, not through a proxy")
cdef object _FOREIGN_PAGE = error(
    403, "without a broadcast_key no page of another host may publish: set broadcast_key and post "
         "from the application, with Authorization: Bearer KEY")
cdef object _NOT_JSON = error(415, "Content-Type must be application/json")
cdef object _ENCODED = error(415, "a Content-Encoding is not taken")
cdef object _CONGESTED = error(503, "more is posted than can be sent: try again later", b"Retry-After: 1\r\n")


class Refused(Exception):
    """A body that is not taken as a broadcast: why, and the status to say so with."""

    def __init__(self, message, status=400):
        super().__init__(message)
        self.status = status


cdef class Broadcasts:
    cdef object hub
    cdef bytes key  # empty: only this machine may publish
    cdef Py_ssize_t max_size
    cdef Py_ssize_t max_batch

    def __init__(self, settings, hub):
        self.hub = hub
        self.key = settings.broadcast_key.encode() if settings.broadcast_key else b""
        self.max_size = settings.max_broadcast_size
        self.max_batch = settings.max_batch

    def begin(self, Request request not None, peer):
        if request.method != b"POST":
            return _NOT_POST
        refusal = self.check_key(request) if self.key else _check_local(request, peer)
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
        if self.max_size and request.length is not None and request.length > self.max_size:
            return error(413, f"body is larger than max_broadcast_size ({self.max_size} bytes)")
        return None

    cdef object check_key(self, Request request):
        import hmac

        credentials = request.values(b"authorization")
        if len(credentials) == 1:
            scheme, _, key = credentials[0].partition(b" ")
            if scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(b" "), self.key):
                return None
        return _NO_KEY

    def publish(self, bytes body not None):
        cdef Py_ssize_t subscribers = 0
        cdef str stream
        hub = self.hub
        if hub.congested:
            return _CONGESTED
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as problem:
            return error(400, _json_problem(body, problem))
        try:
            if type(value) is dict:
                stream = _checked_stream(value)
                subscribers = hub.subscribers(stream)
                hub.publish(stream, member_spans(body, b"data")[0])
            elif type(value) is list:
                streams = self.check_batch(value)
                for stream, data in zip(streams, member_spans(body, b"data"), strict=True):
                    subscribers += hub.subscribers(stream)
                    hub.publish(stream, data)
            else:
                raise Refused("body must be an object with stream and data, or an array of such objects")
        except Refused as problem:
            return error(problem.status, str(problem))
        return _published(subscribers)

    cdef list check_batch(self, list items):
        cdef list streams = []
        if 0 < self.max_batch < len(items):
            raise Refused(f"a batch has at most max_batch ({self.max_batch}) messages, not {len(items)}", 413)
        for index, item in enumerate(items):
            try:
                streams.append(_checked_stream(item))
            except Refused as problem:
                raise Refused(f"message {index} of the batch: {problem}") from None
        return streams


@lru_cache(maxsize=64)
def _published(subscribers):
    return json_response(200, {"subscribers": subscribers})


cdef str _checked_stream(message):
    """The stream of a message that is in order, else `Refused`."""
    if type(message) is not dict:
        raise Refused("must be an object with stream and data")
    if "stream" not in message:
        raise Refused("stream is missing")
    stream = message["stream"]
    problem = stream_name_error(stream)
    if problem is not None:
        raise Refused(f"stream {problem}")
    if "data" not in message:
        raise Refused("data is missing")
    return stream


cdef str _json_problem(bytes body, problem):
    """orjson has one error for everything, and reasons that name no text of the body."""
    if not body:
        return "body is empty: a JSON object with stream and data is expected"
    try:
        body.decode()
    except UnicodeDecodeError:
        return "body is not UTF-8"
    return f"body is not JSON: {problem}"


cdef object _check_local(Request request, peer):
    """Who may publish without a key: not a proxy or a page that merely connects from this machine."""
    cdef bytes name
    if not peer.is_loopback():
        return _NOT_LOCAL
    for name in request.fields:
        if name == b"forwarded" or name.startswith(b"x-forwarded-"):
            return _FORWARDED
    if b"origin" in request.fields:
        for value in request.values(b"origin"):
            origin = parse_origin(value)
            if origin is None or _is_loopback_host(origin.host) is None:
                return _FOREIGN_PAGE
    return None
