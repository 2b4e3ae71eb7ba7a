"""Servers for the tests: in a thread of this process, or as a process of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.harness import LocalServer, ServerProcess


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
