# cython: language_level=3
"""Action Cable's protocol, `actioncable-v1-json`, as its deployed clients understand it.

A subscription is named by its identifier, which is JSON as text. It is echoed as it came and never taken apart for
anything but the question which stream it stands for: the key of a group is the identifier.

There is no error frame: what cannot be understood is ignored. Nor is there one to tell of lost messages, so a client
that would lose some is disconnected, comes back and starts afresh.

A client asks again for what was not confirmed soon. As long as the subscription is pending, the one confirmation to
come serves both. Once it is live, the answer depends on who asks: @rails/actioncable repeats itself every 500 ms until
it gets one, while others take a confirmation that they do not expect for a reason to unsubscribe.
"""

from fastcable._hub cimport ABSENT, LIVE, Group, Hub, Subscriber

from functools import lru_cache, partial

import orjson

from fastcable.stream_name import stream_name_error

cdef enum Kind:
    IGNORED
    SUBSCRIBE
    UNSUBSCRIBE

cdef dict _KINDS = {"subscribe": SUBSCRIBE, "unsubscribe": UNSUBSCRIBE}
cdef enum:
    # Commands and identifiers as short as this are remembered, with what they mean: everybody on a page says the same.
    REPEATED_COMMAND = 512

# Why we close, and whether the client is to come back: it stops for good unless it is told to.
cdef dict _ENDINGS = {
    "server stopping": ("server_restart", True),
    "server restarting": ("server_restart", True),
    "idle timeout": ("idle_timeout", True),
    "too slow": ("too_slow", True),
    "internal error": ("internal_error", True),
    "unauthorized": ("unauthorized", False),
    "token expired": ("token_expired", False),
    "closed remotely": ("remote", True),
    "closed remotely for good": ("remote", False),
}


cdef class ActionCableDialect:
    cdef readonly bytes ping
    cdef readonly bint timed_pings
    cdef readonly bint loses_silently
    cdef Hub hub
    cdef object encoding
    cdef object stream_of
    cdef size_t max_identifier_size
    cdef bint reconfirms
    cdef bint claimed
    cdef bytes welcome

    def __init__(self, Hub hub not None, encoding, authorizer, size_t max_identifier_size, *, bint reconfirms=False,
                 bint pongs=False, bint claimed=False):
        self.ping = b'{"type":"ping","message":%d}'
        self.timed_pings = True
        self.loses_silently = True
        self.hub = hub
        self.encoding = encoding
        self.stream_of = lru_cache(maxsize=256)(partial(_stream_of, authorizer))
        self.max_identifier_size = max_identifier_size
        self.reconfirms = reconfirms
        self.claimed = claimed
        self.welcome = b'{"type":"welcome","sid":"%b"' + (b',"extensions":["pong"]}' if pongs else b"}")

    def opened(self, Subscriber subscriber not None):
        subscriber.answer(self.welcome % self.hub.socket_id(subscriber).encode())

    def received(self, Subscriber subscriber not None, bytes text not None):
        cdef Kind kind
        cdef str identifier
        kind, identifier = _read(text) if len(text) <= REPEATED_COMMAND else _read_command(text)
        if kind == SUBSCRIBE:
            self.subscribe(subscriber, identifier)
        elif kind == UNSUBSCRIBE:
            self.hub.withdraw(subscriber, identifier)

    cdef int subscribe(self, Subscriber subscriber, str identifier) except -1:
        cdef int standing = self.hub.standing(subscriber, identifier)
        cdef str stream
        if standing != ABSENT:
            if standing == LIVE and self.reconfirms:
                subscriber.answer(_confirmation(identifier))
            return 0
        if len(identifier) <= REPEATED_COMMAND:
            stream = self.stream_of(identifier)
        else:
            stream = self.stream_of.__wrapped__(identifier)
        if (
            stream is None
            or (self.claimed and not subscriber.claims.allows(stream))
            # A group keeps its identifier.
            or 0 < self.max_identifier_size < <size_t>len(identifier.encode())
            or not self.hub.subscribe(subscriber, stream, identifier)
        ):
            subscriber.answer(b'{"identifier":%b,"type":"reject_subscription"}' % orjson.dumps(identifier))
        return 0

    def confirmed(self, Subscriber subscriber not None, stream, str key not None):
        subscriber.answer(_confirmation(key))

    def gap(self, stream, key, missed):
        raise NotImplementedError("who would miss a message is disconnected")

    def farewell(self, int code, str reason not None):
        return disconnect(*_ENDINGS.get(reason, ("invalid_request", True)))

    def open_group(self, stream, str key not None):
        cdef Group group = self.encoding(b'{"identifier":%b,"message":' % orjson.dumps(key), b"}")
        group.unwraps = True
        return group


def variants(hub, encoding, authorizer, max_identifier_size, claimed=False):
    return {
        f"actioncable{'+stock' * stock}{'+pong' * pong}": ActionCableDialect(
            hub, encoding, authorizer, max_identifier_size, reconfirms=stock, pongs=pong, claimed=claimed)
        for stock in (False, True) for pong in (False, True)
    }


def disconnect(str reason not None, bint reconnect):
    return b'{"type":"disconnect","reason":%b,"reconnect":%b}' % (
        orjson.dumps(reason), b"true" if reconnect else b"false")


def _read_command(bytes text):
    """What a command means: its kind, and the identifier."""
    try:
        command = orjson.loads(text)
    except orjson.JSONDecodeError:
        return IGNORED, None
    if type(command) is not dict:
        return IGNORED, None
    name, identifier = command.get("command"), command.get("identifier")
    if type(name) is not str or type(identifier) is not str:
        return IGNORED, None
    return _KINDS.get(name, IGNORED), identifier


cdef object _read = lru_cache(maxsize=256)(_read_command)


def _stream_of(authorizer, str identifier):
    """The stream that an identifier stands for; None: it may not be subscribed to."""
    try:
        params = orjson.loads(identifier)
    except orjson.JSONDecodeError:
        return None
    if type(params) is not dict or type(params.get("channel")) is not str:
        return None
    stream = authorizer(params["channel"], params)
    return None if stream is None or stream_name_error(stream) else stream


@lru_cache(maxsize=256)
def _confirmation(str identifier):
    return b'{"identifier":%b,"type":"confirm_subscription"}' % orjson.dumps(identifier)
