"""The demonstration page and fastcable.js in a browser, against the server."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, WebSocketRoute, expect

from tests.harness import ServerProcess, Spawn

Open = Callable[..., Page]


@pytest.fixture
def server(spawn: Spawn) -> ServerProcess:
    return spawn("--demo")


@pytest.fixture
def visit(context: BrowserContext, server: ServerProcess) -> Iterator[Open]:
    """Opens the page and waits until its streams are live; its errors are the test's."""
    errors: list[str] = []

    def visit(fragment: str = "", streams: int = 1, port: int = server.port) -> Page:
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/{fragment}")
        expect(page.locator(".stream[data-status=live]")).to_have_count(streams)
        return page

    yield visit
    assert errors == []


def message(page: Page, text: str | re.Pattern[str]) -> Any:
    return page.get_by_test_id("message").filter(has_text=text)


def publish(page: Page, text: str) -> None:
    page.get_by_test_id("publish-text").fill(text)
    page.get_by_test_id("publish-send").click()


def test_a_person_subscribes_publishes_and_sees_the_message(visit: Open) -> None:
    page = visit()
    expect(page.get_by_test_id("state-text")).to_have_text("Connected")
    expect(page.get_by_test_id("empty")).to_be_visible()
    page.get_by_test_id("stream-input").fill("scores")
    page.get_by_test_id("stream-add").click()
    expect(page.locator(".stream[data-stream=scores][data-status=live]")).to_be_visible()
    expect(page.get_by_test_id("target")).to_have_text("scores")
    publish(page, "two to one")
    expect(message(page, "two to one")).to_have_count(1)
    expect(message(page, "two to one")).to_have_attribute("data-stream", "scores")
    expect(page.get_by_test_id("publish-result")).to_have_text("Accepted for 1 subscriber.")
    expect(page.get_by_test_id("empty")).to_be_hidden()
    expect(page.locator(".stream[data-stream=scores]").get_by_test_id("stream-count")).to_have_text("1")
    expect(page.locator(".stream[data-stream=demo]").get_by_test_id("stream-count")).to_have_text("0")


@pytest.mark.parametrize(
    ("typed", "kind", "shown"),
    [
        ("hello", "text", "hello"),
        ("{not json", "text", "{not json"),
        ('{"home": 2, "away": 1}', "JSON object", '{ "home": 2, "away": 1 }'),
        ("[1, [null, true]]", "JSON array", "[ 1, [ null, true ] ]"),
        ('"42"', "JSON string", "42"),
        ("0", "JSON number", "0"),
        ("null", "JSON null", "null"),
        ("<img src=x onerror=alert(1)><b>bold</b>", "text", "<img src=x onerror=alert(1)><b>bold</b>"),
        ('{"<i>": "</pre><script>alert(1)</script>"}', "JSON object", '{ "<i>": "</pre><script>alert(1)</script>" }'),
    ],
)
def test_what_is_typed_is_sent_as_json_if_it_is_and_shown_as_text(
    visit: Open, typed: str, kind: str, shown: str
) -> None:
    page = visit()
    page.get_by_test_id("publish-text").fill(typed)
    expect(page.get_by_test_id("kind")).to_contain_text(f"Sent as {kind}.")
    page.get_by_test_id("publish-send").click()
    expect(page.get_by_test_id("message").locator("pre")).to_have_text(shown)


def test_messages_posted_elsewhere_arrive_newest_first(visit: Open, server: ServerProcess) -> None:
    page = visit("#scores,caf%C3%A9%2C%201", streams=2)
    server.post({"stream": "scores", "data": "first"})
    server.post({"stream": "café, 1", "data": {"n": 2}})
    server.post({"stream": "unheard", "data": "never"})
    server.post({"stream": "scores", "data": "third"})
    messages = page.get_by_test_id("message")
    expect(messages).to_have_count(3)
    expect(messages.locator("pre")).to_have_text(["third", '{ "n": 2 }', "first"])
    expect(page.get_by_test_id("total-count")).to_have_text("3")


def test_the_address_keeps_the_streams(visit: Open) -> None:
    page = visit("#a,b", streams=2)
    page.get_by_test_id("stream-input").fill("c, d/é")
    page.get_by_test_id("stream-input").press("Enter")
    page.locator(".stream[data-stream=a]").get_by_test_id("stream-remove").click()
    expect(page).to_have_url(re.compile(r"#b,c%2C%20d%2F%C3%A9$"))
    page.reload()
    expect(page.locator(".stream[data-status=live]")).to_have_count(2)
    expect(page.locator(".stream .name")).to_have_text(["b", "c, d/é"])


def test_unsubscribing_ends_the_messages_of_that_stream_only(visit: Open, server: ServerProcess) -> None:
    page = visit("#a,b", streams=2)
    page.locator(".stream[data-stream=a]").get_by_test_id("stream-remove").click()
    expect(page.locator(".stream")).to_have_count(1)
    publish(page, "for b")
    expect(message(page, "for b")).to_have_count(1)
    assert server.post({"stream": "a", "data": "for a"}) == (200, {"subscribers": 0})
    page.get_by_test_id("stream-remove").click()
    expect(page.get_by_test_id("no-streams")).to_be_visible()
    expect(page.get_by_test_id("publish-send")).to_be_disabled()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_after_a_restart_of_the_server_the_page_is_back_by_itself(visit: Open, spawn: Spawn, number: int) -> None:
    first = spawn("--demo")
    page = visit("#a,b", streams=2, port=first.port)
    first.stop(number)
    expect(page.get_by_test_id("state-text")).to_contain_text("Reconnecting")
    expect(page.locator(".stream[data-status=live]")).to_have_count(0)
    publish(page, "into the void")
    expect(page.get_by_test_id("publish-result")).to_have_text("The server cannot be reached.")
    second = spawn("--demo", port=first.port)
    expect(page.get_by_test_id("state-text")).to_have_text("Connected")
    expect(page.locator(".stream[data-status=live]")).to_have_count(2)
    for stream in ("a", "b"):
        assert second.post({"stream": stream, "data": f"news of {stream}"}) == (200, {"subscribers": 1})
        expect(message(page, f"news of {stream}")).to_have_count(1)
    expect(page.get_by_test_id("note")).to_have_count(2)


def test_retry_now_does_not_wait_for_the_countdown(visit: Open, spawn: Spawn) -> None:
    first = spawn("--demo")
    page = visit(port=first.port)
    first.stop(signal.SIGKILL)
    retry = page.get_by_test_id("retry")
    for _ in range(6):  # the delays grow past a minute in all
        retry.click()
    spawn("--demo", port=first.port)
    retry.click()
    expect(page.get_by_test_id("state-text")).to_have_text("Connected")


def test_two_pages_see_what_either_publishes(visit: Open) -> None:
    one, two = visit(), visit()
    publish(one, "from one")
    expect(one.get_by_test_id("publish-result")).to_have_text("Accepted for 2 subscribers.")
    publish(two, "from two")
    for page in (one, two):
        expect(page.get_by_test_id("message").locator("pre")).to_have_text(["from two", "from one"])


def test_a_burst_is_one_batch_and_the_list_stays_short(visit: Open) -> None:
    page = visit()
    for count in (100, 200, 300):
        page.get_by_test_id("publish-burst").click()
        expect(page.get_by_test_id("total-count")).to_have_text(str(count))
    expect(page.get_by_test_id("publish-result")).to_contain_text("100 messages accepted")
    expect(page.get_by_test_id("message")).to_have_count(200)
    expect(page.get_by_test_id("message").first).to_contain_text('"message": 100')
    expect(page.get_by_test_id("message").last).to_contain_text('"message": 1,')


def test_a_pause_holds_the_list_but_not_the_counts(visit: Open) -> None:
    page = visit()
    page.get_by_test_id("pause").click()
    publish(page, "held")
    expect(page.get_by_test_id("total-count")).to_have_text("1")
    expect(page.get_by_test_id("message")).to_have_count(0)
    page.get_by_test_id("pause").click()
    expect(page.get_by_test_id("message")).to_have_count(1)
    page.get_by_test_id("clear").click()
    expect(page.get_by_test_id("empty")).to_be_visible()


@pytest.mark.parametrize(
    ("frame", "shown", "missed"),
    [
        ({"type": "gap", "stream": "demo", "missed": 1_234}, "1,234 messages of demo missed", "1,234 missed"),
        ({"type": "gap", "stream": "demo"}, "Messages of demo missed", None),
    ],
    ids=["counted", "uncounted"],
)
def test_a_gap_is_marked(
    context: BrowserContext, visit: Open, frame: dict[str, object], shown: str, missed: str | None
) -> None:
    routes: list[WebSocketRoute] = []

    def connect(route: WebSocketRoute) -> None:
        route.connect_to_server()
        routes.append(route)

    context.route_web_socket(re.compile("/cable"), connect)
    page = visit()
    routes[0].send(json.dumps(frame))
    expect(page.get_by_test_id("gap")).to_contain_text(shown)
    if missed:
        expect(page.get_by_test_id("missed")).to_have_text(missed)
    else:
        expect(page.get_by_test_id("missed")).to_be_hidden()


def test_a_refused_subscription_says_why(visit: Open, spawn: Spawn) -> None:
    page = visit("#a", port=spawn("--demo", "--max-subscriptions", "1").port)
    page.get_by_test_id("stream-input").fill("b")
    page.get_by_test_id("stream-add").click()
    expect(page.locator(".stream[data-stream=b]")).to_have_attribute("data-status", "rejected")
    expect(page.locator(".stream[data-stream=b]").get_by_test_id("stream-rate")).not_to_have_text("")


def test_a_refused_post_says_why(visit: Open, spawn: Spawn) -> None:
    page = visit(port=spawn("--demo", "--broadcast-key", "a-key-of-some-length").port)
    publish(page, "let me in")
    expect(page.get_by_test_id("publish-result")).to_have_text(re.compile("^401: .+"))


def test_a_name_no_stream_can_have_is_refused_at_the_field(visit: Open) -> None:
    page = visit()
    field = page.get_by_test_id("stream-input")
    field.fill("é" * 2049)
    page.get_by_test_id("stream-add").click()
    assert "4096 bytes" in field.evaluate("field => field.validationMessage")
    expect(page.locator(".stream")).to_have_count(1)


def test_a_name_that_is_too_long_for_a_stream_is_refused_by_the_server(visit: Open) -> None:
    page = visit()
    page.get_by_test_id("stream-input").fill("é" * 128)
    page.get_by_test_id("stream-add").click()
    row = page.locator(".stream").nth(1)
    expect(row).to_have_attribute("data-status", "rejected")
    expect(row.get_by_test_id("stream-rate")).to_have_text("stream must be at most 255 bytes of UTF-8")


def test_snippets_follow_the_stream_and_the_message(visit: Open) -> None:
    page = visit("#it%27s")
    page.get_by_test_id("publish-text").fill('{"n": 1}')
    snippet = page.get_by_test_id("snippet")
    expect(snippet).to_contain_text("""-d '{"stream":"it'\\''s","data":{"n": 1}}'""")
    for tab, text in {"wscat": "npx wscat -c ws://", "JavaScript": 'subscribe("it\'s"', "fastcable": "listen"}.items():
        page.get_by_test_id(f"tab-{tab}").click()
        expect(snippet).to_contain_text(text)


@pytest.mark.parametrize("width", [320, 390, 900, 1440])
def test_nothing_is_wider_than_the_window(visit: Open, server: ServerProcess, width: int) -> None:
    page = visit("#" + "long-" * 50)
    page.set_viewport_size({"width": width, "height": 800})
    server.post({"stream": "long-" * 50, "data": ["x" * 3_000]})
    server.post({"stream": "long-" * 50, "data": "y" * 10_000})
    expect(page.get_by_test_id("message")).to_have_count(2)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_the_module_subscribes_shares_and_leaves(visit: Open, server: ServerProcess) -> None:
    page = visit("#elsewhere")
    heard = page.evaluate(
        """async () => {
          const { createConsumer, createCableSubscription } = await import("/fastcable.js");
          const consumer = createConsumer();
          const log = [];
          const connected = (name) => new Promise((resolve) => {
            const subscription = consumer.subscribe("s", {
              connected: ({ reconnected }) => resolve(subscription, log.push([name, "connected", reconnected])),
              received: (data) => log.push([name, data]) && settle?.(),
            });
          });
          let settle;
          const arrives = () => new Promise((resolve) => (settle = resolve));
          const post = (data) => fetch("/_broadcast", { method: "POST", body: JSON.stringify({ stream: "s", data }),
            headers: { "Content-Type": "application/json" } }).then((answer) => answer.json());
          const one = await connected("one");
          const two = await connected("two");
          let arrived = arrives();
          log.push((await post([1])).subscribers);
          await arrived;
          one.unsubscribe();
          arrived = arrives();
          await post("2");
          await arrived;
          two.unsubscribe();
          consumer.disconnect();
          const late = await new Promise((resolve) => createCableSubscription("t", { connected: resolve }));
          return { log: log.filter((entry) => entry !== 1), late, state: consumer.state, url: consumer.url };
        }"""
    )
    assert heard == {
        "log": [["one", "connected", False], ["two", "connected", False], ["one", [1]], ["two", [1]], ["two", "2"]],
        "late": {"stream": "t", "reconnected": False},
        "state": "closed",
        "url": f"ws://127.0.0.1:{server.port}/cable",
    }


def test_a_page_put_away_leaves_and_is_back_when_shown_again(visit: Open, server: ServerProcess) -> None:
    page = visit()
    page.evaluate("() => addEventListener('pageshow', ({ persisted }) => (document.title = `cached: ${persisted}`))")
    page.goto(f"http://127.0.0.1:{server.port}/health")
    assert server.post({"stream": "demo", "data": "unheard"}) == (200, {"subscribers": 0})
    page.go_back(wait_until="commit")
    expect(page).to_have_title("cached: true")
    expect(page.locator(".stream[data-status=live]")).to_have_count(1)
    assert server.post({"stream": "demo", "data": "welcome back"}) == (200, {"subscribers": 1})
    expect(message(page, "welcome back")).to_have_count(1)
