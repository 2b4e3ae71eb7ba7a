# cython: language_level=3
"""What applications ask of the server: broadcasts, which they post, and how many follow a stream.

The order of the checks is part of the interface. Of a broadcast: method, permission, type, size (`begin`), then the body
(`publish`). Of a count: method, permission, query (`count`).

The key tells the form of what is posted. With the `broadcast_key`, or without any where none is set, it is fastcable's own.
With a key that AnyCable makes of its secret it is AnyCable's, whose publishers ask for an empty 201, send JSON in a string,
and commands.
"""

from fastcable._posts cimport check_batch, check_message, check_options, in_batch
from fastcable._request cimport Request

import re
from functools import lru_cache

import orjson

from fastcable._json import member_spans
from fastcable._posts import Disconnect, Refused, anycable_posts
from fastcable.configuration import API_PATH
from fastcable.handover import answer_later
from fastcable.origins import parse_origin
from fastcable.response import Response, error, json_response
from fastcable.retained import retained_size
from fastcable.signing import bearer_key
from fastcable.stream_name import stream_name_error

cdef object _is_loopback_host = re.compile(
    rb"(?:[a-z0-9_-]+\.)*localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]"
).fullmatch

cdef bytes _API_PATH = API_PATH.encode()

cdef object _NOT_POST = error(405, "broadcasts are posted: POST only", b"Allow: POST\r\n")
cdef object _NOT_GET = error(405, "GET and HEAD only", b"Allow: GET, HEAD\r\n")
cdef object _NOT_LOCAL = error(
    403, "without a broadcast_key only this machine may publish: set broadcast_key and send it as "
         "Authorization: Bearer KEY")
cdef object _FORWARDED = error(
    403, "without a broadcast_key no forwarded request may publish: set broadcast_key and send it as "
         "Authorization: Bearer KEY, or post to the server directly, not through a proxy")
cdef object _FOREIGN_PAGE = error(
    403, "without a broadcast_key no page of another host may publish: set broadcast_key and post "
         "from the application, with Authorization: Bearer KEY")
cdef object _FOREIGN_HOST = error(
    403, "without a broadcast_key this is for this machine only, by the name localhost or a loopback address: set "
         "broadcast_key and send it as Authorization: Bearer KEY")
cdef object _ACCEPTED = Response(201, b"", b"")
cdef object _NOT_JSON = error(415, "Content-Type must be application/json")
cdef object _ENCODED = error(415, "a Content-Encoding is not taken")
cdef object _CONGESTED = error(503, "more is posted than can be sent: try again later", b"Retry-After: 1\r\n")


def is_loopback_address(str address not None):
    address = address.removeprefix("::ffff:")
    return address == "::1" or address.startswith("127.")


cdef object _no_key(str accepted):
    return error(401, f"Authorization: Bearer with {accepted} is required", b"WWW-Authenticate: Bearer\r\n")


cdef bint _bears(Request request, bytes key) except -1:
    """Whether a request has this key; an empty one has nobody."""
    import hmac

    credentials = request.values(b"authorization")
    if not key or len(credentials) != 1:
        return False
    scheme, _, given = credentials[0].partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(b" "), key)


cdef class Broadcasts:
    cdef object hub
    # Of broadcasts in our form, in AnyCable's, and in AnyCable's at API_PATH; all empty: only this machine may publish.
    cdef bytes key
    cdef bytes anycable_key
    cdef bytes api_key
    cdef object no_key
    cdef object no_api_key
    cdef Py_ssize_t max_size
    cdef Py_ssize_t max_batch
    cdef Py_ssize_t max_retained

    def __init__(self, settings, hub):
        self.hub = hub
        self.key = self.anycable_key = self.api_key = b""
        accepted = []
        if settings.broadcast_key:
            self.key = settings.broadcast_key.encode()
            accepted.append("the broadcast_key")
        if settings.secret:
            self.anycable_key = bearer_key(settings.secret, "broadcast-cable").encode()
            self.api_key = bearer_key(settings.secret, "api-cable").encode()
            accepted.append("the secret's broadcast-cable key")
        self.no_key = _no_key(" or ".join(accepted))
        self.no_api_key = _no_key("the secret's api-cable key")
        self.max_size = settings.max_broadcast_size
        self.max_batch = settings.max_batch
        self.max_retained = settings.max_retained_bytes

    def begin(self, Request request not None, peer):
        if request.method != b"POST":
            return _NOT_POST
        refusal = self.check_permission(request, peer)
        if refusal is not None:
            return refusal
        if not self.in_anycable_form(request):
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

    def may_look(self, Request request not None, peer):
        """None: who may publish may see what goes on here, too; else what to answer. Without a key a page of another
        host must not, which a browser may take for this one's (DNS rebinding)."""
        if not self.key and not self.anycable_key:
            host = parse_origin(b"http://" + request.fields.get(b"host", b""))
            if host is None or _is_loopback_host(host.host) is None:
                return _FOREIGN_HOST
        return self.check_permission(request, peer)

    def count(self, Request request not None, peer):
        if request.method != b"GET" and request.method != b"HEAD":
            return _NOT_GET
        refusal = self.check_permission(request, peer)
        if refusal is not None:
            return refusal
        try:
            stream = _asked_stream(request.target.partition(b"?")[2])
        except Refused as problem:
            return error(problem.status, str(problem))
        elsewhere = self.hub.elsewhere(stream)
        return _answer([] if elsewhere is None else [elsewhere], self.hub.subscribers(stream), False)

    cdef object check_permission(self, Request request, peer):
        if not self.key and not self.anycable_key:
            return _check_local(request, peer)
        if self.api_key and request.path == _API_PATH:
            return None if _bears(request, self.api_key) else self.no_api_key
        return None if _bears(request, self.key) or _bears(request, self.anycable_key) else self.no_key

    cdef bint in_anycable_form(self, Request request) except -1:
        """Which form the body has of a request that may publish."""
        return len(self.anycable_key) > 0 and (request.path == _API_PATH or not _bears(request, self.key))

    def publish(self, bytes body not None, Request request=None):
        cdef bint anycable = request is not None and self.in_anycable_form(request)
        cdef Py_ssize_t subscribers = 0
        cdef Py_ssize_t index
        cdef list spans
        cdef list handovers = []
        if self.hub.congested:
            return _CONGESTED
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as problem:
            return error(400, _json_problem(body, problem))
        try:
            if anycable:
                self.accept_anycable(anycable_posts(value, body, self.max_batch), handovers)
            elif type(value) is dict:
                check_message(value)
                check_options(value)
                spans = member_spans(body, b"data")
                self.check_retained(value, spans[0])
                subscribers = self.accept(value, spans[0], handovers)
            elif type(value) is list:
                spans = check_batch(value, body, self.max_batch, False)
                self.check_retained_batch(value, spans)
                for index in range(len(spans)):
                    subscribers += self.accept((<list>value)[index], spans[index], handovers)
            else:
                raise Refused("body must be an object with stream and data, or an array of such objects")
        except Refused as problem:
            return error(problem.status, str(problem))
        return _answer(handovers, subscribers, anycable)

    cdef Py_ssize_t accept(self, dict message, bytes data, list handovers) except -1:
        """Publish a message; how many subscribe to its stream on this process."""
        cdef str stream = message["stream"]
        cdef Py_ssize_t subscribers = self.hub.subscribers(stream)
        handover = self.hub.publish(stream, data, message.get("retain", False), message.get("exclude"))
        if handover is not None:
            handovers.append(handover)
        return subscribers

    cdef int accept_anycable(self, posts, list handovers) except -1:
        """Do what AnyCable's publishers ask for: publish one message or several, or disconnect somebody."""
        if type(posts) is Disconnect:
            posts = [self.hub.disconnect(posts.identifier, posts.reconnect)]
        else:
            posts = [self.hub.publish(post.stream, post.data, False, post.exclude, post.embedded) for post in posts]
        handovers += [handover for handover in posts if handover is not None]
        return 0

    cdef int check_retained_batch(self, list messages, list spans) except -1:
        cdef Py_ssize_t index
        for index in range(len(messages)):
            try:
                self.check_retained(messages[index], spans[index])
            except Refused as problem:
                raise in_batch(index, problem) from None
        return 0

    cdef int check_retained(self, dict message, bytes data) except -1:
        if message.get("retain", False) is True and 0 < self.max_retained < retained_size(message["stream"], data):
            raise Refused(f"data is too large to be retained: max_retained_bytes is {self.max_retained}", 413)
        return 0


cdef object _answer(list handovers, Py_ssize_t subscribers, bint anycable):
    """What is answered to a publisher, at once or when its messages are handed over."""
    if not handovers:
        return _ACCEPTED if anycable else _subscribers(subscribers)
    return answer_later(handovers, lambda others: _ACCEPTED if anycable else _subscribers(subscribers + others))


@lru_cache(maxsize=64)
def _subscribers(count):
    return json_response(200, {"subscribers": count})


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
