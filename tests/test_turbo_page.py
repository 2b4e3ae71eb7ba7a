"""A Rails page with turbo-rails' own JavaScript, as npm has it, against the server: nothing on the page knows of it.

The page's HTML comes from a view of Debian's Rails, which signs the names of streams."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Route, WebSocket, expect

from tests.harness import PATIENCE, ServerProcess, Spawn
from tests.rails import Application
from tests.redis_server import RedisServer
from tests.snippets import ROOT, at, snippet

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
        context.route("**/*", self._answer)

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
        meta = f'<meta name="action-cable-url" content="ws://127.0.0.1:{port}/cable">'
        self.write_page(path, meta, body, packages)

    def write_page(self, path: str, meta: str, body: str, packages: dict[str, str] = BUNDLE) -> None:
        self._pages[path] = f"""<!doctype html>{meta}
            <script type="importmap">{json.dumps({"imports": packages})}</script>
            <script type="module">
                import {{ cable }} from "@hotwired/turbo-rails"
                globalThis.cable = cable
            </script>
            <title>{path}</title>{body}"""

    def open(self, path: str, origin: str = ORIGIN) -> Page:
        page = self._context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(origin + path)
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


def test_rails_broadcasts_through_redis(
    start: Start, site: Site, views: dict[str, list[str]], redis: RedisServer, tmp_path: Path
) -> None:
    redis.start()
    server = start("--broker", redis.url, "--redis-channels", "rails", "--channel-prefix", "fleet")
    site.write("/heats/4", server.port, views["sha256"][0])
    page = site.open("/heats/4")
    expect(source(page)).to_have_attribute("connected", "")
    rails = Application(tmp_path, f"production: {{ adapter: redis, url: {redis.url}, channel_prefix: fleet }}\n")
    html = turbo_stream("append", "list", item("one", "<b>é</b> &amp; 🎺"))
    program = 'ActionCable.server.broadcast("heat:4", ARGF.read.html_safe)'
    rails.run(program, file=Path(__file__).parent / "peers" / "application.rb", stdin=html)
    expect(items(page)).to_have_text(["é & 🎺"])


# --- with the application ---------------------------------------------------------------------------------------------

GUIDE = "docs/migrating.md"
ENVIRONMENT = {"SECRET_KEY_BASE": SECRET_KEY_BASE, "FASTCABLE_BROADCAST_KEY": "s3cret"}


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def rails(tmp_path: Path, port: int) -> Application:
    """Set up as the guide says."""
    rails = Application(tmp_path, at(port, snippet(GUIDE, "yaml", "# config/cable.yml")))
    settings = snippet(GUIDE, "ruby", "# config/environments/production.rb")
    rails.write("environments/production.rb", f"Rails.application.configure do\n{settings}end\n")
    return rails


@pytest.fixture
def config(tmp_path: Path, port: int) -> Path:
    """The file of the guide."""
    text = snippet(GUIDE, "toml", "# fastcable.toml of a Rails")
    file = tmp_path / "fastcable.toml"
    file.write_text(text.replace("https://example.com", f"http://127.0.0.1:{port}"))
    return file


def test_rails_broadcasts_html_and_objects_to_a_page_of_its_own(
    spawn: Spawn, site: Site, rails: Application, config: Path, port: int
) -> None:
    secrets = {"FASTCABLE_SECRET_KEY_BASE": SECRET_KEY_BASE, "FASTCABLE_BROADCAST_KEY": "s3cret"}
    spawn("--config", str(config), "--cable-path", "/fastcable", port=port, env=secrets)
    program = f"puts render('<%= action_cable_meta_tag %>'), render({json.dumps(VIEW)})"
    meta, body = rails.run(program, file=TURBO, **ENVIRONMENT).split("\n", 1)
    site.write_page("/heats/4", meta, body)
    page = site.open("/heats/4", f"http://127.0.0.1:{port}")
    page.evaluate("""() => new Promise((connected) => {
        globalThis.heard = []
        cable.subscribeTo({ channel: "ScoresChannel", heat: 7 }, { connected, received: (data) => heard.push(data) })
    })""")
    expect(source(page)).to_have_attribute("connected", "")
    program = """
        p ActionCable.server.broadcast("heat:4", ARGF.read.html_safe)
        p ScoresChannel.broadcast_to(7, { marks: [1, 2], by: "<é>", at: Time.utc(2026) })
    """
    html = turbo_stream("append", "list", item("one", "<b>é</b> &amp; 🎺"))
    assert rails.run(program, file=TURBO, stdin=html, **ENVIRONMENT) == "1\n1\n"
    expect(items(page)).to_have_text(["é & 🎺"])
    page.wait_for_function("heard.length")
    assert page.evaluate("heard") == [{"marks": [1, 2], "by": "<é>", "at": "2026-01-01T00:00:00.000Z"}]


def test_both_sign_the_same(rails: Application, config: Path) -> None:
    secret = re.search(r"FASTCABLE_SECRET_KEY_BASE=\"\$\(bin/rails runner '(.*)'\)\"", (ROOT / GUIDE).read_text())
    theirs, ours = snippet(GUIDE, "", "bin/rails runner").splitlines()
    runner = re.fullmatch("bin/rails runner '(.*)'", theirs)
    assert secret
    assert runner
    program = f"{secret[1]}; puts; {runner[1]}"
    secret_key_base, token = rails.run(program, file=TURBO, **ENVIRONMENT).split()
    assert secret_key_base == SECRET_KEY_BASE
    done = subprocess.run(
        [sys.executable, "-m", *ours.split()], cwd=config.parent, capture_output=True, text=True, timeout=PATIENCE,
        env={"PYTHONPATH": str(ROOT), "FASTCABLE_SECRET_KEY_BASE": secret_key_base})  # fmt: skip
    assert (done.stdout, done.stderr) == (f"{token}\n", "")
