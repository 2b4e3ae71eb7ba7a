"""Those who publish through Redis already, as they are: Rails with `adapter: redis`, and AnyCable's publishers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastcable.channels import Channel
from tests.harness import Client, Serve, message
from tests.rails import Application
from tests.redis_server import RedisServer
from tests.test_rails_client import NodePage, events, open_page, subscribe, wait

PLAIN = Path(__file__).parent / "peers" / "application.rb"
CHANNELS = (Channel("Room", "room:{id}", public=True),)
BROADCAST = """
    ActionCable.server.broadcast("room:7", { text: "<b>é</b>\\u2028", marks: [1.5, nil, 2**53 + 1] })
    ActionCable.server.broadcast("room:8", "to nobody here")
    ActionCable.server.broadcast("room:7", "text")
"""
ON_THE_WIRE = [
    ("room:7", '{"text":"\\u003cb\\u003eé\\u003c/b\\u003e\\u2028","marks":[1.5,null,9007199254740993]}'),
    ("room:8", '"to nobody here"'),
    ("room:7", '"text"'),
]


@pytest.fixture
def page() -> Iterator[NodePage]:
    with NodePage() as page:
        yield page


@pytest.mark.parametrize("prefix", ["", "fleet"])
def test_a_page_gets_what_rails_broadcasts(
    serve: Serve, redis: RedisServer, page: NodePage, tmp_path: Path, prefix: str
) -> None:
    redis.start()
    server = serve(broker=redis.url, redis_channels="rails", channel_prefix=prefix or None, channels=CHANNELS)
    open_page(page, server)
    subscribe(page)
    events(page)
    more = f", channel_prefix: {prefix}" if prefix else ""
    rails = Application(tmp_path, f"production: {{ adapter: redis, url: {redis.url}/1{more} }}\n")
    with redis.listening("*room*") as wire:
        rails.run(BROADCAST, file=PLAIN)
        named = f"{prefix}:" if prefix else ""
        assert [wire.receive() for _ in ON_THE_WIRE] == [(named + name, text) for name, text in ON_THE_WIRE]
    wait(page, "events.length > 1")
    # The page's numbers are JavaScript's.
    assert events(page) == [
        ["room", "received", {"text": "<b>é</b>\u2028", "marks": [1.5, None, 2**53]}], ["room", "received", "text"]]


def test_pages_of_another_prefix_get_nothing_of_it(serve: Serve, redis: RedisServer) -> None:
    redis.start()
    options: dict[str, Any] = {"broker": redis.url, "redis_channels": "rails"}
    with serve(**options).connect("room:7") as plain, serve(**options, channel_prefix="a").connect("room:7") as a:
        for channel in ("b:room:7", "a:room:7", "room:7"):
            assert redis("PUBLISH", channel, json.dumps(channel)) == (not channel.startswith("b"))
        plain.expect(message("room:7", "room:7"))
        a.expect(message("room:7", "a:room:7"))


def test_clients_get_what_anycable_s_gem_publishes(serve: Serve, redis: RedisServer) -> None:
    """Its legacy adapter `redis`: what it would post by HTTP goes to a channel that all servers hear."""
    redis.start()
    servers = [serve(broker=redis.url, redis_channels="anycable") for _ in range(2)]
    clients: list[Client] = [server.connect("room:7", "room:8") for server in servers]
    try:
        for body in (
            {"stream": "room:7", "data": '{"text":"<é>"}'},
            [{"stream": "room:8", "data": "1.50"}, {"stream": "room:7", "data": '"last"'}],
        ):
            assert redis("PUBLISH", "__anycable__", json.dumps(body)) == 2
        for client in clients:
            client.expect(message("room:7", {"text": "<é>"}), message("room:8", 1.5), message("room:7", "last"))
    finally:
        for client in clients:
            client.close()
