"""What `make dist` makes: an archive of the sources that builds, and a wheel that serves where nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastcable
from tests.harness import PATIENCE, ServerProcess

ROOT = Path(__file__).parent.parent
NOT_RELEASED = (".ci/", ".gitignore")  # for who works on it only
MADE = ("PKG-INFO", "setup.cfg", "fastcable.egg-info/")  # by setuptools, of pyproject.toml
BUILD = 280  # seconds


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive, and the wheel that was built of nothing but the archive.

    The compiler does not optimise, which saves half a minute."""
    directory = tmp_path_factory.mktemp("dist")
    compiler = directory / "cc"
    compiler.write_text('#!/bin/sh\nexec cc "$@" -O0\n')
    compiler.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "FASTCABLE_WERROR"}
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT)],
        env=environment | {"CC": str(compiler)}, cwd=directory, timeout=BUILD, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    assert built.returncode == 0, built.stdout
    return directory


def only(directory: Path, pattern: str) -> Path:
    (path,) = directory.glob(pattern)
    return path


@pytest.fixture(scope="module")
def sources(dist: Path) -> set[str]:
    """The files of the archive."""
    with tarfile.open(only(dist, "*.tar.gz")) as archive:
        names = [member.name for member in archive if not member.isdir()]
    assert {name.partition("/")[0] for name in names} == {f"fastcable-{fastcable.__version__}"}
    return {name.partition("/")[2] for name in names}


@pytest.fixture(scope="module")
def wheel(dist: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(only(dist, "*.whl"))


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="compares with what is under version control")
def test_the_archive_holds_what_is_under_version_control_and_nothing_else(sources: set[str]) -> None:
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    released = {
        name for name in listed.stdout.decode().split("\0")[:-1]
        if (ROOT / name).exists() and not name.startswith(NOT_RELEASED) and not name.endswith("/.gitignore")
    }
    assert {name for name in sources if not name.startswith(MADE)} == released


def test_nothing_in_the_archive_was_compiled_or_installed(sources: set[str]) -> None:
    generated = [
        name for name in sources
        if name.endswith((".so", ".pyc", ".o", ".whl", ".tgz")) or "node_modules" in name or "__pycache__" in name
        or (name.startswith("fastcable/") and name.endswith(".c"))
    ]
    assert generated == []


def test_the_wheel_holds_the_package_and_each_room_compiled(wheel: zipfile.ZipFile) -> None:
    package = {
        str(path.relative_to(ROOT)) for path in (ROOT / "fastcable").rglob("*")
        if path.is_file() and path.suffix not in (".c", ".so", ".pyc")
    }
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    compiled = {name for name in names if name.endswith(".so")}
    assert names - compiled == package
    rooms = {name.removesuffix(".pyx") for name in package if name.endswith(".pyx")}
    assert {name.partition(".")[0] for name in compiled} == rooms


def test_the_wheel_asks_for_three_packages(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    fields = [line.partition(": ") for line in wheel.read(name).decode().partition("\n\n")[0].splitlines()]
    needs = [value for field, _, value in fields if field == "Requires-Dist" and "extra ==" not in value]
    assert sorted(need.partition(">")[0] for need in needs) == ["httptools", "orjson", "uvloop"]
    assert ("Version", ": ", fastcable.__version__) in fields
    assert ("License-Expression", ": ", "MIT") in fields


class Installation:
    """An environment of its own with the wheel in it and what the wheel asks for."""

    def __init__(self, directory: Path, wheel: Path) -> None:
        self.bin = directory / "bin"
        self.directory = directory
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--quiet",
             "--disable-pip-version-check", str(wheel)],
            check=True, timeout=BUILD)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("FASTCABLE_", "PYTHON"))}

    def run(self, *command: str) -> str:
        """What a command of the environment prints, run where none of the sources are."""
        done = subprocess.run(
            [str(self.bin / command[0]), *command[1:]], cwd=self.directory, env=self.environment,
            capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.bin / command[0]), *command[1:]], cwd=self.directory, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def installation(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("installation"), only(dist, "*.whl"))


class InstalledServer(ServerProcess):
    def __init__(self, installation: Installation) -> None:
        command = ["env", "-C", str(installation.directory), str(installation.bin / "fastcable"), "serve"]
        command += ["--host", "127.0.0.1", "--port", "0", "--ping-interval", "0", "--idle-timeout", "0"]
        self._start(command, None, r"listens on http://127\.0\.0\.1:(\d+)")


@pytest.fixture
def server(installation: Installation) -> Iterator[InstalledServer]:
    with InstalledServer(installation) as server:
        yield server


def test_the_installed_command_is_that_of_the_wheel(installation: Installation) -> None:
    assert installation.run("fastcable", "--version") == f"fastcable {fastcable.__version__}\n"
    path = installation.run("python", "-c", "import fastcable.server; print(fastcable.server.__file__)")
    assert Path(path).is_relative_to(installation.directory)
    assert installation.run("fastcable", "config", "--check") == "ok\n"


def test_the_installed_server_serves_and_its_commands_publish_and_listen(
    installation: Installation, server: InstalledServer
) -> None:
    with installation.start("fastcable", "listen", "news", "--url", f"ws://127.0.0.1:{server.port}/cable") as listener:
        try:
            with server.connect("ready") as client:
                while server.request("GET", "/_streams?stream=news")[2] != b'{"subscribers":1}':
                    pass
                publish = ("fastcable", "publish", "news", '{"n":1.50}', "--url")
                assert installation.run(*publish, f"http://127.0.0.1:{server.port}/_broadcast") == '{"subscribers":1}\n'
                assert server.post({"stream": "ready", "data": 1}) == (200, {"subscribers": 1})
                client.expect({"type": "message", "stream": "ready", "data": 1})
            assert listener.stdout is not None
            assert listener.stdout.readline() == '{"stream":"news","data":{"n":1.50}}\n'
        finally:
            listener.kill()
    assert server.stop() == 0
    assert "Traceback" not in "".join(server.log)


def test_the_installed_server_has_the_browsers_files(server: InstalledServer) -> None:
    for name in ("fastcable.js", "fastcable-stream.js"):
        status, _, content = server.request("GET", f"/{name}")
        assert (status, content) == (200, (ROOT / "fastcable" / "client" / name).read_bytes())


def test_a_typed_publisher_is_installed(installation: Installation) -> None:
    code = "import fastcable, json, os; print(json.dumps(os.listdir(os.path.dirname(fastcable.__file__))))"
    assert {"py.typed", "_hub.pyi"} <= set(json.loads(installation.run("python", "-c", code)))
    assert installation.run("python", "-c", "from fastcable import Publisher; print(Publisher)") == (
        "<class 'fastcable.client.publisher.Publisher'>\n")
