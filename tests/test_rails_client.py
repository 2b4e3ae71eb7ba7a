"""@rails/actioncable as it is published, in Node and in a browser, against the server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, Self

import pytest

from fastcable.channels import Channel
from tests.harness import LocalServer, Serve

FOLDER = Path(__file__).parent / "js"
LIBRARY = FOLDER / "node_modules" / "@rails" / "actioncable" / "app" / "assets" / "javascripts" / "actioncable.js"
CHANNELS = (Channel("Room", "room:{id}", public=True),)
ROOM = {"channel": "Room", "id": 7}
QUICK: dict[str, Any] = {"actioncable_ping_interval": 0.1}
STALE = 1.0
"""Seconds without a ping after which a client of a `QUICK` server is to come back."""


class Page(Protocol):
    def goto(self, url: str) -> object:
        """Be at this address from now on."""
        ...

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, or what its promise resolves to."""
        ...


class NodePage:
    def __init__(self) -> None:
        node = shutil.which("node")
        assert node, "these tests need Node.js 20 or later"
        assert LIBRARY.exists(), "their packages are missing: run `npm ci` in tests/js"
        self._process = subprocess.Popen(
            [node, "peers/rails.mjs"], cwd=FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()

    def goto(self, url: str) -> None:
        self.evaluate(f"void (globalThis.location = new URL({json.dumps(url)}))")

    def evaluate(self, expression: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(expression) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["value"]


@pytest.fixture(params=["node", "browser"])
def page(request: pytest.FixtureRequest) -> Iterator[Page]:
    if request.param == "node":
        with NodePage() as node:
            yield node
        return
    page = request.getfixturevalue("context").new_page()
    page.route("**/page", lambda route: route.fulfill(content_type="text/html", body="<!doctype html>"))
    page.add_init_script(LIBRARY.read_text() + (FOLDER / "peers" / "rails-page.js").read_text())
    yield page


def open_page(page: Page, server: LocalServer, stale: float = 6.0) -> None:
    """A page of the server's own, so that it may post, too."""
    page.goto(f"http://127.0.0.1:{server.port}/page")
    page.evaluate(f"open({stale})")


def subscribe(page: Page, name: str = "room", params: dict[str, Any] = ROOM) -> None:
    page.evaluate(f"subscribe({json.dumps(name)}, {json.dumps(params)})")
    wait(page, f"happened({json.dumps(name)}, 'connected').length")


def wait(page: Page, condition: str) -> None:
    page.evaluate(f"until(() => {condition})")


def events(page: Page) -> Any:
    """What happened since this was last asked."""
    return page.evaluate("events.splice(0)")


CONNECTED = ["room", "connected", {"reconnected": False}]
RECONNECTED = ["room", "connected", {"reconnected": True}]


def test_a_page_subscribes_receives_and_leaves(serve: Serve, page: Page) -> None:
    server = serve(channels=CHANNELS)
    open_page(page, server)
    subscribe(page)
    messages = [{"text": "<b>é</b>"}, "text", 0, False, None, [1.5, 2**53 - 1]]
    for message in messages:
        assert server.post({"stream": "room:7", "data": message}) == (200, {"subscribers": 1})
    wait(page, f"events.length > {len(messages)}")
    assert events(page) == [CONNECTED, *(["room", "received", message] for message in messages)]
    page.evaluate("void subscriptions.room.perform('speak', { text: 'ignored' })")
    page.evaluate("void subscriptions.room.unsubscribe()")
    server.wait_until(lambda: server.server.hub.subscribers("room:7") == 0)
    assert events(page) == []


def test_a_subscription_that_is_not_served_is_rejected_and_others_live_on(serve: Serve, page: Page) -> None:
    server = serve(channels=CHANNELS)
    open_page(page, server)
    page.evaluate("subscribe('none', { channel: 'NoSuchChannel' })")
    wait(page, "events.length")
    subscribe(page)
    assert events(page) == [["none", "rejected", None], CONNECTED]
    assert page.evaluate("consumer.subscriptions.subscriptions.length") == 1


def test_two_subscriptions_of_one_identifier_get_a_copy_each_of_what_is_sent_once(serve: Serve, page: Page) -> None:
    """The second subscribe of what is live already has to be confirmed, or the client asks for ever."""
    server = serve(channels=CHANNELS)
    open_page(page, server)
    subscribe(page)
    page.evaluate("happened('room', 'connected').length && subscribe('again', { channel: 'Room', id: 7 })")
    wait(page, "happened('again', 'connected').length && !consumer.subscriptions.guarantor.pendingSubscriptions.length")
    events(page)
    assert server.post({"stream": "room:7", "data": 1}) == (200, {"subscribers": 1})
    wait(page, "events.length > 1")
    assert events(page) == [["room", "received", 1], ["again", "received", 1]]


def test_fifty_subscriptions_at_once(serve: Serve, page: Page) -> None:
    server = serve(channels=CHANNELS)
    open_page(page, server)
    page.evaluate("{ for (let id = 0; id < 50; id++) subscribe(`room ${id}`, { channel: 'Room', id }) }")
    wait(page, "events.length === 50")
    assert sorted(events(page)) == sorted([f"room {number}", *CONNECTED[1:]] for number in range(50))
    batch = [{"stream": f"room:{number}", "data": number} for number in range(50)]
    assert server.post(batch) == (200, {"subscribers": 50})
    wait(page, "events.length === 50")
    assert sorted(events(page)) == sorted([f"room {number}", "received", number] for number in range(50))


def test_subscribing_leaving_and_subscribing_in_one_burst(serve: Serve, page: Page) -> None:
    server = serve(channels=CHANNELS)
    open_page(page, server)
    # All rounds in the page: telling this process of each would take longer than they do.
    rounds = page.evaluate(f"bursts(200, {json.dumps(ROOM)}, 'room:7')")
    assert rounds == [
        [{"subscribers": 2}, [["room", "received", number], ["room", "received", "end"]]]
        for number in range(200)]
    assert not page.evaluate("consumer.subscriptions.guarantor.pendingSubscriptions.length")


def test_two_hundred_bursts_at_once(serve: Serve, page: Page) -> None:
    server = serve(channels=CHANNELS)
    open_page(page, server)
    subscribe(page)
    events(page)
    page.evaluate("""{
        for (let id = 1000; id < 1200; id++) {
            subscribe("first", { channel: "Room", id });
            subscriptions.first.unsubscribe();
            subscribe(`room ${id}`, { channel: "Room", id });
        }
    }""")
    # More than 400 where the client has asked again, which it does after half a second.
    wait(page, "events.filter(([, what]) => what === 'connected').length >= 400")
    assert {event[0] for event in events(page)} == {f"room {number}" for number in range(1000, 1200)}
    batch = [{"stream": f"room:{number}", "data": number} for number in range(1000, 1200)]
    assert server.post([*batch, {"stream": "room:7", "data": "end"}]) == (200, {"subscribers": 201})
    wait(page, "events.filter(([, what]) => what === 'received').length === 201")
    received = [event for event in events(page) if event[1] == "received"]
    received.remove(["room", "received", "end"])
    assert sorted(received) == [[f"room {number}", "received", number] for number in range(1000, 1200)]


def test_a_page_comes_back_when_the_server_does(serve: Serve, page: Page) -> None:
    with LocalServer(channels=CHANNELS, **QUICK) as server:
        open_page(page, server, STALE)
        subscribe(page)
        server.run(server.server.drain())
        wait(page, "events.length > 1")
        assert events(page) == [CONNECTED, ["room", "disconnected", {"willAttemptReconnect": True}]]
    again = serve(port=server.port, channels=CHANNELS, **QUICK)
    wait(page, "events.length")
    assert again.post({"stream": "room:7", "data": "back"}) == (200, {"subscribers": 1})
    wait(page, "events.length > 1")
    assert events(page) == [RECONNECTED, ["room", "received", "back"]]


def test_a_page_that_is_told_to_stay_away_does(serve: Serve, page: Page) -> None:
    server = serve(channels=CHANNELS)
    open_page(page, server)
    subscribe(page)
    server.call(server.connection().close, 1000, "unauthorized")
    wait(page, "events.length > 1")
    assert events(page) == [CONNECTED, ["room", "disconnected", {"willAttemptReconnect": False}]]
    assert not page.evaluate("consumer.connection.monitor.isRunning()")


def test_a_page_without_pings_takes_its_connection_for_stale(serve: Serve, page: Page) -> None:
    server = serve(channels=CHANNELS, ticking=False)
    open_page(page, server)
    subscribe(page)
    page.evaluate("ActionCable.ConnectionMonitor.staleThreshold = 0.3")
    page.evaluate("consumer.connection.monitor.startPolling()")
    wait(page, "happened('room', 'connected').length > 1")
    # On a slow machine a connection may be stale before it is of use.
    found = [event for event, _ in groupby(events(page))]
    assert found[:3] == [CONNECTED, ["room", "disconnected", {"willAttemptReconnect": True}], RECONNECTED]


def test_silent_pages_stay_connected_through_ten_idle_timeouts(serve: Serve, page: Page) -> None:
    """They say nothing, and hear nothing but pings."""
    server = serve(channels=CHANNELS, ping_interval=0.2, idle_timeout=0.8, **QUICK)
    open_page(page, server, STALE)
    subscribe(page)
    page.evaluate("""{
        globalThis.pings = [];
        consumer.connection.webSocket.addEventListener("message", ({ data }) => pings.push(JSON.parse(data)));
    }""")
    wait(page, "pings.length > 80")  # of 0.1 s each
    pings = page.evaluate("pings")
    assert {ping["type"] for ping in pings} == {"ping"}
    assert [ping["message"] for ping in pings] == sorted({ping["message"] for ping in pings})
    assert events(page) == [CONNECTED]
    assert server.call(lambda: server.server.cable.connections) == 1
