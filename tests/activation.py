"""Starts servers on sockets that somebody else opened, as systemd does."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Self

from tests.harness import PATIENCE, ServerProcess

HAND_OVER = """
import os, sys
count = int(sys.argv[1])
for index, descriptor in enumerate(map(int, sys.argv[2:2 + count])):
    os.dup2(os.dup(descriptor), 100 + index)
for index in range(count):
    os.dup2(100 + index, 3 + index)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "fastcable", "serve", *sys.argv[2 + count:]])
"""


def handed_over(sockets: Sequence[socket.socket], *arguments: str) -> list[str]:
    """The command that serves on these sockets, which `pass_fds` must pass to it."""
    descriptors = [str(sock.fileno()) for sock in sockets]
    return [sys.executable, "-S", "-c", HAND_OVER, str(len(sockets)), *descriptors, *arguments]


def variables(sockets: Sequence[socket.socket], names: str | None) -> dict[str, str]:
    return {**os.environ, "LISTEN_FDS": str(len(sockets)), **({} if names is None else {"LISTEN_FDNAMES": names})}


class ActivatedServer(ServerProcess):
    """A server on sockets that were opened for it; `port` is the first one's, if it has one."""

    def __init__(
        self, sockets: Sequence[socket.socket], *arguments: str, names: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        command = handed_over(sockets, *arguments)
        passed = [sock.fileno() for sock in sockets]
        self._start(command, variables(sockets, names) | dict(env or {}), r" listens on ", passed)
        address = sockets[0].getsockname()
        self.port = address[1] if isinstance(address, tuple) else 0


class Activator:
    """Keeps a socket, starts a server on it when somebody connects, and again when that one has ended."""

    def __init__(self, *arguments: str) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self.socket.getsockname()[1]
        self.ends: list[tuple[int, str]] = []
        """Exit code and log of each server that has ended."""
        self._changed = threading.Condition()
        self._command = handed_over([self.socket], *arguments)
        self._stopping, self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="activator")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.close()
        self._thread.join()
        self._stopping.close()
        self.socket.close()

    def wait_for_ends(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.ends) >= count, PATIENCE), self.ends

    def _run(self) -> None:
        while self._stopping not in select.select([self.socket, self._stopping], [], [])[0]:
            with subprocess.Popen(
                self._command, env=variables([self.socket], None), pass_fds=[self.socket.fileno()], text=True,
                stderr=subprocess.PIPE,
            ) as server:
                end = os.pidfd_open(server.pid)
                if end not in select.select([end, self._stopping.fileno()], [], [])[0]:
                    server.kill()
                os.close(end)
                _, log = server.communicate()
            with self._changed:
                self.ends.append((server.returncode, log))
                self._changed.notify_all()
