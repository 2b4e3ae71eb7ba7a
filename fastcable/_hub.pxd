cimport cython
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from fastcable._histogram cimport Histogram


cdef struct Subscription:
    void* group  # a Group, borrowed: its stream keeps it for as long as anybody holds it
    uint64_t ticket  # from Group.join; 0 while the subscription is pending


cdef enum Standing:
    ABSENT
    PENDING
    LIVE


cdef class Counters:
    cdef public uint64_t broadcasts
    cdef public uint64_t deliveries
    cdef public uint64_t drops
    cdef public uint64_t gaps
    cdef public uint64_t slow_closes
    cdef public uint64_t opened
    cdef public uint64_t bytes_received
    cdef public uint64_t bytes_sent
    cdef public int64_t backlog
    cdef public int64_t subscriptions
    cdef readonly dict closes
    cdef readonly dict refusals
    cdef readonly Histogram fanout
    cdef readonly Histogram latency
    cdef public set dropping
    cdef uint32_t period

    cpdef closed(self, str by, int code)
    cpdef refused(self, str reason)


@cython.no_gc
cdef class Subscriber:
    cdef readonly object dialect
    cdef Subscription* held
    cdef uint16_t held_count
    cdef uint16_t held_capacity
    cdef public uint32_t errors

    cdef Subscription* find(self, Group group) noexcept
    cdef Subscription* find_key(self, object key) except? NULL
    cdef int hold(self, Group group, uint64_t ticket) except -1
    cdef void release(self, Subscription* subscription) noexcept
    cpdef answer(self, bytes text)
    cpdef close(self, int code, str reason=*)


cdef class Group:
    cdef readonly Stream stream
    cdef readonly object key
    cdef public bint unwraps
    cdef readonly object dialect
    cdef Counters counters
    cdef Py_ssize_t holders
    cdef bint busy

    cdef uint64_t join(self, Subscriber subscriber) except 0
    cdef int leave(self, uint64_t ticket, bint settle) except -1
    cdef int post(self, bytes data) except -1
    cdef bint step(self, int64_t until) except -1
    cdef int tell(self, Subscriber subscriber, bytes data) except -1
    cdef int announce(self, bytes text) except -1
    cdef bytes encode(self, bytes text)
    cdef Py_ssize_t size(self) noexcept


cdef class Stream:
    cdef readonly str name
    cdef readonly dict groups
    cdef readonly bint live
    cdef bint missed
    cdef dict pending

    cdef Py_ssize_t size(self) except -1


cdef class Hub:
    cdef readonly dict streams
    cdef readonly Counters counters
    cdef readonly object retained
    cdef public object socket_ids
    cdef readonly object sessions
    cdef public object broker
    cdef public str trouble
    cdef public object on_change
    cdef readonly object call_soon
    cdef object busy
    cdef bint scheduled
    cdef Py_ssize_t max_subscriptions
    cdef public int64_t slice_ns
    cdef public int64_t turn_ns
    cdef public int64_t max_backlog

    cpdef bint subscribe(self, Subscriber subscriber, str name, object key) except -1
    cpdef unsubscribe(self, Subscriber subscriber, str name, object key)
    cpdef int standing(self, Subscriber subscriber, object key) except -1
    cpdef withdraw(self, Subscriber subscriber, object key)
    cpdef disconnected(self, Subscriber subscriber, bint settle)
    cpdef deliver(self, str name, bytes data, bint retain=*, str exclude=*, bint embedded=*)
    cdef int post(self, Group group, bytes data) except -1
    cdef int post_to_others(self, Group group, bytes data, Subscriber excluded) except -1
    cdef int confirm(self, Stream stream, Group group, Subscriber subscriber) except -1
    cdef int leave(self, Subscriber subscriber, Subscription* subscription, bint settle) except -1
    cdef int tell_gap(self, Stream stream) except -1
    cdef int schedule(self) except -1


cdef int64_t monotonic_ns() noexcept nogil
