"""The broker that the options ask for."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from fastcable._hub import Hub
from fastcable.brokers import Broker
from fastcable.brokers.memory import MemoryBroker
from fastcable.settings import Settings

if TYPE_CHECKING:
    from fastcable.link import Link


def broker(settings: Settings, hub: Hub, loop: asyncio.AbstractEventLoop, link: Link | None = None) -> Broker:
    """`link` goes to the other workers of this server, if it has any. Raises `SettingsError`."""
    if not settings.source:
        return _carrier(settings, hub, loop, link)
    from fastcable.sources.joined import Joined

    joined = Joined(settings, hub)
    joined.inner = _carrier(settings, joined.hub, loop, link)
    return joined


def load(settings: Settings) -> None:
    """Import what the broker needs, if it is there, for processes that are forked to share it."""
    if settings.broker != "memory":
        with contextlib.suppress(ImportError):
            import redis.asyncio.connection  # noqa: F401

            import fastcable.brokers.redis  # noqa: F401


def _carrier(settings: Settings, hub: Hub, loop: asyncio.AbstractEventLoop, link: Link | None) -> Broker:
    if settings.broker != "memory":
        from fastcable.brokers.redis import RedisBroker

        return RedisBroker(hub, settings, loop, link)
    if link is not None:
        from fastcable.brokers.workers import WorkersBroker

        return WorkersBroker(hub, link)
    return MemoryBroker(hub)
