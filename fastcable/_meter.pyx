# cython: language_level=3
"""How much each client sends: a bucket of tokens for each that has sent something lately.

Theory of operation. A bucket holds ten seconds' worth of messages. Kept is what was taken out of it, and only while that
is something: who has been quiet has no entry. Each beat of the clock fills all buckets up by its share. Who goes on with
an empty one is *throttled*: it is not read, its messages wait in its own send buffer, until a beat has brought a token.
Nothing is lost, and nobody else waits.
"""

import logging

from fastcable.log import Throttle

BURST_SECONDS = 10

cdef object _throttle = Throttle()


cdef class Meter:
    def __init__(self, double rate):
        self.rate = rate
        self.burst = rate * BURST_SECONDS
        self.spent = {}
        self.throttled = {}

    cdef int count(self, connection) except -1:
        """A message of this one was dealt with."""
        self.spent[connection] = <double>self.spent.get(connection, 0.0) + 1
        return 0

    cdef bint is_over(self, connection) except -1:
        """Whether there is no token for one more; then it is to be throttled, until its `unthrottle` is called."""
        if <double>self.spent.get(connection, 0.0) + 1 <= self.burst:
            return False
        self.throttled[connection] = None
        _throttle.log(logging.INFO, "a client is slowed down: it sends more than max_messages_per_second (%g)", self.rate)
        return True

    def refill(self, double seconds):
        cdef double tokens = self.rate * seconds
        cdef double left
        for connection, spent in list(self.spent.items()):
            left = <double>spent - tokens
            if left > 0:
                self.spent[connection] = left
            else:
                del self.spent[connection]
        for connection in list(self.throttled):
            if <double>self.spent.get(connection, 0.0) + 1 <= self.burst:
                del self.throttled[connection]
                connection.unthrottle()

    def forget(self, connection):
        self.spent.pop(connection, None)
        self.throttled.pop(connection, None)
