"""The broker between the workers of one host: what is published at one is delivered at all, in one order."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastcable._hub import Hub
    from fastcable.brokers import Handover
    from fastcable.link import Link


class WorkersBroker:
    """Every worker hears every message, so a subscription is confirmed at once. The link is started by whoever made
    it."""

    __slots__ = ("_hub", "_link")

    def __init__(self, hub: Hub, link: Link) -> None:
        self._hub = hub
        self._link = link

    @property
    def problem(self) -> str | None:
        return self._link.problem

    def publish(self, stream: str, data: bytes, retain: bool, exclude: str | None, embedded: bool) -> Handover:
        return self._link.publish(stream, data, retain, exclude, embedded)

    def subscribe(self, stream: str) -> None:
        self._hub.confirmed(stream)

    def unsubscribe(self, stream: str) -> None:
        pass

    def disconnect(self, identifier: str, reconnect: bool) -> Handover:
        return self._link.disconnect(identifier, reconnect)

    def count(self, stream: str) -> Handover:
        return self._link.count(stream)

    def join(self, link: Link) -> WorkersBroker:
        return WorkersBroker(self._hub, link)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        await self._link.finish()
