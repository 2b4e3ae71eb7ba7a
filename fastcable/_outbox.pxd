from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastcable._hub cimport Counters, Group, Subscriber
from fastcable._pending cimport Pending


cdef struct Waiting:
    void* data  # a bytes object, owned
    size_t start
    size_t end
    uint32_t messages  # 0 for an answer
    void* group  # a Group, borrowed, of the one message that this is while it may be replaced by a newer one; or NULL


cdef class Chunk:
    cdef bytes data
    cdef list messages  # from which `data` is still to be made
    cdef uint32_t count
    cdef uint32_t* ends
    cdef uint64_t limit
    cdef size_t posted  # bytes of the messages alone
    cdef int64_t since  # when the first of them was posted
    cdef uint64_t taken  # by how many members' sockets, or their transports

    cdef size_t end_of(self, uint32_t index) noexcept


cdef enum Policy:
    DROP
    LATEST
    TO_CLOSE


cdef class Limits:
    cdef readonly size_t max_messages
    cdef readonly size_t max_bytes
    cdef Policy policy
    cdef readonly Pending pending


cdef class Outbox:
    # Settings
    cdef Limits limits
    cdef Counters counters
    # What waits
    cdef Waiting* items
    cdef size_t head
    cdef size_t length
    cdef size_t capacity
    cdef readonly size_t size
    cdef readonly size_t frames
    cdef readonly size_t messages
    cdef readonly size_t answers_size
    cdef dict newest
    cdef size_t newest_size
    cdef readonly dict missed
    # The socket's side
    cdef bint lifted
    cdef bytes held  # of which the transport has a part
    cdef bytes pong
    cdef bint writing_paused
    cdef bint pinged  # ahead of what waits, since the socket last took everything
    cdef bint reading_paused
    cdef size_t unsent
    cdef uint32_t progress
    cdef uint32_t period  # in which messages were last dropped

    cdef bint is_full(self) noexcept
    cpdef bint answers_fill(self, int part) noexcept
    cpdef answer(self, bytes data)
    cdef bint add(self, Group group, Chunk chunk, Subscriber subscriber) except -1
    cdef bint add_newest(self, Group group, Chunk chunk, uint32_t first) except -1
    cdef int replace(self, Group group, bytes data, size_t start, size_t end) except -1
    cdef int thin_out(self) except -1
    cdef int note_drops(self, Subscriber subscriber) except -1
    cdef int miss(self, Group group, uint32_t messages) except -1
    cdef int left(self, Group group, Subscriber subscriber) except -1
    cdef bint refill(self, Subscriber subscriber) except -1
    cdef int tell_gap(self, Group group, Subscriber subscriber) except -1
    cdef int append(self, bytes data, size_t start, size_t end, uint32_t messages, void* group) except -1
    cdef uint32_t shift(self) except? 0xffffffff
    cdef size_t footprint(self) noexcept
    cdef int hold(self, bytes data) except -1
    cdef int release(self) except -1
    cpdef drop(self, Subscriber subscriber=*)
