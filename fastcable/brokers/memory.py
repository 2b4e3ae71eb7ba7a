"""The broker of a single process: what is published here is delivered here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastcable._hub import Hub
from fastcable.brokers.workers import WorkersBroker

if TYPE_CHECKING:
    from fastcable.link import Link


class MemoryBroker:
    __slots__ = ("_hub",)

    problem = None

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def publish(self, stream: str, data: bytes, retain: bool, exclude: str | None, embedded: bool) -> None:
        self._hub.deliver(stream, data, retain, exclude, embedded)

    def subscribe(self, stream: str) -> None:
        self._hub.confirmed(stream)

    def unsubscribe(self, stream: str) -> None:
        pass

    def disconnect(self, identifier: str, reconnect: bool) -> None:
        self._hub.sessions.disconnect(identifier, reconnect)

    def count(self, stream: str) -> None:
        pass

    def join(self, link: Link) -> WorkersBroker:
        return WorkersBroker(self._hub, link)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass
