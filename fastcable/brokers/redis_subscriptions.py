"""What is heard from Redis: the streams that somebody here is subscribed to.

Theory of operation
-------------------
A stream is absent, *asked*, *live*, or *lingering*. With its first subscriber it is asked: SUBSCRIBE for its channels
(all streams of a turn together), and in the same breath MGET for the retained values. Redis carries out one after the
other, and what it sends arrives in the order in which it happened. So at the answer to MGET the stream is live: the
value is the state at that moment, everything before is in it, and every message from now on arrives. Messages that
come in between are dropped; nobody here has been told `subscribed` yet.

After its last subscriber a live stream lingers for a few seconds, in which it can become live again at once, and then
is absent: UNSUBSCRIBE, and its retained value is forgotten, because nobody keeps it up to date any more. A stream
that is asked lingers, too; it stays asked meanwhile.

An answer belongs to the `Subscription` that asked. When that was given up in the meantime, and perhaps another one
made for the same stream, the answer is stale, and nothing happens.

When the connection is lost, the hub is told that nothing is heard (`interrupted`), streams that linger are dropped,
and the others are asked again as soon as the connection is back. What was missed, nobody knows; the hub tells that
with the confirmations.

While more is posted to this process's clients than they are sent (`Hub.congested`), the connection is not read. If
that takes too long for Redis, it cuts the connection, and the same happens as with any other loss.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import orjson

from fastcable._hub import Hub
from fastcable._json import member_spans
from fastcable.brokers import message
from fastcable.brokers.redis_channels import Channels
from fastcable.brokers.redis_connection import Answered, RedisConnection, Unusable, command
from fastcable.brokers.redis_endpoint import Endpoint
from fastcable.brokers.redis_health import Health
from fastcable.brokers.redis_replies import Reply, ReplyError
from fastcable.log import Throttle, escape

LINGER_SECONDS = 3.0
MOST_NAMES = 128  # channels of one command
CONGESTED_SECONDS = 0.01  # between two looks whether the hub can take more

_T = TypeVar("_T")

Handler = Callable[[bytes], None]
"""Takes what was published on a channel. Raises ValueError, which is logged."""


class Subscription:
    """A stream that is, or is to be, heard: on our own channel, and on that of Rails, if there is one."""

    __slots__ = ("channel", "denied", "live", "rails", "stream")

    def __init__(self, stream: str, channel: bytes, rails: bytes | None) -> None:
        self.stream = stream
        self.channel = channel
        self.rails = rails
        self.live = False
        self.denied = False

    @property
    def channels(self) -> Sequence[bytes]:
        return (self.channel,) if self.rails is None else (self.channel, self.rails)


class Subscriptions:
    """The connection that subscribes."""

    def __init__(
        self, endpoint: Endpoint, loop: asyncio.AbstractEventLoop, health: Health, hub: Hub, channels: Channels
    ) -> None:
        self._connection = RedisConnection(endpoint, loop, self)
        self._endpoint = endpoint
        self._loop = loop
        self._health = health
        self._hub = hub
        self._channels = channels
        self._throttle = Throttle()
        # Settings, to be made before the start: what is heard apart from streams, by channel or by a pattern of
        # channels, and whether streams are heard on Rails' channels, too.
        self.handlers: dict[bytes, Handler] = {}
        self.pattern: bytes | None = None
        self.pattern_handler: Callable[[bytes, bytes], None]
        self.rails = False
        # State
        self._subscriptions: dict[str, Subscription] = {}
        self._heard: dict[bytes, Subscription] = {}  # by channel
        self._fresh: list[Subscription] = []  # to be asked in this turn of the event loop
        self._lingering: dict[str, float] = {}  # until when, the first one first
        self._timer: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._connection.start()

    async def stop(self) -> None:
        for timer in (self._timer, self._reader):
            if timer is not None:
                timer.cancel()
        await self._connection.stop()

    # Streams

    def subscribe(self, stream: str) -> None:
        subscription = self._subscriptions.get(stream)
        if subscription is not None:
            self._lingering.pop(stream, None)
            if subscription.live:
                self._hub.confirmed(stream)
            return
        rails = self._channels.rails(stream) if self.rails else None
        subscription = Subscription(stream, self._channels.stream(stream), rails)
        self._subscriptions[stream] = subscription
        for channel in subscription.channels:
            self._heard[channel] = subscription
        if not self._fresh:
            self._loop.call_soon(self._ask_fresh)
        self._fresh.append(subscription)

    def unsubscribe(self, stream: str) -> None:
        if stream not in self._subscriptions:
            return
        self._lingering[stream] = self._loop.time() + LINGER_SECONDS
        if self._timer is None:
            self._timer = self._loop.call_later(LINGER_SECONDS, self._drop)

    def _drop(self) -> None:
        """Drop the streams that have lingered long enough."""
        self._timer = None
        now = self._loop.time()
        channels: list[bytes] = []
        for stream, until in list(self._lingering.items()):
            if until > now:
                self._timer = self._loop.call_at(until, self._drop)
                break
            channels += self._forget(stream)
        if self._connection.up:
            for some in _chunks(channels):
                self._connection.send(command(b"UNSUBSCRIBE", *some), _confirmations(some))

    def _forget(self, stream: str) -> Sequence[bytes]:
        del self._lingering[stream]
        channels = self._subscriptions.pop(stream).channels
        for channel in channels:
            del self._heard[channel]
        if self._hub.retained is not None:
            self._hub.retained.forget(stream)
        return channels

    def _ask_fresh(self) -> None:
        fresh, self._fresh = self._fresh, []
        if self._connection.up:
            self._ask(fresh)

    def _ask(self, subscriptions: Sequence[Subscription]) -> None:
        for some in _chunks(subscriptions):
            channels = [channel for subscription in some for channel in subscription.channels]
            keys = [self._channels.retained(subscription.stream) for subscription in some]
            for subscription in some:
                subscription.denied = False
            self._connection.send(
                command(b"SUBSCRIBE", *channels) + command(b"MGET", *keys),
                _confirmations(channels, functools.partial(self._denied, some)), functools.partial(self._live, some))

    def _denied(self, subscriptions: Sequence[Subscription], problem: str) -> None:
        """The user may not hear one of these, so Redis subscribed to none. A client may have chosen its name, so this
        must not cost the others anything."""
        for subscription in subscriptions:
            subscription.denied = True
        if len(subscriptions) == 1:
            self._throttle.log(
                logging.WARNING, "redis: stream %s cannot be heard: %s",
                escape(subscriptions[0].stream), self._endpoint.line(problem))

    def _live(self, subscriptions: Sequence[Subscription], reply: Reply) -> bool:
        """The answer to MGET."""
        if subscriptions[0].denied:
            for subscription in subscriptions if len(subscriptions) > 1 else ():
                if self._subscriptions.get(subscription.stream) is subscription:
                    self._ask([subscription])
            return True
        if isinstance(reply, ReplyError):
            if str(reply).startswith(("LOADING", "MASTERDOWN", "CLUSTERDOWN")):
                raise Unusable(str(reply))
            self._throttle.log(
                logging.WARNING, "redis: retained values cannot be read: %s", self._endpoint.line(reply))
            reply = [None] * len(subscriptions)
        if not isinstance(reply, list) or len(reply) != len(subscriptions):
            raise Unusable("Redis answered what it was not asked")
        for subscription, value in zip(subscriptions, reply, strict=True):
            if self._subscriptions.get(subscription.stream) is not subscription:
                continue
            self._keep(subscription.stream, value)
            subscription.live = True
            self._hub.confirmed(subscription.stream)
        return True

    def _keep(self, stream: str, value: Reply) -> None:
        retained = self._hub.retained
        if retained is None:
            return
        retained.forget(stream)
        if isinstance(value, bytes):
            try:
                data, age = stored(value)
            except ValueError as error:
                self._throttle.log(logging.WARNING, "redis: bad retained value of %s: %s", escape(stream), error)
            else:
                retained.keep(stream, data, age)

    # The connection's role

    def opened(self) -> None:
        self._connection.send(command(b"SUBSCRIBE", *self.handlers), _confirmations(list(self.handlers)))
        if self.pattern is not None:
            self._connection.send(command(b"PSUBSCRIBE", self.pattern), _confirmations([self.pattern]))
        self._fresh.clear()
        self._ask(list(self._subscriptions.values()))
        self._connection.send(command(b"PING"), self._all_asked)

    def _all_asked(self, reply: Reply) -> bool:
        self._health.up("subscribing")
        return True

    def down(self, reason: str) -> None:
        self._health.down("subscribing", reason)
        for stream in list(self._lingering):
            self._forget(stream)
        was_live = False
        for subscription in self._subscriptions.values():
            was_live = was_live or subscription.live
            subscription.live = False
        if was_live:
            self._hub.interrupted()

    def writable(self) -> None:
        pass

    def message(self, push: tuple[Reply, ...]) -> None:
        channel, payload = push[-2:] if len(push) > 2 else (None, None)
        if type(channel) is not bytes or type(payload) is not bytes:
            raise Unusable("Redis sent a message that is none")
        try:
            if len(push) > 3:
                self.pattern_handler(channel, payload)
            elif (subscription := self._heard.get(channel)) is not None:
                if subscription.live:
                    self._deliver(subscription, channel, payload)
            elif channel in self.handlers:
                self.handlers[channel](payload)
        except ValueError as error:
            self._throttle.log(logging.WARNING, "redis: dropped what was published on %s: %s", escape(channel), error)
        if self._hub.congested and self._reader is None:
            self._connection.pause()
            self._reader = self._loop.call_later(CONGESTED_SECONDS, self._read_on)

    def _read_on(self) -> None:
        if self._hub.congested:
            self._reader = self._loop.call_later(CONGESTED_SECONDS, self._read_on)
        else:
            self._reader = None
            self._connection.resume()

    def _deliver(self, subscription: Subscription, channel: bytes, payload: bytes) -> None:
        if channel == subscription.channel:
            data, retain, exclude, embedded = message.decode(payload)
            self._hub.deliver(subscription.stream, data, retain, exclude, embedded)
            return
        try:
            orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"it is not JSON: {error}") from None
        self._hub.deliver(subscription.stream, payload.strip(b" \t\r\n"))


def storable(data: bytes) -> bytes:
    """A retained value as it is stored, with the time, so that it does not get younger by being fetched."""
    return b'{"v":1,"at":%d,"data":%b}' % (int(time.time()), data)


def stored(text: bytes) -> tuple[bytes, float]:
    """A retained value from what was stored, and its age in seconds. ValueError: why it is none."""
    try:
        value = orjson.loads(text)
        at = value["at"]
        return member_spans(text, b"data")[0], max(0.0, time.time() - at)
    except (ValueError, KeyError, TypeError):
        raise ValueError("it must be an object with at and data") from None


def _chunks(items: Sequence[_T]) -> Iterable[Sequence[_T]]:
    return (items[at : at + MOST_NAMES] for at in range(0, len(items), MOST_NAMES))


def _confirmations(names: Sequence[bytes], denied: Callable[[str], None] | None = None) -> Answered:
    """Takes the confirmations of a command with these names, in order, or that the user is not allowed to give it."""
    expected = iter(names)
    left = len(names)

    def answered(reply: Reply) -> bool:
        nonlocal left
        if isinstance(reply, ReplyError):
            if denied is None or not str(reply).startswith("NOPERM"):
                raise Unusable(str(reply))
            denied(str(reply))
            return True
        if not isinstance(reply, tuple) or len(reply) != 3 or reply[1] != next(expected):
            raise Unusable("Redis confirmed what it was not asked")
        left -= 1
        return not left

    return answered
