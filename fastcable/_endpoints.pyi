from asyncio import Future
from collections.abc import Callable
from typing import Protocol

from fastcable._broadcasts import Hub as Publishing
from fastcable._broadcasts import Peer
from fastcable._handshake import Accept
from fastcable._request import Request
from fastcable.response import Response
from fastcable.settings import Settings

Report = tuple[Callable[[Request], Response | Future[Response]], bool]

class Hub(Publishing, Protocol):
    @property
    def problem(self) -> str | None:
        """Why messages cannot be carried at present, in one line; None: they can."""

class Endpoints:
    """The paths of one listener."""

    reports: dict[bytes, Report]
    """What else it answers to GET: for each path what makes the answer, and whether that is for everybody, or only for
    those who may publish."""
    publish: Callable[..., Response | Future[Response]]
    """Takes the body of a broadcast that may be posted, and the request that it came with (`Broadcasts.publish`)."""
    def __init__(self, settings: Settings, hub: Hub, *, cable: bool, broadcast: bool, demo: bool) -> None:
        """`cable` and `broadcast` say whether it has these; `demo` adds a page at `/`."""

    def begin(self, request: Request, peer: Peer) -> Response | Future[Response] | Accept | None:
        """Decide at the end of the head; None: the body is wanted, to be given to `publish`."""

