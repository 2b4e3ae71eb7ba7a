# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""One upgraded WebSocket: reading, closing, and writing with back-pressure.

Theory of operation
-------------------
Reading. Between messages a connection has no parser: the cable's one parser is lent to whoever receives something, and
stays with a connection only while that holds part of a message. After EVENTS frames the rest waits for the next turn of
the loop, and nothing more is read until then, so a peer that talks without pause holds up nobody else.

Writing. While the socket takes everything, frames go to `send(2)` on the transport's descriptor; the transport's own
queue is empty, so order holds. What does not fit is handed to the transport, which waits for the socket and finds its
errors. From then until `resume_writing` the connection is *blocked*: it has an outbox, a queue of references to frames
that other connections may share, and hands the transport nothing more, because the transport spends some 800 bytes on
each write. A peer that lets answers pile up there is not read until half of them are gone; what happens to messages
while the outbox is full is the outbox's policy.

Who sends more than the cable's meter allows is not read until that says so; what was received already waits in its
parser.

Ending. There are four states:

    OPEN ──close()──────────────► CLOSING ──peer's close frame──► LINGERING ──EOF, or 2 s──► LOST
      ├────peer's close frame, fail()────────────────────────────►   │
      └────EOF, reset, abort()─────────────────────────────────────────────────────────────► LOST

In all but OPEN the connection is in no group and gets no ping. Before our own close frame goes the dialect's farewell,
if it has one. CLOSING waits `close_timeout` for the peer's close
frame. LINGERING has shut down its sending side and throws away what arrives: closing a socket with unread input resets
it, and the reset would eat our close frame (RFC 6455 §7.1.1).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t
from libc.string cimport memset

from fastcable._frames cimport (
    BINARY, CLOSE, FAILED, NEED_DATA, PING, PONG, TEXT, FrameParser, encode_close, encode_frame
)
from fastcable._hub cimport Counters, Group, Hub, Subscriber
from fastcable._meter cimport Meter
from fastcable._outbox cimport Chunk, Limits, Outbox, Waiting
from fastcable._pending cimport Pending

import logging

from fastcable.dialects.refusal import EXPIRED, POLICY_VIOLATION


cdef extern from "<sys/socket.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    struct linger:
        int l_onoff
        int l_linger
    ssize_t send(int fd, const void* data, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    int setsockopt(int fd, int level, int name, const void* value, unsigned int size)
    int getsockopt(int fd, int level, int name, void* value, unsigned int* size)
    enum:
        SOL_SOCKET
        SO_LINGER
        MSG_DONTWAIT
        MSG_NOSIGNAL

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, int* value)
    enum:
        TIOCOUTQ

cdef extern from *:
    """
    #include <sys/socket.h>
    #ifndef SO_MEMINFO
    #define SO_MEMINFO 55  /* Linux 4.12 */
    #endif
    """
    enum:
        SO_MEMINFO

cdef enum:
    IOVECS = 64
    # Frames of one connection that are dealt with in one turn of the loop: up to a millisecond.
    EVENTS = 64
    # Bytes of a compressing client's message that count like a frame: a few that it sends may make many.
    INFLATED = 2048

logger = logging.getLogger("fastcable")

cdef Py_ssize_t alive = 0


def alive_connections() -> int:
    """How many Connection objects exist in this process, open or not."""
    return alive


cdef class Cable:
    """What all connections of one server share: limits, rooms, and the order in which they were last heard.

    `heartbeat.opened(connection)` and `.left(connection)` tell who wants pings; `closing` and `lingering` are queues
    of deadlines, `clock()` their time in seconds; `expiries` is the queue of those who have a token, None where nobody
    has one; `journal`, if there is one, is told of each end. Limits: 0 switches one off. With `binary` the dialects take binary messages, too, in `received_binary`.
    """

    def __init__(self, settings, Hub hub not None, closing, lingering, clock, *, bint binary=False):
        self.max_message_size = settings.max_message_size
        self.max_fragments = settings.max_fragments
        self.binary = binary
        self.inflate = None
        if settings.compression:
            from fastcable.deflate import inflate

            self.inflate = inflate
        self.pending = Pending(settings.max_pending_total)
        self.pending.exceeded = self.exceeded
        self.limits = Limits(settings, None, self.pending)
        self.strict_limits = Limits(settings, "close", self.pending)
        self.hub = hub
        self.heartbeat = None
        self.closing = closing
        self.lingering = lingering
        self.clock = clock
        self.expiries = None
        self.journal = None
        self.addresses = None
        self.meter = Meter(settings.max_messages_per_second) if settings.max_messages_per_second else None
        self.blocked = {}
        self.ending = {}
        self.parser = self.new_parser()
        self.order.older = self.order.newer = &self.order

    cdef FrameParser new_parser(self):
        return FrameParser(self.max_message_size, self.max_fragments, binary=self.binary)

    cdef void heard(self, Peer* peer) noexcept:
        """Note that a peer is alive: it goes to the young end of the order."""
        peer.heard = self.now
        self.forget(peer)
        peer.older = self.order.older
        peer.newer = &self.order
        peer.older.newer = peer
        self.order.older = peer

    cdef void forget(self, Peer* peer) noexcept:
        if peer.newer is not NULL:
            peer.older.newer = peer.newer
            peer.newer.older = peer.older
            peer.older = peer.newer = NULL

    def oldest(self, Py_ssize_t count):
        """Up to `count` open connections, those longest silent first."""
        cdef list found = []
        cdef Peer* peer = self.order.newer
        while peer is not &self.order and len(found) < count:
            found.append(<Connection>peer.connection)
            peer = peer.newer
        return found

    def everybody(self):
        """All connections, those that are being closed included."""
        return [*self.oldest(self.connections), *self.ending]


    def kernel_memory(self):
        """Bytes that the kernel holds for the sockets in which something waits, either way."""
        cdef Connection connection
        cdef Py_ssize_t total = 0
        for connection in self.blocked:
            total += socket_memory(connection.fd)
        if self.meter is not None:
            for connection in self.meter.throttled:
                if connection not in self.blocked:
                    total += socket_memory(connection.fd)
        return total

    def exceeded(self):
        self.hub.call_soon(self.relieve)

    def relieve(self):
        """Close the connections for which most waits, until what waits for all is within its limit."""
        cdef Connection connection
        worst = sorted(self.blocked, key=_footprint, reverse=True) if self.pending.is_over() else []
        for connection in worst:
            if connection.state == OPEN:
                connection.close_slow()
            if not self.pending.is_over():
                break
        else:
            # What the transports hold goes only with the sockets.
            for connection in worst:
                if not self.pending.is_over():
                    break
                connection.reset()
                if connection.outbox is not None:
                    connection.outbox.release()
        self.pending.settle()


cdef Py_ssize_t socket_memory(int fd) noexcept:
    """SO_MEMINFO: what was received, what is to be sent (TCP, then others count it), and what is set aside for both."""
    cdef uint32_t info[9]
    cdef unsigned int size = sizeof(info)
    memset(info, 0, sizeof(info))
    if getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &size) < 0:
        return 0
    return <Py_ssize_t>info[0] + max(info[2], info[5]) + info[4]


def _footprint(Connection connection not None):
    return connection.outbox.footprint()


# Every cycle through a connection is broken in connection_lost, which the transport always calls; so the collector
# need not know of them (said in the .pxd, for the base class too), which is 16 bytes less for each and nothing to walk
# through when there are many.
@cython.no_gc
cdef class Connection(Subscriber):
    """A WebSocket of one server; an asyncio protocol from `open` on."""

    def __cinit__(self):
        global alive
        alive += 1
        self.fd = self.peer.fd = -1
        self.peer.connection = <void*>self

    def __dealloc__(self):
        global alive
        alive -= 1

    def __init__(self, Cable cable not None, dialect, transport):
        self.cable = cable
        self.dialect = dialect
        self.transport = transport
        self.state = LOST

    @property
    def deflates(self):
        """Whether the peer inflates messages, and may send compressed ones; to be said before `open`."""
        return self.flags & DEFLATES != 0

    @deflates.setter
    def deflates(self, bint deflates):
        self.flags = self.flags & ~DEFLATES | (DEFLATES if deflates else 0)

    def open(self, bytes response not None, bytes rest not None):
        """Take the transport over: send the 101 `response`, then read `rest`, the bytes that came behind the
        request."""
        self.fd = self.peer.fd = self.transport.get_extra_info("socket").fileno()
        self.state = OPEN
        self.transport.set_protocol(self)
        # Without a high-water mark the transport tells us of the first byte that the socket did not take.
        self.transport.set_write_buffer_limits(0)
        self.cable.connections += 1
        self.cable.hub.counters.opened += 1
        if self.cable.journal is not None:
            self.cable.journal.opened(self)
        self.cable.heard(&self.peer)
        self.cable.heartbeat.opened(self)
        self.write(response)
        self.dialect.opened(self)
        if rest:
            self(rest)

    # The transport's callbacks

    @property
    def data_received(self):
        # The transport keeps this bound method for the connection's whole life, 72 bytes; the object itself is none.
        return self

    def __call__(self, bytes data not None):
        cdef FrameParser parser = self.parser
        self.cable.hub.counters.bytes_received += PyBytes_GET_SIZE(data)
        if self.state == OPEN:
            if self.peer.heard != self.cable.now:
                self.cable.heard(&self.peer)
        elif self.state != CLOSING:
            return
        if parser is None:
            parser = self.cable.parser
            if self.cable.inflate is not None:
                parser.inflate = self.cable.inflate if self.flags & DEFLATES else None
        parser.feed(data)
        self.read(parser)

    def eof_received(self):
        # Whoever hangs up without reading will not read the rest either, and the transport would wait for it.
        if self.outbox is not None:
            self.transport.abort()

    def pause_writing(self):
        if self.outbox is None:
            self.outbox = Outbox(
                self.cable.strict_limits if self.dialect.loses_silently else self.cable.limits, self.cable.hub.counters)
            self.outbox.progress = self.cable.now
            self.peer.fd = -1
            self.cable.blocked[self] = None
        self.outbox.writing_paused = True

    def resume_writing(self):
        cdef Outbox outbox = self.outbox
        if self.state == LOST:
            return
        outbox.release()
        outbox.writing_paused = outbox.pinged = False
        outbox.progress = self.cable.now
        self.flush()
        if outbox.writing_paused:
            if outbox.reading_paused and not outbox.answers_fill(2):
                outbox.reading_paused = False
                self.read_on()
            return
        self.outbox = None
        del self.cable.blocked[self]
        if self.state == OPEN:
            self.peer.fd = self.fd
        else:
            self.finish()
        if outbox.reading_paused:
            self.read_on()

    def connection_lost(self, exception):
        if self.state == LOST:
            return
        if self.state == OPEN:
            self.ended("none", 1006)
            self.leave(LOST)
        self.state = LOST
        if self.cable.journal is not None:
            self.cable.journal.lost(self)
        self.cable.connections -= 1
        if self.cable.addresses is not None:
            self.cable.addresses.left(self)
        if self.cable.meter is not None:
            self.cable.meter.forget(self)
        self.cable.closing.discard(self)
        self.cable.lingering.discard(self)
        self.cable.blocked.pop(self, None)
        self.cable.ending.pop(self, None)
        self.drop_waiting()
        if self.outbox is not None:
            self.outbox.release()
        self.fd = -1
        self.transport = self.parser = self.outbox = None

    # Reading

    cdef int read(self, FrameParser parser) except -1:
        cdef int event
        cdef int count = 0
        cdef bint done = False
        cdef Meter meter = self.cable.meter
        try:
            while not done and (self.outbox is None or not self.outbox.reading_paused):
                if count >= EVENTS and not parser.is_idle():
                    self.rest()
                    break
                if meter is not None and self.state == OPEN and not parser.is_idle() and meter.is_over(self):
                    self.flags |= THROTTLED
                    self.transport.pause_reading()
                    break
                event = parser.next()
                count += 1
                if event == NEED_DATA:
                    break
                elif event == CLOSE:
                    self.closed_by_peer(parser.code)
                elif event == FAILED:
                    self.fail(parser.code, parser.reason)
                elif self.state == OPEN:
                    if parser.inflate is not None:
                        count += PyBytes_GET_SIZE(parser.payload) // INFLATED
                    if meter is not None:
                        meter.count(self)
                    if event == PING:
                        self.pong(parser.payload)
                    elif event == TEXT:
                        self.dialect.received(self, parser.payload)
                    elif event == BINARY:
                        self.dialect.received_binary(self, parser.payload)
                done = self.state > CLOSING
        except Exception:
            logger.exception("a connection failed")
            self.fail(1011, "internal error")
            done = True
        if done or not parser.is_idle():
            if parser is self.cable.parser:
                self.cable.parser = self.cable.new_parser()
            self.parser = None if done else parser
        else:
            self.parser = None
        return 0

    def rest(self):
        """Leave the rest of what was received for the next turn of the loop."""
        self.flags |= RESTING
        self.transport.pause_reading()
        self.cable.hub.call_soon(self.go_on)

    def go_on(self):
        self.flags &= ~RESTING
        if self.state != LOST and (self.outbox is None or not self.outbox.reading_paused):
            self.read_on()

    def unthrottle(self):
        self.flags &= ~THROTTLED
        if self.state == OPEN:
            self.cable.heard(&self.peer)  # it has been talking all the time
        if self.state != LOST and (self.outbox is None or not self.outbox.reading_paused):
            self.read_on()

    cdef int read_on(self) except -1:
        """Read again, beginning with what the parser still holds."""
        if not self.flags & PAUSED:
            self.transport.resume_reading()
            if self.parser is not None:
                self.read(self.parser)
        return 0

    # Writing

    cpdef answer(self, bytes text):
        self.answer_frame(encode_frame(TEXT, text))

    def send_frame(self, bytes frame not None):
        """Send a frame that is none of a group's; it is never dropped."""
        self.answer_frame(frame)

    cdef int answer_frame(self, bytes frame) except -1:
        if self.state == OPEN:
            self.write(frame)
        return 0

    def ping(self, bytes frame not None):
        """Send a frame that nobody misses when the socket is full."""
        if self.outbox is None:
            self.write(frame)

    cdef int ping_ahead(self, bytes frame) except -1:
        """Send a frame to a blocked peer ahead of what waits for it, unless one before it is still on its way."""
        if not self.outbox.pinged:
            self.outbox.pinged = True
            self.outbox.unsent += PyBytes_GET_SIZE(frame)  # no byte that the peer took
            self.cable.hub.counters.bytes_sent += PyBytes_GET_SIZE(frame)
            self.transport.write(frame)
        return 0

    cdef int pong(self, bytes payload) except -1:
        if self.outbox is not None:
            # Only the latest is owed (RFC 6455 §5.5.3).
            self.outbox.pong = payload
        else:
            self.write(encode_frame(PONG, payload))
        return 0

    cdef int write(self, bytes frame) except -1:
        cdef ssize_t sent
        cdef Outbox outbox = self.outbox
        if outbox is not None:
            outbox.answer(frame)
            if self.state == OPEN and not outbox.reading_paused and outbox.answers_fill(1):
                outbox.reading_paused = True
                self.transport.pause_reading()
            return 0
        self.cable.hub.counters.bytes_sent += PyBytes_GET_SIZE(frame)
        sent = send(self.fd, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent != PyBytes_GET_SIZE(frame):
            self.hand_over(frame, max(sent, 0))
        return 0

    cdef int hand_over(self, bytes data, size_t sent) except -1:
        """Give the transport what the socket did not take; it finds the error, too, if that is why."""
        self.transport.write(memoryview(data)[sent:] if sent else data)
        if self.outbox is not None:
            self.outbox.hold(data)
        elif self.transport.is_closing():
            self.peer.fd = -1
        return 0

    cdef int enqueue(self, Group group, Chunk chunk) except -1:
        """Queue the messages of a chunk for a blocked connection."""
        if self.outbox is None or self.state != OPEN:
            self.cable.hub.counters.drops += chunk.count
        elif not self.outbox.add(group, chunk, self):
            self.close_slow()
        return 0

    cdef int left(self, Group group) except -1:
        """This connection leaves a group and stays open."""
        if self.outbox is not None:
            self.outbox.left(group, self)
        return 0

    cdef int flush(self) except -1:
        """Write what waits until nothing does or the socket is full again."""
        cdef Outbox outbox = self.outbox
        cdef Counters counters = self.cable.hub.counters
        cdef iovec vectors[IOVECS]
        cdef msghdr message
        cdef size_t index, size, length
        cdef ssize_t sent
        cdef Waiting* item
        cdef bytes frame
        while True:
            if outbox.pong is not None and self.state == OPEN:
                frame, outbox.pong = encode_frame(PONG, outbox.pong), None
                outbox.answer(frame)
            if outbox.length == 0 and (self.state != OPEN or not outbox.refill(self)):
                return 0
            length = outbox.length if outbox.length < IOVECS else IOVECS
            size = 0
            for index in range(length):
                item = &outbox.items[outbox.head + index]
                vectors[index].iov_base = PyBytes_AS_STRING(<bytes>item.data) + item.start
                vectors[index].iov_len = item.end - item.start
                size += vectors[index].iov_len
            memset(&message, 0, sizeof(msghdr))
            message.msg_iov = vectors
            message.msg_iovlen = length
            sent = sendmsg(self.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent < 0:
                if errno == EINTR:
                    continue
                sent = 0
            counters.bytes_sent += sent
            for index in range(length):
                if <size_t>sent < vectors[index].iov_len:
                    break
                sent -= vectors[index].iov_len
                counters.deliveries += outbox.shift()
            else:
                continue
            item = &outbox.items[outbox.head]
            frame = <bytes>item.data
            rest = memoryview(frame)[item.start + sent:item.end]
            counters.deliveries += outbox.shift()
            counters.bytes_sent += len(rest)
            self.transport.write(rest)
            if outbox.writing_paused or self.transport.is_closing():
                outbox.hold(frame)
                outbox.writing_paused = True
                return 0

    cdef bint stalled(self, uint32_t allowance) except -1:
        """Whether the peer's side took no byte for `allowance` beats of the clock."""
        cdef int unacknowledged = 0
        cdef size_t unsent
        ioctl(self.fd, TIOCOUTQ, &unacknowledged)
        unsent = unacknowledged + <size_t>self.transport.get_write_buffer_size()
        if unsent != self.outbox.unsent:
            self.outbox.unsent = unsent
            self.outbox.progress = self.cable.now
        return self.cable.now - self.outbox.progress >= allowance

    # Ending

    cpdef close(self, int code, str reason=""):
        """Begin the closing handshake; what waits already is sent first."""
        if self.state == OPEN:
            self.cable.hub.disconnected(self, True)
        if self.state != OPEN:  # or no longer: that was too much for a slow one
            return
        self.ended("server", code)
        self.leave(CLOSING)
        self.write(self.last_words(code, reason))
        self.cable.closing.add(self, self.cable.clock())

    cpdef fail(self, int code, str reason):
        """Fail the connection (RFC 6455 §7.1.7): a close frame, nothing that waited before it, and the end."""
        if self.state > CLOSING:
            return
        if self.state == OPEN:
            self.ended("server", code)
            self.leave(LINGERING)
            self.drop_waiting()
            self.write(self.last_words(code, reason))
        self.state = LINGERING
        self.finish()

    cdef bytes last_words(self, int code, str reason):
        farewell = self.dialect.farewell(code, reason)
        close = encode_close(code, reason)
        return close if farewell is None else encode_frame(TEXT, farewell) + close

    def close_slow(self):
        """Close a connection that does not keep up, without what waits for it."""
        self.cable.hub.counters.slow_closes += 1
        self.drop_waiting()
        self.cable.hub.disconnected(self, False)
        self.close(1013, "too slow")

    def abort(self):
        """Cut the connection off."""
        if self.transport is not None:
            self.transport.abort()

    def reset(self):
        """Cut the connection off, and have the kernel forget what the peer did not take: it would keep that, the whole
        send buffer, for minutes."""
        cdef linger discard = linger(1, 0)
        setsockopt(self.fd, SOL_SOCKET, SO_LINGER, &discard, sizeof(linger))
        self.abort()

    def deadline_passed(self, queue):
        if self.outbox is not None:
            self.reset()
        else:
            self.abort()

    cdef int closed_by_peer(self, int code) except -1:
        if self.state == OPEN:
            self.ended("client", code)
            self.leave(LINGERING)
            self.drop_waiting()
            self.write(encode_close(code, ""))
        self.state = LINGERING
        self.finish()
        return 0

    def drop_waiting(self):
        if self.outbox is not None:
            self.outbox.drop(self)

    cdef int ended(self, str by, int code) except -1:
        """Who ends this connection, which is open: the server, the client, or without a close frame none (1006)."""
        self.cable.hub.counters.closed(by, code)
        if self.cable.journal is not None:
            self.cable.journal.ended(self, by, code)
        return 0

    cdef int leave(self, State state) except -1:
        """Stop being a subscriber, and wanting pings."""
        self.state = state
        self.peer.fd = -1
        if state != LOST:
            self.cable.ending[self] = None
        self.cable.forget(&self.peer)
        self.cable.heartbeat.left(self)
        self.cable.hub.disconnected(self, False)
        return 0

    cdef int finish(self) except -1:
        if self.state != LINGERING:
            return 0
        self.cable.closing.discard(self)
        self.cable.lingering.add(self, self.cable.clock())
        if self.outbox is None:
            if not self.transport.is_closing():
                self.transport.write_eof()
        elif self.outbox.reading_paused:
            self.outbox.reading_paused = False
            self.transport.resume_reading()
        return 0


@cython.no_gc
cdef class TokenConnection(Connection):
    """A connection that a token has let in, for as long as that is valid; `claims` are the token's."""

    def __init__(self, Cable cable not None, dialect, transport, claims not None):
        Connection.__init__(self, cable, dialect, transport)
        self.claims = claims

    def open(self, bytes response not None, bytes rest not None):
        Connection.open(self, response, rest)
        if self.state == OPEN:
            self.cable.expiries.add(self)
            if self.claims.identifiers is not None:
                self.cable.hub.sessions.add(self.claims.identifiers, self)

    def deadline_passed(self, queue):
        if queue is self.cable.expiries:
            self.close(POLICY_VIOLATION, EXPIRED)
        else:
            Connection.deadline_passed(self, queue)

    cdef int leave(self, State state) except -1:
        self.cable.expiries.discard(self)
        return Connection.leave(self, state)
