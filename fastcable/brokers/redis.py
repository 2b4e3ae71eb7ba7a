"""The broker that many servers share: Redis.

Each stream has a channel, and each process two connections: one that is subscribed to the channels of the streams that
its clients want, and one that publishes. A message is handed over when Redis has answered PUBLISH; its publisher's own
process gets it back like all others, so all deliver the messages of a stream in the same order. A retained value is
stored and published in one transaction, so that whoever subscribes gets it either as the state or as a message, not as
both.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Protocol

import orjson

from fastcable._hub import Hub
from fastcable._posts import Disconnect, anycable_posts
from fastcable.brokers import message
from fastcable.brokers.redis_channels import ANYCABLE, Channels
from fastcable.brokers.redis_connection import command
from fastcable.brokers.redis_endpoint import Endpoint
from fastcable.brokers.redis_health import Health
from fastcable.brokers.redis_publishing import Publishing
from fastcable.brokers.redis_subscriptions import Subscriptions, storable
from fastcable.settings import Settings

if TYPE_CHECKING:
    from fastcable.brokers import Handover

MULTI = command(b"MULTI")
EXEC = command(b"EXEC")


class Counting(Protocol):
    """Knows the subscribers of the other workers on this host; `fastcable.link.Link` does."""

    def count(self, stream: str) -> Handover: ...


class RedisBroker:
    """A `Broker`. Raises `SettingsError` if the URL is no good, or the `redis` package is missing."""

    def __init__(
        self, hub: Hub, settings: Settings, loop: asyncio.AbstractEventLoop, link: Counting | None = None
    ) -> None:
        self._hub = hub
        self._loop = loop
        self._link = link
        self._retain_seconds = settings.retain_seconds
        self._max_batch = settings.max_batch
        endpoint = Endpoint(settings.broker)
        self._channels = Channels(settings.channel_prefix or "")
        self._health = Health("publishing", "subscribing")
        self._publishing = Publishing(endpoint, loop, self._health, settings.publish_timeout, hub.max_backlog)
        self._subscriptions = Subscriptions(endpoint, loop, self._health, hub, self._channels)
        self._subscriptions.handlers[self._channels.control] = self._carry_out
        if settings.redis_channels == "rails":
            self._subscriptions.rails = True
            self._subscriptions.pattern = self._channels.rails_disconnects_pattern
            self._subscriptions.pattern_handler = self._rails_disconnect
        if settings.redis_channels == "anycable":
            self._subscriptions.handlers[ANYCABLE] = self._anycable
        self.subscribe = self._subscriptions.subscribe
        self.unsubscribe = self._subscriptions.unsubscribe

    def join(self, link: Counting) -> RedisBroker:
        self._link = link
        return self

    @property
    def problem(self) -> str | None:
        return self._health.problem

    async def start(self) -> None:
        self._publishing.start()
        self._subscriptions.start()

    async def stop(self) -> None:
        await self._publishing.stop()
        await self._subscriptions.stop()

    def publish(
        self, stream: str, data: bytes, retain: bool, exclude: str | None, embedded: bool
    ) -> Handover:
        publish = command(b"PUBLISH", self._channels.stream(stream), message.encode(data, retain, exclude, embedded))
        if retain:
            handed_over = self._publishing.hand_over(MULTI + self._store(stream, data) + publish + EXEC, 4)
        else:
            handed_over = self._publishing.hand_over(publish)
        if self._link is None:
            return handed_over
        counted: Handover = self._loop.create_future()
        handed_over.add_done_callback(functools.partial(self._count, self._link, stream, counted))
        return counted

    def _store(self, stream: str, data: bytes) -> bytes:
        key = self._channels.retained(stream)
        if data == b"null":
            return command(b"DEL", key)
        if not self._retain_seconds:
            return command(b"SET", key, storable(data))
        return command(b"SET", key, storable(data), b"PX", b"%d" % max(1, int(self._retain_seconds * 1000)))

    def _count(self, link: Counting, stream: str, counted: Handover, handed_over: Handover) -> None:
        """Count the subscribers of the other workers; where that fails, the message is handed over all the same."""
        if counted.done():
            return
        error = handed_over.exception()
        if error is None:
            link.count(stream).add_done_callback(functools.partial(_settle, counted))
        else:
            counted.set_exception(error)
            counted.exception()  # who asked may be gone, and then asyncio would log it

    def count(self, stream: str) -> Handover | None:
        return None if self._link is None else self._link.count(stream)

    # Commands

    def disconnect(self, identifier: str, reconnect: bool) -> Handover:
        text = orjson.dumps({"v": 1, "command": "disconnect", "identifier": identifier, "reconnect": reconnect})
        return self._publishing.hand_over(command(b"PUBLISH", self._channels.control, text))

    def _carry_out(self, text: bytes) -> None:
        """A command that was published to all servers; of one that a later version may know, nothing happens."""
        value = _object(text)
        if value.get("command") != "disconnect":
            return
        identifier, reconnect = value.get("identifier"), value.get("reconnect", False)
        if type(identifier) is not str or type(reconnect) is not bool:
            raise ValueError("identifier must be a string, and reconnect true or false")
        self._hub.sessions.disconnect(identifier, reconnect)

    def _rails_disconnect(self, channel: bytes, text: bytes) -> None:
        """What `ActionCable.server.remote_connections.where(…).disconnect` publishes."""
        value = _object(text)
        if value.get("type") != "disconnect":
            return
        reconnect = value.get("reconnect", True)
        if type(reconnect) is not bool:
            raise ValueError("reconnect must be true or false")
        wanted = channel[len(self._channels.rails_disconnects) :].decode(errors="replace")
        for identifier in self._hub.sessions.identifiers():
            if rails_identifier(identifier) == wanted:
                self._hub.sessions.disconnect(identifier, reconnect)

    def _anycable(self, text: bytes) -> None:
        """What AnyCable's `redis` broadcast adapter publishes, to all of its servers: the body of a post."""
        posts = anycable_posts(_json(text), text, self._max_batch)
        if isinstance(posts, Disconnect):
            self._hub.sessions.disconnect(posts.identifier, posts.reconnect)
            return
        for stream, data, exclude, embedded in posts:
            self._hub.deliver(stream, data, False, exclude, embedded)


def rails_identifier(identifier: str) -> str:
    """How Rails calls a connection that has these identifiers (a JSON object, as in a token): by their values."""
    value = orjson.loads(identifier)
    values = value.values() if type(value) is dict else [value]
    return ":".join(sorted(str(each) for each in values if each is not None))


def _json(text: bytes) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None


def _object(text: bytes) -> dict[str, object]:
    value = _json(text)
    if not isinstance(value, dict):
        raise ValueError("it must be an object")
    return value


def _settle(counted: Handover, counting: Handover) -> None:
    failed = counting.cancelled() or counting.exception() is not None
    if not counted.done():
        counted.set_result(0 if failed else counting.result())
