"""What is heard of Redis' channels, from when to when, and what is handed over: against a redis-server."""

from __future__ import annotations

import asyncio
import functools
import random
import sys
from typing import Any

import orjson
import pytest

from fastcable.brokers import HandoverError, redis_subscriptions
from fastcable.brokers.redis_channels import Channels
from fastcable.settings import SettingsError
from tests.redis_nodes import Event, Node, RecordingHub, node, run, until
from tests.redis_server import RedisServer

# Subscribing and publishing


def test_messages_reach_every_process_that_is_subscribed(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one, node(redis) as other:
            await one.subscribe("a", "b")
            await other.subscribe("b")
            assert await one.publish("a", b'{"n":1.00}') == 0
            assert await other.publish("b", b'"x"') == 0
            assert await other.publish("c", b"null") == 0
            await one.expect(("a", b'{"n":1.00}'), ("b", b'"x"'))
            await other.expect(("b", b'"x"'))
            await one.quiet()

    run(scenario())


@pytest.mark.parametrize(
    ("options", "seen"),
    [((True,), (True,)), ((False, "socket id"), ("socket id",)), ((False, None, True), (True,)),
     ((True, "é\"\\"), (True, "é\"\\"))],
    ids=["retain", "exclude", "embedded", "retain and exclude"])
def test_the_options_of_a_message_arrive_with_it(
    redis: RedisServer, options: tuple[Any, ...], seen: tuple[object, ...]
) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one:
            await one.subscribe("a")
            await one.publish("a", b'"text"', *options)
            await one.expect(("a", b'"text"', *seen))

    run(scenario())


NAMES = ["*", "a*", "a?", "[ab]", "[^a]", "a\\*", "a%2A", "%", "a b", "é", "ä" * 127, "fastcable:a", "retained:a",
         "fastcable!control", "__anycable__"]


def test_no_stream_is_taken_for_a_pattern_or_for_another(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one:
            await one.subscribe(*NAMES)
            for name in [*NAMES, "a", "ab", "a*b", "b"]:
                await one.publish(name, orjson.dumps(name), True)
            await one.expect(*((name, orjson.dumps(name), True) for name in NAMES))
            await one.quiet()
        async with node(redis) as other:
            for name in NAMES:
                await other.subscribe(name, retained=orjson.dumps(name))
        channels = Channels()
        assert len({channels.stream(name) for name in NAMES}) == len(NAMES)
        assert not set(b"".join(channels.stream(name) + channels.retained(name) for name in NAMES)) & set(b"*?[]^\\")

    run(scenario())


def test_a_prefix_keeps_installations_apart(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis, channel_prefix="staging") as one, node(redis) as other:
            await one.subscribe("a")
            await other.subscribe("a")
            await one.publish("a", b"1", True)
            await other.publish("a", b"2", True)
            await one.expect(("a", b"1", True))
            await other.expect(("a", b"2", True))
            await one.broker.disconnect("user 1", False)
            await one.expect(("disconnect", "user 1", False))
            await other.quiet()

    run(scenario())


def test_streams_of_one_turn_are_asked_for_together(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one:
            await one.until_ready()
            streams = [f"stream {number}" for number in range(3 * redis_subscriptions.MOST_NAMES + 1)]
            await one.subscribe(*streams)
            statistics = redis("INFO", "commandstats")
            assert statistics["cmdstat_subscribe"]["calls"] == 1 + 4
            assert statistics["cmdstat_mget"]["calls"] == 4

    run(scenario())


def test_o11_a_thousand_streams_take_two_connections(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one:
            streams = [f"stream {number}" for number in range(1000)]
            await one.subscribe(*streams)
            await asyncio.gather(*(one.publish(stream, b"1") for stream in streams))
            await one.expect(*((stream, b"1") for stream in streams))
            assert redis("INFO", "clients")["connected_clients"] == 2 + 1  # and who asks

    run(scenario())


def test_coming_and_going_within_the_grace_is_not_told_to_redis(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one:
            await one.subscribe("a")
            for _ in range(100):
                one.broker.unsubscribe("a")
                await one.subscribe("a")
            await one.publish("a", b"1")
            await one.expect(("a", b"1"))
            statistics = redis("INFO", "commandstats")
            assert statistics["cmdstat_subscribe"]["calls"] == 2
            assert "cmdstat_unsubscribe" not in statistics

    run(scenario())


def test_after_the_grace_a_stream_is_left(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis, redis_channels="rails") as one:
            await one.subscribe("a", "b")
            await one.publish("a", b"1", True)
            await one.expect(("a", b"1", True))
            one.broker.unsubscribe("a")
            await until(lambda: sorted(redis("PUBSUB", "CHANNELS")) == [b"b", b"fastcable!control", b"fastcable:b"])
            assert one.hub.retained.get("a") is None, "nobody keeps it up to date"
            await one.publish("a", b"2")
            await one.publish("b", b"3")
            await one.expect(("b", b"3"))

    monkeypatch.setattr(redis_subscriptions, "LINGER_SECONDS", 0.01)
    run(scenario())


def test_a_late_confirmation_is_not_taken_for_that_of_a_later_subscription(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one:
            await one.until_ready()
            one.broker.subscribe("a")
            await asyncio.sleep(0)  # it is asked for
            one.broker.unsubscribe("a")
            one.broker._subscriptions._drop()  # the grace is over, and no answer came yet
            one.broker.subscribe("a")
            await one.expect(("confirmed", "a", None))
            await one.publish("a", b"1")
            await one.expect(("a", b"1"))
            await one.quiet()

    monkeypatch.setattr(redis_subscriptions, "LINGER_SECONDS", 0.0)
    run(scenario())


def test_a_command_reaches_every_process(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one, node(redis) as other:
            await one.until_ready()
            await other.until_ready()
            assert await one.broker.disconnect('{"user_id":"15"}', True) == 0
            for each in (one, other):
                await each.expect(("disconnect", '{"user_id":"15"}', True))

    run(scenario())


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b'{"command":"disconnect"}', b'{"command":"disconnect","identifier":1}',
     b'{"command":"disconnect","identifier":"a","reconnect":1}'],
    ids=["empty", "no JSON", "no object", "no identifier", "bad identifier", "bad reconnect"])
def test_a_bad_command_is_logged_and_dropped(
    redis: RedisServer, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one:
            await one.until_ready()
            redis("PUBLISH", "fastcable!control", text)
            await one.quiet()

    run(scenario())
    (line,) = caplog.messages
    assert line.startswith("redis: dropped what was published on fastcable!control: ")


def test_an_unknown_command_of_a_later_version_is_ignored(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one:
            await one.until_ready()
            redis("PUBLISH", "fastcable!control", b'{"v":2,"command":"dance","to":"music"}')
            redis("PUBLISH", "fastcable!control", b'{"v":2,"command":"disconnect","identifier":"a","more":1}')
            await one.expect(("disconnect", "a", False))
            await one.quiet()

    run(scenario())
    assert caplog.messages == []


def test_what_is_no_message_is_logged_once_and_dropped(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one:
            await one.subscribe("a")
            for text in (b"hello", b"{}", b"[1]", b'{"v":1,"data":}', b'{"v":0,"data":1}', b"\xff"):
                redis("PUBLISH", "fastcable:a", text)
            redis("PUBLISH", "fastcable:a", b'{"v":2,"color":"red","data":[1]}')
            await one.expect(("a", b"[1]"))
            await one.quiet()

    run(scenario())
    (line,) = caplog.messages
    assert line.startswith("redis: dropped what was published on fastcable:a: ")


# Retained values


def test_who_subscribes_gets_the_value_that_another_process_published(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis, retain_seconds=100) as one, node(redis) as other:
            await one.publish("a", b"[1, 2]", True)
            await other.subscribe("a", retained=b"[1, 2]")
            await other.subscribe("b")
            assert 90 < redis("TTL", "fastcable:retained:a") <= 100
            await one.publish("a", b"3", True)
            await one.publish("a", b"4")
            await other.expect(("a", b"3", True), ("a", b"4"))
            await one.subscribe("a", retained=b"3")
            await one.publish("a", b"null", True)
            await other.expect(("a", b"null", True))
            assert redis("EXISTS", "fastcable:retained:a") == 0
            assert other.hub.retained.get("a") is None

    run(scenario())


def test_without_retain_seconds_values_are_kept_for_ever(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis, retain_seconds=0) as one:
            await one.publish("a", b"1", True)
            assert redis("TTL", "fastcable:retained:a") == -1

    run(scenario())


def test_a_value_that_is_fetched_is_as_old_as_it_is(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        redis("SET", "fastcable:retained:a", b'{"v":1,"at":1000,"data":1}')
        async with node(redis) as one:
            await one.subscribe("a", retained=None)

    run(scenario())


@pytest.mark.parametrize(
    "value", [b"hello", b"[]", b"[[]]", b'{"v":1,"data":1}', b'{"v":1,"at":"x","data":1}', b'{"v":1,"at":1}', b"\xff"],
    ids=["no JSON", "array", "nested array", "no time", "bad time", "no data", "no UTF-8"])
def test_a_bad_retained_value_is_logged_and_is_none(
    redis: RedisServer, caplog: pytest.LogCaptureFixture, value: bytes
) -> None:
    async def scenario() -> None:
        redis.start()
        redis("SET", "fastcable:retained:a", value)
        async with node(redis) as one:
            await one.subscribe("a")

    run(scenario())
    assert caplog.messages == ["redis: bad retained value of a: it must be an object with at and data"]


def test_a_value_of_another_type_is_none(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        redis("LPUSH", "fastcable:retained:a", b"1")
        async with node(redis) as one:
            await one.subscribe("a")

    run(scenario())


# Rails


def test_what_rails_broadcasts_is_heard_as_it_is(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis, redis_channels="rails") as one, node(redis) as other:
            await one.subscribe("chat:7", "é*")
            await other.subscribe("chat:7")
            redis("PUBLISH", "chat:7", b'{"text":"\\u003cb\\u003e","n":1.00}')
            redis("PUBLISH", "é*".encode(), b' "<turbo-stream>"\n')
            redis("PUBLISH", "elsewhere", b"1")
            await one.publish("chat:7", b"2")
            await one.expect(
                ("chat:7", b'{"text":"\\u003cb\\u003e","n":1.00}'), ("é*", b'"<turbo-stream>"'), ("chat:7", b"2"))
            await other.expect(("chat:7", b"2"))
            await one.quiet()

    run(scenario())


def test_rails_channels_have_the_prefix(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis, redis_channels="rails", channel_prefix="shop_*") as one:
            await one.subscribe("chat:7")
            redis("PUBLISH", "chat:7", b"1")
            redis("PUBLISH", "shop_*:chat:7", b"2")
            await one.expect(("chat:7", b"2"))
            redis("PUBLISH", "shop_x:action_cable/15", b'{"type":"disconnect"}')
            redis("PUBLISH", "shop_*:action_cable/15", b'{"type":"disconnect"}')
            await one.expect(("disconnect", '{"user_id":15}', True), ("disconnect", '"15"', True))
            await one.quiet()

    run(scenario())


def test_rails_closes_connections(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis, redis_channels="rails") as one:
            await one.until_ready()
            redis("PUBLISH", "action_cable/15:acme", b'{"type":"disconnect","reconnect":false}')
            await one.expect(("disconnect", '{"user_id":15,"tenant":"acme","device":null}', False))
            redis("PUBLISH", "action_cable/15:acme", b'{"type":"reload"}')
            redis("PUBLISH", "action_cable/16", b'{"type":"disconnect"}')
            await one.quiet()
            assert caplog.messages == []
            redis("PUBLISH", b"action_cable/\xff", b'{"type":"disconnect","reconnect":null}')
            await one.quiet()
            assert caplog.messages == [
                "redis: dropped what was published on action_cable/\\xff: reconnect must be true or false"]

    run(scenario())


@pytest.mark.parametrize("text", [b"", b"hello", b"NaN", b"{", b"\xff", b"1 2"])
def test_what_is_not_json_on_a_channel_of_rails_is_logged_and_dropped(
    redis: RedisServer, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis, redis_channels="rails") as one:
            await one.subscribe("a")
            redis("PUBLISH", "a", text)
            redis("PUBLISH", "a", text)
            await one.quiet()

    run(scenario())
    (line,) = caplog.messages
    assert line.startswith("redis: dropped what was published on a: it is not JSON")


@pytest.mark.parametrize(
    ("prefix", "stream", "channel"),
    [(None, "fastcable:a", None), (None, "fastcable!control", None), (None, "action_cable/15", None),
     (None, "__anycable__", None), (None, "__keyevent@0__:set", None), (None, "_action_cable_internal", None),
     ("p", "fastcable:a", None), ("p", "fastcable!control", None), ("p", "action_cable/15", None),
     ("p", "__anycable__", b"p:__anycable__"), ("__", "a", None),
     (None, "fastcable", b"fastcable"), (None, "action_cable", b"action_cable"), (None, "_a", b"_a")])
def test_a_client_cannot_choose_a_channel_that_carries_something_else(
    redis: RedisServer, prefix: str | None, stream: str, channel: bytes | None
) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis, redis_channels="rails", channel_prefix=prefix) as one:
            before = set(redis("PUBSUB", "CHANNELS"))
            await one.subscribe(stream)
            own = Channels(prefix or "")
            assert set(redis("PUBSUB", "CHANNELS")) - before <= {own.stream(stream), own.control, channel}
            assert (channel in redis("PUBSUB", "CHANNELS")) == (channel is not None)
            await one.publish(stream, b"1")
            await one.expect((stream, b"1"))

    run(scenario())


# AnyCable


def test_what_anycable_broadcasts_is_heard(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis, redis_channels="anycable") as one, node(redis) as other:
            await one.subscribe("chat/7", "b")
            await other.subscribe("chat/7")
            redis("PUBLISH", "__anycable__", b'{"stream":"chat/7","data":"{\\"text\\":1.0}"}')
            redis("PUBLISH", "__anycable__", b'{"stream":"elsewhere","data":"1"}')
            redis("PUBLISH", "__anycable__",
                  b'[{"stream":"b","data":[1.0],"meta":{"exclude_socket":"id"}}, {"stream":"chat/7","data":2}]')
            redis("PUBLISH", "__anycable__",
                  b'{"command":"disconnect","payload":{"identifier":"{\\"user_id\\":\\"15\\"}","reconnect":true}}')
            await one.expect(
                ("chat/7", b'"{\\"text\\":1.0}"', True), ("elsewhere", b'"1"', True),
                ("b", b"[1.0]", "id"), ("chat/7", b"2"), ("disconnect", '{"user_id":"15"}', True))
            await one.publish("chat/7", b"3")
            await one.expect(("chat/7", b"3"))
            await other.expect(("chat/7", b"3"))

    run(scenario())


@pytest.mark.parametrize(
    ("text", "problem"),
    [(b"", "it is not JSON"), (b"7", "body must be an object"), (b"{}", "stream is missing"),
     (b'{"stream":"","data":"1"}', "stream must not be empty"), (b'{"stream":"a"}', "data is missing"),
     (b'[{"stream":"a","data":1},{"stream":1,"data":1}]', "message 1 of the batch: stream must be a string"),
     (b"[%b]" % b",".join([b'{"stream":"a","data":1}'] * 4), "a batch has at most max_batch (3) messages, not 4"),
     (b'{"command":"dance"}', 'command must be "disconnect"')],
    ids=["empty", "number", "no stream", "bad stream", "no data", "bad batch", "large batch", "unknown command"])
def test_what_is_not_in_anycables_form_is_logged_and_dropped(
    redis: RedisServer, caplog: pytest.LogCaptureFixture, text: bytes, problem: str
) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis, redis_channels="anycable", max_batch=3) as one:
            await one.subscribe("a")
            redis("PUBLISH", "__anycable__", text)
            await one.quiet()

    run(scenario())
    (line,) = caplog.messages
    assert line.startswith(f"redis: dropped what was published on __anycable__: {problem}")


# From when to when


def test_every_subscriber_gets_exactly_what_is_published_while_it_is_subscribed(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes come, go and publish at random. The messages of a stream are numbered, in the order in which its
    one publisher publishes them: what a process is told must fit its comings and goings (`check`)."""

    async def scenario() -> None:
        redis.start()
        chance = random.Random(20)
        streams = [f"stream {number}" for number in range(5)]
        published: dict[str, list[bool]] = {stream: [] for stream in streams}  # which ones are retained
        subscribed: set[tuple[Node, str]] = set()
        handovers = []
        async with node(redis) as one, node(redis) as other:
            for each in (one, other):
                each.hub.confirmed = functools.partial(confirmed, each.hub, published)  # type: ignore[method-assign]
            for _ in range(5000):
                what, stream, each = chance.random(), chance.choice(streams), chance.choice((one, other))
                if what < 0.1:
                    await asyncio.sleep(chance.random() * 0.002)
                elif what < 0.7:
                    published[stream].append(chance.random() < 0.3)
                    publisher = (one, other)[streams.index(stream) % 2]
                    handovers.append(publisher.broker.publish(
                        stream, b"%d" % len(published[stream]), published[stream][-1], None, False))
                elif (each, stream) in subscribed:
                    subscribed.discard((each, stream))
                    each.broker.unsubscribe(stream)
                    each.hub.told.put_nowait(("left", stream))
                else:
                    subscribed.add((each, stream))
                    each.hub.told.put_nowait(("asked", stream))
                    each.broker.subscribe(stream)
            await asyncio.gather(*handovers)
            for each in (one, other):
                each.broker.subscribe("mark")
            await one.publish("mark", b"0")
            for each in (one, other):
                await each.publish("mark", b"1")
                told = []
                while (event := await each.hub.told.get()) != ("mark", b"1"):
                    told.append(event)
                assert check(told, published) > 1000

    monkeypatch.setattr(redis_subscriptions, "LINGER_SECONDS", 0.001)
    run(scenario())


def confirmed(hub: RecordingHub, published: dict[str, list[bool]], stream: str) -> None:
    hub.told.put_nowait(("confirmed", stream, hub.retained.get(stream), len(published.get(stream, ()))))


def check(told: list[Event], published: dict[str, list[bool]]) -> int:
    """Check what one process was told, and count its messages. Between `subscribe` and the confirmation there are none.
    Behind it comes first what was published after the state that the process has, and no later than what was published
    after the confirmation; then all others, without a gap."""
    last: dict[str, int | None] = {}  # by stream that is subscribed; None: not confirmed yet
    least: dict[str, int] = {}  # when it was confirmed, so many were published
    count = 0
    for what, *rest in told:
        stream = str(rest[0])
        if what == "asked":
            last[stream] = None
        elif what == "left":
            del last[stream]
        elif what == "confirmed":
            if stream in last:
                assert last[stream] is None, "confirmed twice"
                _, state, least[stream] = rest
                last[stream] = int(state or 0)
                count += 1
        elif what in last:
            number, before = int(rest[0]), last[str(what)]
            assert before is not None, "before it was confirmed"
            if number != before + 1:
                assert before < number <= least[str(what)] + 1, "not what comes next"
                assert not any(published[str(what)][before : number - 1]), "the state was an old one"
            last[str(what)], least[str(what)] = number, 0
            count += 1
    for stream in last.keys() & published.keys():
        newest = last[stream]
        assert newest is not None, "never confirmed"
        assert max(newest, least[stream]) == len(published[stream]), "something is missing at the end"
    return count


# Settings


@pytest.mark.parametrize(
    ("url", "problem"),
    [("redis://localhost/0?colour=red", "colour"), ("redis://localhost?db=x", "Invalid value for 'db'"),
     ("redis://localhost:port", "bad port"),
     ("redis://user:sec/ret@localhost", "bad port, or a password"), ("http://localhost", "redis://, rediss://, unix://"),
     ("redis://:secret@localhost/0?secret=1", "'****'")],
    ids=["unknown option", "bad option", "bad port", "slash in the password", "another scheme", "masked"])
def test_a_bad_url_is_refused_in_one_line_without_secrets(url: str, problem: str) -> None:
    async def scenario() -> None:
        with pytest.raises(SettingsError) as caught:
            Node(url, asyncio.get_running_loop())
        text = str(caught.value)
        assert text.startswith("broker: ")
        assert problem in text
        assert "sec" not in text

    run(scenario())


@pytest.mark.parametrize("module", ["redis.asyncio.connection", "hiredis"])
def test_without_the_packages_it_is_named(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    async def scenario() -> None:
        with pytest.raises(SettingsError, match=r"^broker: redis:// needs the redis package: pip install"):
            Node("redis://localhost", asyncio.get_running_loop())

    run(scenario())


# Counts


class Link:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fails = False

    def count(self, stream: str) -> asyncio.Future[int]:
        self.asked.append(stream)
        future = asyncio.get_running_loop().create_future()
        if self.fails:
            future.set_exception(HandoverError("the link ended"))
        else:
            future.set_result(7)
        return future


def test_a_message_is_answered_with_the_subscribers_of_the_other_workers(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        link = Link()
        async with node(redis, link=link) as one:
            assert await one.publish("a", b"1") == 7
            counting = one.broker.count("a")
            assert counting is not None
            assert await counting == 7
            assert link.asked == ["a", "a"]
            link.fails = True
            assert await one.publish("a", b"1") == 0, "it is handed over all the same"
        async with node(redis) as alone:
            assert alone.broker.count("a") is None

    run(scenario())
