# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Frames that are shared, and the queue of those that wait for one socket.

Joined frames are one immutable bytes object, which every member's socket gets as it is. Where a socket is full, its
connection queues references to parts of it, so thousands of stalled connections wait on one copy.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t
from libc.string cimport memmove


cdef class Chunk:
    """Frames of one group, joined: `count` messages, `ends[i]` the end of each, for members with a ticket below
    `limit`."""

    def __dealloc__(self):
        PyMem_Free(self.ends)

    cdef size_t end_of(self, uint32_t index) noexcept:
        return self.ends[index] if self.ends is not NULL else <size_t>PyBytes_GET_SIZE(self.data)


cdef class Outbox:
    """What waits for a socket that is full: `frames` frames, `messages` of them messages, `size` bytes in all, of
    which the answers have `answers_size`."""

    def __dealloc__(self):
        self.clear()
        PyMem_Free(self.items)

    cdef int append(self, bytes data, size_t start, size_t end, uint32_t messages) except -1:
        cdef Waiting* items
        cdef Waiting* last
        cdef size_t capacity
        self.size += end - start
        self.frames += 1
        self.messages += messages
        if messages == 0:
            self.answers_size += end - start
        if self.length:
            last = &self.items[self.head + self.length - 1]
            if last.data == <void*>data and last.end == start:
                last.end = end
                last.messages += messages
                return 0
        if self.head + self.length == self.capacity:
            if self.head >= self.length and self.head:
                memmove(self.items, self.items + self.head, self.length * sizeof(Waiting))
                self.head = 0
            else:
                capacity = self.capacity * 2 if self.capacity else 8
                items = <Waiting*>PyMem_Realloc(self.items, capacity * sizeof(Waiting))
                if items is NULL:
                    raise MemoryError()
                self.items = items
                self.capacity = capacity
        Py_INCREF(data)
        self.items[self.head + self.length] = Waiting(<void*>data, start, end, messages)
        self.length += 1
        return 0

    cdef uint32_t shift(self) noexcept:
        """Remove the first entry; its number of messages."""
        cdef Waiting first = self.items[self.head]
        self.head += 1
        self.length -= 1
        self.size -= first.end - first.start
        if first.messages:
            self.frames -= first.messages
            self.messages -= first.messages
        else:
            self.frames -= 1
            self.answers_size -= first.end - first.start
        Py_DECREF(<bytes>first.data)
        if self.length == 0:
            self.head = 0
        return first.messages

    cdef void clear(self) noexcept:
        while self.length:
            self.shift()
        self.pong = None
        self.missed = None
