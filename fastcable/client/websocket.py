"""One WebSocket connection from the client's side (RFC 6455), without its socket."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from fastcable._frames import CLOSE, FAILED, NEED_DATA, PING, PONG, TEXT, FrameParser, encode_close, encode_frame
from fastcable.log import escape

_END = "\r\n"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3


class Lost(Exception):
    """The connection could not be made, was refused or ended: why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A WebSocket URL (RFC 6455 §3), taken apart."""

    url: str
    secure: bool
    host: str
    port: int
    authority: str
    resource: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError."""
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not hold a user name or password")
        if (parts.scheme not in ("ws", "wss") or not parts.hostname or parts.fragment
                or not url.isascii() or not url.isprintable() or " " in url):
            raise ValueError(f"expected ws://HOST:PORT/PATH, got {escape(url)!r}")
        secure = parts.scheme == "wss"
        resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(url, secure, parts.hostname, parts.port or (443 if secure else 80), parts.netloc, resource)


class WebSocket:
    """The client's side of one connection, which offers one `protocol` or none, and says with a `token` who connects.
    `ended` says why it is over, and is empty until then."""

    def __init__(self, target: Target, protocol: str | None = None, token: str | None = None) -> None:
        self._protocol = protocol
        self._key = base64.b64encode(os.urandom(16))
        self._parser = FrameParser(0, 0, masked=False)
        self._outgoing = [
            f"GET {target.resource} HTTP/1.1\r\nHost: {target.authority}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {self._key.decode()}\r\nSec-WebSocket-Version: 13\r\n"
            f"{f'Sec-WebSocket-Protocol: {protocol}{_END}' if protocol else ''}"
            f"{f'X-JID: {token}{_END}' if token else ''}\r\n".encode()
        ]
        self.ended = ""

    def outgoing(self) -> bytes:
        taken = b"".join(self._outgoing)
        self._outgoing.clear()
        return taken

    def accept(self, headers: dict[str, str]) -> None:
        """Check the headers of the server's 101 (RFC 6455 §4.1). Raises `Lost`."""
        upgrade, connection = headers.get("upgrade", "").lower(), headers.get("connection", "").lower()
        if upgrade != "websocket" or "upgrade" not in map(str.strip, connection.split(",")):
            raise Lost("the server did not upgrade to WebSocket")
        expected = base64.b64encode(hashlib.sha1(self._key + _GUID).digest()).decode()
        if headers.get("sec-websocket-accept") != expected:
            raise Lost("the server's Sec-WebSocket-Accept is missing or wrong")
        chosen = headers.get("sec-websocket-protocol")
        if "sec-websocket-extensions" in headers or chosen not in (None, self._protocol):
            raise Lost("the server chose an extension or a subprotocol that was not offered")
        if chosen != self._protocol:
            raise Lost(f"the server does not speak {self._protocol}")

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Text messages; pings are answered on the way."""
        self._parser.feed(data)
        while (event := self._parser.next()) != NEED_DATA:
            if event == TEXT:
                yield self._parser.payload
            elif event == PING:
                self._outgoing.append(encode_frame(PONG, self._parser.payload, os.urandom(4)))
            elif event in (CLOSE, FAILED):
                code, reason = self._parser.code, self._parser.reason
                self._outgoing.append(encode_close(code, "", os.urandom(4)))
                self.ended = f"closed by the server with {code} {escape(reason)}".strip()
                if event == FAILED:
                    self.ended = f"the server broke the protocol: {reason}"
                return

    def send(self, text: bytes) -> None:
        self._outgoing.append(encode_frame(TEXT, text, os.urandom(4)))

    def ping(self) -> None:
        self._outgoing.append(encode_frame(PING, b"", os.urandom(4)))

    def close(self) -> None:
        self._outgoing.append(encode_close(1000, "", os.urandom(4)))
