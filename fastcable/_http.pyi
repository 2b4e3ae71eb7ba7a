import asyncio
from typing import Protocol

from fastcable._deadlines import Deadlines
from fastcable._request import HeadParser, Request
from fastcable.chunked import ChunkedBody
from fastcable.endpoints import Endpoints
from fastcable.settings import Settings

REQUESTS_PER_TURN: int

class Site(Protocol):
    """What all connections of one listener share."""

    @property
    def settings(self) -> Settings: ...
    @property
    def endpoints(self) -> Endpoints: ...
    @property
    def handshakes(self) -> Deadlines: ...
    @property
    def keepalives(self) -> Deadlines: ...
    @property
    def lingering(self) -> Deadlines: ...
    @property
    def full(self) -> bool:
        """No more WebSocket connections are taken."""

    @property
    def draining(self) -> bool:
        """Every answer is the last one of its connection."""

    def clock(self) -> float:
        """Monotonic seconds."""

    def opened(self, protocol: HttpProtocol) -> bool:
        """A connection came in; False: there is no room for it, it is aborted and not reported as closed."""

    def closed(self, protocol: HttpProtocol) -> None:
        """An opened connection is lost, or is about to be handed to `accept`."""

    def accept(self, transport: asyncio.Transport, request: Request, response: bytes, rest: bytes) -> None:
        """Make a WebSocket connection of it: set its protocol, write the 101, then feed it `rest`."""

class HttpProtocol(asyncio.Protocol):
    """HTTP/1.1 and 1.0 on one connection of `site`."""

    transport: asyncio.Transport
    head: HeadParser | None
    idle: bool
    """No part of a request has come."""
    body: bytearray | ChunkedBody | None
    """What has come of the request's body."""
    unread: bytes
    """Input that waits for its turn."""
    blocked: bool
    """The peer does not take its answers."""
    def __init__(self, site: Site) -> None: ...
    def deadline_passed(self, queue: Deadlines) -> None: ...
    def close_if_idle(self) -> None:
        """Close the connection if no request is on the way; one that is will be answered."""

    def abort(self) -> None:
        """Cut the connection off."""

    def go_on(self) -> None:
        """Take up what was left over, and read again when nothing is."""

    def is_loopback(self) -> bool:
        """Whether the other end is on this machine."""

def peer_is_loopback(transport: asyncio.BaseTransport) -> bool: ...
