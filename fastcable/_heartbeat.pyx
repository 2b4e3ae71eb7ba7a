# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Pings, and the deadlines of silent and of stalled connections.

Theory of operation
-------------------
Time is counted in beats. A beat is the same fraction of a second as long as the process runs, and does not happen while
it is stopped, so nobody is taken for dead because of our own absence.

Pings. Each connection belongs to one slot of a ring. With each beat a ring turns by one slot, and so comes round once
in `ping_interval`. There is a ring for each kind of JSON ping:

    plain   a constant; all members of a slot get it when the slot's turn comes
    timed   the time in seconds, every `actioncable_ping_interval`: in each beat all slots get it which are a whole number
            of such intervals away from the one whose turn it is

Clients that are sent timed pings take a connection without them for lost, so a blocked connection gets them, too:
ahead of what waits for it, one as long as that one has not gone out. And they want each to be greater than the last,
whatever the system's clock does.

Who has sent nothing since its slot's last turn gets a WebSocket ping, which every peer's stack answers by itself. It
gets one already in the middle between two turns, so that an answer can arrive before `idle_timeout`, by default just
two intervals, is over.

A slot and a ticket within it name a connection for as long as it is open; sealed, they are its socket id, which so
costs no memory. Therefore the rings have a slot even where there are no pings.

Deadlines. The cable keeps its connections in the order in which they were last heard; all have the same allowance, so
only the head of the order is looked at. Of the blocked ones, who are few, each is asked in each beat.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastcable._connection cimport OPEN, Cable, Connection, Peer
from fastcable._fanout cimport Members
from fastcable._frames cimport PING, TEXT, encode_frame
from fastcable._outbox cimport Chunk

from time import time

from fastcable.socket_ids import SealedNumbers
from fastcable.surplus import Surplus

cdef extern from *:
    """
    #ifdef __GLIBC__
    #include <malloc.h>
    #else
    #define malloc_trim(pad) 0
    #endif
    """
    int malloc_trim(size_t pad)

cdef int64_t NEVER = 0x7fffffffffffffff

cdef enum:
    # Connections that have to be gone before their memory is worth giving back: a megabyte and more.
    CROWD = 1000
    # Bytes that waited for slow peers and have to be gone before they are worth giving back.
    PILE = 8 << 20
    # Slots of a ring at most, so that a connection has room for their number: an interval of more than four hours is
    # cut short.
    MOST_SLOTS = 32_000


def give_back():
    """Have the C library part with what it keeps for later, which takes some milliseconds."""
    malloc_trim(0)


cdef class Ring:
    """Slots of connections. Those of every `ping_beats`th slot get the JSON ping in one beat, those of every
    `probe_beats`th are looked at; 0: never."""

    cdef list slots
    cdef uint32_t base  # the number of the first slot, among those of all rings
    cdef uint32_t next_slot
    cdef uint32_t ping_beats
    cdef uint32_t probe_beats

    def __init__(self, uint32_t base, uint32_t ping_beats, uint32_t probe_beats):
        """The ring turns once in the longer of the two, which is cut down to a multiple of the other."""
        cdef uint32_t length
        ping_beats = min(ping_beats, <uint32_t>MOST_SLOTS)
        probe_beats = min(probe_beats, <uint32_t>MOST_SLOTS)
        if 0 < ping_beats <= probe_beats:
            probe_beats -= probe_beats % ping_beats
        elif probe_beats:
            ping_beats -= ping_beats % probe_beats
        length = max(ping_beats, probe_beats, 1)
        self.slots = [Members() for _ in range(length)]
        self.base = base
        self.ping_beats = ping_beats
        self.probe_beats = probe_beats


cdef class Heartbeat:
    """The beats of one cable: call `beat` every `seconds`.

    `ping` is the text that each open connection gets every `ping_interval` seconds, `timed_ping % seconds since 1970`
    the one that it gets every `actioncable_ping_interval` seconds instead if its dialect says `timed_pings`. A
    connection silent for `idle_timeout` seconds is closed (1001), one whose peer takes no bytes for `write_timeout`
    seconds is cut off. 0 switches one off.

    It knows the connections' socket ids (`SocketIds`).
    """

    cdef readonly double seconds
    cdef public object time  # seconds since 1970
    cdef Cable cable
    cdef Ring plain
    cdef Ring timed
    cdef Chunk ping
    cdef bytes timed_ping
    cdef list told  # the last number of each phase of timed pings
    cdef object numbers
    cdef bytes websocket_ping
    cdef uint32_t idle_beats
    cdef uint32_t write_beats
    cdef object crowd
    cdef object pile

    def __init__(self, Cable cable not None, bytes ping not None, double seconds, settings, bytes timed_ping=b"%d"):
        probe_beats = max(round(settings.ping_interval / seconds), 2) if settings.ping_interval else 0
        timed_interval = settings.actioncable_ping_interval
        self.seconds = seconds
        self.time = time
        self.cable = cable
        self.plain = Ring(0, probe_beats, probe_beats)
        self.timed = Ring(
            len(self.plain.slots), max(round(timed_interval / seconds), 1) if timed_interval else 0, probe_beats)
        self.ping = Chunk()
        self.ping.data = encode_frame(TEXT, ping)
        self.timed_ping = timed_ping
        self.told = [0] * self.timed.ping_beats
        self.numbers = SealedNumbers()
        self.websocket_ping = encode_frame(PING, b"")
        self.idle_beats = -int(-settings.idle_timeout // seconds)
        self.write_beats = -int(-settings.write_timeout // seconds)
        self.crowd = Surplus(CROWD)
        self.pile = Surplus(PILE)

    cdef Members slot(self, uint32_t phase):
        if phase < self.timed.base:
            return self.plain.slots[phase]
        return self.timed.slots[phase - self.timed.base]

    def opened(self, Connection connection not None):
        cdef Ring ring = self.timed if connection.dialect.timed_pings else self.plain
        cdef Members slot
        # One after the other: after a storm of reconnects the pings are spread all the same.
        ring.next_slot = (ring.next_slot + 1) % <uint32_t>len(ring.slots)
        slot = ring.slots[ring.next_slot]
        connection.phase = ring.base + ring.next_slot
        connection.ticket = slot.add(&connection.peer)

    def left(self, Connection connection not None):
        cdef Members slot
        if connection.ticket:
            slot = self.slot(connection.phase)
            slot.remove(slot.find(connection.ticket))
            slot.compact()
            connection.ticket = 0

    def beat(self):
        """One beat of the clock."""
        cdef uint32_t now
        self.cable.now += 1
        now = self.cable.now
        if self.timed.ping_beats:
            self.send_timed_pings(now)
        if self.plain.ping_beats:
            self.send_pings(now)
        self.probe(self.plain, now)
        self.probe(self.timed, now)
        if self.idle_beats:
            self.close_idle(now)
        if self.write_beats and self.cable.blocked:
            self.cut_off_stalled()
        if self.cable.meter is not None:
            self.cable.meter.refill(self.seconds)
        self.give_back_memory()

    cdef int send_pings(self, uint32_t now) except -1:
        cdef Members slot = self.plain.slots[now % self.plain.ping_beats]
        slot.send(self.ping, None, None, 0, slot.length, NEVER)
        self.count(self.ping)
        return 0

    cdef int count(self, Chunk ping) except -1:
        self.cable.hub.counters.bytes_sent += ping.taken * len(ping.data)
        ping.taken = 0
        return 0

    cdef int send_timed_pings(self, uint32_t now) except -1:
        cdef uint32_t phase = now % self.timed.ping_beats
        cdef Chunk ping = Chunk()
        cdef Connection connection
        cdef Members slot
        self.told[phase] = max(self.told[phase] + 1, int(self.time()))
        ping.data = encode_frame(TEXT, self.timed_ping % self.told[phase])
        # First those who are blocked now: who will be by this very ping need not get it twice.
        for connection in list(self.cable.blocked):
            if connection.ticket and connection.phase >= self.timed.base:
                if (connection.phase - self.timed.base) % self.timed.ping_beats == phase:
                    connection.ping_ahead(ping.data)
        for slot in self.timed.slots[phase :: self.timed.ping_beats]:
            slot.send(ping, None, None, 0, slot.length, NEVER)
        self.count(ping)
        return 0

    cdef int give_back_memory(self) except -1:
        """The C library keeps freed memory in its heap unless it is asked to part with it: after a crowd has left, and
        when much that waited for slow peers does so no longer."""
        cdef Py_ssize_t connections = self.cable.connections
        cdef size_t waiting = self.cable.pending.size
        if self.crowd.look(connections, connections) | self.pile.look(waiting, self.cable.pending.most):
            malloc_trim(0)
        self.cable.pending.most = waiting
        return 0

    cdef int probe(self, Ring ring, uint32_t now) except -1:
        """Send a WebSocket ping to those who were not heard since their slot's last turn: where it is its turn again,
        and in the middle between two."""
        cdef uint32_t half = ring.probe_beats // 2
        cdef Members slot
        if ring.probe_beats:
            for slot in ring.slots[now % ring.probe_beats :: ring.probe_beats]:
                self.probe_slot(slot, now - ring.probe_beats)
            for slot in ring.slots[(now + ring.probe_beats - half) % ring.probe_beats :: ring.probe_beats]:
                self.probe_slot(slot, now - half)
        return 0

    cdef int probe_slot(self, Members slot, uint32_t turn) except -1:
        cdef Py_ssize_t index
        cdef Peer* peer
        for index in range(slot.length):
            peer = slot.items[index].peer
            if peer is not NULL and <int>(peer.heard - turn) < 0:
                (<Connection>peer.connection).ping(self.websocket_ping)
        return 0

    cdef int close_idle(self, uint32_t now) except -1:
        cdef Peer* peer = self.cable.order.newer
        cdef Connection connection
        # The beat in which something was heard had begun before: the next whole ones count.
        while peer is not &self.cable.order and now - peer.heard > self.idle_beats:
            connection = <Connection>peer.connection
            if self.write_beats and connection.outbox is not None:
                # It was sent no ping that it could answer, or is not listened to; the write timeout watches it.
                self.cable.heard(peer)
            else:
                connection.close(1001, "idle timeout")
            peer = self.cable.order.newer
        return 0

    cdef int cut_off_stalled(self) except -1:
        cdef Connection connection
        for connection in list(self.cable.blocked):
            if connection.stalled(self.write_beats):
                if connection.state == OPEN:
                    self.cable.hub.counters.slow_closes += 1
                connection.reset()
        return 0

    def open_connections(self):
        """How many connections are open that want plain pings, and how many that want timed ones."""
        cdef Members slot
        cdef Py_ssize_t plain = 0
        cdef Py_ssize_t timed = 0
        for slot in self.plain.slots:
            plain += slot.live
        for slot in self.timed.slots:
            timed += slot.live
        return plain, timed

    # Socket ids

    def id_of(self, Connection connection not None):
        return self.numbers.seal(connection.ticket << 16 | connection.phase)

    def find(self, str socket not None):
        cdef uint64_t number, ticket
        cdef Members slot
        cdef Py_ssize_t index
        found = self.numbers.open(socket)
        if found is None:
            return None
        number = found
        slot = self.slot(number & 0xffff)
        ticket = number >> 16
        index = slot.find(ticket)
        if index == slot.length or slot.items[index].ticket != ticket or slot.items[index].peer is NULL:
            return None
        return <Connection>slot.items[index].peer.connection

    def forget(self, subscriber):
        """Nothing is kept of those who left their slot."""
