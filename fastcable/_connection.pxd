cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastcable._frames cimport FrameParser
from fastcable._hub cimport Group, Hub, Subscriber
from fastcable._meter cimport Meter
from fastcable._outbox cimport Chunk, Limits, Outbox
from fastcable._pending cimport Pending


cdef struct Peer:
    # What a fan-out needs to know of a connection, without touching Python.
    int fd  # to send on directly; -1 while that is not allowed: closing, or something waits already
    uint32_t heard  # the clock's beat in which its last bytes came
    Peer* older  # in the order in which they were last heard
    Peer* newer
    void* connection  # borrowed: whoever holds a Peer is told by Connection.leave


cdef class Cable:
    # Settings
    cdef readonly Py_ssize_t max_message_size
    cdef readonly Py_ssize_t max_fragments
    cdef bint binary
    cdef object inflate  # None: compression is not negotiated
    cdef Limits limits
    cdef Limits strict_limits
    # Rooms
    cdef readonly Hub hub
    cdef public object heartbeat
    cdef public object clock
    cdef public object closing
    cdef public object lingering
    cdef public object expiries
    cdef public object journal
    cdef public object addresses
    cdef readonly Meter meter
    # State
    cdef readonly Py_ssize_t connections
    cdef readonly dict blocked
    cdef readonly Pending pending
    cdef dict ending
    cdef FrameParser parser
    cdef Peer order
    cdef uint32_t now

    cdef FrameParser new_parser(self)
    cdef void heard(self, Peer* peer) noexcept
    cdef void forget(self, Peer* peer) noexcept


cdef enum State:
    OPEN
    CLOSING
    LINGERING
    LOST


cdef enum Flag:
    RESTING = 1  # it has had its share of this turn of the loop
    THROTTLED = 2
    PAUSED = RESTING | THROTTLED  # why it is not read, besides its outbox
    DEFLATES = 4  # compression was negotiated


@cython.no_gc
cdef class Connection(Subscriber):
    cdef Peer peer
    cdef readonly Cable cable
    cdef readonly object transport
    cdef FrameParser parser
    cdef readonly Outbox outbox
    cdef uint64_t ticket  # the heartbeat's
    cdef int fd
    cdef uint16_t phase  # the heartbeat's
    cdef uint8_t state
    cdef uint8_t flags

    cdef int read(self, FrameParser parser) except -1
    cdef int answer_frame(self, bytes frame) except -1
    cdef int write(self, bytes frame) except -1
    cdef int hand_over(self, bytes data, size_t sent) except -1
    cdef int enqueue(self, Group group, Chunk chunk) except -1
    cdef int flush(self) except -1
    cdef int left(self, Group group) except -1
    cdef int ping_ahead(self, bytes frame) except -1
    cdef int pong(self, bytes payload) except -1
    cdef int closed_by_peer(self, int code) except -1
    cdef int leave(self, State state) except -1
    cdef int ended(self, str by, int code) except -1
    cdef int finish(self) except -1
    cdef int read_on(self) except -1
    cdef bint stalled(self, uint32_t allowance) except -1
    cdef bytes last_words(self, int code, str reason)
    cpdef fail(self, int code, str reason)


@cython.no_gc
cdef class TokenConnection(Connection):
    cdef readonly object claims
