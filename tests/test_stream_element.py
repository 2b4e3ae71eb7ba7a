"""fastcable-stream.js in a browser, with Turbo as npm has it and without, against the server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Route, WebSocket, WebSocketRoute, expect

from tests.harness import LocalServer, Serve

TURBO = Path(__file__).parent / "js" / "node_modules" / "@hotwired" / "turbo" / "dist" / "turbo.es2017-esm.js"


def append(text: str, target: str = "list") -> str:
    return f'<turbo-stream action="append" target="{target}"><template><li>{text}</li></template></turbo-stream>'


class Site:
    """Pages of an application, on the server's own address. `held` paths are answered when `release` is called."""

    def __init__(self, context: BrowserContext, server: LocalServer) -> None:
        self.server = server
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.commands: list[str] = []
        self.held: dict[str, list[Route]] = {}
        self._context = context
        self._pages: dict[str, str] = {}
        context.route(re.compile("/(app|turbo)"), self._answer)

    def _answer(self, route: Route) -> None:
        path = urlsplit(route.request.url).path
        if path in self.held:
            self.held[path].append(route)
        elif path == "/turbo.js":
            route.fulfill(path=TURBO, content_type="text/javascript")
        else:
            route.fulfill(body=self._pages[path], content_type="text/html")

    def release(self, path: str) -> None:
        for route in self.held.pop(path):
            route.fulfill(body=self._pages[path], content_type="text/html")

    def write(self, path: str, body: str, *, turbo: bool = False, head: str = "") -> None:
        scripts = ["turbo.js"] * turbo + ["fastcable-stream.js"]
        tags = "".join(f'<script type="module" src="/{name}"></script>' for name in scripts)
        self._pages[path] = f"<!doctype html><head><title>{path}</title>{tags}{head}</head><body>{body}</body>"

    def open(self, body: str, **options: Any) -> Page:
        """A page with this body, whose streams are all live; its messages are kept as `heard`."""
        self.write("/app", body, **options)
        page = self._context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._console)
        page.on("websocket", self._socket)
        page.add_init_script(
            """heard = []; missed = [];
            addEventListener("turbo:stream-message", ({ target, detail }) => heard.push([target.id, detail]));
            addEventListener("fastcable:missed", ({ target, detail }) => missed.push([target.id, detail]));"""
        )
        page.goto(f"http://127.0.0.1:{self.server.port}/app")
        expect(page.locator("fastcable-stream[stream]:not([connected])")).to_have_count(0)
        return page

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "warning":
            self.warnings.append(message.text)

    def _socket(self, socket: WebSocket) -> None:
        socket.on("framesent", lambda text: self._sent(json.loads(text)))

    def _sent(self, command: dict[str, str]) -> None:
        if command.get("stream") != "settled" and command["type"] != "pong":
            self.commands.append(" ".join(command.values()))

    def post(self, stream: str, data: object) -> int:
        """Broadcast; the number of subscribers."""
        status, answer = self.server.post({"stream": stream, "data": data})
        assert status == 200
        return int(answer["subscribers"])

    def settle(self, page: Page) -> None:
        """Wait until all that was posted has been told, and all that elements had to say has been sent."""
        page.evaluate(
            """async () => {
              await new Promise((resolve) => setTimeout(resolve));
              const { sharedConsumer } = await import("/fastcable-stream.js").then(() => import("/fastcable.js"));
              const controller = new AbortController();
              const { signal } = controller;
              await new Promise((connected) => sharedConsumer().subscribe("settled", { connected }, { signal }));
              controller.abort();
            }"""
        )


@pytest.fixture
def site(context: BrowserContext, serve: Serve) -> Iterator[Site]:
    site = Site(context, serve())
    yield site
    assert site.errors == []


def heard(page: Page) -> Any:
    return page.evaluate("heard")


def items(page: Page) -> Any:
    return page.locator("#list li")


# Messages


def test_turbo_streams_are_rendered_by_turbo(site: Site) -> None:
    page = site.open('<fastcable-stream stream="news"></fastcable-stream><ul id="list"></ul>', turbo=True)
    assert site.post("news", append("one")) == 1
    site.post("news", append("two") + append("three"))
    site.post("news", append("three"))
    expect(items(page)).to_have_text(["one", "two", "three", "three"])
    assert heard(page) == []


def test_a_turbo_stream_is_rendered_once_however_many_elements_name_its_stream(site: Site) -> None:
    element = '<fastcable-stream stream="news {}"></fastcable-stream>'
    page = site.open("".join(map(element.format, "abc")) + '<ul id="list"></ul>', turbo=True)
    for text in ("one", "one", "two"):
        site.post("news", append(text))
    site.post("b", append("two"))
    expect(items(page)).to_have_text(["one", "one", "two", "two"])


def test_all_else_is_an_event_that_bubbles_from_each_element(site: Site) -> None:
    page = site.open(
        """<div><fastcable-stream id="one" stream="s t"></fastcable-stream></div>
        <fastcable-stream id="two" stream="s"></fastcable-stream><ul id="list"></ul>""",
        turbo=True,
    )
    posted = ["text", "", "<b>bold</b>", None, 0, False, [append("listed")], {"html": append("wrapped")}]
    for data in posted:
        site.post("s", data)
        site.post("t", data)
    site.settle(page)
    assert heard(page) == [
        [target, {"stream": stream, "data": data}]
        for data in posted for target, stream in [("one", "s"), ("two", "s"), ("one", "t")]
    ]
    expect(items(page)).to_have_count(0)


def test_without_turbo_everything_is_an_event(site: Site) -> None:
    page = site.open('<fastcable-stream id="one" stream="s"></fastcable-stream>')
    site.post("s", append("one"))
    site.settle(page)
    assert heard(page) == [["one", {"stream": "s", "data": append("one")}]]


def test_the_event_leaves_a_shadow_tree(site: Site) -> None:
    page = site.open('<div id="host"></div>')
    page.evaluate(
        """() => document.querySelector("#host").attachShadow({ mode: "open" }).innerHTML =
             '<fastcable-stream stream="s"></fastcable-stream>'"""
    )
    expect(page.locator("#host fastcable-stream")).to_have_attribute("connected", "")
    site.post("s", 1)
    site.settle(page)
    assert heard(page) == [["host", {"stream": "s", "data": 1}]]


def test_what_was_missed_is_an_event(context: BrowserContext, site: Site) -> None:
    routes: list[WebSocketRoute] = []

    def connect(route: WebSocketRoute) -> None:
        route.connect_to_server()
        routes.append(route)

    context.route_web_socket(re.compile("/cable"), connect)
    page = site.open('<fastcable-stream id="one" stream="s"></fastcable-stream>')
    routes[0].send(json.dumps({"type": "gap", "stream": "s", "missed": 3}))
    page.wait_for_function("missed.length === 1")
    site.server.call(site.server.connection().close, 1012, "restart")
    page.wait_for_function("missed.length === 2")
    assert page.evaluate("missed") == [
        ["one", {"stream": "s", "reason": "gap", "count": 3}], ["one", {"stream": "s", "reason": "reconnect"}],
    ]


# Attributes


def test_the_names_of_streams(site: Site) -> None:
    page = site.open('<fastcable-stream id="one"></fastcable-stream>')
    for value, names in {
        "a": ["a"],
        "  b \n\tc  b ": ["b", "c"],
        "": [],
        '["current heat", "d", "[e]"]': ["current heat", "d", "[e]"],
        "[]": [],
        'f["g"]': ['f["g"]'],
    }.items():
        site.commands.clear()
        page.evaluate("(value) => one.setAttribute('stream', value)", value)
        site.settle(page)
        assert [command for command in site.commands if command.startswith("sub")] == [f"subscribe {n}" for n in names]
        assert page.locator("#one[connected]").count() == bool(names), value


def test_bad_names_are_uncaught_errors_and_the_good_ones_are_subscribed_to(site: Site) -> None:
    page = site.open('<fastcable-stream id="one"></fastcable-stream>')
    for value, error in {
        '["a"': "<fastcable-stream stream='[\"a\"'> is no JSON array",
        '["b", 7]': "a stream name is 1 to 4096 bytes",
        "c " + "x" * 4097: "a stream name is 1 to 4096 bytes",
    }.items():
        page.evaluate("(value) => one.setAttribute('stream', value)", value)
        site.settle(page)
        assert [error in told for told in site.errors] == [True], value
        assert page.locator("[connected]").count() == 0
        site.errors.clear()
    assert site.commands == ["subscribe b", "unsubscribe b", "subscribe c"]


def test_changing_the_streams_leaves_those_that_stay_alone(site: Site) -> None:
    page = site.open('<fastcable-stream id="one" stream="a b"></fastcable-stream>')
    page.evaluate("one.setAttribute('stream', 'b c')")
    expect(page.locator("#one")).to_have_attribute("connected", "")
    for stream in "abc":
        site.post(stream, stream)
    site.settle(page)
    assert heard(page) == [["one", {"stream": "b", "data": "b"}], ["one", {"stream": "c", "data": "c"}]]
    assert site.commands == ["subscribe a", "subscribe b", "unsubscribe a", "subscribe c"]
    page.evaluate("one.removeAttribute('stream')")
    site.settle(page)
    assert site.commands[4:] == ["unsubscribe b", "unsubscribe c"]
    assert page.locator("[connected]").count() == 0


def test_the_url_says_which_server(site: Site, serve: Serve) -> None:
    other = serve(cable_path="/elsewhere")
    page = site.open(
        f"""<fastcable-stream id="here" stream="s"></fastcable-stream>
        <fastcable-stream id="there" stream="s" url="http://127.0.0.1:{other.port}/elsewhere"></fastcable-stream>"""
    )
    assert other.post({"stream": "s", "data": 1}) == (200, {"subscribers": 1})
    page.wait_for_function("heard.length === 1")
    page.evaluate("there.removeAttribute('url')")
    expect(page.locator("#there")).to_have_attribute("connected", "")
    site.post("s", 2)
    page.wait_for_function("heard.length === 3")
    other.wait_until(lambda: other.server.hub.subscribers("s") == 0)
    assert [[target, detail["data"]] for target, detail in heard(page)] == [["there", 1], ["here", 2], ["there", 2]]


def test_connected_says_whether_all_streams_are_live(site: Site) -> None:
    server = site.server
    page = site.open('<fastcable-stream id="one" stream="a b"></fastcable-stream>')
    page.evaluate(
        """() => {
          changes = [];
          new MutationObserver(() => changes.push(one.hasAttribute("connected"))).observe(one, { attributes: true });
        }"""
    )
    server.call(server.connection().close, 1012, "restart")
    page.wait_for_function("changes.length === 2")
    assert page.evaluate("changes") == [False, True]


def test_a_refused_stream_is_a_warning_and_not_connected(context: BrowserContext, serve: Serve) -> None:
    site = Site(context, serve(max_subscriptions=1))
    page = site.open("")
    page.evaluate("document.body.innerHTML = '<fastcable-stream stream=\"a b\"></fastcable-stream>'")
    page.wait_for_function("document.querySelector('fastcable-stream')")
    site.post("a", 1)
    page.wait_for_function("heard.length === 1")
    assert site.warnings == ['fastcable: subscription to "b" refused: too many subscriptions']
    assert page.locator("[connected]").count() == 0


def test_connected_is_put_back_when_something_else_takes_it_away(site: Site) -> None:
    page = site.open('<fastcable-stream id="one" stream="a"></fastcable-stream>')
    assert page.evaluate("one.removeAttribute('connected') ?? one.hasAttribute('connected')") is True
    assert page.evaluate("one.setAttribute('stream', '') ?? one.hasAttribute('connected')") is False
    assert page.evaluate("one.setAttribute('connected', '') ?? one.hasAttribute('connected')") is False


@pytest.mark.parametrize(("attribute", "expected"), [("retained", ["early", "late"]), ("", ["early"])])
def test_retained_gives_a_late_element_the_last_message(site: Site, attribute: str, expected: list[str]) -> None:
    page = site.open('<fastcable-stream id="early" stream="s"></fastcable-stream>')
    site.post("s", "current")
    page.wait_for_function("heard.length === 1")
    page.evaluate(
        "(attribute) => document.body.insertAdjacentHTML("
        "'beforeend', `<fastcable-stream id='late' stream='s' ${attribute}></fastcable-stream>`)",
        attribute,
    )
    site.settle(page)
    assert heard(page) == [[name, {"stream": "s", "data": "current"}] for name in expected]


# Coming and going


def test_an_element_that_is_removed_unsubscribes_and_takes_no_more(site: Site) -> None:
    page = site.open(
        """<fastcable-stream id="one" stream="s t"></fastcable-stream>
        <fastcable-stream id="two" stream="t"></fastcable-stream>"""
    )
    page.evaluate("(window.gone = one).remove()")
    site.settle(page)
    assert site.commands[2:] == ["unsubscribe s"]
    assert site.post("s", 1) == 0
    site.post("t", 2)
    site.settle(page)
    assert heard(page) == [["two", {"stream": "t", "data": 2}]]
    assert page.evaluate("gone.hasAttribute('connected')") is False
    page.evaluate("document.body.append(gone)")
    expect(page.locator("#one")).to_have_attribute("connected", "")
    assert site.post("s", 3) == 1


def test_an_element_that_is_removed_while_a_message_is_told_does_not_take_it(site: Site) -> None:
    page = site.open('<ul id="list"></ul>', turbo=True)
    page.evaluate(
        """async () => {
          const { sharedConsumer } = await import("/fastcable.js");
          gone = document.createElement("fastcable-stream");
          gone.setAttribute("stream", "s");
          const received = () => gone.remove();
          await new Promise((connected) => sharedConsumer().subscribe("s", { connected, received }));
          for (const name of ["turbo:stream-message", "fastcable:missed"])
            gone.addEventListener(name, ({ detail }) => heard.push(["gone", detail]));
        }"""
    )
    for data in (1, append("one")):
        page.evaluate("document.body.append(gone)")
        expect(page.locator("fastcable-stream")).to_have_attribute("connected", "")
        site.post("s", data)
        site.settle(page)
    site.post("s", 2)
    page.evaluate("new Promise(requestAnimationFrame)")
    site.settle(page)
    assert heard(page) == []
    expect(items(page)).to_have_count(0)


def test_an_element_that_is_moved_or_replaced_stays_subscribed(site: Site) -> None:
    page = site.open('<div><fastcable-stream id="one" stream="s"></fastcable-stream></div><div id="to"></div>')
    page.evaluate("to.append(one)")
    site.settle(page)
    page.evaluate("to.innerHTML = '<fastcable-stream id=\"two\" stream=\"s\"></fastcable-stream>'")
    expect(page.locator("#two")).to_have_attribute("connected", "")
    site.post("s", 1)
    site.settle(page)
    assert heard(page) == [["two", {"stream": "s", "data": 1}]]
    assert site.commands == ["subscribe s"]


PERMANENT = '<div id="kept" data-turbo-permanent><fastcable-stream id="one" stream="s"></fastcable-stream></div>'


@pytest.mark.parametrize(
    "element", ['<fastcable-stream id="one" stream="s"></fastcable-stream>', PERMANENT], ids=["new", "permanent"]
)
def test_a_stream_outlives_turbos_visits_and_previews(site: Site, element: str) -> None:
    body = f'{element}<ul id="list"></ul>'
    site.write("/app/two", f"{body}<p>two</p>", turbo=True)
    page = site.open(f"{body}<p>one</p>", turbo=True)
    page.evaluate("document.addEventListener('turbo:render', () => rendered?.())")

    def visit(path: str) -> None:
        page.evaluate("(path) => { rendered = null; Turbo.visit(path); }", path)

    def publish(text: str) -> None:
        assert site.post("s", append(text)) == 1
        expect(items(page).filter(has_text=text)).to_have_count(1)
        site.settle(page)
        expect(items(page).filter(has_text=text)).to_have_count(1)
        expect(page.locator("#one[connected]")).to_have_count(1)

    publish("first")
    visit("/app/two")
    expect(page.locator("p")).to_have_text("two")
    publish("second")
    site.held["/app"] = []
    visit("/app")
    expect(page.locator("html[data-turbo-preview] p")).to_have_text("one")
    publish("third")
    site.release("/app")
    expect(page.locator("html:not([data-turbo-preview]) p")).to_have_text("one")
    publish("fourth")
    assert site.commands == ["subscribe s"]


def test_turbos_visit_to_a_page_without_the_stream_leaves_it(site: Site) -> None:
    site.write("/app/two", '<fastcable-stream stream="t"></fastcable-stream><p>two</p>', turbo=True)
    page = site.open('<fastcable-stream stream="s"></fastcable-stream>', turbo=True)
    page.evaluate("Turbo.visit('/app/two')")
    expect(page.locator("p")).to_have_text("two")
    site.settle(page)
    assert site.commands == ["subscribe s", "subscribe t", "unsubscribe s"]


def test_turbos_morphing_keeps_the_subscription_and_the_attribute(site: Site) -> None:
    morph = '<meta name="turbo-refresh-method" content="morph">'
    page = site.open('<fastcable-stream id="one" stream="s"></fastcable-stream><p>before</p>', turbo=True, head=morph)
    after = '<fastcable-stream id="one" stream="s t"></fastcable-stream><p>after</p>'
    site.write("/app", after, turbo=True, head=morph)
    page.evaluate("window.before = one; Turbo.visit(location.href, { action: 'replace' })")
    expect(page.locator("p")).to_have_text("after")
    expect(page.locator("#one")).to_have_attribute("connected", "")
    assert page.evaluate("before === one")
    assert site.commands == ["subscribe s", "subscribe t"]


def test_the_module_may_come_twice(site: Site) -> None:
    page = site.open('<fastcable-stream id="one" stream="s"></fastcable-stream>')
    page.evaluate("import('/fastcable-stream.js?again')")
    site.post("s", 1)
    site.settle(page)
    assert heard(page) == [["one", {"stream": "s", "data": 1}]]


