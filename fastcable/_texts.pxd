from libc.stdint cimport int64_t, uint64_t

from fastcable._hub cimport Group, Hub, Subscriber
from fastcable._outbox cimport Chunk, Outbox


cdef class TextSubscriber(Subscriber):
    cdef readonly Hub hub
    cdef readonly Outbox outbox
    cdef readonly bint closing

    cdef int queue(self, Group group, Chunk chunk) except -1


cdef class TextGroup(Group):
    cdef readonly bytes before
    cdef readonly bytes after
    cdef dict members
    cdef uint64_t tickets
    cdef object waiting
    cdef bint sending

    cdef int flush(self) except -1
    cdef int send_next(self) except -1
    cdef int send(self, Chunk chunk) except -1
