"""How messages travel between the processes that publish and those that have subscribers."""

from __future__ import annotations

from typing import Protocol


class Broker(Protocol):
    """Carries messages to the hub, which has asked for them by stream.

    `subscribe` is called with the first subscriber of a stream on this process, `unsubscribe` after the last. The
    broker calls `Hub.confirmed(stream)` once every message of the stream will arrive, and `Hub.deliver(stream, data)`
    for each, in the order in which they were published. `data` is the bytes of one JSON value; `retain`, `exclude` and
    `embedded` (`Hub.publish`) are handed through. A confirmation that arrives after an `unsubscribe` is stale, and must
    not be passed on as that of a later `subscribe`. Only `publish` may raise.
    """

    def publish(self, stream: str, data: bytes, retain: bool, exclude: str | None, embedded: bool) -> None: ...
    def subscribe(self, stream: str) -> None: ...
    def unsubscribe(self, stream: str) -> None: ...
