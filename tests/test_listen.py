"""`fastcable listen` against real peers: what it prints, how it reconnects, how it ends."""

from __future__ import annotations

import contextlib
import http
import json
import os
import queue
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets.sync.server
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Frame
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection

from fastcable._frames import encode_close, encode_frame
from fastcable.channels import PUBSUB
from fastcable.client.listen import parse_head
from fastcable.client.listener import CableListener, Listener
from fastcable.client.websocket import Lost, Target, WebSocket
from fastcable.signing import sign
from fastcable.tokens import issue
from tests.harness import PATIENCE, LocalServer
from tests.peers.certificate import CERTIFICATE

ROOT = str(Path(__file__).parent.parent)

# Reconnects soon, and gives up soon on a server that says nothing.
PROGRAM = """
import sys
from fastcable.client import listen
listen.MAX_DELAY, listen.PATIENCE, listen.CONNECT_TIMEOUT = 0.02, float(sys.argv.pop(1)), float(sys.argv.pop(1))
from fastcable.cli import main
sys.exit(main(["listen", *sys.argv[1:]]))
"""


class Peer:
    """A WebSocket server that confirms subscriptions; its connections and what they send come out of queues."""

    def __init__(self, **options: Any) -> None:
        self.connections: queue.Queue[ServerConnection] = queue.Queue()
        self.received: queue.Queue[dict[str, Any]] = queue.Queue()
        self.closed: queue.Queue[int | None] = queue.Queue()
        self.refuse: Callable[[ServerConnection, Request], Response | None] = lambda connection, request: None
        self.answer: Callable[[str], dict[str, Any]] = lambda stream: {"type": "subscribed", "stream": stream}
        self.server = websockets.sync.server.serve(
            self._handle, "127.0.0.1", 0, compression=None, ping_interval=None,
            process_request=lambda connection, request: self.refuse(connection, request), **options)  # fmt: skip
        self.address = f"127.0.0.1:{self.server.socket.getsockname()[1]}/cable"
        self.url = f"ws://{self.address}"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def _handle(self, connection: ServerConnection) -> None:
        self.connections.put(connection)
        with contextlib.suppress(ConnectionClosedError):
            for text in connection:
                content = json.loads(text)
                if content["type"] == "subscribe":
                    connection.send(json.dumps(self.answer(content["stream"])))
                self.received.put(content)
        self.closed.put(connection.close_code)

    def connection(self, *streams: str) -> ServerConnection:
        """The next connection, after it has subscribed to these streams."""
        connection = self.connections.get(timeout=PATIENCE)
        for stream in streams:
            assert self.received.get(timeout=PATIENCE) == {"type": "subscribe", "stream": stream}
        return connection


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def start(**options: Any) -> Peer:
        peers.append(Peer(**options))
        peers[-1].thread.start()
        return peers[-1]

    yield start
    for one in peers:
        one.server.shutdown()
        one.thread.join(PATIENCE)


class Command:
    """A running `fastcable listen`."""

    def __init__(self, *arguments: str, patience: float = 60, timeout: float = PATIENCE, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(patience), str(timeout), *arguments],
            env={**os.environ, "PYTHONPATH": ROOT, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdout, self.stderr = self.process.stdout, self.process.stderr

    def end(self, number: int | None = None) -> tuple[int, str, str]:
        """Exit code and what is left of stdout and stderr, after a signal."""
        if number is not None:
            self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, output, errors


@pytest.fixture
def listen() -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*arguments: str, **options: Any) -> Command:
        started.append(Command(*arguments, **options))
        return started[-1]

    yield start
    for command in started:
        command.process.kill()
        command.process.wait()
        command.stdout.close()
        command.stderr.close()


def said(data: str, stream: str = "a") -> str:
    return f'{{"type":"message","stream":{json.dumps(stream, ensure_ascii=False)},"data":{data}}}'


# --- messages ---------------------------------------------------------------------------------------------------------


def test_messages_are_printed_one_line_each_as_they_were_published(
    peer: Callable[..., Peer], listen: Callable[..., Command]
) -> None:
    server = peer()
    command = listen("a", 'né"ws', "a", "--url", server.url)
    connection = server.connection("a", 'né"ws')
    for sent, printed in (
        ('{"n":1.50000000000000000000001}', '{"n":1.50000000000000000000001}'),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ('{"a":\n[1,\r\n2]}', '{"a": [1,  2]}'),
        ('"line\\nend"', '"line\\nend"'),
        ('"é€"', '"é€"'),
        ('"' + "x" * 300_000 + '"', '"' + "x" * 300_000 + '"'),
    ):
        connection.send(said(sent))
        assert command.stdout.readline() == f'{{"stream":"a","data":{printed}}}\n'
    connection.send(said("1", 'né"ws'))
    assert command.stdout.readline() == '{"stream":"né\\"ws","data":1}\n'
    connection.send([said("1")[:10], said("1")[10:]])
    assert command.stdout.readline() == '{"stream":"a","data":1}\n'
    assert command.end(signal.SIGINT) == (130, "", "listening to 2 streams\n")


def test_many_messages_come_in_order(peer: Callable[..., Peer], listen: Callable[..., Command]) -> None:
    server = peer()
    command = listen("a", "--url", server.url)
    connection = server.connection("a")

    def send() -> None:
        for number in range(3000):
            connection.send(said(str(number)))

    sender = threading.Thread(target=send)
    sender.start()
    assert [json.loads(command.stdout.readline())["data"] for _ in range(3000)] == list(range(3000))
    sender.join()


def test_both_kinds_of_ping_are_answered(peer: Callable[..., Peer], listen: Callable[..., Command]) -> None:
    server = peer()
    listen("a", "--url", server.url)
    connection = server.connection("a")
    connection.send('{"type":"ping"}')
    assert server.received.get(timeout=PATIENCE) == {"type": "pong"}
    assert connection.ping(b"payload").wait(PATIENCE)


def test_gaps_and_errors_and_the_unknown_go_to_stderr(
    peer: Callable[..., Peer], listen: Callable[..., Command]
) -> None:
    server = peer()
    command = listen("a", "--url", server.url)
    connection = server.connection("a")
    assert command.stderr.readline() == "listening to a\n"
    for sent, printed in (
        ('{"type":"gap","stream":"a","missed":5}', "gap: 5 messages of a were missed"),
        ('{"type":"error","reason":"bad\\u001b[31m"}', "error: bad\\x1b[31m"),
        ('{"type":"new"}', 'not understood: {"type":"new"}'),
        ("[]", "not understood: []"),
        ("{bad", "not understood: {bad"),
    ):
        connection.send(sent)
        assert command.stderr.readline() == printed + "\n"
    connection.send(said("1"))
    assert command.stdout.readline() == '{"stream":"a","data":1}\n'


# --- the first connection ---------------------------------------------------------------------------------------------


def test_nobody_listens(listen: Callable[..., Command]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"ws://127.0.0.1:{unused.getsockname()[1]}/cable"
    assert listen("a", "--url", url).end() == (1, "", f"{url}: connection refused\n")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (http.HTTPStatus.FORBIDDEN, '{"error":"origin not allowed"}', "refused with 403 origin not allowed"),
        (http.HTTPStatus.NOT_FOUND, "<h1>", "refused with 404 Not Found"),
        (http.HTTPStatus.OK, "[1]", "refused with 200 OK"),
    ],
    ids=str,
)
def test_refusals_show_the_status_and_the_error(
    peer: Callable[..., Peer], listen: Callable[..., Command], status: http.HTTPStatus, body: str, expected: str
) -> None:
    server = peer()
    server.refuse = lambda connection, request: connection.respond(status, body)
    assert listen("a", "--url", server.url).end() == (1, "", f"{server.url}: {expected}\n")


UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", "the connection was closed without an answer"),
        (b"HTTP/1.1 101 Swi", "the connection was closed without an answer"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 abc\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200\r\n" + b"x: y\r\n" * 20_000 + b"\r\n", "the answer is too long"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 9999999999999\r\n\r\n", "refused with 503 Busy"),
        (b"HTTP/1.1 101 OK\r\n\r\n", "the server did not upgrade to WebSocket"),
        (UPGRADED + b"\r\n", "the server's Sec-WebSocket-Accept is missing or wrong"),
        (UPGRADED + b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
         "the server's Sec-WebSocket-Accept is missing or wrong"),
    ],
    ids=["nothing", "half", "not HTTP", "no status", "long", "huge body", "no upgrade", "no accept", "wrong accept"],
)  # fmt: skip
def test_answers_that_are_no_upgrade(listen: Callable[..., Command], answer: bytes, expected: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        url = f"ws://127.0.0.1:{server.getsockname()[1]}/"
        command = listen("a", "--url", url)
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            assert command.end() == (1, "", f"{url}: {expected}\n")


def test_no_answer_in_time(listen: Callable[..., Command]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # the kernel connects, nobody answers
        url = f"ws://127.0.0.1:{server.getsockname()[1]}/"
        assert listen("a", "--url", url, timeout=0.1).end() == (1, "", f"{url}: no answer within 0.1 s\n")


def test_all_streams_refused(peer: Callable[..., Peer], listen: Callable[..., Command]) -> None:
    server = peer()
    server.answer = lambda stream: {"type": "error", "reason": "bad stream", "stream": stream}
    assert listen("a", "b", "--url", server.url).end() == (
        1, "",
        f"error: bad stream (stream a)\nerror: bad stream (stream b)\n{server.url}: every stream was refused\n")


def test_one_stream_refused(peer: Callable[..., Peer], listen: Callable[..., Command]) -> None:
    server = peer()
    accept = server.answer
    server.answer = lambda stream: accept(stream) if stream == "b" else {"type": "error", "reason": "full"}
    command = listen("a", "b", "--url", server.url)
    assert command.stderr.readline() == "error: full\n"
    assert command.stderr.readline() == "listening to 1 of 2 streams\n"
    server.connection("a", "b").send(said("1", "b"))
    assert command.stdout.readline() == '{"stream":"b","data":1}\n'


# --- later connections ------------------------------------------------------------------------------------------------


def test_a_lost_connection_is_made_again_with_all_streams(
    peer: Callable[..., Peer], listen: Callable[..., Command]
) -> None:
    server = peer()
    command = listen("a", "b", "--url", server.url)

    def abort(connection: ServerConnection) -> None:
        connection.socket.shutdown(socket.SHUT_RDWR)

    for lose, reason in (
        (lambda connection: connection.close(1001, "bye"), "closed by the server with 1001 bye"),
        (abort, "connection lost"),
        (lambda connection: connection.socket.sendall(b"\x81\x80mask"), "the server broke the protocol: "),
        (lambda connection: connection.socket.sendall(b"\x82\x00"), "the server broke the protocol: "),
        (lambda connection: connection.socket.sendall(b"\x81\x01\xff"), "the server broke the protocol: "),
    ):
        connection = server.connection("a", "b")
        assert command.stderr.readline() == "listening to 2 streams\n"
        connection.send(said("1"))
        assert command.stdout.readline() == '{"stream":"a","data":1}\n'
        lose(connection)
        line = command.stderr.readline()
        assert line.startswith(f"{server.url}: {reason}")
        assert line.endswith("; trying again in 0.0 s\n")
    assert [server.closed.get(timeout=PATIENCE) for _ in range(5)] == [1001, 1006, 1002, 1003, 1007]


def test_refusals_of_later_connections_are_no_reason_to_end(
    peer: Callable[..., Peer], listen: Callable[..., Command]
) -> None:
    server = peer()
    command = listen("a", "--url", server.url)
    refusals = iter([http.HTTPStatus.SERVICE_UNAVAILABLE] * 3)

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        status = next(refusals, None)
        return connection.respond(status, '{"error":"full"}') if status else None

    connection = server.connection("a")
    assert command.stderr.readline() == "listening to a\n"
    server.refuse = refuse
    connection.close(1001)
    assert command.stderr.readline().startswith(f"{server.url}: closed by the server with 1001; trying again in ")
    for _ in range(3):
        assert command.stderr.readline().startswith(f"{server.url}: refused with 503 full; trying again in ")
    server.connection("a").send(said("2"))
    assert command.stdout.readline() == '{"stream":"a","data":2}\n'


def upgrade(connection: socket.socket) -> bytes:
    """Answer a handshake by hand; what came after it."""
    connection.settimeout(PATIENCE)
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(1 << 16)
    head, _, rest = data.partition(b"\r\n\r\n")
    key = next(line[19:] for line in head.decode().split("\r\n") if line.startswith("Sec-WebSocket-Key: "))
    accept = websockets.utils.accept_key(key)
    connection.sendall(UPGRADED + b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n")
    return rest


def test_a_silent_server_is_pinged_and_given_up(listen: Callable[..., Command]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        url = f"ws://127.0.0.1:{server.getsockname()[1]}/"
        command = listen("a", "--url", url, patience=0.1)
        for _ in range(2):
            connection, _ = server.accept()
            with connection:
                received = upgrade(connection)
                connection.sendall(encode_frame(1, b'{"type":"subscribed","stream":"a"}'))
                while data := connection.recv(1 << 16):
                    received += data
                assert received.count(b"\x89\x80") == 1  # an empty, masked ping
            assert command.stderr.readline() == "listening to a\n"
            assert command.stderr.readline().startswith(f"{url}: nothing came for 0.2 s; trying again in ")


def test_a_server_that_answers_pings_is_not_given_up(
    peer: Callable[..., Peer], listen: Callable[..., Command]
) -> None:
    server = peer()
    pings: queue.Queue[Frame] = queue.Queue()
    command = listen("a", "--url", server.url, patience=0.05)
    connection = server.connection("a")
    receive = connection.protocol.recv_frame

    def recv_frame(frame: Frame) -> None:
        pings.put(frame)
        receive(frame)

    connection.protocol.recv_frame = recv_frame  # type: ignore[method-assign]
    for _ in range(5):
        pings.get(timeout=PATIENCE)
    connection.send(said("1"))
    assert command.stdout.readline() == '{"stream":"a","data":1}\n'
    assert command.end(signal.SIGINT)[::2] == (130, "listening to a\n")


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_it_with_a_close_frame(
    peer: Callable[..., Peer], listen: Callable[..., Command], number: int, code: int
) -> None:
    server = peer()
    command = listen("a", "--url", server.url)
    server.connection("a")
    assert command.stderr.readline() == "listening to a\n"
    assert command.end(number) == (code, "", "")
    assert server.closed.get(timeout=PATIENCE) == 1000


def test_ctrl_c_between_connections(peer: Callable[..., Peer], listen: Callable[..., Command]) -> None:
    server = peer()
    command = listen("a", "--url", server.url)
    connection = server.connection("a")
    assert command.stderr.readline() == "listening to a\n"
    server.refuse = lambda connection, request: connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "")
    connection.close(1001)
    command.stderr.readline()
    code, _, errors = command.end(signal.SIGINT)
    assert code == 130
    assert "Traceback" not in errors


def test_ctrl_c_while_nobody_reads_the_output(peer: Callable[..., Peer], listen: Callable[..., Command]) -> None:
    server = peer()
    command = listen("a", "--url", server.url)
    connection = server.connection("a")
    assert command.stderr.readline() == "listening to a\n"
    connection.send(said('"' + "x" * 200_000 + '"'))
    readable, _, _ = select.select([command.stdout], [], [], PATIENCE)
    assert readable
    command.process.send_signal(signal.SIGINT)
    assert command.process.wait(PATIENCE) == 130
    assert server.closed.get(timeout=PATIENCE) == 1000


def test_it_ends_when_the_reader_of_its_output_does(
    peer: Callable[..., Peer], listen: Callable[..., Command]
) -> None:
    server = peer()
    command = listen("a", "--url", server.url)
    connection = server.connection("a")
    connection.send(said("1"))
    assert command.stdout.readline() == '{"stream":"a","data":1}\n'
    command.stdout.close()  # no further message is needed
    assert command.process.wait(PATIENCE) == 0
    assert command.stderr.read() == "listening to a\n"
    assert server.closed.get(timeout=PATIENCE) == 1000


def test_a_full_disk_is_told(peer: Callable[..., Peer]) -> None:
    server = peer()
    with open("/dev/full", "w") as full:
        process = subprocess.Popen([sys.executable, "-m", "fastcable", "listen", "a", "--url", server.url],
                                   env={**os.environ, "PYTHONPATH": ROOT}, stdout=full, stderr=subprocess.PIPE,
                                   text=True)  # fmt: skip
    server.connection("a").send(said("1"))
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (1, "listening to a\nstdout: no space left on device\n")


# --- TLS and the real server ------------------------------------------------------------------------------------------


def test_wss(peer: Callable[..., Peer], listen: Callable[..., Command], tmp_path: Path) -> None:
    (tmp_path / "pem").write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    server = peer(ssl=context)
    url = f"wss://{server.address}"
    command = listen("a", "--url", url, SSL_CERT_FILE=str(tmp_path / "pem"))
    server.connection("a").send(said("1"))
    assert command.stdout.readline() == '{"stream":"a","data":1}\n'
    assert command.end(signal.SIGINT)[0] == 130
    code, _, errors = listen("a", "--url", url).end()
    assert code == 1
    assert "certificate" in errors
    assert errors.count("\n") == 1


def test_with_the_real_server(serve: Callable[..., LocalServer], listen: Callable[..., Command]) -> None:
    server = serve(max_subscriptions=1)
    command = listen("a", "b", "--url", f"ws://127.0.0.1:{server.port}/cable")
    assert command.stderr.readline().startswith("error: ")
    assert command.stderr.readline() == "listening to 1 of 2 streams\n"
    server.post(b'{"stream":"a","data":{"n":1.50000000000000000000001}}')
    assert command.stdout.readline() == '{"stream":"a","data":{"n":1.50000000000000000000001}}\n'
    assert command.end(signal.SIGINT) == (130, "", "")
    refused = listen("a", "--url", f"ws://127.0.0.1:{server.port}/nowhere").end()
    assert refused[0] == 1
    assert ": refused with 404 " in refused[2]


# --- Action Cable, signed names, tokens -------------------------------------------------------------------------------


SECRET = "s" * 32


def test_action_cable(serve: Callable[..., LocalServer], listen: Callable[..., Command]) -> None:
    server = serve(public_streams=True, turbo_secret=(SECRET,), max_subscriptions=3, actioncable_ping_interval=1)
    name, other = sign("chat/7", SECRET.encode()), sign("chat/8", SECRET.encode())
    command = listen("news", "a\"b", "--url", f"ws://127.0.0.1:{server.port}/cable",
                     "--protocol", "actioncable", "--signed", f"{name},{other}")
    assert command.stderr.readline() == f"error: rejected (stream {other})\n"
    assert command.stderr.readline() == "listening to 3 of 4 streams\n"
    for stream in "news", 'a"b', "chat/7":
        server.post({"stream": stream, "data": ',"message":'})
    server.post(b'{"stream":"news","data":\n1.50000000000000000000001}')
    for stream in "news", 'a"b', name:
        assert json.loads(command.stdout.readline()) == {"stream": stream, "data": ',"message":'}
    assert command.stdout.readline() == '{"stream":"news","data":1.50000000000000000000001}\n'
    connection = server.connection()
    server.call(connection.close, 1001, "server stopping")
    assert command.stderr.readline() == "disconnected: server_restart\n"
    assert "closed by the server with 1001 server stopping; trying again" in command.stderr.readline()
    assert command.stderr.readline().startswith("error: rejected")
    assert command.end(signal.SIGINT)[0] == 130


def test_all_rejected(serve: Callable[..., LocalServer], listen: Callable[..., Command]) -> None:
    server = serve()
    url = f"ws://127.0.0.1:{server.port}/cable"
    exit_code, output, errors = listen("news", "--protocol", "actioncable", "--url", url).end()
    assert (exit_code, output) == (1, "")
    assert errors == f"error: rejected (stream news)\n{url}: every stream was refused\n"


def test_a_server_that_does_not_speak_action_cable(
    peer: Callable[..., Peer], listen: Callable[..., Command]
) -> None:
    url = peer().url
    exit_code, _, errors = listen("news", "--protocol", "actioncable", "--url", url).end()
    assert (exit_code, errors) == (1, f"{url}: the server does not speak actioncable-v1-json\n")


@pytest.mark.parametrize("how", ["flag", "variable", "url"])
@pytest.mark.parametrize("protocol", ["simple", "actioncable"])
def test_tokens(
    serve: Callable[..., LocalServer], listen: Callable[..., Command], protocol: str, how: str
) -> None:
    server = serve(auth="jwt", jwt_secret=(SECRET,), public_streams=True, ticking=False)
    assert server.server.cable.expiries is not None
    clean = f"ws://127.0.0.1:{server.port}/cable"

    def start(token: str) -> Command:
        if how == "variable":
            return listen("news", "--url", clean, "--protocol", protocol, FASTCABLE_TOKEN=token)
        if how == "url":
            return listen("news", "--url", f"{clean}?jid={token}", "--protocol", protocol)
        return listen("news", "--url", clean, "--protocol", protocol, "--token", token)

    told = {"simple": "", "actioncable": "disconnected: unauthorized\n"}
    assert start("x.y.z").end() == (1, "", f"{told[protocol]}{clean}: closed by the server with 1008 unauthorized\n")
    command = start(issue({"exp": time.time() + 3600}, SECRET))
    assert command.stderr.readline() == "listening to news\n"
    server.server.cable.expiries.clock = lambda: time.time() + 3602
    server.expire(server.loop.time())
    told = {"simple": "", "actioncable": "disconnected: token_expired\n"}
    assert command.end() == (1, "", f"{told[protocol]}{clean}: closed by the server with 1008 token expired\n")


@pytest.mark.parametrize(("arguments", "complaint"), [
    (["a", "--protocol", "mqtt"], "--protocol: expected simple or actioncable, got 'mqtt'"),
    (["a", "--signed", "n"], "--signed: needs --protocol actioncable (with simple, a signed name is a STREAM)"),
    (["--protocol", "actioncable", "--signed", ","], "listen: expected at least one STREAM"),
    (["a", "--token", "a b"], "--token: expected a token in printable ASCII without spaces"),
    (["a", "--token", "é"], "--token: expected a token in printable ASCII without spaces"),
    (["a", "--token", "a\r\nB: c"], "--token: expected a token in printable ASCII without spaces"),
])
def test_wrong_usage(listen: Callable[..., Command], arguments: list[str], complaint: str) -> None:
    assert listen(*arguments).end() == (2, "", complaint + "\n")


@pytest.mark.parametrize(("text", "line", "note"), [
    (b'{"message":{"n":1},"identifier":%b}', b'{"stream":"a","data":{"n":1}}\n', None),
    (b'{"identifier":"other","message":1}', None, 'not understood: {"identifier":"other","message":1}'),
    (b'{"identifier":[],"message":1}', None, 'not understood: {"identifier":[],"message":1}'),
    (b'{"type":"disconnect"}', None, 'not understood: {"type":"disconnect"}'),
    (b"[]", None, "not understood: []"),
    (b"{bad", None, "not understood: {bad"),
    (b'{"type":"ping","message":1}', None, None),
])
def test_messages_of_other_servers(text: bytes, line: bytes | None, note: str | None) -> None:
    listener = CableListener(["a"])
    identifier = json.dumps({"channel": PUBSUB, "stream_name": "a"}, separators=(",", ":"))
    listener.take(text.replace(b"%b", json.dumps(identifier).encode()))
    assert (listener.lines, listener.notes) == ([line] * (line is not None), [note] * (note is not None))


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "secure", "host", "port", "authority", "resource"),
    [
        ("ws://a", False, "a", 80, "a", "/"),
        ("wss://A.b:8443/c/d?e=f", True, "a.b", 8443, "A.b:8443", "/c/d?e=f"),
        ("ws://[::1]:3000/cable", False, "::1", 3000, "[::1]:3000", "/cable"),
        ("wss://a?b", True, "a", 443, "a", "/?b"),
    ],
)
def test_targets(url: str, secure: bool, host: str, port: int, authority: str, resource: str) -> None:
    assert Target.parse(url) == Target(url, secure, host, port, authority, resource)


@pytest.mark.parametrize("url", ["", "a", "ws://", "http://a", "ws://a/#b", "ws://a/ b", "ws://é", "ws://a\r\nb",
                                 "ws://a:99999", "ws://a:b", "ws://u@a", "ws://[::1"])  # fmt: skip
def test_bad_targets(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Target.parse(url)


def test_heads() -> None:
    head = b"HTTP/1.1 200 All right\r\nA: 1\r\na:2\r\nB:\r\n\r\n"
    assert parse_head(head) == (200, "All right", {"a": "1, 2", "b": ""})
    assert parse_head(b"HTTP/1.0 404\r\n\r\n")[:2] == (404, "")


@pytest.mark.parametrize("name", ["Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"])
def test_what_was_not_offered_must_not_be_chosen(name: str) -> None:
    websocket = WebSocket(Target.parse("ws://a"))
    key = websocket.outgoing().decode().partition("Sec-WebSocket-Key: ")[2][:24]
    headers = {"upgrade": "WebSocket", "connection": "keep-alive, Upgrade",
               "sec-websocket-accept": websockets.utils.accept_key(key)}  # fmt: skip
    websocket.accept(headers)
    with pytest.raises(Lost, match="not offered"):
        websocket.accept({**headers, name.lower(): "x"})


def test_bytes_may_be_cut_anywhere() -> None:
    stream = encode_frame(1, b"one") + encode_frame(9, b"p") + encode_frame(1, "zwölf".encode()) + encode_close(1001)
    for cut in range(len(stream) + 1):
        websocket = WebSocket(Target.parse("ws://a"))
        websocket.outgoing()
        texts = [*websocket.receive(stream[:cut]), *websocket.receive(stream[cut:])]
        assert texts == [b"one", "zwölf".encode()]
        sent = websocket.outgoing()
        assert (sent[:2], sent[7:9]) == (b"\x8a\x81", b"\x88\x82")  # a pong, then the close frame's echo, both masked
        assert websocket.ended == "closed by the server with 1001"


def test_only_the_exact_form_of_a_message_is_taken_apart() -> None:
    listener = Listener(["a"])
    assert listener.take(b'{"data":1,"type":"message","stream":"a"}') is None
    assert (listener.lines, listener.notes) == (
        [], ['not understood: {"data":1,"type":"message","stream":"a"}'])
