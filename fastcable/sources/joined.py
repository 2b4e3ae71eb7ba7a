"""A broker and the sources beside it, as one broker.

Messages come from any of them, but are published through the broker alone. A stream is confirmed once all of them have
confirmed it; when one is interrupted, it must confirm each stream again, and then the hub is told whether anything may
have been missed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fastcable.options import masked_url
from fastcable.settings import Settings, SettingsError
from fastcable.sources import Reader
from fastcable.sources.poller import Poller

if TYPE_CHECKING:
    from fastcable._hub import Hub
    from fastcable.brokers import Broker, Handover
    from fastcable.link import Link

MISSED, INNER = 1, 2  # and 4, 8, … are the sources


class Joined:
    """Every worker has its own, which reads the messages of its own streams."""

    inner: Broker

    def __init__(self, settings: Settings, hub: Hub) -> None:
        self.hub = cast("Hub", InnerHub(hub, self))
        """The hub for the inner broker."""
        self._hub = hub
        # What a stream that is not confirmed waits for: the bits of those who are to confirm it, and MISSED.
        self._awaited: dict[str, int] = {}
        self._sources = {
            Poller(
                masked_url(url), open_reader(url), hub, self, interval=settings.source_interval,
                prefix=settings.channel_prefix, max_size=settings.max_broadcast_size,
            ): INNER << number
            for number, url in enumerate(settings.source, 1)
        }
        self._all = INNER | sum(self._sources.values())

    def join(self, link: Link) -> Joined:
        self.inner = self.inner.join(link)
        return self

    @property
    def problem(self) -> str | None:
        problems = (self.inner.problem, *(source.problem for source in self._sources))
        return next(filter(None, problems), None)

    async def start(self) -> None:
        await self.inner.start()
        for source in self._sources:
            source.start()

    async def stop(self) -> None:
        for source in self._sources:
            await source.stop()
        await self.inner.stop()

    def publish(self, stream: str, data: bytes, retain: bool, exclude: str | None, embedded: bool) -> Handover | None:
        return self.inner.publish(stream, data, retain, exclude, embedded)

    def disconnect(self, identifier: str, reconnect: bool) -> Handover | None:
        return self.inner.disconnect(identifier, reconnect)

    def count(self, stream: str) -> Handover | None:
        return self.inner.count(stream)

    def subscribe(self, stream: str) -> None:
        self._awaited[stream] = self._all
        for source in self._sources:
            source.subscribe(stream)
        self.inner.subscribe(stream)

    def unsubscribe(self, stream: str) -> None:
        self._awaited.pop(stream, None)
        for source in self._sources:
            source.unsubscribe(stream)
        self.inner.unsubscribe(stream)

    # What the inner broker and the sources tell

    def confirmed(self, poller: Poller | None, stream: str, missed: bool) -> None:
        """One of them has confirmed a stream; None: the inner broker."""
        awaited = self._awaited.get(stream)
        if awaited is None:
            return
        awaited = awaited & ~self._bit(poller) | missed
        if awaited & ~MISSED:
            self._awaited[stream] = awaited
        else:
            del self._awaited[stream]
            self._hub.confirmed(stream, awaited == MISSED)

    def interrupted(self, poller: Poller | None) -> None:
        bit = self._bit(poller)
        for stream in self._hub.streams:
            self._awaited[stream] = self._awaited.get(stream, 0) | bit
        self._hub.interrupted()

    def _bit(self, poller: Poller | None) -> int:
        return INNER if poller is None else self._sources[poller]


class InnerHub:
    """The hub, for a broker that does not know of the sources beside it."""

    __slots__ = ("_hub", "_joined", "deliver")

    def __init__(self, hub: Hub, joined: Joined) -> None:
        self._hub = hub
        self._joined = joined
        self.deliver = hub.deliver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hub, name)

    def confirmed(self, name: str, missed: bool = True) -> None:
        self._joined.confirmed(None, name, missed)

    def interrupted(self) -> None:
        self._joined.interrupted(None)


def open_reader(url: str) -> Reader:
    """Raises `SettingsError`."""
    if url.startswith("solid_cable:"):
        from fastcable.sources.sqlite import SqliteReader

        return SqliteReader(url.removeprefix("solid_cable://"))
    try:
        from fastcable.sources.postgresql import PostgresqlReader
    except ModuleNotFoundError as error:
        raise SettingsError(f"source: PostgreSQL needs {error.name}: pip install 'fastcable[postgresql]'") from error
    return PostgresqlReader(url.removeprefix("solid_cable+"))
