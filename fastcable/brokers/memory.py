"""The broker of a single process: what is published here is delivered here."""

from __future__ import annotations

from fastcable._hub import Hub


class MemoryBroker:
    __slots__ = ("_hub",)

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def publish(self, stream: str, data: bytes, retain: bool, exclude: str | None, embedded: bool) -> None:
        self._hub.deliver(stream, data, retain, exclude, embedded)

    def subscribe(self, stream: str) -> None:
        self._hub.confirmed(stream)

    def unsubscribe(self, stream: str) -> None:
        pass
