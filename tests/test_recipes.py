"""The recipes for web frameworks, run as their users do: real servers, and a real subscriber."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest

from tests.harness import PATIENCE, Client, ServerProcess, Spawn

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "examples" / "recipes"


def environment(server: ServerProcess, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FASTCABLE_")}
    return {
        **clean, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1",
        "FASTCABLE_BROADCAST_URL": f"http://127.0.0.1:{server.port}/_broadcast", **more,
    }  # fmt: skip


class Application:
    """A web application as a process; its log says where it listens."""

    def __init__(self, directory: Path, *command: str, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], cwd=directory, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.log: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line)
            if found := re.search(r"(?:Listening at:|running on|server at) (http://127\.0\.0\.1:\d+)", line):
                self.url = found[1]
                break
        else:
            raise RuntimeError("".join(self.log))
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stdout or []))
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def post(self, path: str, **form: str) -> bytes:
        data = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(self.url + path, data, timeout=PATIENCE) as answer:
            return bytes(answer.read())


@pytest.fixture
def run() -> Iterator[Callable[..., Application]]:
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(Application(*arguments, **options))


def expect(client: Client, stream: str, data: object) -> None:
    client.expect({"type": "message", "stream": stream, "data": data})


def test_flask_with_workers_forked_after_a_message(spawn: Spawn, run: Callable[..., Application],
                                                   tmp_path: Path) -> None:  # fmt: skip
    """Had the workers gone on with the connection of their parent, answers would be mixed up."""
    (tmp_path / "preloaded.py").write_text(
        "from app import app, publisher\npublisher.broadcast('scores', 'application loaded')\n"
    )
    server = spawn("--ping-interval", "0")
    with server.connect("scores") as client:
        application = run(
            RECIPES / "flask", "-m", "gunicorn", "--preload", "--workers", "2", "--bind", "127.0.0.1:0",
            "--pythonpath", str(tmp_path), "preloaded:app", env=environment(server),
        )  # fmt: skip
        expect(client, "scores", "application loaded")
        for heat in range(20):
            assert application.post(f"/scores/{heat}", points="17") == b'{"heat":%d}\n' % heat
            expect(client, "scores", {"heat": heat, "points": 17})


def test_flask_without_a_fastcable_server(spawn: Spawn, run: Callable[..., Application]) -> None:
    server = spawn("--ping-interval", "0")
    env = environment(server)
    server.stop()
    application = run(RECIPES / "flask", "-m", "gunicorn", "--bind", "127.0.0.1:0", "app:app", env=env)
    assert application.post("/scores/4", points="17") == b'{"heat":4}\n'
    application.__exit__()
    assert any("a message was not published" in line and "connection refused" in line for line in application.log)


def test_fastapi(spawn: Spawn, run: Callable[..., Application]) -> None:
    server = spawn("--ping-interval", "0")
    with server.connect("scores") as client:
        application = run(RECIPES / "fastapi", "-m", "uvicorn", "--port", "0", "app:app", env=environment(server))
        for heat in range(3):
            assert application.post(f"/scores/{heat}?points=17") == b'{"heat":%d}' % heat
            expect(client, "scores", {"heat": heat, "points": 17})


def manage(env: dict[str, str], *arguments: str, code: int = 0) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "manage.py", *arguments], cwd=RECIPES / "django", env=env,
                          text=True, capture_output=True, timeout=PATIENCE, check=False)  # fmt: skip
    assert done.returncode == code, done
    return done.stdout + done.stderr


ROLLED_BACK = """
from django.db import transaction
from scores.models import Score
try:
    with transaction.atomic():
        Score.objects.create(heat=5, points=1)
        raise KeyError
except KeyError:
    Score.objects.create(heat=6, points=2)
"""


def test_django(spawn: Spawn, run: Callable[..., Application], tmp_path: Path) -> None:
    server = spawn("--ping-interval", "0")
    env = environment(server, DATABASE=str(tmp_path / "scores.sqlite3"))
    manage(env, "makemigrations", "--check")
    manage(env, "migrate")
    with server.connect("scores", "announcements") as client:
        application = run(RECIPES / "django", "manage.py", "runserver", "--noreload", "127.0.0.1:0", env=env)
        for points in (17, 18):
            assert application.post("/scores/4", points=str(points)) == b'{"heat": 4}'
            expect(client, "scores", {"heat": 4, "points": points})
        manage(env, "shell", "-c", ROLLED_BACK)
        expect(client, "scores", {"heat": 6, "points": 2})  # and nothing of heat 5
        assert manage(env, "announce", "Heat 7 starts") == "shown to 1\n"
        expect(client, "announcements", "Heat 7 starts")
    with server.connect("scores") as newcomer:
        expect(newcomer, "scores", {"heat": 6, "points": 2})
    server.stop()
    assert manage(env, "announce", "x", code=1).endswith("/_broadcast: connection refused\n")


def test_the_manual_shows_the_recipes_as_they_are() -> None:
    manual = (ROOT / "docs" / "publishing.md").read_text()
    shown = re.findall(r"^<!-- (examples/\S+) -->\n```python\n(.*?)^```$", manual, re.DOTALL | re.MULTILINE)
    assert len(shown) >= 4
    for path, text in shown:
        assert text == (ROOT / path).read_text(), path
