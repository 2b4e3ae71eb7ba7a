# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Pings, and the deadlines of silent and of stalled connections.

Theory of operation
-------------------
Time is counted in beats. A beat is the same fraction of a second as long as the process runs, and does not happen while
it is stopped, so nobody is taken for dead because of our own absence.

Pings. Each connection belongs to one slot of a ring; a slot's turn comes once in `ping_interval`, and then all its
members get the same frame. Who has sent nothing since its last ping gets a WebSocket ping besides, which every peer's
stack answers by itself. It gets one already in the middle between two turns, so that an answer can arrive before
`idle_timeout`, by default just two intervals, is over.

Deadlines. The cable keeps its connections in the order in which they were last heard; all have the same allowance, so
only the head of the order is looked at. Of the blocked ones, who are few, each is asked in each beat.
"""

from libc.stdint cimport uint32_t

from fastcable._connection cimport OPEN, Cable, Connection, Peer
from fastcable._fanout cimport Members
from fastcable._frames cimport PING, TEXT, encode_frame
from fastcable._outbox cimport Chunk

cdef extern from *:
    """
    #ifdef __GLIBC__
    #include <malloc.h>
    #else
    #define malloc_trim(pad) 0
    #endif
    """
    int malloc_trim(size_t pad)

cdef enum:
    # Connections that have to be gone before their memory is worth giving back: a megabyte and more.
    CROWD = 1000


cdef class Heartbeat:
    """The beats of one cable: call `beat` every `seconds`.

    `ping` is the text that each open connection gets every `ping_interval` seconds; a connection silent for
    `idle_timeout` seconds is closed (1001), one whose peer takes no bytes for `write_timeout` seconds is cut off. 0
    switches one off.
    """

    cdef readonly double seconds
    cdef Cable cable
    cdef list ring
    cdef Chunk ping
    cdef bytes websocket_ping
    cdef uint32_t next_phase
    cdef uint32_t idle_beats
    cdef uint32_t write_beats
    cdef Py_ssize_t most  # connections since memory was given back
    cdef Py_ssize_t last  # connections at the beat before

    def __init__(self, Cable cable not None, bytes ping not None, double seconds, settings):
        slots = max(round(settings.ping_interval / seconds), 2) if settings.ping_interval else 0
        self.seconds = seconds
        self.cable = cable
        self.ring = [Members() for _ in range(slots)]
        self.ping = Chunk()
        self.ping.data = encode_frame(TEXT, ping)
        self.websocket_ping = encode_frame(PING, b"")
        self.idle_beats = -int(-settings.idle_timeout // seconds)
        self.write_beats = -int(-settings.write_timeout // seconds)

    def opened(self, Connection connection not None):
        cdef Members slot
        if self.ring:
            # One after the other: after a storm of reconnects the pings are spread all the same.
            self.next_phase = (self.next_phase + 1) % <uint32_t>len(self.ring)
            connection.phase = self.next_phase
            slot = self.ring[connection.phase]
            connection.ticket = slot.add(&connection.peer)

    def left(self, Connection connection not None):
        cdef Members slot
        if connection.ticket:
            slot = self.ring[connection.phase]
            slot.remove(slot.find(connection.ticket))
            slot.compact()
            connection.ticket = 0

    def beat(self):
        """One beat of the clock."""
        cdef Py_ssize_t slots = len(self.ring)
        cdef Py_ssize_t half = slots // 2
        cdef uint32_t now
        cdef Members slot
        self.cable.now += 1
        now = self.cable.now
        if slots:
            slot = self.ring[now % slots]
            slot.send(self.ping, None, None, 0, slot.length, 0x7fffffffffffffff)
            self.probe(slot, now - slots)
            self.probe(self.ring[(now + slots - half) % slots], now - half)
        if self.idle_beats:
            self.close_idle(now)
        if self.write_beats and self.cable.blocked:
            self.cut_off_stalled()
        self.give_back_memory()

    cdef int give_back_memory(self) except -1:
        """The C library keeps freed memory in its heap unless it is asked to part with it: after a crowd has left."""
        cdef Py_ssize_t connections = self.cable.connections
        if connections > self.most:
            self.most = connections
        elif self.most - connections > max(connections, CROWD) and connections >= self.last:
            malloc_trim(0)
            self.most = connections
        self.last = connections
        return 0

    cdef int probe(self, Members slot, uint32_t pinged) except -1:
        """Send a WebSocket ping to those who were not heard since the beat of their last ping."""
        cdef Py_ssize_t index
        cdef Peer* peer
        for index in range(slot.length):
            peer = slot.items[index].peer
            if peer is not NULL and <int>(peer.heard - pinged) < 0:
                (<Connection>peer.connection).ping(self.websocket_ping)
        return 0

    cdef int close_idle(self, uint32_t now) except -1:
        cdef Peer* peer = self.cable.order.newer
        cdef Connection connection
        # The beat in which something was heard had begun before: the next whole ones count.
        while peer is not &self.cable.order and now - peer.heard > self.idle_beats:
            connection = <Connection>peer.connection
            if self.write_beats and connection.outbox is not None and connection.outbox.reading_paused:
                self.cable.heard(peer)  # it may be talking, but is not listened to; the write timeout watches it
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
