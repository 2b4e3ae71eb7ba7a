from libc.stdint cimport uint32_t, uint64_t


cdef struct Waiting:
    void* data  # a bytes object, owned
    size_t start
    size_t end
    uint32_t messages  # 0 for an answer


cdef class Chunk:
    cdef bytes data
    cdef uint32_t count
    cdef uint32_t* ends
    cdef uint64_t limit
    cdef size_t posted  # bytes of the messages alone

    cdef size_t end_of(self, uint32_t index) noexcept


cdef class Outbox:
    cdef Waiting* items
    cdef size_t head
    cdef size_t length
    cdef size_t capacity
    cdef readonly size_t size
    cdef readonly size_t frames
    cdef readonly size_t messages
    cdef readonly size_t answers_size
    cdef readonly dict missed
    cdef bytes pong
    cdef bint writing_paused
    cdef bint reading_paused
    cdef size_t unsent
    cdef uint32_t progress

    cdef int append(self, bytes data, size_t start, size_t end, uint32_t messages) except -1
    cdef uint32_t shift(self) noexcept
    cdef void clear(self) noexcept
