cdef class Request:
    cdef readonly bytes method
    cdef readonly bytes target
    cdef readonly bytes path
    cdef readonly str version
    cdef readonly list headers
    cdef readonly dict fields
    cdef readonly object length
    cdef readonly bint keep_alive
    cdef readonly bint expects_continue

    cpdef list values(self, bytes name)
    cdef int check(self) except -1


cdef class HeadParser:
    # Limits
    cdef Py_ssize_t max_bytes
    cdef Py_ssize_t max_headers
    # Result
    cdef readonly bytes method
    cdef readonly Request request
    # State
    cdef readonly Py_ssize_t size
    cdef object parser
    cdef bytes tail
    cdef bytes target
    cdef list headers
    cdef bint complete
    cdef bint keep_alive

    cpdef Py_ssize_t feed(self, bytes data, Py_ssize_t start=*) except -2
    cpdef close(self)
    cdef Py_ssize_t find_end(self, bytes data, Py_ssize_t start) except -2
    cdef int parse(self, bytes data) except -1
    cdef object too_long(self)
