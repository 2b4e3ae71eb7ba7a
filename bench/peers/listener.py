"""Listening, the same way for the Python servers that do it themselves."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable

BACKLOG = 4096
"""So that a storm of connects meets the server and not a full queue; asyncio's default is 100."""


def raise_open_files() -> None:
    """Allow this process as many descriptors as it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(protocol: Callable[[], asyncio.Protocol], port: int) -> None:
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port, backlog=BACKLOG)
    await server.serve_forever()
