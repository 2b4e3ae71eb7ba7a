# cython: language_level=3
"""Subscribers whose transport takes whole texts (an ASGI server's WebSocket), and the group that writes each of them
once for all.

Theory of operation
-------------------
A message is put between its envelope once, and that one object waits for every member in its outbox, until the member's
writer takes it. The writer says with `blocked` that the transport makes it wait; the limits of a slow subscriber hold
from then until it goes on.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t

from fastcable._hub cimport Group, Hub, Subscriber, monotonic_ns
from fastcable._outbox cimport Chunk, Limits, Outbox

from collections import deque


cdef class TextSubscriber(Subscriber):
    def __init__(self, Hub hub not None, dialect, Limits limits not None):
        self.hub = hub
        self.dialect = dialect
        self.outbox = Outbox(limits, hub.counters)
        self.outbox.lifted = True

    @property
    def blocked(self):
        return not self.outbox.lifted

    @blocked.setter
    def blocked(self, bint blocked):
        self.outbox.lifted = not blocked

    def wake(self):
        raise NotImplementedError

    def end(self, int code, str reason not None):
        raise NotImplementedError

    cpdef answer(self, bytes text):
        if not self.closing:
            self.outbox.answer(text)
            self.wake()

    cpdef close(self, int code, str reason=""):
        if not self.closing:
            self.hub.disconnected(self, True)
        if not self.closing:  # or no longer: that was too much for a slow one
            self.closing = True
            self.end(code, reason)

    def fail(self, int code, str reason not None):
        if not self.closing:
            self.outbox.drop()
            self.hub.disconnected(self, False)
            self.close(code, reason)

    cdef int queue(self, Group group, Chunk chunk) except -1:
        if self.closing:
            self.hub.counters.drops += chunk.count
        elif self.outbox.add(group, chunk, self):
            self.wake()
        else:
            self.hub.counters.slow_closes += 1
            self.fail(1013, "too slow")
        return 0


cdef class TextGroup(Group):
    def __init__(self, bytes before not None, bytes after not None):
        self.before = before
        self.after = after
        self.members = {}
        self.waiting = deque()

    cdef Py_ssize_t size(self) noexcept:
        return len(self.members)

    cdef uint64_t join(self, Subscriber subscriber) except 0:
        self.flush()
        self.tickets += 1
        self.members[self.tickets] = <TextSubscriber?>subscriber
        return self.tickets

    cdef int leave(self, uint64_t ticket, bint settle) except -1:
        cdef TextSubscriber member
        self.flush()
        member = <TextSubscriber>self.members.pop(ticket)
        if settle:
            member.outbox.left(self, member)
            member.wake()
        return 0

    cdef int post(self, bytes data) except -1:
        self.counters.backlog += PyBytes_GET_SIZE(data)
        self.waiting.append(data)
        return 0

    cdef int tell(self, Subscriber subscriber, bytes data) except -1:
        subscriber.answer(self.before + data + self.after)
        self.counters.deliveries += 1
        return 0

    cdef int announce(self, bytes text) except -1:
        cdef Chunk chunk = Chunk()
        chunk.data = text
        self.flush()
        self.send(chunk)
        return 0

    cdef bytes encode(self, bytes text):
        return text

    cdef bint step(self, int64_t until) except -1:
        while self.waiting:
            self.send_next()
            if monotonic_ns() >= until:
                return bool(self.waiting)
        return False

    cdef int flush(self) except -1:
        """Send what waits before the members change; but nobody joins or leaves in the middle of that, except who is
        closed for being too slow for it."""
        if not self.sending:
            while self.waiting:
                self.send_next()
        return 0

    cdef int send_next(self) except -1:
        cdef bytes data = self.waiting.popleft()
        cdef Chunk chunk = Chunk()
        chunk.data = self.before + data + self.after
        chunk.count = 1
        self.counters.backlog -= PyBytes_GET_SIZE(data)
        self.send(chunk)
        return 0

    cdef int send(self, Chunk chunk) except -1:
        cdef TextSubscriber member
        self.sending = True
        try:
            for member in list(self.members.values()):
                member.queue(self, chunk)
        finally:
            self.sending = False
        return 0
