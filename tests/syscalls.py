"""The system calls of a server, counted under strace."""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

from bench.instructions import under
from bench.peers.peer import Peer, Target
from bench.process import Server
from tests.harness import PATIENCE


class Traced:
    """A peer under strace, which writes each call to `log`. What is counted lies between two requests for pages that
    do not exist: of its own a count has the answer to the first and the wait for the second."""

    def __init__(self, peer: Peer, port: int, log: Path) -> None:
        # -I2: it can be told to end, and then ends the server.
        self._server = Server(under(peer, "strace", "-f", "-qq", "-I2", "-o", str(log)), port)
        self._log = log
        self._marks = 0

    @property
    def target(self) -> Target:
        return self._server.target

    def __enter__(self) -> Self:
        self._server.__enter__()
        self._marker = socket.create_connection(("127.0.0.1", self.target.port), PATIENCE)
        return self

    def __exit__(self, *exception: object) -> None:
        self._marker.close()
        self._server.__exit__(*exception)

    def count(self, steps: Callable[[], object]) -> Counter[str]:
        """The calls while `steps` runs, by name."""
        first = self._mark()
        steps()
        last = self._mark()
        lines = self._log.read_text(errors="replace").splitlines()
        begin = next(index for index, line in enumerate(lines) if first in line)
        end = next(index for index, line in enumerate(lines) if last in line)
        return Counter(re.findall(r"^\d+ +(\w+)\(", "\n".join(lines[begin + 1 : end]), re.MULTILINE))

    def _mark(self) -> str:
        self._marks += 1
        mark = f"GET /mark-{self._marks:02} "
        self._marker.sendall(f"{mark}HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = self._marker.recv(65536)
        assert answer.startswith(b"HTTP/1.1 404 "), answer
        return mark
