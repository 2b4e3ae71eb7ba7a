"""Debian's nginx with a configuration of the project's, in front of a server."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import PATIENCE


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def nginx(servers: str, directory: Path) -> Iterator[None]:
    """An nginx that has these `server` blocks, and is ready."""
    config = directory / "nginx.conf"
    temporary = " ".join(
        f"{name}_temp_path {directory}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root; " if os.geteuid() == 0 else ""  # who may read the files of the test
    config.write_text(
        f"{user}daemon off; pid {directory}/pid; error_log stderr notice; worker_processes 1; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{servers} }}\n")
    with subprocess.Popen(
        ["/usr/sbin/nginx", "-p", str(directory), "-c", str(config)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            seen.append(line)
            if "start worker process" in line:
                break
        else:
            pytest.fail(f"nginx did not start: {''.join(seen)}")
        try:
            yield
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE)
