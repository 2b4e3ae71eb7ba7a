"""The status page in a browser, and what it fetches."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.harness import CABLE_UPGRADE, Client, LocalServer, Reachable, Spawn, children, until

Serve = Callable[..., LocalServer]
NAME = "<img src=x onerror=alert(1)>"
SECRET = "0123456789abcdef" * 2
DRAWN = "document.querySelector('svg path').getAttribute('d').match(/[ML]/g).length"


def status(server: Reachable, **headers: str) -> Any:
    code, fields, content = server.request("GET", "/_status.json", headers=headers)
    assert (code, fields["Content-Type"], fields["Cache-Control"]) == (200, "application/json", "no-store")
    return json.loads(content)


def test_it_tells_what_goes_on(serve: Serve) -> None:
    server = serve()
    with server.connect("a", "b"), server.connect("a"), Client(server.port) as cable:
        cable.upgrade(CABLE_UPGRADE)
        told = status(server)
    assert told["top_streams"] == [{"stream": "a", "subscribers": 2}, {"stream": "b", "subscribers": 1}]
    (worker,) = told["workers"]
    assert worker["connections"] == {"simple": 2, "actioncable": 1, "closing": 0}
    assert (worker["streams"], worker["subscriptions"], worker["problem"]) == (2, 3, None)


def test_the_largest_streams_only(serve: Serve) -> None:
    server = serve()
    with server.connect(*(f"s{number}" for number in range(11))), server.connect("s10"):
        top = status(server)["top_streams"]
    assert len(top) == 10
    assert top[0] == {"stream": "s10", "subscribers": 2}


def test_names_are_made_fit_to_be_shown(serve: Serve) -> None:
    server = serve()
    with server.connect("a\u202eb" + "x" * 240):
        (stream,) = status(server)["top_streams"]
    assert stream["stream"].startswith("a\\u202eb")
    assert len(stream["stream"]) <= 201


def test_whichever_worker_is_asked_tells_of_all(spawn: Spawn) -> None:
    server = spawn("--workers", "2")
    clients = [server.connect("news") for _ in range(6)]
    try:
        told = status(server)
        assert told["top_streams"] == [{"stream": "news", "subscribers": 6}]
        assert [each["worker"] for each in told["workers"]] == children(server.process.pid)
        assert sum(each["connections"]["simple"] for each in told["workers"]) == 6
    finally:
        for client in clients:
            client.close()


def test_many_may_ask_at_the_same_time(spawn: Spawn) -> None:
    server = spawn("--workers", "2")
    with ThreadPoolExecutor(8) as pool:
        for told in pool.map(lambda _: status(server), range(64)):
            assert (len(told["workers"]), told["top_streams"]) == (2, [])


@pytest.mark.parametrize("path", ["/_status", "/_status.json"])
@pytest.mark.parametrize(("headers", "expected"), [
    ({}, 200), ({"Host": "evil.example"}, 403), ({"X-Forwarded-For": "1.2.3.4"}, 403),
    ({"Origin": "http://evil.example"}, 403),
], ids=["local", "rebound", "forwarded", "page"])
def test_without_a_key_it_is_for_this_machine(
    serve: Serve, path: str, headers: dict[str, str], expected: int
) -> None:
    assert serve().request("GET", path, headers=headers)[0] == expected


@pytest.mark.parametrize(("path", "headers", "expected"), [
    ("/_status.json", {}, 401), ("/_status.json", {"Authorization": "Bearer x"}, 401),
    ("/_status.json", {"Authorization": "Bearer k"}, 200), ("/_status", {}, 200),
], ids=["none", "wrong", "right", "the page that asks for it"])
def test_with_a_key_it_is_for_those_who_have_it(
    serve: Serve, path: str, headers: dict[str, str], expected: int
) -> None:
    assert serve(broadcast_key="k").request("GET", path, headers=headers)[0] == expected


def test_it_is_where_broadcasts_are_posted(serve: Serve) -> None:
    server = serve(broadcast_listen="127.0.0.1:0")
    assert server.request("GET", "/_status.json")[0] == 404
    server.port = server.server.listening.broadcast[0].getsockname()[1]
    assert server.request("GET", "/_status.json")[0] == 200


def test_get_only(serve: Serve) -> None:
    assert serve().request("POST", "/_status")[0] == 405


@pytest.fixture
def visit(context: BrowserContext) -> Iterator[Callable[[Reachable], Page]]:
    """Opens the page; it may have no errors, and fetch nothing from elsewhere."""
    problems: list[str] = []

    def visit(server: Reachable) -> Page:
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        origin = f"http://127.0.0.1:{server.port}/"
        page.on("request", lambda request: None if request.url.startswith((origin, "data:")) else problems.append(
            request.url))
        page.goto(f"{origin}_status")
        return page

    yield visit
    assert problems == []


def tile(page: Page, title: str) -> Any:
    return page.locator(f"[data-tile='{title}'] .value")


def test_the_page_follows_what_goes_on(spawn: Spawn, visit: Callable[[Reachable], Page]) -> None:
    server = spawn()
    page = visit(server)
    expect(page.locator("#state")).to_have_text("Live")
    expect(page.locator("#streams")).to_have_text("Nobody is subscribed.")
    # The page itself is one of them, and what is posted to it counts, too: one message in two seconds.
    expect(page.locator("[data-tile='Connections']")).to_contain_text("one is this page")
    expect(tile(page, "Connections")).to_have_text("1")
    with server.connect(NAME):
        expect(tile(page, "Connections")).to_have_text("2")
        expect(page.locator("#streams td").first).to_have_text(NAME)
        server.post([{"stream": NAME, "data": 1}] * 500)
        expect(page.locator("[data-tile='Deliveries / s']")).to_contain_text(re.compile(r"5\d\d since the start"))
    expect(tile(page, "Connections")).to_have_text("1")
    expect(page.locator("#ends")).to_contain_text("cut off without a close frame")
    server.stop()
    expect(page.locator("#state")).to_have_text("No answer")


def about(page: Page) -> Any:
    return page.locator("#about")


def test_the_page_gets_what_it_shows_over_the_cable(spawn: Spawn, visit: Callable[[Reachable], Page]) -> None:
    server = spawn("--signed-streams", "required", "--turbo-secret", SECRET, "--workers", "2")
    page = visit(server)
    expect(about(page)).to_contain_text("posted to this page")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    lines = page.evaluate(DRAWN)
    page.wait_for_function(f"lines => {DRAWN} >= lines + 3", arg=lines)
    assert asked == []


def test_the_page_asks_where_it_does_not_reach_the_cable(
    spawn: Spawn, visit: Callable[[Reachable], Page]
) -> None:
    server = spawn("--allowed-origins", "https://app.example")
    page = visit(server)
    with server.connect(NAME):
        expect(page.locator("#streams td").first).to_have_text(NAME)
    expect(about(page)).to_contain_text("asked for every 2 s")
    expect(page.locator("#streams")).to_have_text("Nobody is subscribed.")


def test_the_page_stays_away_from_the_cable_while_nobody_looks(
    spawn: Spawn, visit: Callable[[Reachable], Page]
) -> None:
    server = spawn()
    page = visit(server)
    expect(about(page)).to_contain_text("posted to this page")
    hide = """hidden => {
        Object.defineProperty(document, 'hidden', {configurable: true, value: hidden});
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    page.evaluate(hide, True)
    until(lambda: connections(server) == 0)
    page.evaluate(hide, False)
    until(lambda: connections(server) == 1)


def connections(server: Reachable) -> int:
    return sum(each["connections"]["simple"] for each in status(server)["workers"])


def test_the_page_asks_for_the_key(spawn: Spawn, visit: Callable[[Reachable], Page]) -> None:
    page = visit(spawn("--broadcast-key", "right"))
    expect(page.locator("#state")).to_have_text("Locked")
    page.get_by_label("Broadcast key").fill("wrong")
    page.get_by_role("button").click()
    expect(page.locator("#wrong")).to_be_visible()
    expect(page.locator("main")).to_be_hidden()
    page.get_by_label("Broadcast key").fill("right")
    page.get_by_role("button").click()
    expect(page.locator("#state")).to_have_text("Live")
    expect(page.locator("#ask")).to_be_hidden()


def test_the_page_says_why_messages_are_not_carried(spawn: Spawn, visit: Callable[[Reachable], Page]) -> None:
    page = visit(spawn("--broker", "redis://127.0.0.1:1/0"))
    expect(page.locator("#state")).to_have_text("Not ready")
    expect(page.locator("#problems")).to_have_text(re.compile("redis: "))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_its_window(spawn: Spawn, browser: Any, scheme: str, width: int) -> None:
    server = spawn()
    with server.connect("a-long-name-" * 20), browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme,
    ) as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/_status")
        expect(page.locator("#state")).to_have_text("Live")
        expect(page.locator("#streams td")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
