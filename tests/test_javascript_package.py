"""clients/javascript: what npm packs is what the server serves, and it works where it is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Route

import fastcable
from tests.harness import Serve

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "clients" / "javascript"
CLIENT = ROOT / "fastcable" / "client"
MODULES = ROOT / "tests" / "js" / "node_modules"
FILES = ["fastcable-stream.d.ts", "fastcable-stream.js", "fastcable.d.ts", "fastcable.js"]


def run(*command: str | Path, cwd: Path, fails: bool = False) -> str:
    result = subprocess.run(
        command, cwd=cwd, env={**os.environ, "npm_config_update_notifier": "false"}, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )
    assert (result.returncode != 0) is fails, f"{command}\n{result.stdout}"
    return result.stdout


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert shutil.which("npm"), "these tests need Node.js with npm"
    folder = tmp_path_factory.mktemp("packed")
    run("npm", "pack", "--pack-destination", folder, cwd=PACKAGE)
    (packed,) = folder.iterdir()
    return packed


@pytest.fixture(scope="module")
def project(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of Node that has installed it."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    run("npm", "install", "--offline", "--no-audit", "--no-fund", tarball, cwd=folder)
    (folder / "node_modules" / "ws").symlink_to(MODULES / "ws")
    return folder


def test_its_version_is_the_servers() -> None:
    assert json.loads((PACKAGE / "package.json").read_text())["version"] == fastcable.__version__


def test_it_has_the_files_that_the_server_serves_and_leaves_no_copies(tarball: Path) -> None:
    assert tarball.name == f"fastcable-{fastcable.__version__}.tgz"
    with tarfile.open(tarball) as packed:
        content = {
            member.name.removeprefix("package/"): file.read()
            for member in packed if (file := packed.extractfile(member))
        }
    assert sorted(content) == sorted([*FILES, "LICENSE", "README.md", "package.json"])
    for name in FILES:
        assert content[name] == (CLIENT / name).read_bytes()
    assert [name for name in [*FILES, "LICENSE"] if (PACKAGE / name).exists()] == []


def test_it_is_not_packed_with_another_version_than_the_servers(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "clients" / "javascript")
    (tmp_path / "fastcable").mkdir()
    (tmp_path / "fastcable" / "__init__.py").write_text('__version__ = "9.8.7"\n')
    output = run("npm", "pack", cwd=tmp_path / "clients" / "javascript", fails=True)
    assert f"package.json: version is {fastcable.__version__}, and 9.8.7 in fastcable/__init__.py" in output


def test_a_node_project_subscribes(project: Path, serve: Serve) -> None:
    server = serve()
    (project / "main.js").write_text(
        """import WebSocket from "ws";
        import { createConsumer } from "fastcable";
        import { FastcableStreamElement } from "fastcable/element"; // does nothing here, and no harm

        const consumer = createConsumer(process.argv[2], { WebSocket });
        consumer.subscribe("s", {
          connected: () => fetch(process.argv[3], {
            method: "POST",
            headers: { "Content-Type": "application/json" },
            body: JSON.stringify({ stream: "s", data: typeof FastcableStreamElement }),
          }),
          received(data, { stream }) {
            console.log(stream, data);
            consumer.disconnect();
          },
        });"""
    )
    urls = [f"ws://127.0.0.1:{server.port}/cable", f"http://127.0.0.1:{server.port}/_broadcast"]
    assert run("node", "main.js", *urls, cwd=project) == "s function\n"


@pytest.mark.parametrize(("module", "resolution"), [("nodenext", "nodenext"), ("esnext", "bundler")])
def test_typescript_finds_its_types(project: Path, module: str, resolution: str) -> None:
    (project / "main.ts").write_text(
        """import { createConsumer, type Subscription } from "fastcable";
        import "fastcable/element";
        const scores: Subscription = createConsumer().subscribe<{ home: number }>("scores", {
          received: ({ home }, { stream }) => console.log(home.toFixed(), stream.length),
        });
        const element = document.createElement("fastcable-stream");
        element.addEventListener("turbo:stream-message", ({ detail }) => detail.stream);
        // @ts-expect-error no such thing
        scores.resubscribe();"""
    )
    flags = ["--strict", "--noEmit", "--target", "es2022", "--lib", "es2022,dom", "--types", ""]
    run(MODULES / ".bin" / "tsc", *flags, "--module", module, "--moduleResolution", resolution, "main.ts", cwd=project)


def test_a_page_imports_it_and_its_element(project: Path, context: BrowserContext, serve: Serve) -> None:
    server = serve()
    page_text = """<!doctype html>
        <script type="importmap">{ "imports": {
          "fastcable": "/node_modules/fastcable/fastcable.js",
          "fastcable/element": "/node_modules/fastcable/fastcable-stream.js"
        } }</script>
        <script type="module">
          import "fastcable/element";
          import { sharedConsumer } from "fastcable";
          addEventListener("turbo:stream-message", ({ detail }) => (document.title = JSON.stringify(detail)));
          document.body.dataset.state = sharedConsumer().state;
        </script>
        <body><fastcable-stream stream="s"></fastcable-stream></body>"""

    def answer(route: Route) -> None:
        path = urlsplit(route.request.url).path
        if path == "/app":
            route.fulfill(body=page_text, content_type="text/html")
        else:
            route.fulfill(path=project / path[1:])

    context.route(re.compile("/(app|node_modules/.*)$"), answer)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{server.port}/app")
    page.wait_for_selector("fastcable-stream[connected]", state="attached")
    assert page.get_attribute("body", "data-state") == "connecting", "the element's consumer is the shared one"
    assert server.post({"stream": "s", "data": [1]}) == (200, {"subscribers": 1})
    page.wait_for_function('document.title === \'{"stream":"s","data":[1]}\'')
