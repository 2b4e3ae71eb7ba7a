from libc.stdint cimport int64_t, uint64_t


cdef enum:
    BOUNDS_COUNT = 13


cdef class Histogram:
    cdef int64_t limits[BOUNDS_COUNT]  # nanoseconds
    cdef uint64_t numbers[BOUNDS_COUNT + 1]  # the last: longer than all of them
    cdef int64_t total  # nanoseconds

    cdef void add(self, int64_t nanoseconds, uint64_t times) noexcept
