# cython: language_level=3
"""fastcable's own protocol: one JSON object per text frame, spoken to clients that offer no subprotocol.

There are two dialects of it. `SimpleDialect` is for streams that are open to everybody. With `GuardedDialect` a name
may be a signed one, and the stream that it stands for may be kept to those whose token opens it: the stream then is not
what the client said, so the group's key is the name as the client sent it, and all frames repeat that.
"""

from libc.stdint cimport uint32_t

from fastcable._hub cimport Subscriber

from functools import lru_cache, partial

import orjson

from fastcable.stream_name import stream_name_error

KEY = "simple"  # all subscribers of a stream have the same envelope

cdef enum Kind:
    INVALID
    SUBSCRIBE
    UNSUBSCRIBE
    HELLO
    PONG

cdef dict _KINDS = {"subscribe": SUBSCRIBE, "unsubscribe": UNSUBSCRIBE, "hello": HELLO, "pong": PONG}
cdef enum:
    # Commands as short as this are remembered, with what they mean: after a restart everybody says the same again.
    REPEATED_COMMAND = 320
    REPEATED_SIGNED_COMMAND = 512

    # Bytes of a bad name that an error repeats, for the client to know which of its commands was refused.
    REPEATED_NAME = 4096

cdef str _UNSIGNED = "must be a signed name"


cdef class SimpleDialect:
    cdef readonly bytes ping
    cdef readonly bint timed_pings
    cdef readonly bint loses_silently
    cdef object hub
    cdef object encoding
    cdef uint32_t max_errors

    def __init__(self, hub, encoding, uint32_t max_errors):
        self.ping = b'{"type":"ping"}'
        self.hub = hub
        self.encoding = encoding
        self.max_errors = max_errors

    def opened(self, Subscriber subscriber not None):
        pass

    def received(self, Subscriber subscriber not None, bytes text not None):
        cdef Kind kind
        cdef str stream, problem
        kind, stream, problem = _read(text) if len(text) <= REPEATED_COMMAND else _read.__wrapped__(text)
        if kind == SUBSCRIBE:
            if not self.hub.subscribe(subscriber, stream, KEY):
                # A page with hundreds of streams on one socket is real: refused, but nothing to be cut off for.
                subscriber.answer(_error("too many subscriptions", stream))
        elif kind == UNSUBSCRIBE:
            self.hub.unsubscribe(subscriber, stream, KEY)
        elif kind == HELLO:
            self.hello(subscriber)
        elif kind == INVALID:
            self.complain(subscriber, problem, stream)
            return
        subscriber.errors = 0

    cdef int hello(self, Subscriber subscriber) except -1:
        subscriber.answer(b'{"type":"hello","socket":"%b"}' % self.hub.socket_id(subscriber).encode())
        return 0

    cdef int complain(self, Subscriber subscriber, str problem, str stream) except -1:
        """Answer a bad command, and count it."""
        subscriber.answer(_error(problem, stream))
        if self.max_errors:
            subscriber.errors += 1
            if subscriber.errors > self.max_errors:
                subscriber.close(1008, "too many bad commands")
        return 0

    def confirmed(self, Subscriber subscriber not None, str stream not None, key):
        subscriber.answer(_subscribed(stream))

    def gap(self, str stream not None, key, missed):
        if missed is None:
            return b'{"type":"gap","stream":%b}' % orjson.dumps(stream)
        return b'{"type":"gap","stream":%b,"missed":%d}' % (orjson.dumps(stream), missed)

    def farewell(self, code, reason):
        return None

    def open_group(self, str stream not None, key):
        return self.encoding(b'{"type":"message","stream":%b,"data":' % orjson.dumps(stream), b"}")


cdef class GuardedDialect(SimpleDialect):
    cdef object stream_of  # None: a name is the stream's
    cdef object read
    cdef bint claimed

    def __init__(self, hub, encoding, uint32_t max_errors, verifier, size_t max_identifier_size, bint claimed):
        SimpleDialect.__init__(self, hub, encoding, max_errors)
        self.claimed = claimed
        if verifier is None:
            self.stream_of = None
            problem_of = stream_name_error
        else:
            self.stream_of = lru_cache(maxsize=256)(verifier.verify)
            problem_of = partial(_signed_name_error, max_identifier_size)
        self.read = lru_cache(maxsize=256)(partial(_read_command, problem_of))

    def received(self, Subscriber subscriber not None, bytes text not None):
        cdef Kind kind
        cdef str name, problem
        kind, name, problem = (self.read if len(text) <= REPEATED_SIGNED_COMMAND else self.read.__wrapped__)(text)
        if kind == SUBSCRIBE:
            stream = self.stream(name)
            if stream is None:
                self.complain(subscriber, f"stream {_UNSIGNED}", name)
                return
            # Neither is a mistake of the page's.
            if self.claimed and not subscriber.claims.allows(stream):
                subscriber.answer(_error("not allowed", name))
            elif not self.hub.subscribe(subscriber, stream, name):
                subscriber.answer(_error("too many subscriptions", name))
        elif kind == UNSUBSCRIBE:
            self.hub.withdraw(subscriber, name)
        elif kind == HELLO:
            self.hello(subscriber)
        elif kind == INVALID:
            self.complain(subscriber, problem, name)
            return
        subscriber.errors = 0

    cdef str stream(self, str name):
        """The stream that a name stands for; None: it is none that was signed."""
        if self.stream_of is None:
            return name
        return (self.stream_of if len(name) <= REPEATED_SIGNED_COMMAND else self.stream_of.__wrapped__)(name)

    def confirmed(self, Subscriber subscriber not None, stream, str key not None):
        subscriber.answer(_subscribed(key))

    def gap(self, stream, str key not None, missed):
        return SimpleDialect.gap(self, key, None, missed)

    def open_group(self, stream, str key not None):
        return SimpleDialect.open_group(self, key, None)


def _signed_name_error(size_t max_size, name):
    if type(name) is not str or 0 < max_size < <size_t>len(name.encode()):
        return _UNSIGNED
    return None


def _read_command(problem_of, bytes text):
    """What a command means: its kind, its stream, and what is wrong with it. `problem_of(stream)` says what is wrong
    with the name of a stream, None if nothing is."""
    try:
        command = orjson.loads(text)
    except orjson.JSONDecodeError:
        return INVALID, None, "not valid JSON"
    if type(command) is not dict:
        return INVALID, None, "a command must be a JSON object"
    name = command.get("type")
    kind = _KINDS.get(name, INVALID) if type(name) is str else INVALID
    stream = command.get("stream")
    problem = problem_of(stream)
    if kind == INVALID:
        return (INVALID, stream if problem is None else _repeated(stream),
                'type must be "subscribe", "unsubscribe", "hello" or "pong"')
    if kind == SUBSCRIBE or kind == UNSUBSCRIBE:
        if problem is not None:
            return INVALID, _repeated(stream), f"stream {problem}"
        return kind, stream, None
    return kind, None, None


cdef str _repeated(stream):
    """What an error says of a bad name; None: nothing."""
    if type(stream) is not str or not stream or len(stream) > REPEATED_NAME or len(stream.encode()) > REPEATED_NAME:
        return None
    return stream


cdef object _read = lru_cache(maxsize=256)(partial(_read_command, stream_name_error))


@lru_cache(maxsize=256)
def _subscribed(str stream):
    return b'{"type":"subscribed","stream":%b}' % orjson.dumps(stream)


cdef bytes _error(str reason, str stream):
    if stream is None:
        return b'{"type":"error","reason":%b}' % orjson.dumps(reason)
    return b'{"type":"error","stream":%b,"reason":%b}' % (orjson.dumps(stream), orjson.dumps(reason))
