"""Servers for the tests, in a thread of this process or as a process of their own, and a browser."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.harness import PATIENCE, LocalServer, ServerProcess
from tests.hosts import Host, joined, why_none
from tests.redis_server import RedisServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext


@pytest.fixture
def serve() -> Iterator[Callable[..., LocalServer]]:
    """Starts servers in this process, on ports of their own: `serve(max_message_size=100)`."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(LocalServer(**options))


@pytest.fixture
def spawn() -> Iterator[Callable[..., ServerProcess]]:
    """Starts `fastcable serve` with these arguments, on a free port unless one is given: `spawn("--demo")`."""
    with ExitStack() as stack:
        yield lambda *arguments, **kwargs: stack.enter_context(ServerProcess(*arguments, **kwargs))


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A redis-server that is not started yet."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def hosts() -> Iterator[Sequence[Host]]:
    """Two hosts that reach each other."""
    if reason := why_none():
        pytest.skip(reason)
    with joined("192.0.2.1", "192.0.2.2") as hosts:
        yield hosts


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is freed is freed without the garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, with the back/forward cache that people have. For a module only: asyncio.run does not go with it."""
    from playwright.sync_api import expect, sync_playwright

    executable = shutil.which("chromium")
    assert executable, "some tests need Debian's chromium: apt-get install chromium"
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync",
                 "--disable-features=LocalNetworkAccessChecks"]  # for pages that a test makes up
    expect.set_options(timeout=PATIENCE * 1_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=arguments, ignore_default_args=["--disable-back-forward-cache"]
        )
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A profile of its own."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE * 1_000)
    yield context
    context.close()
