from collections.abc import Callable
from typing import Any

from fastcable._hub import Group, Hub, Subscriber
from fastcable.dialects import Dialect, Encoding

class ActionCableDialect:
    """`authorizer(channel, params)` gives the stream that an identifier stands for, None if it may not be subscribed
    to; its answers are remembered. An identifier of more than `max_identifier_size` bytes is rejected; 0: none is.

    `reconfirms`: a subscription that is live already is confirmed again. `pongs`: the client is told that it may
    answer pings. `claimed`: streams are kept to those whose `claims`, which each subscriber has, allow them.
    """

    ping: bytes
    timed_pings: bool
    loses_silently: bool
    def __init__(
        self,
        hub: Hub,
        encoding: Encoding,
        authorizer: Callable[[str, dict[str, Any]], str | None],
        max_identifier_size: int,
        *,
        reconfirms: bool = False,
        pongs: bool = False,
        claimed: bool = False,
    ) -> None: ...
    def opened(self, subscriber: Subscriber) -> None: ...
    def received(self, subscriber: Subscriber, text: bytes) -> None: ...
    def confirmed(self, subscriber: Subscriber, stream: str, key: object) -> None: ...
    def gap(self, stream: str, key: object, missed: int | None) -> bytes: ...
    def farewell(self, code: int, reason: str) -> bytes | None: ...
    def open_group(self, stream: str, key: object) -> Group: ...

def variants(
    hub: Hub,
    encoding: Encoding,
    authorizer: Callable[[str, dict[str, Any]], str | None],
    max_identifier_size: int,
    claimed: bool = False,
) -> dict[str, Dialect]:
    """The dialect as each kind of client wants it, by the names that `negotiate` gives them."""

def disconnect(reason: str, reconnect: bool) -> bytes:
    """The text that goes before the end of a connection."""
