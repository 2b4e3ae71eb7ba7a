"""Behind nginx, with the configuration that the README gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import PING, PONG, TEXT, Client, LocalServer, post
from tests.nginx import free_port, nginx

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture
def behind_nginx(serve: Callable[..., LocalServer], tmp_path: Path) -> Iterator[tuple[LocalServer, int]]:
    """A server, and the port of an nginx in front of it."""
    server = serve(ticking=False)
    blocks = re.findall(r"```nginx\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 1
    port = free_port()
    location = blocks[0].replace(":3000", f":{server.port}")
    # What nobody should do: publishing must not be open to the world even then.
    mistake = (f"location /mistake/ {{ proxy_pass http://127.0.0.1:{server.port}/;"
               " proxy_set_header X-Forwarded-For $remote_addr; }")
    with nginx(f"server {{ listen 127.0.0.1:{port};\n{location}{mistake} }}", tmp_path):
        yield server, port


def test_messages_pings_and_the_close_pass(behind_nginx: tuple[LocalServer, int]) -> None:
    server, port = behind_nginx
    with Client(port) as client:
        client.upgrade()
        client.subscribe("news")
        assert server.post({"stream": "news", "data": "hello"}) == (200, {"subscribers": 1})
        client.expect({"type": "message", "stream": "news", "data": "hello"})
        client.send_frame(PING, b"are you there")
        assert client.read_frame() == (PONG, b"are you there")
        server.beat(server.settings.ping_interval)
        assert client.read_frame() in ((TEXT, b'{"type":"ping"}'), (PING, b""))
        client.reset()
    server.wait_until(lambda: server.server.cable.connections == 0)


def test_only_the_cable_path_is_forwarded(behind_nginx: tuple[LocalServer, int]) -> None:
    _, port = behind_nginx
    with Client(port) as client:
        client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_until(b"\r\n").startswith(b"HTTP/1.1 40")  # nginx's own, ours would be 200


def test_a_proxy_is_not_mistaken_for_the_application(behind_nginx: tuple[LocalServer, int]) -> None:
    server, port = behind_nginx
    body = {"stream": "news", "data": 1}
    status, answer = post(port, body, path="/mistake/_broadcast")
    assert status == 403
    assert "forwarded" in answer["error"]
    assert server.server.hub.counters.broadcasts == 0
