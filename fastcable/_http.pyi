import asyncio
from collections.abc import Callable

from fastcable._connection import Cable
from fastcable._deadlines import Deadlines
from fastcable._endpoints import Endpoints
from fastcable._handshake import Accept
from fastcable._request import HeadParser, Request
from fastcable.admission import Admission
from fastcable.chunked import ChunkedBody
from fastcable.dialects import Dialect
from fastcable.entrance import Entrance
from fastcable.settings import Settings

REQUESTS_PER_TURN: int

class Site:
    """What all HTTP connections of a server share, and their way on to the WebSockets of a cable."""

    settings: Settings
    handshakes: Deadlines
    keepalives: Deadlines
    lingering: Deadlines
    dialect: Dialect | None
    """What is spoken with clients that offer no subprotocol."""
    requests: set[HttpProtocol]
    """The open connections."""
    entrance: Entrance | None
    """What else decides whether somebody is let in."""
    draining: bool
    """Every answer is the last one of its connection."""
    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float],
        lingering: Deadlines,
        cable: Cable | None,
        dialect: Dialect | None,
        max_connections: int,
        spare: int,
        dialects: dict[str, Dialect] | None = None,
        admission: Admission | None = None,
    ) -> None:
        """`clock` gives monotonic seconds; beyond `max_connections` WebSockets, `spare` connections may speak HTTP.
        `dialects` are those that `negotiate` names, but for the default. Without an `admission` everybody may connect.
        Without a cable `opened`, `is_full` and `accept` are to be overridden."""

    def opened(self, protocol: HttpProtocol) -> bool:
        """A connection came in; False: there is no room for it, it is aborted and not reported as closed."""

    def closed(self, protocol: HttpProtocol) -> None:
        """An opened connection is lost, or is about to be handed to `accept`."""

    def is_full(self) -> bool:
        """Whether no more WebSocket connections are taken."""

    def accept(self, transport: asyncio.Transport, request: Request, accept: Accept, rest: bytes) -> None:
        """Make a WebSocket connection of it: set its protocol, write the 101, then feed it `rest`."""

class HttpProtocol(asyncio.Protocol):
    """HTTP/1.1 and 1.0 on one connection of `site`, which came in on the listener that has these `endpoints`."""

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
    def __init__(self, site: Site, endpoints: Endpoints) -> None: ...
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
