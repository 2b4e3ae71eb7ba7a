"""Servers that deliver what Rails broadcasts through Solid Cable, beside what is posted to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fastcable.settings import Settings
from fastcable.sources import poller as poller_module
from fastcable.sources.joined import Joined
from tests.harness import CABLE_UPGRADE, CLOSE, TEXT, Client, Serve, Spawn, message, subscribed
from tests.solid_cable import SqliteTable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "production_cable.sqlite3"


@pytest.fixture
def table(path: Path) -> Iterator[SqliteTable]:
    with SqliteTable(path).create() as table:
        yield table


def test_clients_get_what_rails_writes_and_what_is_posted(serve: Serve, path: Path, table: SqliteTable) -> None:
    server = serve(source=(f"solid_cable://{path}",), source_interval=0.02, public_streams=True)
    table.write("chat", "from before")
    with server.connect("chat") as simple, Client(server.port) as cable:
        cable.upgrade(CABLE_UPGRADE)
        assert cable.receive()["type"] == "welcome"
        identifier = '{"channel":"$pubsub","stream_name":"chat"}'
        cable.send_frame(TEXT, json.dumps({"command": "subscribe", "identifier": identifier}).encode())
        assert cable.receive() == {"identifier": identifier, "type": "confirm_subscription"}
        table.write("chat", "<turbo-stream></turbo-stream>")
        simple.expect(message("chat", "<turbo-stream></turbo-stream>"))
        assert cable.receive() == {"identifier": identifier, "message": "<turbo-stream></turbo-stream>"}
        assert server.post({"stream": "chat", "data": 1}) == (200, {"subscribers": 2})
        simple.expect(message("chat", 1))


def test_readiness_tells_of_a_database_that_cannot_be_read(serve: Serve, path: Path) -> None:
    server = serve(source=(f"solid_cable://{path}",), source_interval=0.02)
    problem = f"source solid_cable://{path}: no such file or directory"
    server.wait_until(lambda: server.server.hub.problem == problem)
    assert server.request("GET", "/health/ready")[0] == 503
    assert server.request("GET", "/health")[0] == 200
    with SqliteTable(path).create():
        server.wait_until(lambda: server.server.hub.problem is None)
        assert server.request("GET", "/health/ready")[0] == 200


def away(server: Any, path: Path) -> Path:
    elsewhere = path.with_suffix(".away")
    os.rename(path, elsewhere)
    server.wait_until(lambda: "no such file" in (server.server.hub.problem or ""))
    return elsewhere


def test_an_outage_delays_messages_and_confirmations_and_nothing_else(
    serve: Serve, path: Path, table: SqliteTable
) -> None:
    server = serve(source=(f"solid_cable://{path}",), source_interval=0.02)
    with server.connect("chat") as client, server.connect() as late:
        elsewhere = away(server, path)
        table.write("chat", "written meanwhile")
        late.command(type="subscribe", stream="chat")
        late.command(type="nonsense")
        assert late.receive()["type"] == "error"  # and nothing before it
        assert server.post({"stream": "chat", "data": "posted meanwhile"})[0] == 200
        client.expect(message("chat", "posted meanwhile"))
        os.rename(elsewhere, path)
        client.expect(message("chat", "written meanwhile"))
        late.expect(subscribed("chat"))
        table.write("chat", "next")
        client.expect(message("chat", "next"))
        late.expect(message("chat", "next"))


def test_after_a_long_outage_clients_are_told_of_a_gap(
    serve: Serve, path: Path, table: SqliteTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "RESUME_SECONDS", 0)
    server = serve(source=(f"solid_cable://{path}",), source_interval=0.02)
    with server.connect("chat") as client:
        elsewhere = away(server, path)
        table.write("chat", "history")
        os.rename(elsewhere, path)
        client.expect({"type": "gap", "stream": "chat"})
        table.write("chat", "next")
        client.expect(message("chat", "next"))


def test_workers_each_read_for_their_own_clients(spawn: Spawn, path: Path, table: SqliteTable) -> None:
    server = spawn("--workers", "2", "--source", f"solid_cable://{path}", "--source-interval", "0.02")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect("chat")) for _ in range(8)]
        table.write("chat", *range(10))
        for client in clients:
            client.expect(*(message("chat", number) for number in range(10)))
        assert server.post({"stream": "chat", "data": "posted"})[0] == 200
        for client in clients:
            client.expect(message("chat", "posted"))
    assert server.stop() == 0


def test_a_reload_neither_loses_nor_repeats_a_row(spawn: Spawn, path: Path, table: SqliteTable) -> None:
    server = spawn("--source", f"solid_cable://{path}", "--source-interval", "0.02", "--reload-drain", "1",
                   "--ping-interval", "0")
    with server.connect("chat") as client:
        table.write("chat", 1)
        client.expect(message("chat", 1))
        server.process.send_signal(signal.SIGHUP)
        number = 1
        ended = False
        while not ended:
            number += 1
            table.write("chat", number)
            opcode, payload = client.read_frame()
            ended = opcode == CLOSE
            assert ended or json.loads(payload) == message("chat", number)
        with server.connect("chat") as successor:
            table.write("chat", "next")
            successor.expect(message("chat", "next"))
    assert server.stop() == 0


def test_sqlite_and_postgresql_are_imported_only_where_they_are_asked_for(spawn: Spawn, path: Path) -> None:
    server = spawn()
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "_sqlite3" not in maps
    assert "asyncpg" not in maps


# Confirmations of several


class Hub:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.streams = {"chat": None, "news": None}
        self.told: list[object] = []

    def confirmed(self, stream: str, missed: bool) -> None:
        self.told.append((stream, missed))

    def interrupted(self) -> None:
        self.told.append("interrupted")

    def deliver(self, *message: object) -> None:
        self.told.append(message)


def joined(*streams: str) -> tuple[Joined, Hub, list[Any]]:
    """With two sources that do nothing, and streams that were asked for; and those who are to confirm."""
    hub = Hub()
    joined = Joined(Settings(source=("solid_cable:///a", "solid_cable:///b")), cast(Any, hub))
    joined.inner = cast(Any, SimpleNamespace(subscribe=lambda stream: None, unsubscribe=lambda stream: None))
    for stream in streams:
        joined.subscribe(stream)
    return joined, hub, [None, *joined._sources]


def test_a_stream_is_confirmed_when_all_have_confirmed_it() -> None:
    async def test() -> None:
        broker, hub, (_, first, second) = joined("chat", "news")
        broker.hub.confirmed("chat")
        broker.confirmed(first, "chat", False)
        broker.confirmed(first, "news", False)
        broker.confirmed(first, "chat", False)
        assert hub.told == []
        broker.confirmed(second, "chat", False)
        assert hub.told == [("chat", True)]
        broker.confirmed(second, "chat", False)
        broker.confirmed(second, "gone", False)
        assert hub.told == [("chat", True)]

    asyncio.run(test())


@pytest.mark.parametrize(
    ("steps", "missed"),
    [
        (lambda broker, inner, first, second: (
            broker.interrupted(first), broker.confirmed(first, "chat", False)), False),
        (lambda broker, inner, first, second: (
            broker.interrupted(first), broker.confirmed(first, "chat", True)), True),
        (lambda broker, inner, first, second: (
            broker.hub.interrupted(), broker.hub.confirmed("chat")), True),
        (lambda broker, inner, first, second: (
            broker.interrupted(first), broker.hub.interrupted(), broker.hub.confirmed("chat"),
            broker.confirmed(first, "chat", False)), True),
        (lambda broker, inner, first, second: (
            broker.interrupted(first), broker.interrupted(second), broker.confirmed(first, "chat", False),
            broker.confirmed(second, "chat", False)), False),
    ],
    ids=["a source", "a source after long", "the broker", "the broker, too", "both sources"],
)
def test_who_was_interrupted_says_whether_anything_was_missed(
    steps: Callable[..., object], missed: bool
) -> None:
    async def test() -> None:
        broker, hub, parties = joined("chat")
        for party in parties:
            broker.confirmed(party, "chat", False)
        hub.told.clear()
        steps(broker, *parties)
        assert [each for each in hub.told if each != "interrupted"] == [("chat", missed)]
        assert hub.told[-1] == ("chat", missed)

    asyncio.run(test())


def test_a_confirmation_of_former_subscribers_is_not_one_of_new_ones() -> None:
    async def test() -> None:
        broker, hub, (inner, first, second) = joined("chat")
        broker.confirmed(inner, "chat", False)
        broker.confirmed(first, "chat", False)
        broker.unsubscribe("chat")
        broker.confirmed(second, "chat", False)
        broker.subscribe("chat")
        broker.confirmed(second, "chat", False)
        assert hub.told == []

    asyncio.run(test())
