# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Streams, the groups of their subscribers, and who hears of a broadcast when.

Theory of operation
-------------------
A *stream* exists while somebody is subscribed to it. Its subscribers are divided into *groups*: all who want the same
bytes for the same message. The hub does not know what those bytes are; a group does. A subscriber is in a group once.

A subscription is absent, pending or live. It is pending until the broker said that the stream is heard
(`Hub.confirmed`), which the memory broker says at once. Then, and for each further `subscribe` of the same thing, the
subscriber's dialect gets `confirmed`. Leaving a pending subscription cancels it, its confirmation too.

A broker may lose its streams (`Hub.interrupted`). Subscriptions that are live stay so, and others stay pending until the
stream is heard again; whoever was subscribed all along is then told of a gap, behind all that was posted before.

A broadcast is only *posted* to the groups. They are served in `Hub.turn`, once per loop turn, so that the messages of
one turn reach a subscriber in one write. A large fan-out is cut into slices: a group works until its slice is over and
queues up again behind the others, so a small stream never waits for a large one, and the loop goes round in between.

Who gets a message is decided when it is posted, not when it is sent: joining and leaving order themselves between
messages (`Group.join` and `Group.leave` tell how), so nobody gets a message from before its confirmation, and nobody
misses one from before its `unsubscribe`. That also serves the one who is to be passed over by a message: it leaves before
the message is posted and joins after.

Who publishes may have put JSON into a string, as AnyCable's publishers do: an *embedded* message. What the string holds
is posted to the groups that want it so (`Group.unwraps`), and the string to all others.

A stream's *retained* message is posted like any other, and kept; who joins later is told it right behind the
confirmation, so that it has the stream's state, and then every change.
"""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

import logging
from collections import deque

from fastcable._json import embedded_json
from fastcable.sessions import Sessions
from fastcable.socket_ids import RandomSocketIds

logger = logging.getLogger("fastcable")

cdef enum:
    # Confirmations that one subscriber of a pending stream can have coming; who asks more often gets these.
    MOST_OWED = 1024


cdef int64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef class Counters:
    """What happened since the start: `broadcasts` accepted; messages delivered (`deliveries`: handed to a peer's
    socket) and dropped (`drops`); `gaps` told; connections closed for being slow (`slow_closes`); WebSockets `opened`,
    and `closes` of them by who closed them and the code; `refusals` of connections and requests by their reason; bytes
    of WebSockets received, and sent to sockets. And what is going on now: bytes posted to groups and still to be sent
    (`backlog`), `subscriptions` held, pending ones included.

    `fanout` is how long the sends of messages to a group took, `latency` how long messages took from when they were
    posted until each member's socket had them, or they waited for it.

    `dropping`: the connections for which messages were dropped since it was last taken (`take_dropping`); None: nobody
    wants to know."""

    def __init__(self):
        self.closes = {}
        self.refusals = {}
        self.fanout = Histogram()
        self.latency = Histogram()
        self.period = 1

    cpdef closed(self, str by, int code):
        """Count the end of a WebSocket; codes that only peers invent are one."""
        key = (by, code if 1000 <= code <= 1015 else 0)
        self.closes[key] = self.closes.get(key, 0) + 1

    cpdef refused(self, str reason):
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    def take_dropping(self):
        """How many connections messages were dropped for since this was last asked."""
        cdef Py_ssize_t count = len(self.dropping or ())
        self.dropping = set()
        self.period += 1
        return count


@cython.no_gc
cdef class Subscriber:
    """Somebody who holds subscriptions: a WebSocket connection, say. `dialect` is who speaks for it, `errors` the bad
    commands in a row that the dialect counted."""

    def __cinit__(self):
        self.held = NULL

    def __dealloc__(self):
        PyMem_Free(self.held)

    @property
    def subscriptions(self) -> int:
        """How many streams this subscriber holds, pending ones included."""
        return self.held_count

    cpdef answer(self, bytes text):
        """Send one message of the dialect to this subscriber alone; answers are never dropped."""
        raise NotImplementedError

    cpdef close(self, int code, str reason=""):
        """End the connection in good order, with a close code of RFC 6455 §7.4."""
        raise NotImplementedError

    cdef Subscription* find(self, Group group) noexcept:
        cdef int i
        for i in range(self.held_count):
            if self.held[i].group == <void*>group:
                return &self.held[i]
        return NULL

    cdef Subscription* find_key(self, object key) except? NULL:
        """The subscription in a group of this key, whatever its stream; NULL: there is none."""
        cdef int i
        for i in range(self.held_count):
            if (<Group>self.held[i].group).key == key:
                return &self.held[i]
        return NULL

    cdef int hold(self, Group group, uint64_t ticket) except -1:
        cdef int capacity
        cdef Subscription* held
        if self.held_count == self.held_capacity:
            # One subscription is the usual number, and then 16 bytes are all it takes.
            capacity = min(self.held_capacity * 2, 0xffff) if self.held_capacity else 1
            held = <Subscription*>PyMem_Realloc(self.held, capacity * sizeof(Subscription))
            if held is NULL:
                raise MemoryError()
            self.held = held
            self.held_capacity = capacity
        self.held[self.held_count] = Subscription(<void*>group, ticket)
        self.held_count += 1
        group.holders += 1
        group.counters.subscriptions += 1
        return 0

    cdef void release(self, Subscription* subscription) noexcept:
        (<Group>subscription.group).holders -= 1
        (<Group>subscription.group).counters.subscriptions -= 1
        self.held_count -= 1
        subscription[0] = self.held[self.held_count]


cdef class Group:
    """Subscribers of one stream who want the same bytes for a message: same envelope, same encoding.

    The hub calls `post` for each message and then `step` until it answers False. A subclass keeps the members. Its
    contract: a member gets exactly the messages that are posted between its `join` and its `leave`, in that order,
    each once, or is told what it missed; a member whose `leave` says `settle` first gets what was posted before.
    `tell` is for one member alone, who has just joined: it is never dropped.
    """

    cdef uint64_t join(self, Subscriber subscriber) except 0:
        """Add a member; the ticket names it in `leave`."""
        raise NotImplementedError

    cdef int leave(self, uint64_t ticket, bint settle) except -1:
        raise NotImplementedError

    cdef int post(self, bytes data) except -1:
        raise NotImplementedError

    cdef bint step(self, int64_t until) except -1:
        """Send until nothing is left (False) or the monotonic clock (ns) is past `until` (True: call again)."""
        raise NotImplementedError

    cdef int tell(self, Subscriber subscriber, bytes data) except -1:
        raise NotImplementedError

    cdef int announce(self, bytes text) except -1:
        """Send a text of the dialect to all members, behind what was posted; it is never dropped, and no message."""
        raise NotImplementedError

    cdef bytes encode(self, bytes text):
        """A text of the dialect in the encoding of this group's members."""
        raise NotImplementedError

    cdef Py_ssize_t size(self) noexcept:
        """How many members there are now."""
        return 0


cdef class Stream:
    """One stream that somebody is subscribed to."""

    def __init__(self, str name not None):
        self.name = name
        self.groups = {}
        self.live = False
        self.missed = False
        self.pending = None

    @property
    def subscribers(self) -> int:
        return self.size()

    cdef Py_ssize_t size(self) except -1:
        cdef Py_ssize_t total = 0
        cdef Group group
        for group in self.groups.values():
            total += group.size()
        return total


cdef class Hub:
    """All streams of one server. `call_soon(callback)` runs the callback in the next turn of the event loop;
    `max_subscriptions` is per subscriber, 0 for no limit; `retained` keeps the streams' last values. `socket_ids` knows
    the names by which a message may exclude a subscriber, `sessions` whose subscribers there are."""

    def __init__(self, object call_soon not None, Py_ssize_t max_subscriptions=0, retained=None):
        self.streams = {}
        self.retained = retained
        self.socket_ids = RandomSocketIds()
        self.sessions = Sessions()
        self.counters = Counters()
        self.broker = None
        self.trouble = None
        self.on_change = None
        self.call_soon = call_soon
        # More than `Subscriber.held_count` can count are a limit, too.
        self.max_subscriptions = min(max_subscriptions or 0xffff, 0xffff)
        self.busy = deque()
        self.scheduled = False
        # A slice is short, so that small streams pass large ones; a turn is what the loop may be held for altogether,
        # but for what the threads of a fan-out, when their cores are busy, add to it: some 3 ms.
        self.slice_ns = 4_000_000
        self.turn_ns = 8_000_000
        # Bytes posted and not yet sent: seconds of fan-out, and with their frames a quarter of a small host's memory.
        self.max_backlog = 32 << 20

    # Subscriptions

    cpdef bint subscribe(self, Subscriber subscriber, str name, object key) except -1:
        """Subscribe to a stream, in the group that `key` names (opened by the subscriber's dialect if need be).

        The dialect's `confirmed(subscriber, name, key)` is called when the subscription is live: at once, or when the
        broker has confirmed it. False: the subscriber holds `max_subscriptions` already.
        """
        cdef Stream stream = <Stream>self.streams.get(name)
        cdef Group group = None if stream is None else <Group>stream.groups.get(key)
        cdef bint first = stream is None
        if group is not None and subscriber.find(group) is not NULL:
            self.confirm(stream, group, subscriber)
            return True
        if subscriber.held_count >= self.max_subscriptions:
            return False
        if group is None:
            group = <Group?>subscriber.dialect.open_group(name, key)
            group.key = key
            group.dialect = subscriber.dialect
            group.counters = self.counters
            if first:
                stream = Stream(name)
                self.streams[name] = stream
            group.stream = stream
            stream.groups[key] = group
        subscriber.hold(group, 0)
        if first:
            self.broker.subscribe(name)
        self.confirm(stream, group, subscriber)
        return True

    cdef int confirm(self, Stream stream, Group group, Subscriber subscriber) except -1:
        cdef Subscription* subscription
        if not stream.live:
            if stream.pending is None:
                stream.pending = {}
            owed = stream.pending.get((subscriber, group), 0)
            stream.pending[subscriber, group] = min(owed + 1, MOST_OWED)
            return 0
        subscription = subscriber.find(group)
        if subscription is NULL:
            return 0
        if subscription.ticket:
            subscriber.dialect.confirmed(subscriber, stream.name, group.key)
            return 0
        subscription.ticket = group.join(subscriber)
        if self.on_change is not None:
            self.on_change(stream.name)
        subscriber.dialect.confirmed(subscriber, stream.name, group.key)
        if self.retained:
            data = self.retained.get(stream.name)
            if data is not None:
                group.tell(subscriber, data)
        return 0

    def confirmed(self, str name not None, bint missed=True):
        """The broker's word that every message of this stream arrives from now on; not `missed`: it did all along."""
        cdef Stream stream = <Stream>self.streams.get(name)
        if stream is None:
            return
        stream.live = True
        if stream.missed:
            stream.missed = False
            if missed:
                self.tell_gap(stream)
        pending, stream.pending = stream.pending, None
        for (subscriber, group), owed in (pending or {}).items():
            for _ in range(owed):
                self.confirm(stream, group, subscriber)

    def interrupted(self):
        """The broker's word that it hears no stream any more, until it confirms each again."""
        cdef Stream stream
        for stream in self.streams.values():
            if stream.live:
                stream.live = False
                stream.missed = True

    def lost(self, str name not None):
        """The broker's word that messages of this stream were lost on their way, an unknown number."""
        cdef Stream stream = <Stream>self.streams.get(name)
        if stream is not None:
            self.tell_gap(stream)

    cdef int tell_gap(self, Stream stream) except -1:
        cdef Group group
        for group in stream.groups.values():
            if group.size() and not group.dialect.loses_silently:
                group.announce(group.dialect.gap(stream.name, group.key, None))
                self.counters.gaps += group.size()
                if not group.busy:
                    group.busy = True
                    self.busy.append(group)
        self.schedule()
        return 0

    cpdef unsubscribe(self, Subscriber subscriber, str name, object key):
        """End a subscription; of something that is not subscribed, nothing happens."""
        cdef Stream stream = <Stream>self.streams.get(name)
        cdef Group group = None if stream is None else <Group>stream.groups.get(key)
        cdef Subscription* subscription
        if group is None:
            return
        subscription = subscriber.find(group)
        if subscription is not NULL:
            self.leave(subscriber, subscription, True)

    cpdef int standing(self, Subscriber subscriber, object key) except -1:
        """Whether the subscription of this key is absent (0), pending (1) or live (2); for dialects in which a key tells
        the stream, too."""
        cdef Subscription* subscription = subscriber.find_key(key)
        if subscription is NULL:
            return ABSENT
        return LIVE if subscription.ticket else PENDING

    cpdef withdraw(self, Subscriber subscriber, object key):
        """End the subscription of this key, if there is one; for the same dialects."""
        cdef Subscription* subscription = subscriber.find_key(key)
        if subscription is not NULL:
            self.leave(subscriber, subscription, True)

    cpdef disconnected(self, Subscriber subscriber, bint settle):
        """End all subscriptions of one that is gone, or (`settle`) is going and first gets what was posted."""
        while subscriber.held_count:
            self.leave(subscriber, &subscriber.held[subscriber.held_count - 1], settle)
        PyMem_Free(subscriber.held)
        subscriber.held = NULL
        subscriber.held_capacity = 0
        self.socket_ids.forget(subscriber)
        self.sessions.discard(subscriber)

    cdef int leave(self, Subscriber subscriber, Subscription* subscription, bint settle) except -1:
        cdef Group group = <Group>subscription.group
        cdef Stream stream = group.stream
        cdef uint64_t ticket = subscription.ticket
        subscriber.release(subscription)
        if ticket:
            group.leave(ticket, settle)
            if self.on_change is not None:
                self.on_change(stream.name)
        elif stream.pending is not None:
            stream.pending.pop((subscriber, group), None)
        if group.holders == 0:
            del stream.groups[group.key]
            if not stream.groups:
                del self.streams[stream.name]
                try:
                    self.broker.unsubscribe(stream.name)
                except Exception:  # a connection that ends must be let go of all the same
                    logger.exception("the broker failed")
        return 0

    # Messages

    def socket_id(self, Subscriber subscriber not None) -> str:
        """The name by which a message may exclude this subscriber, until it disconnects; nobody can guess it."""
        return self.socket_ids.id_of(subscriber)

    def publish(
        self, str stream not None, bytes data not None, bint retain=False, str exclude=None, bint embedded=False
    ):
        """Broadcast one JSON value (its bytes, valid JSON) to a stream; what the broker says to it (`Broker.publish`).

        `retain`: it is the stream's last value for those who subscribe later (`null`: there is none any more).
        `exclude`: the socket id of a subscriber who is not to get it.
        `embedded`: it is a string that may hold JSON, which some want to have (`Group.unwraps`). It cannot be retained.
        """
        if embedded and retain:
            raise ValueError("an embedded message cannot be retained")
        return self.broker.publish(stream, data, retain, exclude, embedded)

    def disconnect(self, str identifier not None, bint reconnect):
        """Close all connections of an identifier (`Sessions.disconnect`); what the broker says to it."""
        return self.broker.disconnect(identifier, reconnect)

    cpdef deliver(self, str name, bytes data, bint retain=False, str exclude=None, bint embedded=False):
        """Post a message that came from the broker to this process's subscribers."""
        cdef Stream stream = <Stream>self.streams.get(name)
        cdef Group group
        cdef Subscriber excluded
        cdef bytes unwrapped = data
        self.counters.broadcasts += 1
        if retain and self.retained is not None:
            self.retained.keep(name, data)
        if stream is None:
            return
        if embedded:
            for group in stream.groups.values():
                if group.unwraps:
                    unwrapped = embedded_json(data)
                    break
        excluded = None if exclude is None else self.socket_ids.find(exclude)
        if excluded is None:
            for group in stream.groups.values():
                self.post(group, unwrapped if group.unwraps else data)
        else:
            # A copy: if what waited for the excluded one was too much, it is closed, and its group may be gone.
            for group in list(stream.groups.values()):
                self.post_to_others(group, unwrapped if group.unwraps else data, excluded)
        self.schedule()

    cdef int schedule(self) except -1:
        if self.busy and not self.scheduled:
            self.scheduled = True
            self.call_soon(self.turn)
        return 0

    cdef int post(self, Group group, bytes data) except -1:
        group.post(data)
        if not group.busy:
            group.busy = True
            self.busy.append(group)
        return 0

    cdef int post_to_others(self, Group group, bytes data, Subscriber excluded) except -1:
        cdef Subscription* subscription = excluded.find(group)
        cdef uint64_t ticket
        if subscription is NULL or subscription.ticket == 0:
            return self.post(group, data)
        ticket, subscription.ticket = subscription.ticket, 0
        group.leave(ticket, True)
        self.post(group, data)
        subscription = excluded.find(group)
        if subscription is not NULL:
            subscription.ticket = group.join(excluded)
        return 0

    def subscribers(self, str name not None) -> int:
        """How many subscribers of this stream are live on this process."""
        cdef Stream stream = <Stream>self.streams.get(name)
        return 0 if stream is None else stream.size()

    def elsewhere(self, str name not None):
        """How many subscribers of this stream the server's other workers have; what the broker says to it."""
        return self.broker.count(name)

    @property
    def problem(self):
        """Why new clients should go elsewhere at present, in one line; None: they need not."""
        return self.trouble or self.broker.problem

    @property
    def idle(self) -> bool:
        """Nothing that was posted is still to be sent."""
        return not self.busy

    @property
    def congested(self) -> bool:
        """More was posted than is being sent: nothing should be taken until some of it has gone out."""
        return self.counters.backlog >= self.max_backlog

    def turn(self):
        """Serve the groups that have something to send until none is left or the turn is over: each for a slice, or,
        if it is alone, for all of it."""
        cdef Group group
        cdef int64_t now = monotonic_ns()
        cdef int64_t end = now + self.turn_ns
        self.scheduled = False
        try:
            while self.busy:
                group = self.busy.popleft()
                group.busy = False
                if group.step(now + self.slice_ns if self.busy else end):
                    group.busy = True
                    self.busy.append(group)
                now = monotonic_ns()
                if now >= end:
                    break
        finally:
            self.schedule()
