"""The line of the log for each connection at its end."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import Client, LocalServer

Serve = Callable[..., LocalServer]


@pytest.fixture(autouse=True)
def _debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "fastcable")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if text.startswith("connection of ")]


def leave(client: Client) -> None:
    client.send_frame(8, b"\x03\xe8")
    client.read_end()


def misbehave(client: Client) -> None:
    client.send_frame(2, b"x")
    client.read_end()


@pytest.mark.parametrize(("end", "how"), [
    (leave, "closed by the client with 1000"), (misbehave, "closed by the server with 1003"),
    (Client.reset, "cut off"),
], ids=["client", "server", "reset"])
def test_each_end_is_one_line(
    serve: Serve, caplog: pytest.LogCaptureFixture, end: Callable[[Client], None], how: str
) -> None:
    server = serve()
    client = server.connect("s")
    port = client.socket.getsockname()[1]
    end(client)
    client.close()
    server.wait_for_connections(0)
    (line,) = lines(caplog)
    assert re.fullmatch(rf"connection of 127\.0\.0\.1:{port}: {how} after \d+\.\d s", line)


def test_a_unix_socket_has_no_address(serve: Serve, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    server = serve(uds=str(tmp_path / "socket"))
    with Client(str(tmp_path / "socket")) as client:
        client.upgrade()
    server.wait_for_connections(0)
    (line,) = lines(caplog)
    assert line.startswith("connection of a Unix socket: cut off after ")


def test_nothing_is_remembered_of_those_who_are_gone(serve: Serve) -> None:
    server = serve()
    with server.connect("s"), server.connect("s"):
        pass
    server.wait_for_connections(0)
    journal = server.server.cable.journal
    assert journal is not None
    assert journal._entries == {}


def test_without_debug_there_is_none(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastcable")
    assert serve().server.cable.journal is None


def test_what_slow_clients_lost_is_one_line(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(max_pending_messages=1)
    with server.connect("s", receive_buffer=4096):
        server.stall("s")
        server.call(server.server._report)
        for number in range(1_235):
            server.publish("s", number)
        server.wait_until(lambda: server.server.hub.idle)
        server.call(server.server._report)
        server.call(server.server._report)
    slow = [text for text in caplog.messages if text.startswith("slow clients")]
    assert slow == ["slow clients: dropped 1,234 messages on 1 connections, closed 0 in the last 10 s"]
