# cython: language_level=3
"""The memory that waits for slow peers in all outboxes of a server, what they share counted once."""

from cpython.bytes cimport PyBytes_GET_SIZE


cdef class Pending:
    """Bytes objects that somebody waits with, of `size` bytes together; `limit` is what they may have, 0 = any number.

    `exceeded()` is called when they have more, and not again until it has called `settle`.
    """

    def __init__(self, size_t limit=0):
        self.limit = limit
        self.entries = {}  # id of the object -> how many wait with it
        self.exceeded = None

    cdef int add(self, bytes data) except -1:
        """One more waits with `data`, and holds it until `remove`."""
        cdef object key = <size_t><void*>data
        cdef object waiting = self.entries.get(key)
        if waiting is not None:
            self.entries[key] = waiting + 1
            return 0
        self.entries[key] = 1
        self.size += PyBytes_GET_SIZE(data)
        self.most = max(self.most, self.size)
        if 0 < self.limit < self.size and not self.told and self.exceeded is not None:
            self.told = True
            self.exceeded()
        return 0

    cdef int remove(self, bytes data) except -1:
        cdef object key = <size_t><void*>data
        cdef object waiting = self.entries[key]
        if waiting > 1:
            self.entries[key] = waiting - 1
            return 0
        del self.entries[key]
        self.size -= PyBytes_GET_SIZE(data)
        return 0

    cpdef bint is_over(self) noexcept:
        return 0 < self.limit < self.size

    def settle(self):
        """What was over the limit is dealt with."""
        self.told = False
