# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The same bytes to many WebSockets: members, and the group that frames once for all of them.

Theory of operation
-------------------
Members stand in the order in which they joined, each with a ticket, a number that only grows. So a ticket finds its
member by bisection, and "everybody who had joined when this was posted" is "every ticket below a limit". A member that
leaves becomes a tombstone; tombstones are removed only between fan-outs, because an index must not move during one.

A group collects what is posted in `waiting`. *Sealing* turns that into chunks, each with the limit that says who gets
it. Waiting messages are sealed when their fan-out begins, or before somebody joins or leaves. One chunk after the other
is sent to all members below its limit, in slices; whoever leaves in between is first given the chunks that have not
reached it yet.

Compression. Where it is negotiated, a group has a second one inside, for the members who inflate (`NegotiatedGroup`);
the hub and the dialects know of one group only. The inner one compresses each message once for all its members, and not
before its turn: a chunk is at most 64 KiB or one message, so what is posted together is not compressed in one go.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastcable._connection cimport DEFLATES, Connection, Peer
from fastcable._frames cimport DEFLATED, TEXT, encode_frame, header_size, join_frames
from fastcable._hub cimport Group, Subscriber, monotonic_ns
from fastcable._outbox cimport Chunk
from fastcable._threads cimport DONE, GO_ON, MOST_THREADS, TIME_OVER, Progress, ThreadPool

from collections import deque


cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_send "send" (int fd, const void* data, size_t size, int flags)
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL

cdef extern from *:
    Py_ssize_t fetch_add "__atomic_fetch_add" (Py_ssize_t*, Py_ssize_t, int) nogil
    enum:
        RELAXED "__ATOMIC_RELAXED"

cdef enum:
    # Members that a thread takes at a time, and between two looks at the clock: some 0.1 ms for small messages.
    STRIDE = 16
    # Members that one thread may find who did not take all of it, before these are seen to.
    ROOM = 128
    # A chunk of several messages is at most this long: what a socket takes at once by default (send_buffer).
    CHUNK = 65536

# Of a ticket: it is one of the inner group's.
cdef uint64_t INNER = 1ULL << 63

# In place of the number of bytes sent: the member's socket may not be used directly.
cdef enum:
    NOT_READY = -2


cdef struct Short:
    Py_ssize_t index
    ssize_t sent


cdef struct Share:
    # What one thread did of a slice.
    Py_ssize_t taken  # members that took all of it
    Py_ssize_t count
    Short shorts[ROOM]  # those that did not


cdef struct Slice:
    Member* items
    Py_ssize_t next  # the first member that no thread has taken yet
    Py_ssize_t stop
    int64_t until
    const char* data
    ssize_t size
    Share shares[MOST_THREADS]


cdef Progress send_stride(void* job, int number) noexcept nogil:
    """Send to the next members of a slice."""
    cdef Slice* slice = <Slice*>job
    cdef Share* share = &slice.shares[number]
    cdef Py_ssize_t index, start
    cdef Peer* peer
    cdef ssize_t sent
    if share.count > ROOM - STRIDE:
        return DONE
    start = fetch_add(&slice.next, STRIDE, RELAXED)
    for index in range(start, min(start + STRIDE, slice.stop)):
        peer = slice.items[index].peer
        if peer is NULL:
            continue
        if peer.fd >= 0:
            sent = c_send(peer.fd, slice.data, slice.size, MSG_DONTWAIT | MSG_NOSIGNAL)
            while sent < 0 and errno == EINTR:
                sent = c_send(peer.fd, slice.data, slice.size, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent == slice.size:
                share.taken += 1
                continue
        else:
            sent = NOT_READY
        share.shorts[share.count] = Short(index, sent)
        share.count += 1
    if start + STRIDE >= slice.stop:
        return DONE
    return TIME_OVER if monotonic_ns() >= slice.until else GO_ON


cdef class Members:
    """Peers in the order in which they joined."""

    def __dealloc__(self):
        PyMem_Free(self.items)

    cdef uint64_t add(self, Peer* peer) except 0:
        cdef Member* items
        cdef Py_ssize_t capacity
        if self.length == self.capacity:
            capacity = self.capacity + self.capacity // 2 if self.capacity > 2 else self.capacity + 1
            items = <Member*>PyMem_Realloc(self.items, capacity * sizeof(Member))
            if items is NULL:
                raise MemoryError()
            self.items = items
            self.capacity = capacity
        self.tickets += 1
        self.items[self.length] = Member(peer, self.tickets)
        self.length += 1
        self.live += 1
        return self.tickets

    cdef Py_ssize_t find(self, uint64_t ticket) noexcept:
        """The index of the first member whose ticket is not below this one."""
        cdef Py_ssize_t low = 0
        cdef Py_ssize_t high = self.length
        cdef Py_ssize_t middle
        while low < high:
            middle = (low + high) // 2
            if self.items[middle].ticket < ticket:
                low = middle + 1
            else:
                high = middle
        return low

    cdef void remove(self, Py_ssize_t index) noexcept:
        self.items[index].peer = NULL
        self.live -= 1

    cdef int compact(self) except -1:
        """Remove the tombstones once they are as many as the members. Not during a fan-out."""
        cdef Member* items
        cdef Py_ssize_t index
        cdef Py_ssize_t kept = 0
        if self.length < 2 * self.live or self.length == self.live:
            return 0
        for index in range(self.length):
            if self.items[index].peer is not NULL:
                self.items[kept] = self.items[index]
                kept += 1
        self.length = kept
        if self.capacity > 4 * kept + 4:
            items = <Member*>PyMem_Realloc(self.items, (kept + 1) * sizeof(Member))
            if items is not NULL:
                self.items = items
                self.capacity = kept + 1
        return 0

    cdef Py_ssize_t send(
        self, Chunk chunk, Group group, ThreadPool threads, Py_ssize_t start, Py_ssize_t stop, int64_t until
    ) except -1:
        """Send a chunk to members from `start` on until `stop` or until the clock is past `until`; where it ended.

        `group` is told to the members that the messages have to wait for; None: a member whose socket is full is
        passed over. `threads` help where it is worth while, if there are any.
        """
        cdef Slice slice
        cdef Share* share
        cdef int helpers = 0
        cdef int number
        cdef Py_ssize_t index
        cdef Py_ssize_t taken = 0
        cdef Connection connection
        slice.items = self.items
        slice.next = start
        slice.stop = stop
        slice.until = until
        slice.data = PyBytes_AS_STRING(chunk.data)
        slice.size = PyBytes_GET_SIZE(chunk.data)
        while slice.next < stop:
            if threads is not None:
                helpers = threads.helpers(stop - slice.next)
            for number in range(helpers + 1):
                slice.shares[number].taken = slice.shares[number].count = 0
            with nogil:
                if helpers:
                    threads.run(send_stride, &slice, helpers)
                else:
                    while send_stride(&slice, 0) == GO_ON:
                        pass
            for number in range(helpers + 1):
                share = &slice.shares[number]
                taken += share.taken
                for index in range(share.count):
                    # A connection that is closed for being slow leaves its groups here, and becomes a tombstone.
                    if self.items[share.shorts[index].index].peer is NULL:
                        continue
                    connection = <Connection>self.items[share.shorts[index].index].peer.connection
                    if share.shorts[index].sent != NOT_READY:
                        connection.hand_over(chunk.data, max(share.shorts[index].sent, 0))
                        taken += 1
                    elif group is not None:
                        connection.enqueue(group, chunk)
            if monotonic_ns() >= until:
                break
        chunk.taken += taken
        if group is not None:
            group.counters.deliveries += chunk.count * taken
            group.counters.bytes_sent += slice.size * taken
        return min(slice.next, stop)


cdef class WebSocketGroup(Group):
    """Subscribers whose frame for a message is `before`, the message, `after`, as text. `threads` help with a large
    fan-out."""

    def __init__(self, bytes before not None, bytes after not None, ThreadPool threads=None):
        self.before = before
        self.after = after
        self.threads = threads
        self.members = Members()

    cdef Py_ssize_t size(self) noexcept:
        return self.members.live

    cdef uint64_t join(self, Subscriber subscriber) except 0:
        self.seal()
        return self.members.add(&(<Connection?>subscriber).peer)

    cdef int leave(self, uint64_t ticket, bint settle) except -1:
        cdef Py_ssize_t index = self.members.find(ticket)
        cdef Chunk chunk
        self.seal()
        if self.chunk is not None and self.position <= index < self.stop:
            self.settle(index, self.chunk, settle)
        for chunk in self.sealed or ():
            if ticket < chunk.limit:
                self.settle(index, chunk, settle)
        if settle:
            (<Connection>self.members.items[index].peer.connection).left(self)
        self.members.remove(index)
        if self.chunk is None:
            self.members.compact()
        return 0

    cdef int settle(self, Py_ssize_t index, Chunk chunk, bint wanted) except -1:
        """Send a chunk to a member that leaves before its turn came, or count it as dropped."""
        if wanted:
            self.prepare(chunk)
            self.members.send(chunk, self, None, index, index + 1, 0)
        else:
            self.counters.drops += chunk.count
        return 0

    cdef int tell(self, Subscriber subscriber, bytes data) except -1:
        if self.told is not data:
            self.told = data
            self.told_frame = self.frame(data)
        (<Connection>subscriber).answer_frame(self.told_frame)
        self.counters.deliveries += 1
        return 0

    cdef int announce(self, bytes text) except -1:
        cdef Chunk chunk
        self.seal()
        if self.sealed is None:
            self.sealed = deque()
        chunk = Chunk()
        chunk.data = encode_frame(TEXT, text)
        chunk.limit = self.members.tickets + 1
        self.sealed.append(chunk)
        return 0

    cdef bytes encode(self, bytes text):
        return encode_frame(TEXT, text)

    cdef int post(self, bytes data) except -1:
        self.counters.backlog += PyBytes_GET_SIZE(data)
        if self.waiting is None:
            self.since = monotonic_ns()
            self.waiting = [data]
        else:
            self.waiting.append(data)
        return 0

    cdef int seal(self) except -1:
        cdef list waiting = self.waiting
        cdef Py_ssize_t count, start, stop, index
        cdef size_t size, frame, envelope
        cdef Chunk chunk
        if waiting is None:
            return 0
        self.waiting = None
        if self.members.live == 0:
            for data in waiting:
                self.counters.backlog -= PyBytes_GET_SIZE(<bytes>data)
            return 0
        if self.sealed is None:
            self.sealed = deque()
        envelope = PyBytes_GET_SIZE(self.before) + PyBytes_GET_SIZE(self.after)
        count = len(waiting)
        start = 0
        while start < count:
            size = 0
            stop = start
            while stop < count:
                frame = envelope + PyBytes_GET_SIZE(<bytes>waiting[stop])
                frame += header_size(frame)
                if stop > start and size + frame > CHUNK:
                    break
                size += frame
                stop += 1
            chunk = Chunk()
            chunk.count = stop - start
            chunk.since = self.since
            for index in range(start, stop):
                chunk.posted += PyBytes_GET_SIZE(<bytes>waiting[index])
            if chunk.count > 1:
                chunk.ends = <uint32_t*>PyMem_Malloc(chunk.count * sizeof(uint32_t))
                if chunk.ends is NULL:
                    raise MemoryError()
            self.fill(chunk, waiting, start, stop)
            chunk.limit = self.members.tickets + 1
            self.sealed.append(chunk)
            start = stop
        return 0

    cdef int fill(self, Chunk chunk, list messages, Py_ssize_t start, Py_ssize_t stop) except -1:
        """Give a chunk its frames, or what they are to be made from."""
        chunk.data = join_frames(self.before, messages, start, stop, self.after, chunk.ends)
        return 0

    cdef int prepare(self, Chunk chunk) except -1:
        """Make the frames of a chunk that has none yet."""
        return 0

    cdef bytes frame(self, bytes data):
        return join_frames(self.before, [data], 0, 1, self.after, NULL)

    cdef bint step(self, int64_t until) except -1:
        cdef Py_ssize_t position
        cdef int64_t now
        while True:
            if self.chunk is None:
                if not self.sealed:
                    self.seal()
                if not self.sealed:
                    return False
                self.chunk = self.sealed.popleft()
                self.position = 0
                self.prepare(self.chunk)
                self.begun = monotonic_ns()
                self.stop = self.members.find(self.chunk.limit)
            # The one member that may leave meanwhile, closed for being slow, has been dealt with; nobody else can,
            # because the transport's callbacks that a send may cause (`pause_writing`) make nobody leave.
            position, self.position = self.position, self.stop
            self.position = self.members.send(self.chunk, self, self.threads, position, self.stop, until)
            now = monotonic_ns()
            if self.position >= self.stop:
                self.counters.backlog -= self.chunk.posted
                if self.chunk.count:
                    self.counters.fanout.add(now - self.begun, 1)
                    self.counters.latency.add(now - self.chunk.since, self.chunk.count)
                self.chunk = None
                self.members.compact()
            if now >= until:
                return self.chunk is not None or bool(self.sealed) or self.waiting is not None


cdef class DeflatedGroup(WebSocketGroup):
    """Subscribers who get the same messages compressed. `deflate(text)` gives the payload; None: as it is."""

    def __init__(self, bytes before not None, bytes after not None, ThreadPool threads, deflate not None):
        WebSocketGroup.__init__(self, before, after, threads)
        self.deflate = deflate

    cdef int fill(self, Chunk chunk, list messages, Py_ssize_t start, Py_ssize_t stop) except -1:
        chunk.messages = messages[start:stop]
        return 0

    cdef int prepare(self, Chunk chunk) except -1:
        cdef list frames
        cdef Py_ssize_t index
        cdef size_t end = 0
        if chunk.messages is None:
            return 0
        frames = [self.frame(data) for data in chunk.messages]
        chunk.messages = None
        if chunk.ends is not NULL:
            for index in range(len(frames)):
                end += PyBytes_GET_SIZE(<bytes>frames[index])
                chunk.ends[index] = <uint32_t>end
        chunk.data = b"".join(frames)
        return 0

    cdef bytes frame(self, bytes data):
        cdef bytes text = self.before + data + self.after
        cdef bytes deflated = self.deflate(text)
        return encode_frame(TEXT, text) if deflated is None else encode_frame(TEXT | DEFLATED, deflated)


cdef class NegotiatedGroup(WebSocketGroup):
    """Subscribers of whom some inflate what `deflate` made."""

    def __init__(self, bytes before not None, bytes after not None, deflate not None, ThreadPool threads=None):
        WebSocketGroup.__init__(self, before, after, threads)
        self.deflate = deflate

    cdef Py_ssize_t size(self) noexcept:
        return self.members.live + (0 if self.inner is None else self.inner.members.live)

    cdef uint64_t join(self, Subscriber subscriber) except 0:
        if not (<Connection?>subscriber).flags & DEFLATES:
            return WebSocketGroup.join(self, subscriber)
        if self.inner is None:
            self.inner = DeflatedGroup(self.before, self.after, self.threads, self.deflate)
            self.inner.stream = self.stream
            self.inner.key = self.key
            self.inner.dialect = self.dialect
            self.inner.counters = self.counters
        return self.inner.join(subscriber) | INNER

    cdef int leave(self, uint64_t ticket, bint settle) except -1:
        if ticket & INNER:
            return self.inner.leave(ticket & ~INNER, settle)
        return WebSocketGroup.leave(self, ticket, settle)

    cdef int tell(self, Subscriber subscriber, bytes data) except -1:
        if (<Connection>subscriber).flags & DEFLATES:
            return self.inner.tell(subscriber, data)
        return WebSocketGroup.tell(self, subscriber, data)

    cdef int announce(self, bytes text) except -1:
        WebSocketGroup.announce(self, text)
        if self.inner is not None:
            self.inner.announce(text)
        return 0

    cdef int post(self, bytes data) except -1:
        if self.members.live:
            WebSocketGroup.post(self, data)
        if self.inner is not None and self.inner.members.live:
            self.inner.post(data)
        return 0

    cdef bint step(self, int64_t until) except -1:
        if self.inner is None:
            return WebSocketGroup.step(self, until)
        for _ in range(2):
            # Whoever's slice ends is followed by the other next time.
            self.turn = not self.turn
            if self.inner.step(until) if self.turn else WebSocketGroup.step(self, until):
                return True
        return False
