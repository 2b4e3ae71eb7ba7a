from collections.abc import Callable

from fastcable._broadcasts import Hub, Peer
from fastcable._handshake import Accept
from fastcable._request import Request
from fastcable.response import Response
from fastcable.settings import Settings

class Endpoints:
    """The paths of one listener."""

    publish: Callable[..., Response]
    """Takes the body of a broadcast that may be posted, and the request that it came with (`Broadcasts.publish`)."""
    def __init__(self, settings: Settings, hub: Hub, *, cable: bool, broadcast: bool, demo: bool) -> None:
        """`cable` and `broadcast` say whether it has these; `demo` adds a page at `/`."""

    def begin(self, request: Request, peer: Peer) -> Response | Accept | None:
        """Decide at the end of the head; None: the body is wanted, to be given to `publish`."""

