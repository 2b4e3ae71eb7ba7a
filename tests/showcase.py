"""The showcase as a process of its own, and the people who look at its pages."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from functools import cached_property
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

from tests.harness import PATIENCE

ROOT = Path(__file__).parent.parent
A, B = "spring-gala", "harbour-cup"
"""The events."""


class Showcase:
    """The application as a process of its own, and a person's way to ask it for something without a browser."""

    def __init__(self, folder: Path, cable: int | None, *arguments: str, port: int = 0) -> None:
        """`cable` is the cable server's port, None for an application that is its own."""
        self.folder = folder
        folder.mkdir(exist_ok=True)
        where = ["--one-process"] if cable is None else ["--cable", f"ws://127.0.0.1:{cable}/cable"]
        self._log = (folder / "log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "examples.showcase", "--host", "127.0.0.1", "--port", str(port),
             "--data", str(folder), *where, *arguments],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"is on http://127\.0\.0\.1:(\d+)", line)
        assert found, self.log()
        self.port = int(found[1])
        door = self.get("/").decode()
        self.links: dict[str, list[tuple[str, str]]] = {
            slug: re.findall(r'data-role="(\w+)" href="([^"]+)"', part)
            for slug, part in re.findall(r'data-event="([\w-]+)">(.*?)</section>', door, re.DOTALL)
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def link(self, role: str, event: str = A, nth: int = 0) -> str:
        return [href for found, href in self.links[event] if found == role][nth]

    def request(self, method: str, path: str, **fields: object) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with closing(connection):
            connection.request(method, path, urlencode(fields) if fields else None)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def get(self, path: str) -> bytes:
        status, body = self.request("GET", path)
        assert status == 200, (path, status)
        return body

    def post(self, path: str, **fields: object) -> int:
        return self.request("POST", path, **fields)[0]

    def streams(self, path: str) -> set[str]:
        """The names that a page shows."""
        return set(re.findall(r'stream="([^"]+)"', self.get(path).decode()))

    def query(self, sql: str, *values: object) -> Any:
        """The first value of the first row; a change is committed."""
        with closing(sqlite3.connect(self.folder / "showcase.db", timeout=PATIENCE, isolation_level=None)) as database:
            row = database.execute(sql, values).fetchone()
            return row and row[0]


class People:
    """Opens pages for people; what a page complains about is the test's error, unless a server was away meanwhile."""

    def __init__(self, browser: Browser, stack: ExitStack) -> None:
        self._browser = browser
        self._stack = stack
        self.complaints: list[str] = []

    def context(self, **options: Any) -> BrowserContext:
        context = self._browser.new_context(**options)
        self._stack.callback(context.close)
        context.set_default_timeout(PATIENCE * 1_000)
        return context

    @cached_property
    def one(self) -> BrowserContext:
        """The browser of a person with many tabs."""
        return self.context()

    def page(self, context: BrowserContext) -> Page:
        page = context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._said)
        return page

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self, showcase: Showcase, path: str, context: BrowserContext | None = None, *, live: bool = True) -> Page:
        page = self.page(context or self.one)
        page.goto(f"http://127.0.0.1:{showcase.port}{path}")
        if live:
            page.locator("cable-state[data-state=open]").wait_for()
        return page
