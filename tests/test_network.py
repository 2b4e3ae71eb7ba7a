"""A server and Redis on hosts of their own, whose link is cut without a word to either."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from typing import Any

from tests.harness import Client, ServerProcess, UnixServer, message
from tests.hosts import Host
from tests.redis_server import RedisServer

DETECTED = 10.0
"""Seconds after which a link that is cut has been noticed."""


class HostedServer(UnixServer, ServerProcess):
    """`fastcable serve` on a host, reached by its Unix socket, from any host."""

    def __init__(self, within: tuple[str, ...], path: Path, *arguments: str) -> None:
        self.path = str(path)
        command = [*within, sys.executable, "-m", "fastcable", "serve", "--uds", self.path, *arguments]
        self._start(command, None, "listens on ")


def hear(client: Client) -> Any:
    """What the client gets next, apart from pings."""
    while (heard := client.receive()) == {"type": "ping"}:
        pass
    return heard


def test_a_link_that_is_cut_without_a_word_is_noticed_and_comes_back(hosts: Sequence[Host], tmp_path: Path) -> None:
    """Between one server and Redis, which another server goes on to use."""
    here, there = hosts
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(there.address, there.within)).start()
        servers = [
            stack.enter_context(HostedServer(host.within, tmp_path / host.name, "--broker", redis.url))
            for host in hosts
        ]
        clients = [stack.enter_context(Client(server.path)) for server in servers]
        for client in clients:
            client.upgrade()
            client.subscribe("news")
            client.subscribe("scores")
        cut, whole = servers

        assert [server.publish("news", 1) for server in servers] == [200, 200]
        for client in clients:
            assert [hear(client), hear(client)] == [message("news", 1)] * 2
        with here.cut_off():
            since = time.monotonic()
            assert cut.publish("news", "lost") == 503
            assert whole.publish("news", "missed") == 200
            cut.wait_until_ready(503)
            assert time.monotonic() - since < DETECTED
            assert cut.ask("GET", "/health/live")[0] == 200
            assert whole.ask("GET", "/health/ready")[0] == 200
            # Nothing of what was not sent waits in the kernel, to be published late, though it was answered with 503.
            assert here.run("ss", "-Htn", "state", "fin-wait-1") == ""
        cut.wait_until_ready()
        told = [hear(clients[0]), hear(clients[0])]
        assert sorted(told, key=itemgetter("stream")) == [
            {"type": "gap", "stream": "news"}, {"type": "gap", "stream": "scores"}]  # fmt: skip
        for number, server in enumerate(servers):
            for stream in ("news", "scores"):
                assert server.publish(stream, number) == 200
                for client in clients:
                    if (heard := hear(client)) == message("news", "missed"):
                        heard = hear(client)
                    assert heard == message(stream, number)
        lines = [line for line in cut.log if "redis" in line]
        assert re.search(r"WARN.*redis: .*nothing heard", lines[0])
        assert "connected again" in lines[1]
        assert len(lines) == 2
        assert not any("redis: " in line for line in whole.log)
