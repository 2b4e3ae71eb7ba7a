from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastcable._connection cimport Peer
from fastcable._hub cimport Group, Subscriber
from fastcable._outbox cimport Chunk
from fastcable._threads cimport ThreadPool


cdef struct Member:
    Peer* peer  # NULL: left
    uint64_t ticket


cdef class Members:
    cdef Member* items
    cdef Py_ssize_t length
    cdef Py_ssize_t capacity
    cdef readonly Py_ssize_t live
    cdef uint64_t tickets

    cdef uint64_t add(self, Peer* peer) except 0
    cdef Py_ssize_t find(self, uint64_t ticket) noexcept
    cdef void remove(self, Py_ssize_t index) noexcept
    cdef int compact(self) except -1
    cdef Py_ssize_t send(
        self, Chunk chunk, Group group, ThreadPool threads, Py_ssize_t start, Py_ssize_t stop, int64_t until
    ) except -1


cdef class WebSocketGroup(Group):
    cdef readonly bytes before
    cdef readonly bytes after
    cdef Members members
    cdef ThreadPool threads
    cdef list waiting
    cdef int64_t since  # when the first of these was posted
    cdef object sealed
    cdef bytes told  # to each who joined lately, and its frame
    cdef bytes told_frame
    # The fan-out under way
    cdef Chunk chunk
    cdef Py_ssize_t position
    cdef Py_ssize_t stop
    cdef int64_t begun

    cdef int seal(self) except -1
    cdef int fill(self, Chunk chunk, list messages, Py_ssize_t start, Py_ssize_t stop) except -1
    cdef int prepare(self, Chunk chunk) except -1
    cdef bytes frame(self, bytes data)
    cdef int settle(self, Py_ssize_t index, Chunk chunk, bint wanted) except -1


cdef class DeflatedGroup(WebSocketGroup):
    cdef object deflate


cdef class NegotiatedGroup(WebSocketGroup):
    cdef DeflatedGroup inner  # None as long as nobody wants it
    cdef object deflate
    cdef bint turn  # which of the two is served first
