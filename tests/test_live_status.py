"""The stream that the status is posted to."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from fastcable import live_status
from fastcable.authorization import stream_verifier
from fastcable.brokers import HandoverError
from tests.harness import PING, LocalServer, Reachable, ServerProcess, children

Serve = Callable[..., LocalServer]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_status, "INTERVAL", 0.01)


def live(server: Reachable, query: str = "?live") -> Any:
    code, _, content = server.request("GET", f"/_status.json{query}")
    assert code == 200
    return json.loads(content)["live"]


def statuses(client: Any, name: str, count: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < count:
        opcode, payload = client.read_frame()
        if opcode == PING:
            continue
        message = json.loads(payload)
        if message["type"] == "message":
            assert message["stream"] == name
            found.append(message["data"])
    return found


def test_who_may_see_the_status_is_told_where_it_is_posted(serve: Serve) -> None:
    server = serve()
    told = live(server)
    assert told["cable"] == "/cable"
    assert re.fullmatch(r"_status\.[0-9a-f]{32}", told["stream"])
    assert live(server) == told
    with server.connect("news", told["stream"]) as client:
        *_, last = statuses(client, told["stream"], 3)
    (worker,) = last["workers"]
    assert worker["connections"]["simple"] == 1
    assert last["top_streams"] == [{"stream": "news", "subscribers": 1}]


def test_each_server_has_a_name_of_its_own(serve: Serve) -> None:
    assert live(serve())["stream"] != live(serve())["stream"]


def test_who_does_not_ask_for_it_makes_nobody_post(serve: Serve) -> None:
    server = serve()
    assert live(server, "") is None
    assert server.server._reports._live is None


def test_who_may_not_see_the_status_is_not_told(serve: Serve) -> None:
    server = serve(broadcast_key="k")
    assert server.request("GET", "/_status.json?live")[0] == 401
    assert server.server._reports._live is None


def test_nothing_is_posted_when_nobody_has_asked_for_a_while(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_status, "LEASE", 0.05)
    server = serve()
    name = live(server)["stream"]
    own = server.server._reports._live
    assert own is not None
    server.wait_until(lambda: own._timer is None)
    posted = server.server.hub.counters.broadcasts
    monkeypatch.setattr(live_status, "LEASE", 60.0)
    assert live(server)["stream"] == name
    server.wait_until(lambda: server.server.hub.counters.broadcasts > posted)


def test_where_names_must_be_signed_this_one_is(serve: Serve) -> None:
    server = serve(signed_streams="required", turbo_secret=("s" * 32,))
    name = live(server)["stream"]
    verifier = stream_verifier(server.settings)
    assert verifier is not None
    assert (verifier.verify(name) or "").startswith("_status.")
    with server.connect(name) as client:
        statuses(client, name, 1)


def test_on_a_listener_without_the_cable_there_is_none(serve: Serve) -> None:
    server = serve(broadcast_listen="127.0.0.1:0")
    server.port = server.server.listening.broadcast[0].getsockname()[1]
    assert live(server) is None


def test_the_page_may_be_at_another_worker_than_its_connection(spawn: Callable[..., ServerProcess]) -> None:
    server = spawn("--workers", "2")
    name = live(server)["stream"]
    clients = [server.connect(name) for _ in range(6)]
    try:
        for client in clients:
            (status,) = statuses(client, name, 1)
            assert [each["worker"] for each in status["workers"]] == children(server.process.pid)
    finally:
        for client in clients:
            client.close()


def test_a_status_that_no_broker_carries_is_lost_silently(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lost = []
    handed_over = live_status._handed_over

    def noticed(handover: asyncio.Future[int]) -> None:
        handed_over(handover)
        lost.append(handover)

    monkeypatch.setattr(live_status, "_handed_over", noticed)
    server = serve(broker="redis://127.0.0.1:1/0", publish_timeout=0.05)
    live(server)
    server.wait_until(lambda: len(lost) >= 3)
    assert all(isinstance(each.exception(), HandoverError) for each in lost)
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_what_else_goes_wrong_is_not_hidden() -> None:
    loop = asyncio.new_event_loop()
    handover: asyncio.Future[int] = loop.create_future()
    handover.set_exception(KeyError("x"))
    with pytest.raises(KeyError):
        live_status._handed_over(handover)
    loop.close()
