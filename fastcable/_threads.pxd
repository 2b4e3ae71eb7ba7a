cdef enum:
    MOST_THREADS = 16


cdef enum Progress:
    GO_ON
    TIME_OVER  # something is left for the next time
    DONE  # nothing is left that this thread could do

# Does one piece of a job, which takes a fraction of a millisecond; `number` is the thread's, 0 the caller's.
ctypedef Progress (*Work)(void* job, int number) noexcept nogil


cdef struct Crew


cdef class ThreadPool:
    cdef readonly int size
    cdef public Py_ssize_t share
    cdef Crew* crew

    cdef int helpers(self, Py_ssize_t items) except -1
    cdef void run(self, Work work, void* job, int helpers) noexcept nogil
    cdef int start(self) except -1
