cdef class Accept:
    cdef readonly bytes response
    cdef readonly str dialect
    cdef readonly bint deflates


cpdef bytes accept_key(bytes key)
