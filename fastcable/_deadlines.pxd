cdef class Deadlines:
    cdef readonly double seconds
    cdef readonly dict deadlines
    cdef Py_ssize_t holes

    cpdef add(self, object item, double now)
    cpdef discard(self, object item)
