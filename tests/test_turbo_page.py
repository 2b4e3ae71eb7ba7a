"""A Rails page with turbo-rails' own JavaScript, as npm has it, against the server: nothing on the page knows of it.

The page's HTML comes from a view of Debian's Rails, which signs the names of streams."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Route, WebSocket, expect

from tests.harness import ServerProcess, Spawn
from tests.rails import Application

PACKAGES = Path(__file__).parent / "js" / "node_modules"
TURBO = Path(__file__).parent / "peers" / "turbo.rb"
SECRET_KEY_BASE = "0123456789abcdef" * 8
ORIGIN = "http://127.0.0.1"  # port 80: not the server's

BUNDLE = {"@hotwired/turbo-rails": "/packages/@hotwired/turbo-rails/app/assets/javascripts/turbo.js"}
"""As the gem has it, and pages with Rails' import maps."""
MODULES = {
    "@hotwired/turbo-rails": "/packages/@hotwired/turbo-rails/app/javascript/turbo/index.js",
    "@hotwired/turbo": "/packages/@hotwired/turbo/dist/turbo.es2017-esm.js",
    "@rails/actioncable/src": "/packages/@rails/actioncable/src/index.js",
}
"""As a bundler sees it."""

VIEW = """
    <%= turbo_stream_from "heat", 4 %>
    <ul id="list"></ul>
"""
OTHER_VIEW = """
    <%= turbo_stream_from "heat", 5 %>
    <ul id="list"></ul>
"""


def turbo_stream(action: str, target: str, content: str = "") -> str:
    return f'<turbo-stream action="{action}" target="{target}"><template>{content}</template></turbo-stream>'


def item(name: str, text: str) -> str:
    return f'<li id="{name}">{text}</li>'


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What Rails makes of `VIEW` and `OTHER_VIEW`, with keys of either digest."""
    rails = Application(tmp_path_factory.mktemp("rails"), "production: {adapter: async}\n")
    program = """
        views = JSON.parse($stdin.read)
        puts JSON.generate(%w[sha256 sha1].to_h { |digest| [digest, views.map { |view| render(view, digest) }] })
    """
    answer = rails.run(program, file=TURBO, stdin=json.dumps([VIEW, OTHER_VIEW]), SECRET_KEY_BASE=SECRET_KEY_BASE)
    views: dict[str, list[str]] = json.loads(answer)
    return views


class Site:
    """The application, as far as browsers see it: its pages, and the packages of npm."""

    def __init__(self, context: BrowserContext) -> None:
        self._context = context
        self._pages: dict[str, str] = {}
        self.errors: list[str] = []
        context.route(f"{ORIGIN}/**", self._answer)

    def _answer(self, route: Route) -> None:
        path = urlsplit(route.request.url).path
        if path.startswith("/packages/"):
            name = path.removeprefix("/packages/")
            route.fulfill(path=PACKAGES / (name if name.endswith(".js") else f"{name}.js"))
        elif path in self._pages:
            route.fulfill(body=self._pages[path], content_type="text/html")
        else:
            route.fulfill(status=404)

    def write(self, path: str, port: int, body: str, packages: dict[str, str] = BUNDLE) -> None:
        self._pages[path] = f"""<!doctype html>
            <meta name="action-cable-url" content="ws://127.0.0.1:{port}/cable">
            <script type="importmap">{json.dumps({"imports": packages})}</script>
            <script type="module">
                import {{ cable }} from "@hotwired/turbo-rails"
                globalThis.cable = cable
            </script>
            <title>{path}</title>{body}"""

    def open(self, path: str) -> Page:
        page = self._context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(ORIGIN + path)
        return page


@pytest.fixture
def site(context: BrowserContext) -> Iterator[Site]:
    site = Site(context)
    yield site
    assert site.errors == []


Start = Callable[..., ServerProcess]


@pytest.fixture
def start(spawn: Spawn) -> Start:
    """Starts a server that knows the application's secret."""

    def start(*arguments: str, port: int = 0) -> ServerProcess:
        return spawn("--allowed-origins", ORIGIN, *arguments, port=port,
                     env={"FASTCABLE_SECRET_KEY_BASE": SECRET_KEY_BASE})  # fmt: skip

    return start


def source(page: Page) -> Locator:
    return page.locator("turbo-cable-stream-source")


def items(page: Page) -> Locator:
    return page.locator("#list li")


def broadcast(server: ServerProcess, stream: str, data: Any, subscribers: int = 1) -> None:
    assert server.post({"stream": stream, "data": data}) == (200, {"subscribers": subscribers})


@pytest.mark.parametrize("digest", ["sha256", "sha1"])
@pytest.mark.parametrize("packages", [BUNDLE, MODULES], ids=["bundle", "modules"])
def test_a_page_appends_replaces_and_removes(
    start: Start, site: Site, views: dict[str, list[str]], digest: str, packages: dict[str, str]
) -> None:
    server = start("--secret-key-base-digest", digest)
    site.write("/heats/4", server.port, views[digest][0], packages)
    page = site.open("/heats/4")
    expect(source(page)).to_have_attribute("connected", "")
    broadcast(server, "heat:4", turbo_stream("append", "list", item("one", "1")))
    broadcast(server, "heat:4", turbo_stream("append", "list", item("two", "2") + item("three", "é 🎺")))
    expect(items(page)).to_have_text(["1", "2", "é 🎺"])
    broadcast(server, "heat:4", turbo_stream("replace", "one", item("one", "first")) + turbo_stream("remove", "two"))
    expect(items(page)).to_have_text(["first", "é 🎺"])


def test_the_other_digest_s_names_are_refused(start: Start, site: Site, views: dict[str, list[str]]) -> None:
    server = start("--secret-key-base-digest", "sha1")
    site.write("/", server.port, views["sha256"][0] + views["sha1"][1])
    page = site.open("/")
    expect(source(page).nth(1)).to_have_attribute("connected", "")
    expect(source(page).nth(0)).not_to_have_attribute("connected", "")


def test_a_tampered_name_is_refused_and_the_others_on_the_page_are_not(
    start: Start, site: Site, views: dict[str, list[str]]
) -> None:
    server = start()
    name = 'signed-stream-name="'
    forged = views["sha256"][0].replace(f"{name}ImhlYXQ6NCI=", f"{name}ImhlYXQ6NSI=")  # "heat:4" in Base64, "heat:5"
    assert forged != views["sha256"][0]
    site.write("/", server.port, forged + views["sha256"][0])
    page = site.open("/")
    expect(source(page).nth(1)).to_have_attribute("connected", "")
    # Commands are answered in order: what is refused has been.
    page.wait_for_function("cable.getConsumer().then(({ subscriptions }) => subscriptions.subscriptions.length === 1)")
    expect(source(page).nth(0)).not_to_have_attribute("connected", "")
    broadcast(server, "heat:5", turbo_stream("append", "list", item("x", "not for this page")), subscribers=0)
    broadcast(server, "heat:4", turbo_stream("append", "list", item("one", "1")))
    expect(page.locator("#list").nth(0)).to_have_text("1")


def test_a_page_s_streams_go_with_it(start: Start, site: Site, views: dict[str, list[str]]) -> None:
    """Turbo exchanges the body: the connection stays, the subscriptions do not."""
    server = start()
    site.write("/heats/4", server.port, views["sha256"][0])
    site.write("/heats/5", server.port, views["sha256"][1])
    page = site.open("/heats/4")
    expect(source(page)).to_have_attribute("connected", "")
    sockets: list[WebSocket] = []
    page.on("websocket", lambda socket: sockets.append(socket))
    page.evaluate("Turbo.visit('/heats/5')")
    expect(page).to_have_title("/heats/5")
    expect(source(page)).to_have_attribute("connected", "")
    broadcast(server, "heat:4", turbo_stream("append", "list", item("four", "4")), subscribers=0)
    broadcast(server, "heat:5", turbo_stream("append", "list", item("five", "5")))
    expect(items(page)).to_have_text(["5"])
    assert sockets == []


def test_a_page_survives_a_restart_of_the_server(start: Start, site: Site, views: dict[str, list[str]]) -> None:
    server = start("--actioncable-ping-interval", "0.1")
    site.write("/heats/4", server.port, views["sha256"][0])
    page = site.open("/heats/4")
    expect(source(page)).to_have_attribute("connected", "")
    page.evaluate(  # not to wait for 6 to 12 seconds
        """cable.getConsumer().then(({ connection: { monitor } }) => {
            monitor.constructor.staleThreshold = 0.6
            monitor.startPolling()
        })""")
    broadcast(server, "heat:4", turbo_stream("append", "list", item("one", "before")))
    expect(items(page)).to_have_text(["before"])
    assert server.stop() == 0
    expect(source(page)).not_to_have_attribute("connected", "")
    server = start("--actioncable-ping-interval", "0.1", port=server.port)
    expect(source(page)).to_have_attribute("connected", "")
    broadcast(server, "heat:4", turbo_stream("append", "list", item("two", "after")))
    expect(items(page)).to_have_text(["before", "after"])
