"""Servers that share messages through Redis, each a process, with clients and publishers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import CABLE_UPGRADE, PATIENCE, Client, ServerProcess, Spawn, message
from tests.redis_server import RedisServer, free_port, self_signed

Connect = Callable[..., Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connects clients to a server, subscribed to these streams."""
    with ExitStack() as stack:
        yield lambda server, *streams: stack.enter_context(server.connect(*streams))


def readiness(server: ServerProcess) -> tuple[int, dict[str, str]]:
    status, _, body = server.request("GET", "/health/ready")
    return status, json.loads(body)


def wait_until_ready(*servers: ServerProcess) -> None:
    deadline = time.monotonic() + PATIENCE
    for server in servers:
        while readiness(server)[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_a_message_posted_to_one_server_reaches_the_clients_of_both(
    redis: RedisServer, spawn: Spawn, connect: Connect
) -> None:
    redis.start()
    servers = [spawn("--broker", redis.url, "--ping-interval", "0") for _ in range(2)]
    clients = [connect(server, "chat", "news") for server in servers]
    for number in range(20):
        server = servers[number % 2]
        assert server.post({"stream": "chat", "data": number}) == (200, {"subscribers": 1})
    assert servers[0].post([{"stream": "news", "data": 1.50}, {"stream": "chat", "data": []}]) == (
        200, {"subscribers": 2})
    for client in clients:
        client.expect(*(message("chat", number) for number in range(20)), message("news", 1.5), message("chat", []))
    assert servers[0].post({"stream": "score", "data": [2, 1], "retain": True}) == (200, {"subscribers": 0})
    late = connect(servers[1], "score")
    late.expect(message("score", [2, 1]))
    for server in servers:
        assert server.stop() == 0
        assert len([line for line in server.log if "redis" in line]) == 0, server.log


def test_an_outage_is_told_to_everybody_and_passes(redis: RedisServer, spawn: Spawn, connect: Connect) -> None:
    server = spawn("--broker", redis.url, "--publish-timeout", "0.2", "--ping-interval", "0")
    status, problem = readiness(server)
    assert status == 503
    assert "redis: " in json.dumps(problem)
    assert server.request("GET", "/health/live")[0] == 200
    waiting = connect(server)
    waiting.command(type="subscribe", stream="chat")
    status, answer = server.post({"stream": "chat", "data": 1})
    assert status == 503
    assert "redis: " in answer["error"]
    redis.start()
    assert waiting.receive() == {"type": "subscribed", "stream": "chat"}
    wait_until_ready(server)
    assert server.post({"stream": "chat", "data": 2})[0] == 200
    waiting.expect(message("chat", 2))
    redis.kill()
    status, answer = server.post({"stream": "chat", "data": 3})
    assert status == 503
    redis.start()
    waiting.expect({"type": "gap", "stream": "chat"})
    wait_until_ready(server)
    assert server.post({"stream": "chat", "data": 4})[0] == 200
    waiting.expect(message("chat", 4))
    server.stop()
    lines = [line.split("redis: ", 1)[1] for line in server.log if "redis: " in line]
    assert [("again until" in line, "connected again" in line) for line in lines] == [(True, False), (False, True)] * 2


def test_rails_broadcasts_reach_clients_of_both_protocols(redis: RedisServer, spawn: Spawn, connect: Connect) -> None:
    redis.start()
    server = spawn("--broker", redis.url, "--redis-channels", "rails", "--channel-prefix", "shop",
                   "--public-streams=true", "--ping-interval", "0")
    simple = connect(server, "chat:7")
    with Client(server.port) as cable:
        cable.upgrade(CABLE_UPGRADE)
        assert cable.receive()["type"] == "welcome"
        identifier = json.dumps({"channel": "$pubsub", "stream_name": "chat:7"})
        cable.command(command="subscribe", identifier=identifier)
        while (frame := cable.receive())["type"] == "ping":
            pass
        assert frame["type"] == "confirm_subscription"
        redis("PUBLISH", "shop:chat:7", b'{"html":"\\u003cb\\u003e","n":1.0}')
        data = {"html": "<b>", "n": 1.0}
        simple.expect(message("chat:7", data))
        while (frame := cable.receive()).get("type") == "ping":
            pass
        assert frame == {"identifier": identifier, "message": data}


def test_tls_on_the_server(redis: RedisServer, spawn: Spawn, connect: Connect, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    port = free_port()
    redis.start("--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key,
                "--tls-ca-cert-file", certificate, "--tls-auth-clients", "no")
    server = spawn("--broker", f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}", "--ping-interval", "0")
    client = connect(server, "chat")
    assert server.post({"stream": "chat", "data": 1}) == (200, {"subscribers": 1})
    client.expect(message("chat", 1))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("url", ["redis://localhost/0?colour=red", "redis://:hidden/half@localhost"])
def test_a_bad_url_ends_the_start_in_one_line(url: str, workers: int) -> None:
    command = [sys.executable, "-m", "fastcable", "serve", "--port", "0", "--broker", url, "--workers", str(workers)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("fastcable: broker: ")
    assert "hidden" not in line
    assert "half@" not in line
