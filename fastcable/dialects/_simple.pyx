# cython: language_level=3
"""fastcable's own protocol: one JSON object per text frame, spoken to clients that offer no subprotocol."""

from libc.stdint cimport uint32_t

from fastcable._hub cimport Subscriber

from functools import lru_cache

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
        kind, stream, problem = _read(text) if len(text) <= REPEATED_COMMAND else _read_command(text)
        if kind == SUBSCRIBE:
            if not self.hub.subscribe(subscriber, stream, KEY):
                # A page with hundreds of streams on one socket is real: refused, but nothing to be cut off for.
                subscriber.answer(_error("too many subscriptions", stream))
        elif kind == UNSUBSCRIBE:
            self.hub.unsubscribe(subscriber, stream, KEY)
        elif kind == HELLO:
            subscriber.answer(b'{"type":"hello","socket":"%b"}' % self.hub.socket_id(subscriber).encode())
        elif kind == INVALID:
            subscriber.answer(_error(problem, stream))
            if self.max_errors:
                subscriber.errors += 1
                if subscriber.errors > self.max_errors:
                    subscriber.close(1008, "too many bad commands")
            return
        subscriber.errors = 0

    def confirmed(self, Subscriber subscriber not None, str stream not None, key):
        subscriber.answer(_subscribed(stream))

    def gap(self, str stream not None, key, missed):
        return b'{"type":"gap","stream":%b,"missed":%d}' % (orjson.dumps(stream), missed)

    def farewell(self, code, reason):
        return None

    def open_group(self, str stream not None, key):
        return self.encoding(b'{"type":"message","stream":%b,"data":' % orjson.dumps(stream), b"}")


def _read_command(bytes text):
    """What a command means: its kind, its stream, and what is wrong with it."""
    try:
        command = orjson.loads(text)
    except orjson.JSONDecodeError:
        return INVALID, None, "not valid JSON"
    if type(command) is not dict:
        return INVALID, None, "a command must be a JSON object"
    name = command.get("type")
    kind = _KINDS.get(name, INVALID) if type(name) is str else INVALID
    stream = command.get("stream")
    problem = stream_name_error(stream)
    if kind == INVALID:
        return (INVALID, None if problem else stream,
                'type must be "subscribe", "unsubscribe", "hello" or "pong"')
    if kind == SUBSCRIBE or kind == UNSUBSCRIBE:
        if problem is not None:
            return INVALID, None, f"stream {problem}"
        return kind, stream, None
    return kind, None, None


cdef object _read = lru_cache(maxsize=256)(_read_command)


@lru_cache(maxsize=256)
def _subscribed(str stream):
    return b'{"type":"subscribed","stream":%b}' % orjson.dumps(stream)


cdef bytes _error(str reason, str stream):
    if stream is None:
        return b'{"type":"error","reason":%b}' % orjson.dumps(reason)
    return b'{"type":"error","stream":%b,"reason":%b}' % (orjson.dumps(stream), orjson.dumps(reason))
