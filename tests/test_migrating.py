"""What docs/migrating.md says to write and to run, as it stands there."""

from __future__ import annotations

import http.server
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext

from fastcable.signing import bearer_key
from tests.harness import CABLE_UPGRADE, PATIENCE, UPGRADE, Client, Serve, Spawn
from tests.snippets import ROOT, at, snippet

PAGE = "docs/migrating.md"
TEXT = (ROOT / PAGE).read_text()


RAILS = "# fastcable.toml of a Rails"
ANYCABLE = "# fastcable.toml in place of AnyCable"
SECRETS = {RAILS: {"FASTCABLE_SECRET_KEY_BASE": "s" * 128}, ANYCABLE: {"FASTCABLE_SECRET": "s" * 32}}


def fastcable(*arguments: str, cwd: Path, **environment: str) -> str:
    command = [sys.executable, "-m", "fastcable", *arguments]
    done = subprocess.run(
        command, cwd=cwd, env={"PYTHONPATH": str(ROOT), **environment},
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_its_links_lead_somewhere() -> None:
    headings = {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
                for line in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        page, _, fragment = target.partition("#")
        assert fragment in headings if not page else (ROOT / "docs" / page).exists(), target


@pytest.mark.parametrize("beginning", ["port", RAILS, ANYCABLE])
def test_the_configuration_is_right(tmp_path: Path, beginning: str) -> None:
    secret = SECRETS.get(beginning, {})
    (tmp_path / "fastcable.toml").write_text(snippet(PAGE, "toml", beginning))
    fastcable("config", "--check", cwd=tmp_path, **secret)
    assert re.search(r"^port *= *3100 ", fastcable("config", cwd=tmp_path, **secret), re.MULTILINE)


@pytest.mark.parametrize("beginning", [RAILS, ANYCABLE])
def test_nobody_gets_around_signed_names(spawn: Spawn, tmp_path: Path, beginning: str) -> None:
    file = tmp_path / "fastcable.toml"
    file.write_text(snippet(PAGE, "toml", beginning))
    server = spawn("--config", str(file), env=SECRETS[beginning])
    signed = fastcable("sign", "news", cwd=tmp_path, **SECRETS[beginning]).strip()
    with server.connect(signed) as client:
        client.command(type="subscribe", stream="news")
        client.expect({"type": "error", "stream": "news", "reason": "stream must be a signed name"})


@pytest.mark.parametrize(("language", "beginning"), [("yaml", "# config/cable.yml"), ("ruby", "# Gemfile")])
def test_it_says_the_same_of_rails_as_the_manual_of_the_gem(language: str, beginning: str) -> None:
    assert snippet(PAGE, language, beginning) == snippet("clients/ruby/README.md", language, beginning)


def test_anycable_s_publishers_reach_its_pages(spawn: Spawn, tmp_path: Path) -> None:
    file = tmp_path / "fastcable.toml"
    file.write_text(snippet(PAGE, "toml", ANYCABLE))
    server = spawn("--config", str(file), "--actioncable-ping-interval", "60", env=SECRETS[ANYCABLE])
    url = at(server.port, snippet(PAGE, "", "ANYCABLE_BROADCAST_ADAPTER")).partition("ANYCABLE_HTTP_BROADCAST_URL=")[2]
    path = url.strip().removeprefix(f"http://127.0.0.1:{server.port}")
    key = {"Authorization": f"Bearer {bearer_key('s' * 32, 'broadcast-cable')}"}
    name = fastcable("sign", "news", cwd=tmp_path, **SECRETS[ANYCABLE]).strip()
    identifier = json.dumps({"channel": "$pubsub", "signed_stream_name": name})
    with Client(server.port) as page, Client(server.port) as author:
        sids = []
        for client in (page, author):
            client.upgrade(CABLE_UPGRADE)
            sids.append(client.receive()["sid"])
            client.command(command="subscribe", identifier=identifier)
            client.expect({"identifier": identifier, "type": "confirm_subscription"})
        for body in (
            {"stream": "news", "data": '{"text":"hi"}', "meta": {"exclude_socket": sids[1]}},
            {"stream": "news", "data": '"to all"'},
        ):
            assert server.request("POST", path, json.dumps(body), key)[::2] == (201, b"")
        page.expect({"identifier": identifier, "message": {"text": "hi"}})
        for client in (page, author):
            client.expect({"identifier": identifier, "message": "to all"})


# --- nginx, asking the application ------------------------------------------------------------------------------------


class MayListen(http.server.BaseHTTPRequestHandler):
    """The application: whoever has a session may listen."""

    def do_GET(self) -> None:
        allowed = self.path == "/may_listen" and self.headers["Cookie"] == "session=1"
        self.send_response(204 if allowed else 401)
        self.end_headers()

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def application() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), MayListen) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_nginx_lets_through_whom_the_application_lets(serve: Serve, application: int, tmp_path: Path) -> None:
    server = serve()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    locations = at(application, at(server.port, snippet(PAGE, "nginx")), 3000)
    folders = " ".join(f"{name}_temp_path {tmp_path};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {folders} server {{ listen 127.0.0.1:{port};\n{locations} }} }}\n"
    )
    with subprocess.Popen(["/usr/sbin/nginx", "-p", tmp_path, "-c", config], stderr=subprocess.PIPE) as nginx:
        try:
            wait_for_listener(port)
            request = UPGRADE.replace(b"/cable ", b"/fastcable ")
            with Client(port) as client:
                client.upgrade(request.replace(b"\r\n\r\n", b"\r\nCookie: session=1\r\n\r\n"))
                client.subscribe("news")
                assert server.post({"stream": "news", "data": 1}) == (200, {"subscribers": 1})
                client.expect({"type": "message", "stream": "news", "data": 1})
            for path in (b"/fastcable ", b"/may_listen ", b"/_broadcast ", b"/cable "):
                with Client(port) as client:
                    client.send(request.replace(b"/fastcable ", path))
                    status = client.read_until(b"\r\n").split()[1]
                    assert status == (b"401" if path == b"/fastcable " else b"404")
        finally:
            nginx.terminate()
            nginx.communicate(timeout=PATIENCE)


def wait_for_listener(port: int) -> None:
    """nginx without a master says nothing when it is ready."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
            return
        except ConnectionRefusedError:
            continue


# --- publishing -------------------------------------------------------------------------------------------------------


def test_listen_and_the_number_of_subscribers(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    block = snippet(PAGE, "", "fastcable listen news")
    listen, curl = block.replace(":3100", f":{server.port}").splitlines()
    command = [sys.executable, "-m", *listen.split()]
    with subprocess.Popen(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as listener:
        try:
            server.wait_until(lambda: server.server.hub.subscribers("news") == 1)
            assert shell(curl) == {"subscribers": 1}
            server.publish("news", {"heat": 4})
            assert listener.stdout is not None
            assert json.loads(listener.stdout.readline()) == {"stream": "news", "data": {"heat": 4}}
        finally:
            listener.terminate()
            listener.communicate(timeout=PATIENCE)


def test_curl_publishes(serve: Serve) -> None:
    server = serve(ping_interval=0)
    with server.connect("scores") as client:
        assert shell(at(server.port, snippet(PAGE, "", "curl -X POST"))) == {"subscribers": 1}
        client.expect({"type": "message", "stream": "scores", "data": {"heat": 4}})


def shell(command: str) -> Any:
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE, check=True)
    return json.loads(done.stdout)


def test_python_publishes(serve: Serve) -> None:
    server = serve(ping_interval=0)
    names: dict[str, Any] = {}
    exec(compile(at(server.port, snippet(PAGE, "python")), PAGE, "exec"), names)
    with server.connect("scores") as client, names["publisher"] as publisher:
        assert publisher.broadcast("scores", {"heat": 4}) == 1
        client.expect({"type": "message", "stream": "scores", "data": {"heat": 4}})


# --- in the page ------------------------------------------------------------------------------------------------------

def test_a_page_shows_what_is_published(serve: Serve, context: BrowserContext) -> None:
    server = serve(cable_path="/fastcable")
    script = snippet(PAGE, "javascript").replace("/static/", "/")
    html = f'<!doctype html><script type="module">const show = (data) => document.body.append(data)\n{script}</script>'
    page = context.new_page()
    page.route("**/", lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto(f"http://127.0.0.1:{server.port}/")
    server.wait_until(lambda: server.server.hub.subscribers("scores") == 1)
    server.publish("scores", "4 heats")
    page.get_by_text("4 heats").wait_for()
