# cython: language_level=3
"""What each path of a listener answers.

A request is decided at the end of its head (`begin`), before anything of its body is taken in; only for a broadcast
that may be posted does the body follow (`publish`). Paths are compared as they came, without decoding or normalising:
what is not exactly a known path is not found.
"""

from fastcable._handshake cimport Accept
from fastcable._request cimport Request

import os
from functools import lru_cache

from fastcable._broadcasts import Broadcasts
from fastcable._handshake import handshake
from fastcable.configuration import API_PATH
from fastcable.origins import AllowedOrigins
from fastcable.response import Response, error, json_response

cdef object _CLIENT = os.path.join(os.path.dirname(__file__), "client")
# A page of another origin may import the module, as the application's pages will in development.
cdef bytes _JAVASCRIPT = b"Content-Type: text/javascript; charset=utf-8\r\nAccess-Control-Allow-Origin: *\r\n"
cdef bytes _HTML = (
    b"Content-Type: text/html; charset=utf-8\r\n"
    b"Content-Security-Policy: default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; "
    b"img-src 'self' data:; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'\r\n"
)

cdef object _NOT_FOUND = error(404, "not found")
cdef object _HEALTHY = json_response(200, {"status": "ok"})
# The process lives; of the last, it can also do its work.
cdef tuple _HEALTH = (b"/health", b"/health/live", b"/health/ready")


cdef class Endpoints:
    def __init__(self, settings, hub, *, bint cable, bint broadcast, bint demo):
        self.hub = hub
        self.cable_path = settings.cable_path.encode() if cable else None
        self.broadcast_path = settings.broadcast_path.encode() if broadcast else None
        self.allowed_origins = AllowedOrigins(settings.allowed_origins) if settings.allowed_origins else None
        self.api_path = API_PATH.encode() if broadcast and settings.secret else None
        self.compression = settings.compression
        self.broadcasts = Broadcasts(settings, hub)
        self.publish = self.broadcasts.publish
        self.reports = {}
        self.files = {b"/" + name.encode(): (name, _JAVASCRIPT) for name in ("fastcable.js", "fastcable-stream.js")}
        if demo:
            self.files[b"/"] = ("demo.html", _HTML)

    cpdef begin(self, Request request, peer):
        cdef bytes path = request.path
        if path == self.broadcast_path:
            return self.broadcasts.begin(request, peer)
        if path == self.cable_path:
            answer = handshake(request.method, request.version, request.headers, request.fields, self.allowed_origins,
                               self.compression)
            if isinstance(answer, Accept):
                return answer
            # Closed, because a proxy that only saw an Upgrade may keep a tunnel open.
            return error(answer.status, answer.message, answer.headers, close=True)
        if path == self.api_path:
            return self.broadcasts.begin(request, peer)
        if path == b"/_streams" and self.broadcast_path:
            return self.broadcasts.count(request, peer)
        if path in self.reports:
            return self.report(request, peer)
        if path not in _HEALTH and path not in self.files:
            return _NOT_FOUND
        if request.method not in (b"GET", b"HEAD"):
            return error(405, "GET and HEAD only", b"Allow: GET, HEAD\r\n")
        if path == b"/health/ready":
            problem = self.hub.problem
            return _HEALTHY if problem is None else json_response(503, {"status": "not ready", "reason": problem})
        if path in _HEALTH:
            return _HEALTHY
        return _file(request, *self.files[path])


    cdef object report(self, Request request, peer):
        if request.method not in (b"GET", b"HEAD"):
            return error(405, "GET and HEAD only", b"Allow: GET, HEAD\r\n")
        answer, is_open = self.reports[request.path]
        if not is_open:
            refusal = self.broadcasts.may_look(request, peer)
            if refusal is not None:
                return refusal
        return answer(request)


def _file(Request request, str name, bytes headers):
    content, etag = _load(name)
    headers += b"ETag: %b\r\nCache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\n" % etag
    known = b",".join(request.values(b"if-none-match")).split(b",")
    if any(tag.strip(b" \t").removeprefix(b"W/") in (etag, b"*") for tag in known):
        return Response(304, content, headers)
    return Response(200, content, headers)


@lru_cache
def _load(str name):
    """A file of the client folder and its entity tag."""
    from hashlib import sha1

    with open(os.path.join(_CLIENT, name), "rb") as file:
        content = file.read()
    return content, b'"%b"' % sha1(content, usedforsecurity=False).hexdigest()[:20].encode()
