# cython: language_level=3
"""What applications ask of the server: broadcasts, which they post, and how many follow a stream.

The order of the checks is part of the interface. Of a broadcast: method, permission, type, size (`begin`), then the body
(`publish`). Of a count: method, permission, query (`count`).
"""

from fastcable._request cimport Request

import re
from functools import lru_cache

import orjson

from fastcable._json import member_spans
from fastcable.origins import parse_origin
from fastcable.response import error, json_response
from fastcable.retained import retained_size
from fastcable.stream_name import stream_name_error

cdef object _is_loopback_host = re.compile(
    rb"(?:[a-z0-9_-]+\.)*localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]"
).fullmatch

cdef object _NOT_POST = error(405, "broadcasts are posted: POST only", b"Allow: POST\r\n")
cdef object _NOT_GET = error(405, "GET and HEAD only", b"Allow: GET, HEAD\r\n")
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


def is_loopback_address(str address not None):
    address = address.removeprefix("::ffff:")
    return address == "::1" or address.startswith("127.")


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
    cdef Py_ssize_t max_retained

    def __init__(self, settings, hub):
        self.hub = hub
        self.key = settings.broadcast_key.encode() if settings.broadcast_key else b""
        self.max_size = settings.max_broadcast_size
        self.max_batch = settings.max_batch
        self.max_retained = settings.max_retained_bytes

    def begin(self, Request request not None, peer):
        if request.method != b"POST":
            return _NOT_POST
        refusal = self.check_permission(request, peer)
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

    def count(self, Request request not None, peer):
        if request.method != b"GET" and request.method != b"HEAD":
            return _NOT_GET
        refusal = self.check_permission(request, peer)
        if refusal is not None:
            return refusal
        try:
            return _subscribers(self.hub.subscribers(_asked_stream(request.target.partition(b"?")[2])))
        except Refused as problem:
            return error(problem.status, str(problem))

    cdef object check_permission(self, Request request, peer):
        return self.check_key(request) if self.key else _check_local(request, peer)

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
        cdef Py_ssize_t index
        cdef list spans
        if self.hub.congested:
            return _CONGESTED
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as problem:
            return error(400, _json_problem(body, problem))
        try:
            if type(value) is dict:
                _check_message(value)
                spans = member_spans(body, b"data")
                self.check_retained(value, spans[0])
                subscribers = self.accept(value, spans[0])
            elif type(value) is list:
                spans = self.check_batch(value, body)
                for index in range(len(spans)):
                    subscribers += self.accept((<list>value)[index], spans[index])
            else:
                raise Refused("body must be an object with stream and data, or an array of such objects")
        except Refused as problem:
            return error(problem.status, str(problem))
        return _subscribers(subscribers)

    cdef Py_ssize_t accept(self, dict message, bytes data) except -1:
        """Publish a message; how many subscribe to its stream."""
        cdef str stream = message["stream"]
        cdef Py_ssize_t subscribers = self.hub.subscribers(stream)
        self.hub.publish(stream, data, message.get("retain", False), message.get("exclude"))
        return subscribers

    cdef list check_batch(self, list messages, bytes body):
        """The data of the messages of a batch, if all of it is in order."""
        cdef list spans
        cdef Py_ssize_t index = 0
        if 0 < self.max_batch < len(messages):
            raise Refused(f"a batch has at most max_batch ({self.max_batch}) messages, not {len(messages)}", 413)
        try:
            for index, message in enumerate(messages):
                _check_message(message)
            spans = member_spans(body, b"data")
            for index, message in enumerate(messages):
                self.check_retained(message, spans[index])
        except Refused as problem:
            raise Refused(f"message {index} of the batch: {problem}", problem.status) from None
        return spans

    cdef int check_retained(self, dict message, bytes data) except -1:
        if message.get("retain", False) is True and 0 < self.max_retained < retained_size(message["stream"], data):
            raise Refused(f"data is too large to be retained: max_retained_bytes is {self.max_retained}", 413)
        return 0


@lru_cache(maxsize=64)
def _subscribers(count):
    return json_response(200, {"subscribers": count})


cdef int _check_message(message) except -1:
    """Raise `Refused` unless a message of a broadcast is in order."""
    cdef dict members
    if type(message) is not dict:
        raise Refused("must be an object with stream and data")
    members = message
    if "stream" not in members:
        raise Refused("stream is missing")
    problem = stream_name_error(members["stream"])
    if problem is not None:
        raise Refused(f"stream {problem}")
    if "data" not in members:
        raise Refused("data is missing")
    if type(members.get("retain", False)) is not bool:
        raise Refused("retain must be true or false")
    if type(members.get("exclude", "")) is not str:
        raise Refused("exclude must be a string: the socket id of a client")
    return 0


cdef str _asked_stream(bytes query):
    """The stream that a query (`stream=` and the name, percent-encoded) asks about, else `Refused`."""
    from urllib.parse import parse_qsl

    try:
        fields = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=8)
    except ValueError:
        raise Refused("bad query: ?stream=NAME is expected, percent-encoded UTF-8") from None
    streams = [value for name, value in fields if name == "stream"]
    if len(streams) != 1:
        raise Refused("one stream is expected: ?stream=NAME")
    problem = stream_name_error(streams[0])
    if problem is not None:
        raise Refused(f"stream {problem}")
    return streams[0]


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
    # First, because some servers in front of us take a proxy's word for who the peer is.
    for name in request.fields:
        if name == b"forwarded" or name.startswith(b"x-forwarded-"):
            return _FORWARDED
    if not peer.is_loopback():
        return _NOT_LOCAL
    if b"origin" in request.fields:
        for value in request.values(b"origin"):
            origin = parse_origin(value)
            if origin is None or _is_loopback_host(origin.host) is None:
                return _FOREIGN_PAGE
    return None
