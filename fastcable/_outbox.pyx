# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Frames that are shared, and the queue of those that wait for one socket.

Joined frames are one immutable bytes object, which every member's socket gets as it is. Where a socket is full, its
connection queues references to parts of it, so thousands of stalled connections wait on one copy.

Theory of operation. In an outbox answers are always queued; messages while it is not full (`Limits`). What happens to
the next one is the policy:

    DROP      it is dropped, and counted for its stream. The dialect's `gap` tells of it before the stream's next
              message, or when the outbox has emptied, whichever is first.
    LATEST    all messages that wait are thinned out to the newest of each stream, which stand behind everything else in
              `newest`; from now on a newer one takes the place of the older, which is counted like a dropped one. When
              the outbox has emptied, it is refilled with these, each behind its gap. Where even these are over
              `max_bytes`, the subscriber has to be closed.
    TO_CLOSE  the subscriber has to be closed.

The bytes in an outbox are in the encoding of the groups they come from; it does not know more of them than where they
start and end.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t
from libc.string cimport memmove

from fastcable._hub cimport Counters, Group, Subscriber


cdef class Chunk:
    """Frames of one group, joined: `count` messages, `ends[i]` the end of each, for members with a ticket below
    `limit`. Without any message it is an answer to them all."""

    def __dealloc__(self):
        PyMem_Free(self.ends)

    cdef size_t end_of(self, uint32_t index) noexcept:
        return self.ends[index] if self.ends is not NULL else <size_t>PyBytes_GET_SIZE(self.data)


cdef class Limits:
    """What may wait for one subscriber (0 = any number), and what happens to more: as `policy`, else as `slow_consumer` says.
    `pending` is told of all that waits."""

    def __init__(self, settings, str policy=None, Pending pending=None):
        self.pending = Pending() if pending is None else pending
        self.max_messages = settings.max_pending_messages or <size_t>-1
        self.max_bytes = settings.max_pending_bytes or <size_t>-1
        self.policy = {"drop": DROP, "latest": LATEST, "close": TO_CLOSE}[policy or settings.slow_consumer]


cdef class Outbox:
    """What waits for a socket that is full: `frames` frames, `messages` of them messages, `size` bytes in all, of
    which the answers have `answers_size`. While the limits are `lifted` it is not full, however much that is."""

    def __init__(self, Limits limits not None, Counters counters not None):
        self.limits = limits
        self.counters = counters

    def __dealloc__(self):
        # Who lets go of an outbox in which something waits has called `drop`.
        PyMem_Free(self.items)

    cdef bint is_full(self) noexcept:
        if self.lifted:
            return False
        return self.frames >= self.limits.max_messages or self.size >= self.limits.max_bytes

    cpdef bint answers_fill(self, int part) noexcept:
        """Whether the answers fill one `part`th of the limits."""
        return (
            self.frames - self.messages >= self.limits.max_messages // part
            or self.answers_size >= self.limits.max_bytes // part
        )

    # In

    cpdef answer(self, bytes data):
        self.append(data, 0, PyBytes_GET_SIZE(data), 0, NULL)

    cdef bint add(self, Group group, Chunk chunk, Subscriber subscriber) except -1:
        """Queue the messages of a chunk, or do with them as the policy says. False: the subscriber is to be closed."""
        cdef uint32_t index
        cdef size_t start = 0
        if chunk.count == 0:
            self.answer(chunk.data)
        for index in range(chunk.count):
            if self.newest is not None or self.is_full():
                self.note_drops(subscriber)
                if self.limits.policy == LATEST:
                    return self.add_newest(group, chunk, index)
                self.counters.drops += chunk.count - index
                if self.limits.policy == TO_CLOSE:
                    return False
                self.miss(group, chunk.count - index)
                return True
            if self.missed is not None and group in self.missed:
                self.tell_gap(group, subscriber)
            self.append(
                chunk.data, start, chunk.end_of(index), 1, <void*>group if self.limits.policy == LATEST else NULL)
            start = chunk.end_of(index)
        return True

    cdef bint add_newest(self, Group group, Chunk chunk, uint32_t first) except -1:
        """Let the last message of a chunk, of which those from `first` on have no place, wait for all of them."""
        cdef uint32_t last = chunk.count - 1
        if self.newest is None:
            self.thin_out()
        if last > first:
            self.counters.drops += last - first
            self.miss(group, last - first)
        if self.newest_size >= self.limits.max_bytes and group not in self.newest:
            self.counters.drops += 1
            return False
        self.replace(group, chunk.data, chunk.end_of(last - 1) if last else 0, chunk.end_of(last))
        return True

    cdef int replace(self, Group group, bytes data, size_t start, size_t end) except -1:
        """Make this the newest message of its stream."""
        older = self.newest.pop(group, None)
        self.limits.pending.add(data)
        if older is not None:
            self.limits.pending.remove(older[0])
            self.newest_size -= older[2] - older[1]
            self.counters.drops += 1
            self.miss(group, 1)
        self.newest[group] = (data, start, end)
        self.newest_size += end - start
        return 0

    cdef int thin_out(self) except -1:
        """Take the messages out of the queue, and the newest of each stream into `newest`."""
        cdef size_t index
        cdef size_t kept = self.head
        cdef Waiting item
        self.newest = {}
        for index in range(self.head, self.head + self.length):
            item = self.items[index]
            if item.group is NULL:
                self.items[kept] = item
                kept += 1
                continue
            self.replace(<Group>item.group, <bytes>item.data, item.start, item.end)
            self.size -= item.end - item.start
            self.frames -= 1
            self.messages -= 1
            self.limits.pending.remove(<bytes>item.data)
            Py_DECREF(<bytes>item.data)
        self.length = kept - self.head
        return 0

    cdef int note_drops(self, Subscriber subscriber) except -1:
        """Note whom messages are dropped for, once in a while."""
        if self.period != self.counters.period and self.counters.dropping is not None:
            self.period = self.counters.period
            self.counters.dropping.add(<size_t><void*>subscriber)
        return 0

    cdef int miss(self, Group group, uint32_t messages) except -1:
        if self.missed is None:
            self.missed = {}
        self.missed[group] = self.missed.get(group, 0) + messages
        return 0

    cdef int left(self, Group group, Subscriber subscriber) except -1:
        """A group that the subscriber leaves while it stays open: what it missed there is told now, and what waits is
        no longer replaced: the group may be gone, or joined anew."""
        cdef size_t index
        for index in range(self.head, self.head + self.length):
            if self.items[index].group == <void*>group:
                self.items[index].group = NULL
        if self.missed is not None and group in self.missed:
            self.tell_gap(group, subscriber)
        if self.newest is not None and group in self.newest:
            data, start, end = self.newest.pop(group)
            self.newest_size -= end - start
            self.append(data, start, end, 1, NULL)
            self.limits.pending.remove(data)
        return 0

    cdef bint refill(self, Subscriber subscriber) except -1:
        """When all has gone out: queue what is the newest of its stream, and tell what was missed. False: nothing."""
        newest, self.newest = self.newest, None
        self.newest_size = 0
        for group, (data, start, end) in (newest or {}).items():
            if self.missed is not None and group in self.missed:
                self.tell_gap(group, subscriber)
            self.append(data, start, end, 1, <void*><Group>group)
            self.limits.pending.remove(data)
        for group in list(self.missed or ()):
            self.tell_gap(group, subscriber)
        return self.length > 0

    cdef int tell_gap(self, Group group, Subscriber subscriber) except -1:
        self.answer(group.encode(subscriber.dialect.gap(group.stream.name, group.key, self.missed.pop(group))))
        self.counters.gaps += 1
        return 0

    cdef int append(self, bytes data, size_t start, size_t end, uint32_t messages, void* group) except -1:
        cdef Waiting* items
        cdef Waiting* last
        cdef size_t capacity
        self.size += end - start
        self.frames += 1
        self.messages += messages
        if messages == 0:
            self.answers_size += end - start
        if self.length and group is NULL:
            last = &self.items[self.head + self.length - 1]
            if last.data == <void*>data and last.end == start and last.group is NULL:
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
        self.limits.pending.add(data)
        Py_INCREF(data)
        self.items[self.head + self.length] = Waiting(<void*>data, start, end, messages, group)
        self.length += 1
        return 0

    # Out

    def take(self, Subscriber subscriber not None):
        """The bytes of the first entry, which counts as delivered; None: nothing waits."""
        cdef Waiting* first
        if self.length == 0 and not self.refill(subscriber):
            return None
        first = &self.items[self.head]
        data = (<bytes>first.data)[first.start:first.end]
        self.counters.deliveries += self.shift()
        return data

    cdef uint32_t shift(self) except? 0xffffffff:
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
        self.limits.pending.remove(<bytes>first.data)
        Py_DECREF(<bytes>first.data)
        if self.length == 0:
            self.head = 0
        return first.messages

    cpdef drop(self, Subscriber subscriber=None):
        """Drop everything that waits."""
        if subscriber is not None and (self.messages or self.newest):
            self.note_drops(subscriber)
        self.counters.drops += self.messages + len(self.newest or ())
        while self.length:
            self.shift()
        for data, _, _ in (self.newest or {}).values():
            self.limits.pending.remove(data)
        self.pong = self.missed = self.newest = None
        self.newest_size = 0

    # In the transport

    cdef int hold(self, bytes data) except -1:
        """The transport waits with a part of `data`, and holds it until `release`."""
        self.release()
        self.held = data
        self.limits.pending.add(data)
        return 0

    cdef int release(self) except -1:
        if self.held is not None:
            self.limits.pending.remove(self.held)
            self.held = None
        return 0

    cdef size_t footprint(self) noexcept:
        """The bytes that this subscriber makes wait, whoever shares them."""
        return self.size + self.newest_size + (0 if self.held is None else <size_t>PyBytes_GET_SIZE(self.held))
