from asyncio import Future
from typing import Protocol

from fastcable._request import Request
from fastcable.response import Response
from fastcable.settings import Settings

class Hub(Protocol):
    """Where broadcasts go. `data` is the raw text of a JSON value."""

    def publish(
        self, stream: str, data: bytes, retain: bool = False, exclude: str | None = None, embedded: bool = False
    ) -> Future[int] | None: ...
    def disconnect(self, identifier: str, reconnect: bool) -> Future[int] | None: ...
    def subscribers(self, stream: str) -> int: ...
    def elsewhere(self, stream: str) -> Future[int] | None: ...
    @property
    def congested(self) -> bool: ...

class Peer(Protocol):
    """The connection a request came on."""

    def is_loopback(self) -> bool:
        """Whether the other end is on this machine."""

def is_loopback_address(address: str) -> bool:
    """Whether a peer's address, in its usual form, is this machine's."""

class Broadcasts:
    """What applications ask of the server."""

    def __init__(self, settings: Settings, hub: Hub) -> None: ...
    def begin(self, request: Request, peer: Peer) -> Response | None:
        """Refuse a request at the end of its head, or (None) have its body read."""

    def publish(self, body: bytes, request: Request | None = None) -> Response | Future[Response]:
        """Accept a broadcast or a batch of them as a whole, or refuse it; what a broker has to take is answered when
        that is done. It is in the form for which `request` has the key; None: fastcable's own."""

    def count(self, request: Request, peer: Peer) -> Response | Future[Response]:
        """How many subscribe to the stream that the query names."""
