"""One TCP connection until it is upgraded or closed, over real sockets, with a clock that the test moves."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import termios
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest

from fastcable._endpoints import Endpoints
from fastcable._http import REQUESTS_PER_TURN, HttpProtocol
from fastcable.brokers import HandoverError
from fastcable.response import Response
from tests.peers.rawhttp import HELLO, LINGER_SECONDS, UPGRADE, Client, HttpServer, chunk, get, post, post_chunked

Serve = Callable[..., HttpServer]

HEALTH = get("/health")
BIG = '{"stream":"chat","data":"' + "x" * 300_000 + '"}'


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(HttpServer(**options))


@pytest.fixture
def server(serve: Serve) -> HttpServer:
    return serve()


def wait_for_requests(server: HttpServer, count: int) -> None:
    """Wait until so many connections have begun a request, or wait for its body."""
    server.wait_until(lambda: len([p for p in server.site.open if not p.idle]) == count)


def head_bytes(server: HttpServer) -> int:
    """How many bytes of a head the only connection has."""
    head = server.site.open[0].head if server.site.open else None
    return head.size if head is not None else 0


def post_until(server: HttpServer, client: Client, condition: Callable[[], object]) -> None:
    """Post one message after the other, each accepted before the next."""
    while not server.call(condition):
        count = len(server.hub.published) + 1
        client.send(post(HELLO))
        server.wait_until(lambda: len(server.hub.published) == count)  # noqa: B023


def wait_for_reading(server: HttpServer, protocol: HttpProtocol) -> None:
    """Wait until the server has taken everything that its socket had."""
    sock = protocol.transport.get_extra_info("socket")
    waiting = bytearray(4)
    server.wait_until(lambda: fcntl.ioctl(sock.fileno(), termios.FIONREAD, waiting) == 0 and not any(waiting))


def make_answers(server: HttpServer, size: int) -> None:
    """Have broadcasts answered with so many bytes."""
    hub = server.hub

    def publish(body: bytes, request: object) -> Response:
        hub.publish("chat", body)
        return Response(200, b"x" * size, b"")

    server.site.endpoints.publish = publish


# Requests and answers

def test_requests_on_one_connection_are_answered_in_turn(server: HttpServer) -> None:
    client = server.connect()
    for number in range(3):
        client.send(post(f'{{"stream":"chat","data":{number}}}'))
        answer = client.read_answer()
        assert (answer.status, answer.body, answer.closes) == (200, b'{"subscribers":3}', False)
    assert server.hub.published == [("chat", b"0"), ("chat", b"1"), ("chat", b"2")]


@pytest.mark.parametrize("request_", [
    pytest.param(HEALTH, id="GET"), pytest.param(post(HELLO), id="POST"),
    pytest.param(post_chunked(chunk(HELLO.encode()) + b"0\r\n\r\n"), id="chunked"),
])
@pytest.mark.parametrize("lead", [b"", b"\r\n"], ids=["", "empty-line"])
def test_f31_a_request_may_be_cut_anywhere(server: HttpServer, request_: bytes, lead: bytes) -> None:
    whole = lead + request_
    for cut in range(1, len(whole)):
        client = server.connect()
        client.send(whole[:cut])
        server.wait_until(lambda: len(server.site.open) == 1)
        client.send(whole[cut:])
        assert client.read_answer().status == 200
        client.close()
        server.wait_closed()


def test_a_request_may_come_byte_by_byte(server: HttpServer) -> None:
    client = server.connect()
    client.socket.setsockopt(6, 1, 1)  # TCP_NODELAY
    request = post(HELLO)
    client.send(*(request[at : at + 1] for at in range(len(request))))
    assert client.read_answer().status == 200


def test_head_is_answered_without_body(server: HttpServer) -> None:
    client = server.connect()
    client.send(get("/health", method="HEAD"), HEALTH)
    answer = client.read_answer(body=False)
    assert (answer.status, answer.headers["content-length"]) == (200, "15")
    assert client.read_answer().json == {"status": "ok"}


@pytest.mark.parametrize("request_", [get("/health", method="HEAD", host=""), get("/", method="HEAD"),
                                      get("/cable", method="HEAD")], ids=["400", "404", "405"])
def test_refusals_of_head_have_no_body(server: HttpServer, request_: bytes) -> None:
    client = server.connect()
    client.send(request_)
    assert client.read_answer(body=False).status >= 400
    client.end()
    client.read_eof()


@pytest.mark.parametrize(("lines", "version", "connection"), [
    ([], "1.1", None), (["Connection: close"], "1.1", "close"), ([], "1.0", "close"),
    (["Connection: keep-alive"], "1.0", "keep-alive"),
], ids=str)
def test_connections_go_on_as_the_client_wishes(
    server: HttpServer, lines: list[str], version: str, connection: str | None
) -> None:
    client = server.connect()
    client.send(get("/health", *lines, version=version))
    assert client.read_answer().headers.get("connection") == connection
    if connection == "close":
        client.read_eof()
    else:
        client.send(HEALTH)
        assert client.read_answer().status == 200


def test_h2c_is_not_upgraded_to(server: HttpServer) -> None:
    """RFC 9110 §7.8: an Upgrade may be ignored; Java's client offers h2c with its first request, POST or not."""
    client = server.connect()
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA")
    client.send(get("/health", *upgrade), post(HELLO, *upgrade), post(HELLO),
                post_chunked(chunk(HELLO.encode()) + b"0\r\n\r\n", *upgrade))
    assert [client.read_answer().status for _ in range(4)] == [200] * 4


def test_when_the_server_drains_every_answer_is_the_last(server: HttpServer) -> None:
    client = server.connect()
    client.send(HEALTH)
    assert not client.read_answer().closes
    server.site.draining = True
    client.send(HEALTH)
    assert client.read_answer().closes
    client.read_eof()


def test_idle_connections_can_be_closed_and_others_go_on(server: HttpServer) -> None:
    silent, idle, busy = server.connect(), server.connect(), server.connect()
    idle.send(HEALTH)
    idle.read_answer()
    busy.send(HEALTH[:-1])
    wait_for_requests(server, 1)
    server.wait_until(lambda: len(server.site.open) == 3)
    for protocol in list(server.site.open):
        server.call(protocol.close_if_idle)
    silent.read_eof()
    idle.read_eof()
    busy.send(HEALTH[-1:])
    assert busy.read_answer().status == 200


class BrokenEndpoints(Endpoints):
    def begin(self, *arguments: object) -> None:
        raise ZeroDivisionError


def test_an_error_inside_fails_one_request_only(server: HttpServer, caplog: pytest.LogCaptureFixture) -> None:
    def fail(stream: str) -> int:
        raise ZeroDivisionError

    server.hub.subscribers = fail  # type: ignore[method-assign]
    answer = server.ask(post(HELLO))
    assert (answer.status, answer.json, answer.closes) == (500, {"error": "internal error"}, True)
    assert server.ask(HEALTH).status == 200
    assert "a broadcast failed" in caplog.text
    server.site.endpoints = BrokenEndpoints(server.site.settings, server.hub, cable=True, broadcast=True, demo=False)
    assert server.ask(HEALTH).status == 500


def test_without_room_a_connection_is_cut_off(server: HttpServer) -> None:
    server.site.room = False
    client = server.connect()
    with pytest.raises((ConnectionResetError, EOFError)):
        client.read_until(b"\n")
    server.wait_until(lambda: server.site.events == ["no room"])
    server.site.room = True
    assert server.ask(HEALTH).status == 200


# Upgrades

def test_h25_what_follows_an_upgrade_is_handed_over(server: HttpServer) -> None:
    client = server.connect()
    client.send(get("/cable?token=x", *UPGRADE) + b"\x81\x80abcd")
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in client.read_until(b"\r\n\r\n")
    (upgraded,) = server.site.upgraded
    assert upgraded.received == b"\x81\x80abcd"
    assert upgraded.request.target == b"/cable?token=x"
    assert server.site.events == ["opened", "closed", "accept"]
    server.wait_closed()
    client.send(b"more")
    server.wait_until(lambda: upgraded.received == b"\x81\x80abcdmore")


def test_h26_a_request_behind_an_upgrade_is_handed_over_as_it_is(server: HttpServer) -> None:
    client = server.connect()
    client.send(get("/cable", *UPGRADE) + HEALTH)
    client.read_until(b"\r\n\r\n")
    assert server.site.upgraded[0].received == HEALTH


def test_an_upgrade_may_follow_requests(server: HttpServer) -> None:
    client = server.connect()
    client.send(HEALTH * (REQUESTS_PER_TURN + 3) + get("/cable", *UPGRADE) + b"frames")
    for _ in range(REQUESTS_PER_TURN + 3):
        assert client.read_answer().status == 200
    assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    client.send(b" more")
    server.wait_until(lambda: server.site.upgraded[0].received == b"frames more")


@pytest.mark.parametrize("state", ["full", "draining"])
def test_r2_no_upgrades_when_full_or_draining(server: HttpServer, state: str) -> None:
    setattr(server.site, state, True)
    answer = server.ask(get("/cable", *UPGRADE))
    assert (answer.status, answer.closes) == (503, True)
    assert int(answer.headers["retry-after"]) > 0
    assert server.site.upgraded == []


@pytest.mark.parametrize("body", [
    pytest.param(("Content-Length: 6",), id="length"), pytest.param(("Transfer-Encoding: chunked",), id="chunked")])
def test_h8_an_upgrade_with_a_body_is_refused_and_closes(server: HttpServer, body: tuple[str, ...]) -> None:
    client = server.connect()
    client.send(get("/cable", *UPGRADE, *body) + b"\x81\x80abcd" + HEALTH)
    answer = client.read_answer()
    assert (answer.status, answer.closes) == (400, True)
    client.read_eof()
    assert server.site.upgraded == []


@pytest.mark.parametrize(("request_", "status"), [
    pytest.param(get("/cable", *UPGRADE[:2], "Sec-WebSocket-Version: 8", UPGRADE[3]), 426, id="H5"),
    pytest.param(get("/cable", *UPGRADE, version="1.0"), 400, id="H6"),
    pytest.param(get("/cable", *UPGRADE, method="POST"), 405, id="H7"),
    pytest.param(get("/cable", *UPGRADE, host=None), 400, id="H9-no-Host"),
    pytest.param(get("/cable", "Connection: notupgrade", *UPGRADE[1:]), 426, id="H10"),
    pytest.param(get("/cable"), 426, id="plain-GET"),
    pytest.param(get("/cable", UPGRADE[0], "Upgrade: h2c"), 426, id="h2c"),
    pytest.param(get("/cable", *["A: b"] * 101), 431, id="H12"),
    pytest.param(get("/" + "a" * 8200), 414, id="H13"),
    pytest.param(get("/cable", *["Origin: http://a"] * 10_000), 431, id="H14"),
    pytest.param(get("/cable", *UPGRADE, "A: b\r\n c"), 400, id="H15"),
    pytest.param(get("/cable", *UPGRADE, "Origin: http://a\x0bX: y"), 400, id="H16"),
    pytest.param(get("*", method="OPTIONS"), 400, id="H21-asterisk"),
    pytest.param(get("http://localhost/cable"), 400, id="H21-absolute"),
    pytest.param(get("localhost:80", method="CONNECT"), 400, id="CONNECT"),
    pytest.param(b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03", 400, id="H27-TLS"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="H27-HTTP-2"),
    pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", 400, id="H27-SSH"),
    pytest.param(b"\xff\x00\xfe", 400, id="H27-random"),
    pytest.param(post(HELLO, "Transfer-Encoding: chunked"), 400, id="B1"),
    pytest.param(post(HELLO, "Content-Length: 32"), 400, id="B2-two"),
    pytest.param(post(HELLO, length="5, 5"), 400, id="B2-list"),
    pytest.param(post(HELLO, length="+5"), 400, id="B3"),
    pytest.param(post_chunked(b"0\r\n\r\n", version="1.0"), 400, id="B4-1.0"),
    pytest.param(get("/_broadcast", "Transfer-Encoding: gzip, chunked", method="POST") + b"0\r\n\r\n", 501, id="B4"),
    pytest.param(post_chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), 400, id="B5"),
    pytest.param(post_chunked(b"5;a=\n\r\nhello\r\n0\r\n\r\n"), 400, id="B6"),
    pytest.param(post_chunked(b"5;" + b"a" * 20_000), 400, id="B6-huge"),
    pytest.param(post_chunked(b"1\r\n1\r\n0\r\n" + b"A: b\r\n" * 5_000), 400, id="B7"),
    pytest.param(post(HELLO, "Expect: 200-ok"), 417, id="Expect"),
])
def test_bad_requests_are_refused_with_one_line_and_close(server: HttpServer, request_: bytes, status: int) -> None:
    """The answer arrives although more is sent than is read; nothing behind the request is answered."""
    client = server.connect()
    client.send(request_ + HEALTH)
    answer = client.read_answer()
    assert (answer.status, answer.closes) == (status, True)
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json) == ["error"]
    client.end()
    client.read_eof()
    server.wait_closed()
    assert server.hub.published == []
    assert server.ask(HEALTH).status == 200


def test_h27_a_refusal_is_one_line_of_debug_without_the_peers_text(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "fastcable"):
        server.ask(b"EVIL\x1b[31m")
    assert caplog.messages == ["a request was refused with 400: bad request: Invalid method encountered"]


@pytest.mark.parametrize("at", [0, 1, 30, len(post(HELLO)) - 1])
@pytest.mark.parametrize("end", ["FIN", "RST"])
def test_h24_b19_a_peer_may_leave_at_any_time(server: HttpServer, at: int, end: str) -> None:
    client = server.connect()
    client.send(post(HELLO)[:at])
    server.wait_until(lambda: len(server.site.open) == 1)
    if end == "FIN":
        client.end()
        client.read_eof()
    else:
        client.reset()
    server.wait_closed()
    assert server.hub.published == []
    assert server.site.events == ["opened", "closed"]


def test_a_peer_that_ends_its_side_still_gets_its_answers(server: HttpServer) -> None:
    client = server.connect()
    client.send(HEALTH + HEALTH + post(HELLO))
    client.end()
    assert [client.read_answer().status for _ in range(3)] == [200, 200, 200]
    client.read_eof()


def test_a_peer_that_ends_its_side_gets_more_answers_than_a_turn_gives(server: HttpServer) -> None:
    count = 3 * REQUESTS_PER_TURN
    client = server.connect()
    client.send(HEALTH * count)
    client.end()
    assert client.read_rest().count(b"HTTP/1.1 200 OK") == count


# Bodies

@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(("size", "status"), [(99, 200), (100, 200), (101, 413)], ids=["-1", "0", "+1"])
def test_b9_size_of_a_body(serve: Serve, framing: str, size: int, status: int) -> None:
    server = serve(max_broadcast_size=100)
    body = HELLO.ljust(size)
    encoded = chunk(body[:40].encode()) + chunk(body[40:].encode()) + b"0\r\n\r\n"
    answer = server.ask(post(body) if framing == "length" else post_chunked(encoded))
    assert answer.status == status
    assert len(server.hub.published) == (status == 200)


def test_b9_a_body_declared_too_large_is_not_waited_for(server: HttpServer) -> None:
    client = server.connect()
    client.send(post(b"", length=2**64 - 1))
    answer = client.read_answer()
    assert (answer.status, answer.closes) == (413, True)


@pytest.mark.parametrize("limit", [1 << 20, 0], ids=["limited", "unlimited"])
def test_a_body_is_not_allocated_by_its_declared_size(serve: Serve, limit: int) -> None:
    server = serve(max_broadcast_size=limit)
    client = server.connect()
    client.send(post(b'{"stream"', length=limit or 2**62))
    wait_for_requests(server, 1)
    body = server.site.open[0].body
    assert isinstance(body, bytearray)
    assert body.__sizeof__() < 200


def test_limits_of_bodies_may_be_off(serve: Serve) -> None:
    server = serve(max_broadcast_size=0, max_header_bytes=0)
    encoded = b"".join(chunk(BIG[at : at + 1000].encode()) for at in range(0, len(BIG), 1000)) + b"0\r\n\r\n"
    assert server.ask(post(BIG)).status == 200
    assert server.ask(post_chunked(encoded)).status == 200


def test_b8_a_body_in_chunks_of_one_byte(serve: Serve) -> None:
    server = serve()
    encoded = b"".join(chunk(bytes([byte])) for byte in BIG.encode()) + b"0\r\n\r\n"
    assert server.ask(post_chunked(encoded)).status == 200
    assert server.hub.published[0][1] == BIG[24:-1].encode()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_client_that_expects_it_is_told_to_continue(server: HttpServer, framing: str) -> None:
    client = server.connect()
    if framing == "length":
        client.send(post(b"", "Expect: 100-continue", length=len(HELLO)))
    else:
        client.send(post_chunked(b"", "Expect: 100-continue"))
    assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(HELLO.encode() if framing == "length" else chunk(HELLO.encode()) + b"0\r\n\r\n")
    assert client.read_answer().status == 200


def test_a_client_that_did_not_wait_is_not_told_to_continue(server: HttpServer) -> None:
    client = server.connect()
    client.send(post(HELLO, "Expect: 100-continue"), HEALTH)
    assert client.read_answer().status == 200
    assert client.read_answer().status == 200


@pytest.mark.parametrize(("request_", "status"), [
    (post(b"", "Expect: 100-continue", content_type="text/plain", length=5), 415),
    (post(b"", "Expect: 100-continue", length=2 << 20), 413),
    (post(b"", "Expect: 100-continue", "X-Forwarded-For: 1.2.3.4", length=5), 403),
    (post(b"", "Expect: 100-continue", path="/health", length=5), 405),
], ids=["415", "413", "403", "405"])
def test_a_client_whose_body_is_not_wanted_is_not_told_to_continue(
    server: HttpServer, request_: bytes, status: int
) -> None:
    answer = server.ask(request_)
    assert (answer.status, answer.closes) == (status, True)


def test_a_chunked_request_is_the_last_one(server: HttpServer) -> None:
    client = server.connect()
    client.send(post_chunked(chunk(HELLO.encode()) + b"0\r\n\r\n") + HEALTH)
    answer = client.read_answer()
    assert (answer.status, answer.closes) == (200, True)
    client.read_eof()


def test_a_body_that_was_not_read_closes(server: HttpServer) -> None:
    client = server.connect()
    client.send(post(HELLO, path="/health") + HEALTH)
    answer = client.read_answer()
    assert (answer.status, answer.closes) == (405, True)
    client.read_eof()


# Many requests at once

def test_b21_1000_pipelined_posts_are_answered_in_order(server: HttpServer) -> None:
    client = server.connect()
    client.send(b"".join(post(f'{{"stream":"chat","data":{number}}}') for number in range(1000)))
    for _ in range(1000):
        assert client.read_answer().status == 200
    assert [int(data) for _, data in server.hub.published] == list(range(1000))


def test_b21_a_turn_of_the_loop_answers_a_bounded_number(server: HttpServer) -> None:
    """Between two turns of the loop no more is published than a turn may."""
    counts: list[int] = []

    async def watch() -> None:
        while len(server.hub.published) < 1000:
            counts.append(len(server.hub.published))
            await asyncio.sleep(0)

    client = server.connect()
    watching = asyncio.run_coroutine_threadsafe(watch(), server._loop)
    client.send(b"".join([post(HELLO)] * 1000))
    watching.result(20)
    steps = [after - before for before, after in pairwise(counts)]
    # A read and the continuation of an earlier one may fall between two looks.
    assert max(steps) <= 2 * REQUESTS_PER_TURN


@pytest.mark.parametrize("last", [post(HELLO), get("/health", "Connection: close")], ids=["open", "closes"])
def test_a_peer_that_reads_late_gets_every_answer(server: HttpServer, last: bytes) -> None:
    """Answers fill the socket, reading stops; both go on when the peer reads."""
    make_answers(server, 4_000)

    client = server.connect(receive_buffer=4096)
    sent, total = 0, 3000
    requests = post(HELLO) * total
    client.socket.setblocking(False)
    try:
        while sent < len(requests):
            sent += client.socket.send(requests[sent : sent + 65536])
    except BlockingIOError:
        pass
    client.socket.settimeout(20)
    server.wait_until(lambda: server.site.open[0].blocked)
    accepted = len(server.hub.published)
    assert accepted < total
    whole = sent // len(post(HELLO))
    rest = requests[sent : (whole + 1) * len(post(HELLO))] if sent % len(post(HELLO)) else b""
    expected = whole + bool(rest)
    for number in range(expected):
        if number == accepted // 2 and rest:
            client.send(rest)
        assert client.read_answer().status == 200
    client.send(last)
    assert client.read_answer().status == 200
    if b"close" in last:
        client.read_eof()


# Deadlines: at -0.25 s nothing happens, at 0 the time is up

def test_h23_a_silent_peer_is_closed_without_a_word(server: HttpServer) -> None:
    client = server.connect()
    server.wait_until(lambda: len(server.site.handshakes) == 1)
    server.pass_time(9.75)
    assert len(server.site.open) == 1
    server.pass_time(0.25)
    client.read_eof()
    server.wait_closed()


def test_h23_empty_lines_are_silence(server: HttpServer) -> None:
    client = server.connect()
    client.send(b"\r\n\r\n")
    server.wait_until(lambda: server.site.open and server.site.open[0].head)
    server.pass_time(10)
    client.read_eof()


def test_h22_bytes_do_not_move_the_deadline_of_a_head(server: HttpServer) -> None:
    client = server.connect()
    for number in range(3):
        client.send(HEALTH[number : number + 1])
        server.wait_until(lambda: head_bytes(server) == len(HEALTH[: number + 1]))  # noqa: B023
        server.pass_time(3.25)
    assert len(server.site.open) == 1
    server.pass_time(0.25)
    answer = client.read_answer()
    assert (answer.status, answer.closes) == (408, True)
    client.read_eof()


def test_a_later_head_has_the_allowance_anew_from_its_first_byte(server: HttpServer) -> None:
    client = server.connect()
    client.send(HEALTH)
    client.read_answer()
    server.pass_time(60)
    client.send(HEALTH[:5])
    wait_for_requests(server, 1)
    server.pass_time(5)
    client.send(HEALTH[5:9])
    server.wait_until(lambda: head_bytes(server) == 9)
    server.pass_time(4.75)
    assert len(server.site.handshakes) == 1
    server.pass_time(0.25)
    assert client.read_answer().status == 408


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_b20_a_body_has_the_allowance_from_the_heads_end(server: HttpServer, framing: str) -> None:
    client = server.connect()
    request = post(HELLO) if framing == "length" else post_chunked(chunk(HELLO.encode()) + b"0\r\n\r\n")
    head = request.index(b"\r\n\r\n")
    client.send(request[:head])
    wait_for_requests(server, 1)
    server.pass_time(9)
    client.send(request[head : head + 6])
    server.wait_until(lambda: server.site.open[0].body is not None)
    server.pass_time(5)
    client.send(request[head + 6 : head + 8])
    server.pass_time(4.75)
    assert len(server.site.handshakes) == 1
    server.pass_time(0.25)
    answer = client.read_answer()
    assert (answer.status, answer.closes) == (408, True)
    client.read_eof()
    assert server.hub.published == []


def test_an_idle_connection_is_closed_after_keepalive_timeout(server: HttpServer) -> None:
    client = server.connect()
    for _ in range(2):
        client.send(HEALTH)
        client.read_answer()
        assert len(server.site.handshakes) == 0
        server.pass_time(74.75)
    assert len(server.site.keepalives) == 1
    server.pass_time(0.25)
    client.read_eof()
    server.wait_closed()


@pytest.mark.parametrize("options", [{"handshake_timeout": 0.0}, {"keepalive_timeout": 0.0}], ids=str)
def test_deadlines_may_be_off(serve: Serve, options: dict[str, float]) -> None:
    server = serve(**options)
    client = server.connect()
    if "keepalive_timeout" in options:
        client.send(HEALTH)
        client.read_answer()
    server.wait_until(lambda: len(server.site.open) == 1)
    server.pass_time(1e9)
    client.send(HEALTH)
    assert client.read_answer().status == 200


def test_a_peer_that_takes_no_answers_is_cut_off(server: HttpServer) -> None:
    make_answers(server, 4_000)
    client = server.connect(receive_buffer=4096)
    client.socket.setblocking(False)
    try:
        while True:
            client.socket.send(post(HELLO) * 100)
    except BlockingIOError:
        pass
    server.wait_until(lambda: server.site.open[0].blocked)
    server.pass_time(9.75)
    assert len(server.site.open) == 1
    server.pass_time(0.25)
    server.wait_closed()


def test_a_peer_that_ends_its_side_and_takes_no_answers_is_cut_off(server: HttpServer) -> None:
    make_answers(server, 4_000)
    client = server.connect(receive_buffer=4096)
    server.wait_until(lambda: len(server.site.open) == 1)
    protocol = server.site.open[0]
    # Enough answers that some do not fit the sockets, too few to be blocked.
    post_until(server, client, lambda: protocol.transport.get_write_buffer_size())
    assert not protocol.blocked
    client.end()
    server.wait_until(lambda: protocol in server.site.handshakes)
    server.pass_time(9.75)
    assert server.site.open == [protocol]
    server.pass_time(0.25)
    server.wait_closed()


def test_an_idle_peer_that_did_not_take_its_answers_is_cut_off(server: HttpServer) -> None:
    make_answers(server, 4_000)
    client = server.connect(receive_buffer=4096)
    server.wait_until(lambda: len(server.site.open) == 1)
    protocol = server.site.open[0]
    post_until(server, client, lambda: protocol.transport.get_write_buffer_size())
    server.pass_time(75)
    server.wait_closed()


# The end

def test_after_a_refusal_what_still_arrives_is_thrown_away(server: HttpServer) -> None:
    """More than the sockets hold is sent after the refusal; the answer is read only then, and is whole."""
    client = server.connect()
    client.send(post(b"", length=1 << 30))
    for _ in range(64):
        client.send(b"x" * 65536)
    assert client.read_answer().status == 413
    client.send(b"x" * 65536)
    client.end()
    client.read_eof()
    server.wait_closed()


def test_a_peer_that_goes_on_sending_is_cut_off_after_2_seconds(server: HttpServer) -> None:
    client = server.connect()
    client.send(b"bad\r\n")
    assert client.read_answer().status == 400
    client.read_eof()
    server.pass_time(LINGER_SECONDS - 0.25)
    client.send(b"more")
    assert len(server.site.open) == 1
    server.pass_time(0.25)
    server.wait_closed()


def test_a_last_answer_is_not_lost_to_a_request_behind_it(server: HttpServer) -> None:
    client = server.connect()
    client.send(get("/health", "Connection: close"))
    for _ in range(16):
        client.send(HEALTH * 1000)
    assert client.read_answer().closes
    client.end()
    client.read_eof()
    server.wait_closed()


def test_a_blocked_peers_refusal_still_arrives(server: HttpServer) -> None:
    """The last answer may be the one that fills the socket."""
    make_answers(server, 4_000)
    client = server.connect(receive_buffer=4096)
    server.wait_until(lambda: len(server.site.open) == 1)
    protocol = server.site.open[0]
    post_until(server, client, lambda: protocol.transport.get_write_buffer_size() > 60_000)
    make_answers(server, 100_000)
    client.send(post(HELLO, "Connection: close") + HEALTH)
    server.wait_until(lambda: protocol in server.site.lingering)
    assert protocol.blocked
    client.send(b"thrown away")
    wait_for_reading(server, protocol)
    assert protocol.unread == b""
    assert client.read_rest().count(b"HTTP/1.1 200 OK") == len(server.hub.published)
    client.close()
    server.wait_closed()


@pytest.mark.parametrize("end", ["idle", "part", "body", "chunked", "refused", "upgraded", "timeout", "abort", "reset"])
def test_a_connection_dies_without_the_garbage_collector(server: HttpServer, end: str) -> None:
    class Watched(HttpProtocol):
        pass

    watches: list[weakref.ref[Watched]] = []

    def protocol(*arguments: Any) -> Watched:
        made = Watched(*arguments)
        watches.append(weakref.ref(made))
        return made

    server.protocol = protocol
    gc.collect()
    gc.disable()
    try:
        client = server.connect()
        client.send(HEALTH)
        client.read_answer()
        last = {
            "part": HEALTH[:9], "body": post(HELLO)[:-1], "chunked": post_chunked(chunk(b"x")), "refused": b"bad\r\n",
            "upgraded": get("/cable", *UPGRADE), "timeout": HEALTH[:9], "reset": HEALTH[:9],
        }.get(end, b"")
        client.send(last)
        if end == "upgraded":
            client.read_until(b"\r\n\r\n")
        elif end in ("refused", "timeout"):
            if end == "timeout":
                wait_for_requests(server, 1)
                server.pass_time(10)
            client.read_answer()
        elif last:
            wait_for_requests(server, 1)
        if end == "abort":
            server.call(server.site.open[0].abort)
        elif end == "reset":
            client.reset()
        elif end != "upgraded":
            client.close()
        server.wait_closed()
        server.wait_until(lambda: watches[0]() is None)
    finally:
        gc.enable()


def test_loss_is_told_once(server: HttpServer) -> None:
    server.ask(HEALTH)
    server.wait_until(lambda: len(server.site.open) == 1)
    protocol = server.site.open[0]
    server.call(protocol.abort)
    server.wait_closed()
    server.call(lambda: protocol.connection_lost(None))
    server.call(protocol.abort)
    server.call(protocol.close_if_idle)
    server.call(lambda: protocol.deadline_passed(server.site.handshakes))
    server.call(protocol.go_on)
    assert server.site.events == ["opened", "closed"]


# Answers that a broker has to be waited for

@pytest.fixture
def handovers(server: HttpServer) -> list[asyncio.Future[int]]:
    """What the broker says to each message, in their order; the test completes them in the server's thread."""
    made: list[asyncio.Future[int]] = []

    def hand_over() -> asyncio.Future[int]:
        made.append(asyncio.get_running_loop().create_future())
        return made[-1]

    server.hub.broker = hand_over
    return made


def test_a_post_is_answered_when_its_message_is_handed_over_and_counts_those_elsewhere(
    server: HttpServer, handovers: list[asyncio.Future[int]]
) -> None:
    client = server.connect()
    client.send(post(HELLO))
    server.wait_until(lambda: handovers)
    server.call(lambda: handovers[0].set_result(4))
    answer = client.read_answer()
    assert (answer.status, answer.json, answer.closes) == (200, {"subscribers": 7}, False)
    client.send(HEALTH)
    assert client.read_answer().status == 200


def test_nothing_behind_such_a_post_is_read_before_its_answer(
    server: HttpServer, handovers: list[asyncio.Future[int]]
) -> None:
    client = server.connect()
    client.send(post(HELLO) + post(HELLO) + HEALTH + post(HELLO)[:-1])
    server.wait_until(lambda: handovers)
    client.send(post(HELLO)[-1:])
    assert len(server.call(lambda: server.hub.published)) == 1
    for number in range(3):
        server.wait_until(lambda: len(handovers) == number + 1)  # noqa: B023
        server.call(lambda: handovers[number].set_result(number))  # noqa: B023
        assert client.read_answer().json == {"subscribers": 3 + number}
        if number == 1:
            assert client.read_answer().json == {"status": "ok"}


@pytest.mark.parametrize("end", ["half-closes", "asks for close"])
def test_who_says_that_this_was_the_last_request_gets_its_answer(
    server: HttpServer, handovers: list[asyncio.Future[int]], end: str
) -> None:
    client = server.connect()
    client.send(post(HELLO, *(["Connection: close"] if end == "asks for close" else [])))
    if end == "half-closes":
        client.end()
    server.wait_until(lambda: handovers)
    server.call(lambda: handovers[0].set_result(0))
    answer = client.read_answer()
    assert (answer.status, answer.closes) == (200, end == "asks for close")
    client.read_eof()


def test_who_hangs_up_while_the_broker_works_leaves_nothing(
    server: HttpServer, handovers: list[asyncio.Future[int]]
) -> None:
    client = server.connect()
    client.send(post(HELLO))
    server.wait_until(lambda: handovers)
    client.reset()
    server.call(lambda: handovers[0].set_result(0))
    server.wait_closed()
    assert server.ask(HEALTH).status == 200


@pytest.mark.parametrize(("body", "failures", "said"), [
    (HELLO, [0], "not handed over: the bus is full"),
    (f"[{HELLO},{HELLO},{HELLO}]", [1, 2], "2 of 3 messages were not handed over: the bus is full"),
], ids=["one", "batch"])
def test_what_was_not_handed_over_is_answered_with_503(
    server: HttpServer, handovers: list[asyncio.Future[int]], body: str, failures: list[int], said: str
) -> None:
    client = server.connect()
    client.send(post(body))
    server.wait_until(lambda: handovers)

    def complete() -> None:
        for number, handover in enumerate(handovers):
            if number in failures:
                handover.set_exception(HandoverError("the bus is full"))
            else:
                handover.set_result(1)

    server.call(complete)
    answer = client.read_answer()
    assert (answer.status, answer.json, answer.headers["retry-after"]) == (503, {"error": said}, "1")
    client.send(HEALTH)
    assert client.read_answer().status == 200


def test_a_broker_that_breaks_costs_one_answer(
    server: HttpServer, handovers: list[asyncio.Future[int]], caplog: pytest.LogCaptureFixture
) -> None:
    client = server.connect()
    client.send(post(HELLO))
    server.wait_until(lambda: handovers)
    server.call(lambda: handovers[0].set_exception(RuntimeError("a mistake")))
    answer = client.read_answer()
    assert (answer.status, answer.closes) == (500, True)
    assert "a mistake" in caplog.text


def test_such_a_post_has_no_deadline_of_ours(server: HttpServer, handovers: list[asyncio.Future[int]]) -> None:
    client = server.connect()
    client.send(post(HELLO)[:-1])
    wait_for_requests(server, 1)
    client.send(post(HELLO)[-1:])
    server.wait_until(lambda: handovers)
    assert server.call(lambda: [len(server.site.handshakes), len(server.site.keepalives)]) == [0, 0]
    server.call(lambda: handovers[0].set_result(0))
    assert client.read_answer().status == 200
    assert server.call(lambda: len(server.site.keepalives)) == 1


def test_a_count_waits_for_those_elsewhere(server: HttpServer, handovers: list[asyncio.Future[int]]) -> None:
    client = server.connect()
    client.send(get("/_streams?stream=chat"))
    server.wait_until(lambda: handovers)
    server.call(lambda: handovers[0].set_result(2))
    assert client.read_answer().json == {"subscribers": 5}
