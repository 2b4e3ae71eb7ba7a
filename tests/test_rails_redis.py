"""Those who publish through Redis already, as they are: Rails with `adapter: redis`, and AnyCable's publishers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastcable.channels import Channel
from fastcable.tokens import issue
from tests.harness import CABLE_UPGRADE, UPGRADE, Client, Serve, message, until
from tests.rails import Application
from tests.redis_server import RedisServer
from tests.test_rails_client import NodePage, events, open_page, subscribe, wait

PLAIN = Path(__file__).parent / "peers" / "application.rb"
SECRET = "j" * 32
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
    options: dict[str, Any] = {"broker": redis.url, "redis_channels": "rails", "ticking": False}
    with serve(**options).connect("room:7") as plain, serve(**options, channel_prefix="a").connect("room:7") as a:
        for channel in ("b:room:7", "a:room:7", "room:7"):
            assert redis("PUBLISH", channel, json.dumps(channel)) == (not channel.startswith("b"))
        plain.expect(message("room:7", "room:7"))
        a.expect(message("room:7", "a:room:7"))


@pytest.mark.parametrize("server", [0, 1])
def test_pages_get_what_anycable_s_gem_publishes(serve: Serve, redis: RedisServer, server: int) -> None:
    """Its legacy adapter `redis`: what it would post by HTTP goes to a channel that all servers hear."""
    redis.start()
    options: dict[str, Any] = {"broker": redis.url, "redis_channels": "anycable", "channels": CHANNELS}
    servers = [serve(ticking=False, **options) for _ in range(2)]
    identifier = json.dumps({"channel": "Room", "id": 7})
    with Client(servers[server].port) as page, servers[server].connect("room:7", "room:8") as plain:
        page.upgrade(CABLE_UPGRADE)
        assert page.receive()["type"] == "welcome"
        page.command(command="subscribe", identifier=identifier)
        page.expect({"identifier": identifier, "type": "confirm_subscription"})
        until(lambda: redis("PUBSUB", "NUMSUB", "__anycable__")[1] == 2)
        for body in (
            {"stream": "room:7", "data": '{"text":"<é>"}'},
            [{"stream": "room:8", "data": "1.50"}, {"stream": "room:7", "data": '"last"'}],
        ):
            assert redis("PUBLISH", "__anycable__", json.dumps(body)) == 2
        page.expect(*({"identifier": identifier, "message": each} for each in ({"text": "<é>"}, "last")))
        plain.expect(message("room:7", '{"text":"<é>"}'), message("room:8", "1.50"), message("room:7", '"last"'))


REMOTE = """
    module ApplicationCable
      class Connection < ActionCable::Connection::Base
        identified_by :current_user, :tenant
      end
    end
    ActionCable.server.config.connection_class = -> { ApplicationCable::Connection }
    ActionCable.server.remote_connections.where(current_user: "7", tenant: "acme").disconnect
"""


def test_rails_ends_the_connections_of_a_user(serve: Serve, redis: RedisServer, tmp_path: Path) -> None:
    redis.start()
    server = serve(broker=redis.url, redis_channels="rails", auth="jwt", jwt_secret=(SECRET,), ticking=False)
    clients = []
    for user in ("7", "8"):
        ext = json.dumps({"tenant": "acme", "current_user": user})
        token = issue({"exp": time.time() + 3600, "ext": ext}, SECRET)
        client = Client(server.port)
        client.upgrade(UPGRADE.replace(b"/cable", b"/cable?jid=" + token.encode()))
        clients.append(client)
    server.wait_until(lambda: server.server.hub.broker.problem is None)
    Application(tmp_path, f"production: {{ adapter: redis, url: {redis.url} }}\n").run(REMOTE, file=PLAIN)
    with clients[0] as ended, clients[1] as other:
        assert ended.read_close() == (1000, "closed remotely")
        other.subscribe("news")
