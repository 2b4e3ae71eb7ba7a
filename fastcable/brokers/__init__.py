"""How messages travel between the processes that publish and those that have subscribers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncio import Future

    from fastcable.link import Link

    Handover = Future[int]
    """Done when a message is on its way, in its place in the order: how many subscribers its stream has in the server's
    other workers. Fails with `HandoverError`."""


class HandoverError(Exception):
    """One line: why a message was not handed over."""


class Broker(Protocol):
    """Carries messages to the hub, which has asked for them by stream.

    `subscribe` is called with the first subscriber of a stream on this process, `unsubscribe` after the last. The
    broker calls `Hub.confirmed(stream)` once every message of the stream will arrive, and `Hub.deliver(stream, data)`
    for each, in the order in which they were published; `Hub.interrupted()` when it hears no stream any more, until it
    confirms each again; `Hub.lost(stream)` when messages were lost on their way. A confirmation that arrives after an
    `unsubscribe` is stale, and must not be passed on as that of a later `subscribe`.

    `data` is the bytes of one JSON value; `retain`, `exclude` and `embedded` (`Hub.publish`) are handed through. What
    returns None is done already, and concerns no other process.
    """

    @property
    def problem(self) -> str | None:
        """Why messages cannot be carried at present, in one line without secrets; None: they can."""
        ...

    def publish(
        self, stream: str, data: bytes, retain: bool, exclude: str | None, embedded: bool
    ) -> Handover | None: ...
    def subscribe(self, stream: str) -> None: ...
    def unsubscribe(self, stream: str) -> None: ...

    def disconnect(self, identifier: str, reconnect: bool) -> Handover | None:
        """Close the connections of an identifier in all processes (`Sessions.disconnect`)."""
        ...

    def count(self, stream: str) -> Handover | None:
        """How many subscribers a stream has in the server's other workers."""
        ...

    def join(self, link: Link) -> Broker:
        """The broker of a server that becomes one of several workers, whom `link` goes to: this one or another."""
        ...

    async def start(self) -> None:
        """Begin; neither fails nor waits because a remote end is absent."""

    async def stop(self) -> None:
        """Hand over what was accepted, as far as that takes no longer than `publish_timeout`, and end."""
