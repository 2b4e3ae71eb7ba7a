cdef class Meter:
    cdef readonly double rate
    cdef readonly double burst
    cdef dict spent
    cdef readonly dict throttled

    cdef int count(self, connection) except -1
    cdef bint is_over(self, connection) except -1
