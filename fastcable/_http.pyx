# cython: language_level=3
"""One TCP connection until it is upgraded or closed.

Theory of operation. A connection is in one of these states:

    HEAD    a request's head is awaited (idle) or has come in part
    BODY    the head was accepted, its body is on the way
    ANSWER  the answer is on its way: a broker has to take something first, or is asked, and bounds the time for that;
            nothing of what follows is read
    LINGER  the last answer and our FIN are sent; what still arrives is thrown away, since closing with unread bytes
            would make the kernel reset the connection, and the peer lose the answer
    CLOSED  upgraded or lost: nothing of ours is left

In the first three it may be blocked: the peer does not take its answers, and nothing is read or processed until it does.

`advance` runs the states over the bytes at hand: heads go to a `HeadParser`, at their end the `Endpoints` decide,
and bodies whose length was declared are cut out. Every request is answered before the next is looked at, and after
64 of them the rest waits for the next turn of the loop, with reading paused. An answer closes the connection when the
client asked for that, when the server drains, and whenever bytes of the request were not taken: an error in its form,
a refusal before its body, a chunked body.

There is one deadline at a time, kept in a queue of the site: `handshakes` from accepting for the first head, from its
first byte for a later one, from the head's end for a body, and while the peer does not read; `keepalives` between
requests; `lingering` after the last answer. A byte more never moves it.
"""

import asyncio
import logging
import socket
import struct

from fastcable._connection cimport Cable, Connection, TokenConnection
from fastcable._deadlines cimport Deadlines
from fastcable._endpoints cimport Endpoints
from fastcable._handshake cimport Accept
from fastcable._request cimport HeadParser, Request

from fastcable._broadcasts import is_loopback_address
from fastcable._request import HEAD_END, REPEATED_HEAD, BadRequest, parse_head
from fastcable.chunked import ChunkedBody
from fastcable.dialects.refusal import Refusal
from fastcable.log import Throttle
from fastcable.response import CONTINUE, Response, error

logger = logging.getLogger("fastcable.http")

REQUESTS_PER_TURN = 64

cdef object _FULL = error(503, "no more connections are taken", b"Retry-After: 5\r\n", close=True)
cdef object _DRAINING = error(503, "the server is stopping", b"Retry-After: 5\r\n", close=True)
cdef object _TIMEOUT = error(408, "the request did not arrive within handshake_timeout", close=True)
cdef object _FAILED = error(500, "internal error", close=True)


# Of handshakes, by the status that they are answered with.
cdef dict _REFUSALS = {403: "origin", 405: "method", 426: "upgrade"}


cdef enum State:
    HEAD
    BODY
    ANSWER
    LINGER
    CLOSED


cdef class Site:
    # Settings
    cdef readonly object settings
    cdef Py_ssize_t max_connections
    cdef Py_ssize_t spare
    # Rooms
    cdef readonly Deadlines handshakes
    cdef readonly Deadlines keepalives
    cdef readonly Deadlines lingering
    cdef object clock
    cdef Cable cable
    cdef public object dialect
    cdef dict dialects
    cdef object admission  # None: everybody may connect
    cdef public object entrance  # None: at any time
    # State
    cdef readonly set requests
    cdef public bint draining
    cdef object turned_away
    cdef bytes cable_path

    def __init__(self, settings, clock, Deadlines lingering not None, Cable cable, dialect,
                 Py_ssize_t max_connections, Py_ssize_t spare, dict dialects=None, admission=None):
        self.settings = settings
        self.max_connections = max_connections
        self.spare = spare
        self.handshakes = Deadlines(settings.handshake_timeout)
        self.keepalives = Deadlines(settings.keepalive_timeout)
        self.lingering = lingering
        self.clock = clock
        self.cable = cable
        self.dialect = dialect
        self.dialects = dialects
        self.admission = admission
        self.entrance = None
        self.requests = set()
        self.turned_away = Throttle()
        self.cable_path = settings.cable_path.encode()

    cpdef bint opened(self, HttpProtocol protocol) except -1:
        if self.cable.connections + len(self.requests) >= self.max_connections + self.spare:
            self.refused("connections")
            self.turned_away.log(logging.WARNING, "cut off a new connection: %d are open", self.max_connections)
            return False
        self.requests.add(protocol)
        return True

    cdef int refused(self, str reason) except -1:
        if self.cable is not None:
            self.cable.hub.counters.refused(reason)
        return 0

    cpdef closed(self, HttpProtocol protocol):
        self.requests.discard(protocol)

    cpdef bint is_full(self) except -1:
        return self.cable.connections >= self.max_connections

    cpdef accept(self, transport, Request request, Accept accept, bytes rest):
        cdef Connection connection
        dialect = self.dialect if accept.dialect == "default" else self.dialects[accept.dialect]
        if self.admission is not None:
            connection = self.admit(transport, request, dialect)
        else:
            connection = Connection(self.cable, dialect, transport)
        if self.cable.addresses is not None:
            self.cable.addresses.opened(connection, self.cable.addresses.key(transport, request))
        if accept.deflates:
            connection.deflates = True
        connection.open(accept.response, rest)

    cdef Connection admit(self, transport, Request request, dialect):
        """Let in who has a token; others get to know why not."""
        claims = self.admission.decide(request.target, request.headers)
        if isinstance(claims, str):
            self.refused("token")
            return Connection(self.cable, Refusal(dialect, claims), transport)
        return TokenConnection(self.cable, dialect, transport, claims)


cdef class HttpProtocol:
    # Per connection
    cdef Site site
    cdef Endpoints endpoints
    cdef readonly object transport
    cdef Deadlines queue
    cdef readonly bytes unread  # input that waits for its turn
    cdef State state
    cdef readonly bint blocked
    cdef signed char loopback  # -1: not asked yet
    # Per request
    cdef readonly HeadParser head
    cdef Request request
    cdef readonly object body  # a bytearray or a ChunkedBody
    cdef bint last  # its answer is the last on this connection

    def __init__(self, Site site not None, Endpoints endpoints not None):
        self.site = site
        self.endpoints = endpoints
        self.state = CLOSED
        self.loopback = -1
        self.unread = b""

    # What the site calls

    def deadline_passed(self, Deadlines queue):
        self.queue = None
        if self.state == CLOSED:
            return
        if self.state == LINGER or self.blocked:
            if self.transport.get_write_buffer_size():
                # The kernel would keep for minutes what the peer did not take.
                discard = struct.pack("ii", 1, 0)
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, discard)
            self.transport.abort()
        elif self.is_idle():
            self.close()
        else:
            self.site.refused("timeout")
            self.finish(_TIMEOUT.encode(b"Connection: close\r\n"))

    def close_if_idle(self):
        if self.state == HEAD and not self.blocked and not self.unread and self.is_idle():
            self.close()

    def abort(self):
        if self.state != CLOSED:
            self.transport.abort()

    @property
    def idle(self):
        return self.is_idle()

    # What the endpoints call

    def is_loopback(self):
        if self.loopback < 0:
            self.loopback = peer_is_loopback(self.transport)
        return self.loopback == 1

    # asyncio callbacks

    def connection_made(self, transport):
        self.transport = transport
        if not self.site.opened(self):
            transport.abort()
            return
        self.state = HEAD
        self.wait(self.site.handshakes)

    def data_received(self, bytes data not None):
        if self.state == LINGER:
            return
        # A loop may hand over what it had read before reading was paused.
        if self.unread or self.blocked or self.state == ANSWER:
            self.unread += data
        else:
            self.advance(data)

    def eof_received(self):
        # The transport closes itself now, as soon as it has sent what it holds: every whole request is answered.
        if self.state != CLOSED and self.transport.get_write_buffer_size():
            self.state = LINGER
            self.wait(self.site.handshakes)

    def pause_writing(self):
        self.blocked = True
        if self.state == HEAD or self.state == BODY:
            self.transport.pause_reading()
            self.wait(self.site.handshakes)

    def resume_writing(self):
        self.blocked = False
        if self.is_idle():
            self.wait(self.site.keepalives)
        self.go_on()

    def connection_lost(self, exception):
        if self.state != CLOSED:
            self.release()
            self.site.closed(self)

    # Reading

    cdef bint is_idle(self):
        return self.state == HEAD and (self.head is None or self.head.size == 0)

    cdef int advance(self, bytes data) except -1:
        """Go through `data` until it ends, the peer blocks, or other connections have a right to go on."""
        cdef Py_ssize_t at = 0
        cdef int turns = REQUESTS_PER_TURN
        try:
            while at < len(data) and turns and not self.blocked:
                if self.state == HEAD:
                    at = self.read_head(data, at)
                    turns -= 1
                elif self.state == BODY:
                    at = self.read_body(data, at)
                else:
                    break
        except BadRequest as problem:
            self.refuse(problem)
        if self.state == ANSWER:
            self.unread = data[at:]
            self.transport.pause_reading()
        elif at < len(data) and (self.state == HEAD or self.state == BODY):
            self.unread = data[at:]
            self.transport.pause_reading()
            if not self.blocked:
                asyncio.get_running_loop().call_soon(self.go_on)
        return 0

    def go_on(self):
        """Take up what was left over, and read again when nothing is."""
        cdef bytes data
        if not self.blocked and (self.state == HEAD or self.state == BODY):
            data, self.unread = self.unread, b""
            self.advance(data)
            if not self.unread and not self.blocked and (self.state == HEAD or self.state == BODY):
                self.resume_reading()

    cdef Py_ssize_t read_head(self, bytes data, Py_ssize_t at) except -1:
        """Read a head and answer, or prepare for its body. Returns how far `data` was taken."""
        cdef HeadParser head = self.head
        cdef Request request
        cdef Py_ssize_t end = -1
        cdef Py_ssize_t length
        cdef Site site = self.site
        if head is None and data.startswith(b"POST ", at):
            end = data.find(HEAD_END, at, at + REPEATED_HEAD)
        if end >= 0:
            end += len(HEAD_END)
            settings = site.settings
            request = parse_head(data[at:end], settings.max_header_bytes, settings.max_headers)
        else:
            if head is None:
                settings = site.settings
                head = self.head = HeadParser(settings.max_header_bytes, settings.max_headers)
            end = head.feed(data, at)
            if end < 0:
                if head.size and self.queue is not site.handshakes:
                    self.wait(site.handshakes)
                return len(data)
            request = head.request
            self.head = None
        try:
            answer = self.endpoints.begin(request, self)
        except Exception:
            logger.exception("a request failed")
            answer = _FAILED
        if answer is None:
            length = -1 if request.length is None else request.length
            if length < 0 or length > len(data) - end:
                self.begin_body(request, end == len(data))
                return end
            self.publish(request, data[end : end + length], False)
            return end + length
        if isinstance(answer, Accept):
            self.upgrade(request, answer, data[end:] if end < len(data) else b"")
            return len(data)
        if request.path == site.cable_path:
            site.refused(_REFUSALS.get(answer.status, "malformed"))
        self.answer_with(request, answer, request.length != 0)
        return end

    cdef int begin_body(self, Request request, bint waiting) except -1:
        """Prepare for a body that has not come whole; `waiting`: nothing of it has come."""
        settings = self.site.settings
        self.state = BODY
        self.request = request
        if request.length is None:
            self.body = ChunkedBody(settings.max_broadcast_size, settings.max_header_bytes)
        else:
            self.body = bytearray()
        self.wait(self.site.handshakes)
        if waiting and request.expects_continue:
            self.write(CONTINUE)
        return 0

    cdef Py_ssize_t read_body(self, bytes data, Py_ssize_t at) except -1:
        cdef Request request = self.request
        cdef Py_ssize_t end
        if request.length is None:
            if self.body.feed(data[at:]):
                self.publish(request, bytes(self.body.content), True)
            return len(data)
        end = at + request.length - len(self.body)
        self.body += data[at:end]
        if len(self.body) == request.length:
            self.publish(request, bytes(self.body), False)
        return min(end, len(data))

    # Answering

    cdef int publish(self, Request request, bytes body, bint close) except -1:
        try:
            answer = self.endpoints.publish(body, request)
        except Exception:
            logger.exception("a broadcast failed")
            answer = _FAILED
        self.answer_with(request, answer, close)
        return 0

    cdef int answer_with(self, Request request, answer, bint close) except -1:
        """Answer now, or when the answer is there."""
        if isinstance(answer, Response):
            return self.answer(request, answer, close)
        self.state = ANSWER
        self.request = request
        self.body = None
        self.last = close
        if self.queue is not None:
            self.queue.discard(self)
            self.queue = None
        answer.add_done_callback(self.answered)
        return 0

    def answered(self, future):
        if self.state != ANSWER:
            return
        try:
            answer = future.result()
        except Exception:
            logger.exception("a broadcast failed")
            answer = _FAILED
        self.answer(self.request, answer, self.last)
        if self.blocked and self.state == HEAD:
            self.wait(self.site.handshakes)
        self.go_on()

    cdef int answer(self, Request request, answer, bint close) except -1:
        cdef bint body = request.method != b"HEAD"
        if close or answer.close or not request.keep_alive or self.site.draining:
            self.finish(answer.encode(b"Connection: close\r\n", body=body))
        else:
            self.state = HEAD
            self.request = self.body = None
            self.wait(self.site.keepalives)
            self.write(answer.encode(b"Connection: keep-alive\r\n" if request.version == "1.0" else b"", body=body))
        return 0

    cdef int refuse(self, problem) except -1:
        logger.debug("a request was refused with %d: %s", problem.status, problem)
        self.site.refused("malformed")
        answer = error(problem.status, str(problem))
        body = self.head is None or self.head.method != b"HEAD"
        self.finish(answer.encode(b"Connection: close\r\n", body=body))
        return 0

    cdef int upgrade(self, Request request, Accept accept, bytes rest) except -1:
        cdef Site site = self.site
        transport = self.transport
        if site.draining or site.is_full():
            site.refused("draining" if site.draining else "full")
            self.answer(request, _DRAINING if site.draining else _FULL, True)
            return 0
        if site.entrance is not None:
            refusal = site.entrance.refusal(transport, request)
            if refusal is not None:
                site.refused("limit")
                self.answer(request, refusal, True)
                return 0
        self.release()
        site.closed(self)
        if not transport.is_reading():
            transport.resume_reading()
        site.accept(transport, request, accept, rest)
        return 0

    cdef int write(self, bytes data) except -1:
        if not self.transport.is_closing():
            self.transport.write(data)
        return 0

    # Ending

    cdef int finish(self, bytes answer) except -1:
        """Send the last answer and our FIN, then throw away what arrives until the peer's FIN or for a bounded time."""
        self.state = LINGER
        self.drop_request()
        self.wait(self.site.lingering)
        self.write(answer)
        if not self.transport.is_closing():
            self.transport.write_eof()
        self.resume_reading()
        return 0

    cdef int close(self) except -1:
        # A close waits until everything is sent, which a peer that reads nothing would make for ever.
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()
        return 0

    cdef int release(self) except -1:
        """Leave the queues and break all cycles."""
        self.state = CLOSED
        self.drop_request()
        if self.queue is not None:
            self.queue.discard(self)
            self.queue = None
        self.transport = None
        return 0

    cdef int drop_request(self) except -1:
        self.unread = b""
        if self.head is not None:
            self.head.close()
            self.head = None
        if isinstance(self.body, ChunkedBody):
            self.body.close()
        self.request = self.body = None
        return 0

    cdef int wait(self, Deadlines queue) except -1:
        """Have the whole allowance of `queue` from now on, and no other deadline."""
        if self.queue is not None and self.queue is not queue:
            self.queue.discard(self)
        self.queue = queue
        queue.add(self, self.site.clock())
        return 0

    cdef int resume_reading(self) except -1:
        if not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()
        return 0


def peer_is_loopback(transport):
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        return True
    address = transport.get_extra_info("peername")
    if not address:
        return False
    return is_loopback_address(address[0])
