"""Where the server listens, and what it says when it cannot."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fastcable import listeners
from fastcable.listeners import CannotListen, InUse, Listening, together
from fastcable.settings import Settings
from tests.harness import PATIENCE, Client, LocalServer, Serve, post


def get(host: str, port: int, path: str) -> int:
    """The status of a GET."""
    with closing(http.client.HTTPConnection(host, port, timeout=PATIENCE)) as connection:
        connection.request("GET", path)
        with connection.getresponse() as answer:
            answer.read()
            return answer.status


def run(*arguments: str) -> tuple[int, str]:
    """`fastcable serve`, which must end by itself: exit code and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "fastcable", "serve", *arguments], capture_output=True, text=True, timeout=PATIENCE,
        check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


# TCP


def test_localhost_is_both_loopback_addresses_on_one_port(serve: Serve) -> None:
    server = serve(host=("localhost",))
    one, two = server.server.sockets
    assert listeners.name(one) == f"http://127.0.0.1:{server.port}"
    assert listeners.name(two) == f"http://[::1]:{server.port}"
    assert get("127.0.0.1", server.port, "/health") == get("::1", server.port, "/health") == 200


def test_port_0_takes_a_free_port(serve: Serve) -> None:
    ports = {serve().port for _ in range(3)}
    assert len(ports) == 3
    assert 0 not in ports


def test_several_hosts_share_the_port(serve: Serve) -> None:
    server = serve(host=("127.0.0.1", "127.0.0.2", "127.0.0.3"))
    for host in server.settings.host:
        assert get(host, server.port, "/health") == 200


def test_a_host_stands_for_all_its_addresses_and_ipv6_is_not_ipv4(serve: Serve) -> None:
    server = serve(host=("::", "0.0.0.0"))
    assert [sock.family for sock in server.server.sockets] == [socket.AF_INET6, socket.AF_INET]
    assert get("127.0.0.1", server.port, "/health") == get("::1", server.port, "/health") == 200


def test_one_line_says_what_listens_where(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fastcable")
    server = serve(host=("localhost",), broadcast_listen="127.0.0.1:0", max_connections=7)
    (record,) = caplog.records
    assert re.fullmatch(
        rf"fastcable \S+ listens on http://127\.0\.0\.1:{server.port}, http://\[::1\]:{server.port}, "
        r"http://127\.0\.0\.1:\d+: WebSockets \(at most 7\) on /cable, broadcasts on 127\.0\.0\.1:0/_broadcast",
        record.getMessage())


def test_a_port_in_use_is_one_line_and_exit_code_1(taken: int) -> None:
    assert run("--host", "127.0.0.1", "--port", str(taken)) == (
        1, f"fastcable: cannot listen on 127.0.0.1 port {taken}: already in use\n")


def test_half_of_localhost_in_use_is_in_use(taken: int) -> None:
    with pytest.raises(CannotListen, match=f"^cannot listen on 127.0.0.1 port {taken}: already in use$"):
        listeners.open_sockets(Settings(port=taken))


def test_sockets_that_were_open_already_are_closed_again() -> None:
    with socket.create_server(("127.0.0.9", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CannotListen, match=rf"^cannot listen on 127\.0\.0\.9 port {port}: already in use$"):
            listeners.open_sockets(Settings(host=("127.0.0.8", "127.0.0.9"), port=port))
        with socket.create_server(("127.0.0.8", port)):
            pass


def test_a_port_that_is_free_at_one_address_only_is_not_taken_for_port_0(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = listeners._bind
    ports = []

    def bind_if_it_is_the_third(family: int, address: Any, settings: Settings) -> socket.socket:
        if address[0] == "127.0.0.9":
            ports.append(address[1])
            if len(ports) < 3:
                raise InUse("taken")
        return bind(family, address, settings)

    monkeypatch.setattr(listeners, "_bind", bind_if_it_is_the_third)
    sockets = listeners.open_sockets(Settings(host=("127.0.0.8", "127.0.0.9"), port=0))
    assert [sock.getsockname()[1] for sock in sockets] == [ports[2], ports[2]]
    for sock in sockets:
        sock.close()


def test_port_0_is_not_tried_for_ever() -> None:
    with pytest.raises(CannotListen, match=r"^cannot listen on 127\.0\.0\.1 port \d+: already in use$"):
        listeners.open_sockets(Settings(host=("127.0.0.1", "127.0.0.1"), port=0))


def test_an_address_that_is_named_twice_is_in_use() -> None:
    """Neither of the two sockets is anybody's yet, and binding alone would not find that out."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(CannotListen, match=f"^cannot listen on 127.0.0.1 port {port}: already in use$"):
        listeners.open_sockets(Settings(host=("127.0.0.1", "localhost"), port=port))


def test_a_host_that_nobody_knows_is_one_line_and_exit_code_1() -> None:
    code, log = run("--host", "nobody.invalid", "--port", "0")
    assert code == 1
    warning, error = log.splitlines()
    assert "allowed_origins is not set" in warning
    assert error.startswith("fastcable: cannot listen on nobody.invalid: ")


def test_an_address_that_is_not_ours_cannot_be_listened_on() -> None:
    with pytest.raises(CannotListen, match=r"^cannot listen on 192\.0\.2\.1 port 0: Cannot assign requested address$"):
        listeners.open_sockets(Settings(host=("192.0.2.1",), port=0))


# Unix sockets


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


def request(path: str, data: bytes) -> bytes:
    with Client(path) as client:
        client.send(data)
        return client.read_until(b"}")


HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def broadcast(body: bytes) -> bytes:
    return (
        b"POST /_broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )


def test_a_unix_socket_replaces_host_and_port(serve: Serve, path: str) -> None:
    server = serve(uds=path, port=3000)
    (sock,) = server.server.sockets
    assert listeners.name(sock) == f"unix:{path}"
    assert request(path, HEALTH).startswith(b"HTTP/1.1 200 ")


def test_over_a_unix_socket_one_may_publish_without_a_key(serve: Serve, path: str) -> None:
    serve(uds=path)
    with Client(path) as client:
        client.upgrade()
        client.subscribe("s")
        assert request(path, broadcast(b'{"stream":"s","data":1}')).endswith(b'\r\n\r\n{"subscribers":1}')
        client.expect({"type": "message", "stream": "s", "data": 1})


def test_over_a_unix_socket_a_key_is_needed_where_there_is_one(serve: Serve, path: str) -> None:
    serve(uds=path, broadcast_key="secret")
    assert request(path, broadcast(b'{"stream":"s","data":1}')).startswith(b"HTTP/1.1 401 ")


def test_the_socket_of_a_dead_server_is_replaced(serve: Serve, path: str) -> None:
    """R15."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    serve(uds=path)
    assert request(path, HEALTH).startswith(b"HTTP/1.1 200 ")


def test_the_socket_of_a_live_server_is_left_alone(serve: Serve, path: str) -> None:
    serve(uds=path)
    assert run("--uds", path) == (1, f"fastcable: cannot listen on {path}: already in use\n")
    assert request(path, HEALTH).startswith(b"HTTP/1.1 200 ")


def test_a_file_that_is_no_socket_is_left_alone(path: str) -> None:
    Path(path).write_text("precious")
    with pytest.raises(CannotListen, match=f"^cannot listen on {path}: already in use$"):
        listeners.open_sockets(Settings(uds=path))
    assert Path(path).read_text() == "precious"


def test_a_unix_socket_needs_its_directory(path: str) -> None:
    with pytest.raises(CannotListen, match=f"^cannot listen on {path}/socket: No such file or directory$"):
        listeners.open_sockets(Settings(uds=f"{path}/socket"))


def test_the_socket_is_removed_at_the_end(path: str) -> None:
    with LocalServer(uds=path):
        assert os.path.exists(path)
    assert not os.path.exists(path)


def test_a_server_that_did_not_start_removes_nothing(serve: Serve, path: str, taken: int) -> None:
    serve(uds=path)
    with pytest.raises(CannotListen):
        serve(uds=path, broadcast_listen=f"127.0.0.1:{taken}")
    assert request(path, HEALTH).startswith(b"HTTP/1.1 200 ")


def test_a_server_that_got_no_further_than_its_socket_removes_it(serve: Serve, path: str, taken: int) -> None:
    with pytest.raises(CannotListen):
        serve(uds=path, broadcast_listen=f"127.0.0.1:{taken}")
    assert not os.path.exists(path)


def start(path: str) -> subprocess.Popen[str]:
    """`fastcable serve --uds`, listening."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fastcable", "serve", "--uds", path], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert f"listens on unix:{path}:" in process.stderr.readline()
    return process


def end(process: subprocess.Popen[str], number: int) -> int:
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    return process.returncode


def test_a_process_that_was_killed_leaves_its_socket_to_the_next(path: str) -> None:
    """R15."""
    assert end(start(path), signal.SIGKILL) == -signal.SIGKILL
    assert os.path.exists(path)
    process = start(path)
    assert request(path, HEALTH).startswith(b"HTTP/1.1 200 ")
    assert end(process, signal.SIGTERM) == 0
    assert not os.path.exists(path)


# broadcast_listen


@pytest.fixture
def split(serve: Serve) -> tuple[LocalServer, int]:
    """A server with a listener of its own for broadcasts, and its port."""
    server = serve(broadcast_listen="127.0.0.1:0")
    return server, server.server.sockets[1].getsockname()[1]


def test_broadcasts_can_have_a_listener_of_their_own(split: tuple[LocalServer, int]) -> None:
    server, port = split
    with server.connect("s") as client:
        assert post(server.port, {"stream": "s", "data": 0}) == (404, {"error": "not found"})
        assert post(port, {"stream": "s", "data": 1}) == (200, {"subscribers": 1})
        client.expect({"type": "message", "stream": "s", "data": 1})


def test_the_listener_for_broadcasts_has_no_cable(split: tuple[LocalServer, int]) -> None:
    server, port = split
    assert (get("127.0.0.1", server.port, "/cable"), get("127.0.0.1", port, "/cable")) == (426, 404)
    assert (get("127.0.0.1", server.port, "/_broadcast"), get("127.0.0.1", port, "/_broadcast")) == (404, 405)
    assert (get("127.0.0.1", server.port, "/health"), get("127.0.0.1", port, "/health")) == (200, 200)


def test_broadcasts_may_be_apart_from_a_unix_socket(serve: Serve, path: str) -> None:
    server = serve(uds=path, broadcast_listen="[::1]:0")
    assert listeners.name(server.server.sockets[1]).startswith("http://[::1]:")
    assert request(path, broadcast(b'{"stream":"s","data":1}')).startswith(b"HTTP/1.1 404 ")


def test_a_listener_for_broadcasts_that_is_in_use_is_one_line_and_exit_code_1(taken: int) -> None:
    assert run("--port", "0", "--broadcast-listen", f"127.0.0.1:{taken}") == (
        1, f"fastcable: cannot listen on 127.0.0.1 port {taken}: already in use\n")


def test_a_live_server_whose_backlog_is_full_keeps_its_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as live, socket.socket(socket.AF_UNIX) as waiting:
        live.bind(path)
        live.listen(0)
        waiting.connect(path)
        with pytest.raises(InUse, match="already in use"):
            listeners.open_sockets(Settings(uds=path))


# Several processes


def accepted(listening: Listening) -> int:
    """How many connections wait there; they are closed."""
    count = 0
    for sock in listening.sockets:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.accept()[0].close()
                count += 1
    return count


@pytest.fixture
def shared() -> Iterator[tuple[Listening, Listening, Settings]]:
    settings = Settings(host=("127.0.0.1",), port=0)
    with closing(listeners.open_listening(settings)) as one, closing(one.another(settings)) as two:
        yield one, two, settings


def connect(listening: Listening, count: int) -> None:
    for _ in range(count):
        socket.create_connection(listening.sockets[0].getsockname()).close()


def test_connections_are_divided_among_sockets_of_one_address(shared: tuple[Listening, Listening, Settings]) -> None:
    one, two, _ = shared
    assert one.names() == two.names()
    connect(one, 60)
    counts = [accepted(one), accepted(two)]
    assert sum(counts) == 60
    assert min(counts) > 0


def test_what_is_suspended_gets_no_connections_until_it_is_resumed(
    shared: tuple[Listening, Listening, Settings]
) -> None:
    one, two, settings = shared
    two.suspend()
    assert two.sockets == []
    connect(one, 20)
    assert accepted(one) == 20
    two.resume(settings)
    assert one.names() == two.names()
    connect(one, 60)
    assert accepted(two) > 0


def test_a_unix_socket_is_shared_and_never_suspended(path: str) -> None:
    settings = Settings(uds=path)
    with closing(listeners.open_listening(settings)) as one, closing(one.another(settings)) as two:
        two.suspend()
        assert one.names() == two.names() == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            assert accepted(two) == 1


def test_sockets_of_several_can_be_one_process_s(shared: tuple[Listening, Listening, Settings]) -> None:
    one, two, _ = shared
    joined = together([one, two])
    assert joined.names() == one.names()
    connect(one, 20)
    assert accepted(joined) == 20
