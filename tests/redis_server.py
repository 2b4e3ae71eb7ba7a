"""Debian's `redis-server` for the tests, on a port of its own."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from tests.harness import PATIENCE


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class RedisServer:
    """`start` it, with options of redis-server; what it keeps is in a directory of its own. `port` stays the same."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.password: str | None = None
        self._directory = tempfile.mkdtemp(prefix="fastcable-redis-")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        shutil.rmtree(self._directory)

    def start(self, *options: str) -> Self:
        """Returns when it takes connections."""
        assert self._process is None
        self._process = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", self._directory,
             "--save", "", *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return self
            assert self._process.poll() is None, "redis-server did not start"
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def __call__(self, *command: str | bytes | int) -> Any:
        """Carry out a command."""
        import redis  # takes long, and most tests do without

        with redis.Redis(port=self.port, password=self.password) as client:
            return client.execute_command(*command)

    def file(self, name: str) -> Path:
        return Path(self._directory, name)
