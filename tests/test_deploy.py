"""The files of examples/deploy: checked by systemd's own tools, and in use: nginx and Caddy in front of a server."""

from __future__ import annotations

import base64
import contextlib
import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.activation import handed_over, variables
from tests.harness import CLOSE, PATIENCE, UPGRADE, Client, LocalServer, Reachable, Serve, ServerProcess, Spawn, until
from tests.nginx import free_port, nginx

DEPLOY = Path(__file__).parent.parent / "examples" / "deploy"
UNITS = ("fastcable.service", "fastcable.socket", "fastcable-broadcast.socket")
EXPOSURE = 1.1
"""Of the unit as systemd-analyze counts it: 0 is nothing, 10 everything."""


# systemd


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units as installed, with a command that is there."""
    for name in UNITS:
        text = (DEPLOY / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/fastcable/bin/fastcable", sys.executable))
    return tmp_path


def analyze(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["/usr/bin/systemd-analyze", *arguments], cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=PATIENCE, check=False, env={**os.environ, "SYSTEMD_PAGER": "", "LC_ALL": "C.UTF-8"})
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_systemd_has_nothing_to_say_against_the_units(units: Path) -> None:
    assert analyze(units, "verify", "--man=no", *(f"./{name}" for name in UNITS)) == ""


def test_the_service_has_what_it_needs_and_little_else(units: Path) -> None:
    told = analyze(units, "security", "--offline=true", "--no-pager", "./fastcable.service")
    found = re.search(r"Overall exposure level for fastcable.service: ([\d.]+) OK", told)
    assert found
    assert float(found[1]) <= EXPOSURE


def system_calls(directory: Path, names: list[str]) -> set[str]:
    """The calls of groups, as systemd knows them."""
    found: set[str] = set()
    for name in names:
        if not name.startswith("@"):
            found.add(name)
            continue
        lines = analyze(directory, "syscall-filter", "--no-pager", name).splitlines()[1:]
        found |= system_calls(directory, [line.strip() for line in lines if not line.lstrip().startswith("#")])
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_the_service_may_call_what_the_server_calls(units: Path, workers: int) -> None:
    """strace's list of a whole life, from the start on a socket of systemd's through a reload to a drain, against
    SystemCallFilter."""
    allowed: set[str] = set()
    for value in re.findall(r"^SystemCallFilter=(.*)$", (DEPLOY / UNITS[0]).read_text(), re.MULTILINE):
        named = system_calls(units, value.removeprefix("~").split())
        allowed = allowed - named if value.startswith("~") else allowed | named
    with Traced(units / "calls", workers) as server:
        for _ in range(2):
            with server.connect("s") as client, Client(server.port) as other:
                assert server.post({"stream": "s", "data": 1})[0] == 200
                client.expect({"type": "message", "stream": "s", "data": 1})
                other.send(b"GET / HTTP/1.1\r\n\r\n")
                other.read_until(b"\r\n\r\n")
            if "reloaded" not in "".join(server.log):
                server.process.send_signal(signal.SIGHUP)
                until(lambda: "reloaded" in "".join(server.log))
        with server.connect("s"):
            assert server.stop() == 0
    calls = re.findall(r"^\d+ +(\w+)\(", (units / "calls").read_text(), re.MULTILINE)
    server_calls = calls[calls.index("execve", 1):]  # what hands over is no part of it
    assert {"accept4", "execve", "memfd_create"} < set(server_calls)
    assert sorted(set(server_calls) - allowed) == []


class Traced(ServerProcess):
    def __init__(self, log: Path, workers: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as kept:
            arguments = (
                "--workers", str(workers), "--ping-interval", "0", "--reload-drain", "0", "--drain-timeout", "0")
            # -D: the process is the server, not strace.
            command = ["strace", "-D", "-f", "-qq", "-o", str(log), *handed_over([kept], *arguments)]
            self._start(command, variables([kept], None), r"listens on http://127\.0\.0\.1:(\d+)", [kept.fileno()])


# Procfile


def test_the_procfile_starts_a_server_on_the_platforms_port(tmp_path: Path) -> None:
    name, _, command = (DEPLOY / "Procfile").read_text().strip().partition(": ")
    assert name == "cable"
    (tmp_path / "fastcable").write_text(f'#!/bin/sh\nexec {sys.executable} -m fastcable "$@"\n')
    (tmp_path / "fastcable").chmod(0o755)
    port = free_port()
    with Started(
        ["sh", "-c", f"exec {command}"], {"PORT": str(port), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        r"listens on http://0\.0\.0\.0:(\d+)",
    ) as server:
        assert server.port == port
        with server.connect("s"):
            pass


class Started(ServerProcess):
    def __init__(self, command: list[str], env: dict[str, str], pattern: str) -> None:
        self._start(command, env, pattern)


# nginx


class Proxy(Reachable):
    def __init__(self, port: int) -> None:
        self.port = port

    def answer(self, *headers: str) -> bytes:
        """The status line that an opening request with these headers gets."""
        with Client(self.port) as client:
            client.send(UPGRADE[:-2] + "".join(f"{header}\r\n" for header in headers).encode() + b"\r\n")
            return client.read_until(b"\r\n")


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """Puts nginx with one of the files in front of a port: behind("nginx.conf", port, {"75s": "1s"})."""
    with contextlib.ExitStack() as stack:

        def behind(name: str, port: int, changes: dict[str, str] | None = None) -> Proxy:
            text = (DEPLOY / name).read_text()
            outer = free_port()
            ports = {"listen 80;": f"listen 127.0.0.1:{outer};", "127.0.0.1:3000": f"127.0.0.1:{port}"}
            for old, new in (ports | (changes or {})).items():
                assert text.count(old) == 1, old
                text = text.replace(old, new)
            stack.enter_context(nginx(text, tmp_path))
            return Proxy(outer)

        yield behind


Behind = Callable[..., Proxy]
OPEN, CLOSED = b"HTTP/1.1 101 Switching Protocols\r\n", b"HTTP/1.1 401 Unauthorized\r\n"


def publish_and_receive(proxy: Reachable, server: Reachable) -> None:
    with proxy.connect("s") as client:
        assert server.post({"stream": "s", "data": "hello"}) == (200, {"subscribers": 1})
        client.expect({"type": "message", "stream": "s", "data": "hello"})


OTHER_PATHS = ("/_broadcast", "/health", "/", "/cable/../_broadcast", "/cable/", "/_streams?stream=s")
NGINX = ("nginx.conf", "nginx-auth-basic.conf", "nginx-auth-request.conf")


@pytest.mark.parametrize("name", NGINX)
@pytest.mark.parametrize("path", OTHER_PATHS)
def test_nginx_forwards_the_cable_path_only(behind: Behind, serve: Serve, name: str, path: str, tmp_path: Path) -> None:
    files = {"/etc/nginx/cable.htpasswd": str(tmp_path / "none")} if "basic" in name else {}
    proxy = behind(name, serve(ticking=False).port, files)
    for method in ("GET", "POST"):
        status, headers, content = proxy.request(method, path, b"{}", {"Content-Type": "application/json"})
        assert (status in (403, 404, 405), headers["Content-Type"]) == (True, "text/html")
        assert b"<center>nginx" in content


def test_nginx_lets_messages_through(behind: Behind, serve: Serve) -> None:
    server = serve(ticking=False)
    publish_and_receive(behind("nginx.conf", server.port), server)


def test_pings_keep_a_connection_open_in_nginx(behind: Behind, serve: Serve) -> None:
    server = serve(ping_interval=0.3)
    with behind("nginx.conf", server.port, {"75s;  ": "1s;"}).connect("s") as client:
        for _ in range(6):  # which come in 1.8 s or more
            while client.read_frame()[1] != b'{"type":"ping"}':
                pass
        assert server.post({"stream": "s", "data": 1}) == (200, {"subscribers": 1})


def test_without_pings_nginx_ends_a_silent_connection(behind: Behind, serve: Serve) -> None:
    """So the time-out that the test above outlives is one."""
    server = serve(ping_interval=0.0)
    with behind("nginx.conf", server.port, {"75s;  ": "1s;"}).connect("s") as client:
        client.read_eof()
    server.wait_for_connections(0)


def test_a_drain_reaches_clients_behind_nginx(behind: Behind, spawn: Spawn) -> None:
    server = spawn("--ping-interval", "0", "--idle-timeout", "0")
    with behind("nginx.conf", server.port).connect("s") as client:
        server.process.send_signal(signal.SIGTERM)
        assert client.read_close() == (1001, "server stopping")
        client.send_frame(CLOSE)
        client.read_eof()
    assert server.wait() == 0


def test_nginx_says_so_when_there_is_no_server(behind: Behind) -> None:
    assert behind("nginx.conf", free_port()).answer() == b"HTTP/1.1 502 Bad Gateway\r\n"


def basic(password: str) -> str:
    return f"Authorization: Basic {base64.b64encode(f'ann:{password}'.encode()).decode()}"


def test_auth_basic_lets_in_those_who_know_the_password(behind: Behind, serve: Serve, tmp_path: Path) -> None:
    passwords = tmp_path / "cable.htpasswd"
    passwords.write_text("ann:{PLAIN}open sesame\n")
    server = serve(ticking=False)
    proxy = behind("nginx-auth-basic.conf", server.port, {"/etc/nginx/cable.htpasswd": str(passwords)})
    assert proxy.answer() == CLOSED
    assert proxy.answer(basic("open")) == CLOSED
    server.wait_for_connections(0)
    assert proxy.answer(basic("open sesame")) == OPEN


class Application(http.server.BaseHTTPRequestHandler):
    """Lets in who brings the cookie of somebody who logged in; `asked` keeps what it was asked."""

    asked: list[tuple[str, str | None, str | None]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["X-Original-URI"], self.headers["Upgrade"]))
        status = {"session=ann": 200, "session=bob": 403, "session=oops": 500}.get(self.headers["Cookie"] or "", 401)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def application() -> Iterator[type[Application]]:
    handler = type("Handler", (Application,), {"asked": []})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        handler.port = server.server_port  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("headers", "status"), [
    (["Cookie: session=ann"], OPEN),
    (["Cookie: session=bob"], b"HTTP/1.1 403 Forbidden\r\n"),
    (["Cookie: session=oops"], b"HTTP/1.1 500 Internal Server Error\r\n"),
    ([], CLOSED),
], ids=["known", "forbidden", "an error", "unknown"])
def test_auth_request_lets_in_whom_the_application_lets_in(
    behind: Behind, serve: Serve, application: type[Application], headers: list[str], status: bytes
) -> None:
    server = serve(ticking=False)
    changes = {"127.0.0.1:8000": f"127.0.0.1:{application.port}"}  # type: ignore[attr-defined]
    proxy = behind("nginx-auth-request.conf", server.port, changes)
    assert proxy.answer(*headers) == status
    assert application.asked == [("/may-connect", "/cable", None)]
    server.wait_for_connections(0)
    assert proxy.request("GET", "/may-connect")[0] == 404  # it is nobody else's


def test_auth_request_lets_nobody_in_when_the_application_is_down(behind: Behind, serve: Serve) -> None:
    proxy = behind("nginx-auth-request.conf", serve(ticking=False).port, {"127.0.0.1:8000": f"127.0.0.1:{free_port()}"})
    assert proxy.answer("Cookie: session=ann") == b"HTTP/1.1 500 Internal Server Error\r\n"


# Caddy


@pytest.fixture
def caddy(serve: Serve, tmp_path: Path) -> Iterator[tuple[LocalServer, Proxy]]:
    server, outer = serve(ticking=False), free_port()
    text = (DEPLOY / "Caddyfile").read_text()
    site = f"http://127.0.0.1:{outer}, http://localhost:{outer}"
    for old, new in ("example.com", site), ("127.0.0.1:3000", f"127.0.0.1:{server.port}"):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "Caddyfile").write_text("{\n\tadmin off\n\tdefault_bind 127.0.0.1\n}\n" + text)
    with subprocess.Popen(
        ["/usr/bin/caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile"], cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    ) as process:
        assert process.stderr is not None
        log = []
        for line in process.stderr:
            log.append(line)
            if "serving initial configuration" in line:
                break
        else:
            pytest.fail(f"caddy did not start: {''.join(log)}")
        reading = threading.Thread(target=process.stderr.read)
        reading.start()
        try:
            yield server, Proxy(outer)
        finally:
            process.kill()
            process.wait(PATIENCE)
            reading.join()


def test_caddy_forwards_messages_and_the_cable_path_only(caddy: tuple[LocalServer, Proxy]) -> None:
    server, proxy = caddy
    publish_and_receive(proxy, server)
    for path in ("/_broadcast", "/health", "/", "/cable/", "/cable/../_broadcast"):
        status, headers, content = proxy.request("GET", path)
        assert (status, headers["Server"], content) == (200, "Caddy", b""), path  # its answer where nothing is
        assert proxy.request("POST", path, b'{"stream":"s","data":1}', {"Content-Type": "application/json"})[2] == b""
    assert server.server.hub.counters.broadcasts == 1
