"""fastcable's own protocol: one JSON object per text frame, spoken to clients that offer no subprotocol."""

from __future__ import annotations

from typing import Any, Final

import orjson

from fastcable._hub import Group, Hub, Subscriber
from fastcable.dialects import Encoding
from fastcable.stream_name import stream_name_error

KEY: Final = "simple"  # all subscribers of a stream have the same envelope


class SimpleDialect:
    """`max_errors` bad commands in a row are answered, one more closes the connection (1008); 0: any number."""

    __slots__ = ("_encoding", "_hub", "_max_errors")

    ping = b'{"type":"ping"}'

    def __init__(self, hub: Hub, encoding: Encoding, max_errors: int) -> None:
        self._hub = hub
        self._encoding = encoding
        self._max_errors = max_errors

    def opened(self, subscriber: Subscriber) -> None:
        pass

    def received(self, subscriber: Subscriber, text: bytes) -> None:
        try:
            command = orjson.loads(text)
        except orjson.JSONDecodeError:
            return self._complain(subscriber, "not valid JSON")
        if type(command) is not dict:
            return self._complain(subscriber, "a command must be a JSON object")
        match command.get("type"):
            case "subscribe" | "unsubscribe" as kind:
                stream: Any = command.get("stream")
                problem = stream_name_error(stream)
                if problem is not None:
                    return self._complain(subscriber, f"stream {problem}")
                if kind == "unsubscribe":
                    self._hub.unsubscribe(subscriber, stream, KEY)
                elif not self._hub.subscribe(subscriber, stream, KEY):
                    # A page with hundreds of streams on one socket is real: refused, but nothing to be cut off for.
                    subscriber.answer(_error("too many subscriptions", stream))
            case "pong":
                pass
            case _:
                stream = command.get("stream")
                named = None if stream_name_error(stream) else stream
                return self._complain(subscriber, 'type must be "subscribe", "unsubscribe" or "pong"', named)
        subscriber.errors = 0

    def confirmed(self, subscriber: Subscriber, stream: str, key: object) -> None:
        subscriber.answer(b'{"type":"subscribed","stream":%b}' % orjson.dumps(stream))

    def gap(self, stream: str, key: object, missed: int) -> bytes:
        return b'{"type":"gap","stream":%b,"missed":%d}' % (orjson.dumps(stream), missed)

    def open_group(self, stream: str, key: object) -> Group:
        return self._encoding(b'{"type":"message","stream":%b,"data":' % orjson.dumps(stream), b"}")

    def _complain(self, subscriber: Subscriber, reason: str, stream: str | None = None) -> None:
        subscriber.answer(_error(reason, stream))
        if self._max_errors:
            subscriber.errors += 1
            if subscriber.errors > self._max_errors:
                subscriber.close(1008, "too many bad commands")


def _error(reason: str, stream: str | None) -> bytes:
    if stream is None:
        return b'{"type":"error","reason":%b}' % orjson.dumps(reason)
    return b'{"type":"error","stream":%b,"reason":%b}' % (orjson.dumps(stream), orjson.dumps(reason))
