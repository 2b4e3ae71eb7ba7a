cdef class Pending:
    cdef dict entries
    cdef readonly size_t size
    cdef size_t most  # that it was since the last beat of the heartbeat, which sets it back
    cdef readonly size_t limit
    cdef public object exceeded
    cdef bint told

    cdef int add(self, bytes data) except -1
    cdef int remove(self, bytes data) except -1
    cpdef bint is_over(self) noexcept
