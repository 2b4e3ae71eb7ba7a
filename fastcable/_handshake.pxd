cdef class Accept:
    cdef readonly bytes response
    cdef readonly str dialect


cpdef bytes accept_key(bytes key)
