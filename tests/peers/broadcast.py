"""Broadcast endpoints for publishers to talk to: one that keeps what it got, and one that does what it is told."""

from __future__ import annotations

import http.server
import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

from tests.harness import PATIENCE

ACCEPTED = b'{"subscribers":2}'


class Endpoint(http.server.ThreadingHTTPServer):
    """A broadcast endpoint that keeps what it got and answers as `answer` says: body → status and body."""

    daemon_threads = True

    def __init__(self, answer: Callable[[bytes], tuple[int, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.url = f"http://127.0.0.1:{self.server_port}/_broadcast"
        self.requests: queue.Queue[tuple[Any, bytes]] = queue.Queue()
        self.connections: list[int] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that leave early are meant."""

    def bodies(self) -> list[bytes]:
        return [body for _, body in self.requests.queue]

    def messages(self) -> list[Any]:
        decoded = [json.loads(body) for body in self.bodies()]
        return [item["data"] for one in decoded for item in (one if isinstance(one, list) else [one])]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.connections.append(self.client_address[1])
        status, answer = self.server.answer(body)
        self.server.requests.put((self.headers, body))
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def running(answer: Callable[[bytes], tuple[int, bytes]] = lambda body: (200, ACCEPTED)) -> Iterator[Endpoint]:
    """An endpoint that answers as `answer` says, or accepts everything with two subscribers."""
    server = Endpoint(answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)


Act = Callable[[socket.socket], None]


class Script:
    """A server that does with its first, second, … connection what the first, second, … function says."""

    def __init__(self, *acts: Act) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/_broadcast"
        self.accepted = 0
        self.bodies: list[bytes] = []
        self.problem: BaseException | None = None
        self._acts = acts
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            for act in self._acts:
                connection, _ = self.listener.accept()
                self.accepted += 1
                with connection:
                    connection.settimeout(PATIENCE)
                    act(connection)
        except BaseException as problem:
            self.problem = problem

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self.listener.shutdown(socket.SHUT_RDWR)  # nobody is coming any more
        self._thread.join(PATIENCE)
        self.listener.close()
        assert not self._thread.is_alive()
        if error is None and self.problem is not None:
            raise self.problem

    def accept_one(self, connection: socket.socket) -> None:
        """Take one request, and accept it."""
        self.take_one(connection)
        answer(connection)

    def take_one(self, connection: socket.socket) -> None:
        """Take one request, without an answer."""
        self.bodies.append(read_request(connection))


def read_request(connection: socket.socket) -> bytes:
    """A request with a body of one message; the body."""
    data = bytearray()
    while not data.endswith((b"}", b"]")):
        data += connection.recv(1 << 20)
    return bytes(data).partition(b"\r\n\r\n")[2]


def answer(connection: socket.socket, body: bytes = ACCEPTED, status: str = "200 OK") -> None:
    connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body))


def wait_for_close(connection: socket.socket) -> None:
    """Until the other side closes."""
    with suppress(ConnectionResetError):
        while connection.recv(1 << 16):
            pass
