"""What the messages of a server mean to `fastcable listen`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from fastcable.log import escape

_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")  # in JSON, raw line ends are white space between tokens only
_MESSAGE = b'{"type":"message","stream":'  # the server's form is exact: this key order, no white space
_PONG = b'{"type":"pong"}'


class Listener:
    """Understands the messages of fastcable's own protocol on one connection. `lines` are for stdout, `notes` for
    stderr."""

    protocol: str | None = None
    """The subprotocol that the client offers."""

    final = False
    """The server said that coming back is of no use."""

    def __init__(self, streams: Sequence[str]) -> None:
        self._streams = streams
        self._confirmed = self._refused = 0
        self.lines: list[bytes] = []
        self.notes: list[str] = []

    @property
    def listening(self) -> bool:
        return self._confirmed > 0

    @property
    def hopeless(self) -> bool:
        return self._refused >= len(self._streams) and not self._confirmed

    def commands(self) -> Iterator[bytes]:
        for stream in self._streams:
            yield b'{"type":"subscribe","stream":' + orjson.dumps(stream) + b"}"

    def take(self, text: bytes) -> bytes | None:
        """Understand one message; returns the answer to it where it wants one."""
        if text.startswith(_MESSAGE):
            self.lines.append(b'{"stream":' + text[len(_MESSAGE) :].translate(_ONE_LINE) + b"\n")
            return None
        try:
            content = orjson.loads(text)
        except orjson.JSONDecodeError:
            content = None
        match content:
            case {"type": "ping"}:
                return b'{"type":"pong"}'
            case {"type": "subscribed"}:
                self._confirmed += 1
                self._note_start()
            case {"type": "gap", "stream": str(stream), "missed": int(missed)}:
                self.notes.append(f"gap: {missed} messages of {escape(stream)} were missed")
            case {"type": "error", "reason": str(reason), **others}:
                about = f" (stream {escape(str(others['stream']))})" if "stream" in others else ""
                self.notes.append(f"error: {escape(reason)}{about}")
                self._refused += 1
                self._note_start()
            case _:
                self.notes.append(f"not understood: {escape(text)}")
        return None

    def _note_start(self) -> None:
        """Each subscribe command has one answer, `subscribed` or `error`."""
        total = len(self._streams)
        if self._confirmed and self._confirmed + self._refused == total:
            count = f"{total} streams" if not self._refused else f"{self._confirmed} of {total} streams"
            self.notes.append(f"listening to {escape(self._streams[0]) if total == 1 else count}")


class CableListener(Listener):
    """Understands the messages of Action Cable's protocol. Streams are subscribed to through the channel `$pubsub`, by
    their names or (`signed`) by signed names."""

    protocol = "actioncable-v1-json"

    def __init__(self, streams: Sequence[str], signed: Sequence[str] = ()) -> None:
        super().__init__([*streams, *signed])
        self._names = {
            **{_identifier("stream_name", stream): stream for stream in streams},
            **{_identifier("signed_stream_name", name): name for name in signed},
        }
        # The server's form of a message up to its data. No string of JSON can hold the member's name as it is here.
        self._heads = {
            b'{"identifier":' + orjson.dumps(identifier): b'{"stream":' + orjson.dumps(stream) + b',"data":'
            for identifier, stream in self._names.items()
        }

    def commands(self) -> Iterator[bytes]:
        for identifier in self._names:
            yield orjson.dumps({"command": "subscribe", "identifier": identifier})

    def take(self, text: bytes) -> bytes | None:
        head, _, data = text.partition(b',"message":')
        if head in self._heads and data:
            self.lines.append(self._heads[head] + data.translate(_ONE_LINE) + b"\n")
            return None
        try:
            content = orjson.loads(text)
        except orjson.JSONDecodeError:
            content = None
        match content:
            case {"type": "ping" | "welcome"}:
                pass
            case {"type": "confirm_subscription", "identifier": str(identifier)} if identifier in self._names:
                self._confirmed += 1
                self._note_start()
            case {"type": "reject_subscription", "identifier": str(identifier)} if identifier in self._names:
                self.notes.append(f"error: rejected (stream {escape(self._names[identifier])})")
                self._refused += 1
                self._note_start()
            case {"type": "disconnect", "reason": str(reason), "reconnect": bool(reconnect)}:
                self.notes.append(f"disconnected: {escape(reason)}")
                self.final = not reconnect
            case {"identifier": str(identifier), "message": message} if identifier in self._names:
                line = orjson.dumps({"stream": self._names[identifier], "data": message})
                self.lines.append(line + b"\n")
            case _:
                self.notes.append(f"not understood: {escape(text)}")
        return None


def _identifier(parameter: str, name: str) -> str:
    return orjson.dumps({"channel": "$pubsub", parameter: name}).decode()
