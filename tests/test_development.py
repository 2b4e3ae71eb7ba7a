"""docs/development.md: what it tells to write down and to start is written down and started."""

from __future__ import annotations

import os
import re
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect

from fastcable.asgi.middleware import OPTIONS
from tests.harness import PATIENCE, ApplicationProcess, Reachable

ROOT = Path(__file__).parent.parent
MANUAL = (ROOT / "docs/development.md").read_text()

PAGES = {
    "FastAPI": '\n\n@api.get("/")\ndef home() -> str:\n    return "the page"\n',
    "Starlette": "",
}


def block(after: str) -> tuple[str, str]:
    """The first code block behind some text: the file it is for, and its text."""
    name, text = re.search(r"```\w*\n# (\S+)\n(.*?)```", MANUAL[MANUAL.index(after):], re.DOTALL).groups()  # type: ignore[union-attr]
    return name, text


def environment(directory: Path) -> dict[str, str]:
    """The application's folder and this package can be imported, and `fastcable` is a command."""
    command = directory / "fastcable"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m fastcable "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join((str(directory), os.path.dirname(sys.executable), os.environ["PATH"]))
    return {"PYTHONPATH": os.pathsep.join((str(directory), str(ROOT))), "PATH": path}


def get(server: Reachable, path: str) -> tuple[int, bytes]:
    status, _, content = server.request("GET", path)
    return status, content


def publish_and_receive(server: Reachable) -> None:
    with server.connect("scores") as client:
        assert server.post({"stream": "scores", "data": {"heat": 4}}) == (200, {"subscribers": 1})
        client.expect({"type": "message", "stream": "scores", "data": {"heat": 4}})


@pytest.mark.parametrize("framework", ["FastAPI", "Starlette"])
def test_an_application_of_three_lines(framework: str, tmp_path: Path) -> None:
    name, text = block(f"{framework}:\n")
    (tmp_path / name).write_text(text + PAGES[framework])
    with ApplicationProcess("uvicorn", "main:app", env=environment(tmp_path)) as server:
        publish_and_receive(server)
        assert get(server, "/") == ((200, b'"the page"') if framework == "FastAPI" else (404, b"Not Found"))
        server.stop()
        assert "Traceback" not in "".join(server.log)


def test_a_django_project(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "django", "startproject", "mysite", str(tmp_path)], check=True)
    name, text = block("Django:\n")
    assert "get_asgi_application" in (tmp_path / name).read_text()
    (tmp_path / name).write_text(text)
    with ApplicationProcess("uvicorn", "mysite.asgi:application", env=environment(tmp_path)) as server:
        publish_and_receive(server)
        status, page = get(server, "/")
        assert (status, b"The install worked successfully" in page) == (200, True)
        server.stop()
        assert "Traceback" not in "".join(server.log)


def test_an_applications_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for after in ("Starlette:\n", "### In tests"):
        name, text = block(after)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        runpy.run_path(str(tmp_path / name))["test_scores_are_shown"]()
    finally:
        del sys.modules["main"]


class Beside(Reachable):
    """What a Procfile started."""

    def __init__(self, port: int) -> None:
        self.port = port


@contextmanager
def start_all(procfile: str, directory: Path) -> Iterator[None]:
    """What a process manager does: start each line's command, and stop all."""
    with ExitStack() as stack:
        for line in procfile.splitlines():
            _, command = line.split(": ", 1)
            process = stack.enter_context(subprocess.Popen(
                ["sh", "-c", f"exec {command}"], cwd=directory, env={**os.environ, **environment(directory)},
                stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
            stack.callback(process.terminate)
        yield


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(port: int) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), PATIENCE).close()
        except ConnectionRefusedError:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_procfile_starts_a_wsgi_application_and_the_server_beside_it(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(
        'from flask import Flask\n\napp = Flask(__name__)\n\n\n@app.get("/")\ndef home():\n    return "the page"\n')
    name, procfile = block("## Everything else")
    assert name == "Procfile"
    web, cable = free_port(), free_port()
    assert (procfile.count("5000"), procfile.count("3000")) == (1, 1)
    with start_all(procfile.replace("5000", str(web)).replace("3000", str(cable)), tmp_path):
        wait_for(web)
        wait_for(cable)
        assert get(Beside(web), "/") == (200, b"the page")
        publish_and_receive(Beside(cable))


def test_a_page_lives_through_the_reload_of_its_application(context: BrowserContext) -> None:
    page = context.new_page()
    with ApplicationProcess("uvicorn", "tests.peers.application:app") as server:
        page.goto(f"http://127.0.0.1:{server.port}/page")
        expect(page.locator("#state")).to_have_text("live")
        server.post({"stream": "page", "data": "before"})
        expect(page.locator("#data")).to_have_text("before")
        server.stop()
        expect(page.locator("#state")).to_have_text("down")
    with ApplicationProcess("uvicorn", "tests.peers.application:app", "--port", str(server.port)) as server:
        expect(page.locator("#state")).to_have_text("live")
        server.post({"stream": "page", "data": "after"})
        expect(page.locator("#data")).to_have_text("after")


def test_the_options_are_named() -> None:
    listed = MANUAL.split("<!-- options -->")[1].split("<!-- /options -->")[0]
    assert tuple(re.findall(r"`(\w+)`", listed)) == OPTIONS
