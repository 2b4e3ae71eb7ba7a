"""What each path answers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import fastcable._http
from fastcable._endpoints import Endpoints
from fastcable._handshake import Accept
from fastcable._request import HeadParser
from fastcable.response import Response
from fastcable.retained import retained_size
from fastcable.settings import Settings
from tests.peers.rawhttp import HELLO, UPGRADE, HttpServer, RecordingHub, at_once, chunk, get, post, post_chunked

Serve = Callable[..., HttpServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(HttpServer(**options))


@pytest.fixture
def server(serve: Serve) -> HttpServer:
    return serve()


class Peer:
    def __init__(self, loopback: bool) -> None:
        self.loopback = loopback

    def is_loopback(self) -> bool:
        return self.loopback


def begin(request: bytes, *, loopback: bool = True, **options: Any) -> Response | Accept | None:
    """What is decided at the end of a request's head."""
    parser = HeadParser(0, 0)
    parser.feed(request)
    assert parser.request is not None
    room = Endpoints(Settings(**options), RecordingHub(), cable=True, broadcast=True, demo=False)
    answer = room.begin(parser.request, Peer(loopback))
    assert not isinstance(answer, asyncio.Future)
    return answer


def status(request: bytes, *, loopback: bool = True, **options: Any) -> int:
    """The status with which a request is refused, or 200."""
    answer = begin(request, loopback=loopback, **options)
    if isinstance(answer, Response):
        assert answer.status >= 400
        assert list(json.loads(answer.content)) == ["error"]
        return answer.status
    return 200


def publish(body: bytes | str, **options: Any) -> tuple[int, Any, list[tuple[str, bytes]]]:
    """Status, decoded answer and what was published for a body that was let through."""
    hub = RecordingHub()
    room = Endpoints(Settings(**options), hub, cable=True, broadcast=True, demo=False)
    answer = at_once(room.publish(body.encode() if isinstance(body, str) else body))
    assert answer.content.count(b"\n") == 0
    return answer.status, json.loads(answer.content), hub.published


# Paths

@pytest.mark.parametrize("path", [
    "/", "/nope", "/cable/", "//cable", "/cable/../_broadcast", "/./cable", "/%63able", "/cable%00", "/CABLE",
    "/cable;x", "/cable#x", "/_broadcast/", "//_broadcast", "/%5fbroadcast", "/health/", "/fastcable.js/", "/demo.html",
    "/fastcable.d.ts", "/../client/demo.html", "/cable/health",
])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_h21_other_paths_are_not_found(server: HttpServer, method: str, path: str) -> None:
    answer = server.ask(get(path, *UPGRADE, method=method))
    assert (answer.status, answer.json) == (404, {"error": "not found"})


def test_health_tells_life_and_readiness_apart(server: HttpServer) -> None:
    assert [server.ask(get(path)).status for path in ("/health", "/health/live", "/health/ready")] == [200, 200, 200]
    server.hub.problem = "redis: connection refused"
    assert [server.ask(get(path)).status for path in ("/health", "/health/live")] == [200, 200]
    answer = server.ask(get("/health/ready"))
    assert (answer.status, answer.json) == (503, {"status": "not ready", "reason": "redis: connection refused"})
    assert server.ask(get("/health/ready", method="POST")).headers["allow"] == "GET, HEAD"


def test_paths_are_those_of_the_settings(serve: Serve) -> None:
    server = serve(cable_path="/ws", broadcast_path="/in")
    assert server.ask(get("/cable")).status == 404
    assert server.ask(get("/ws")).status == 426
    assert server.ask(post(HELLO)).status == 404
    assert server.ask(post(HELLO, path="/in?x=y")).status == 200


@pytest.mark.parametrize("cable", [True, False])
@pytest.mark.parametrize("broadcast", [True, False])
def test_b15_a_listener_has_the_paths_it_was_given(serve: Serve, cable: bool, broadcast: bool) -> None:
    server = serve(cable=cable, broadcast=broadcast)
    assert server.ask(get("/cable")).status == (426 if cable else 404)
    assert server.ask(post(HELLO)).status == (200 if broadcast else 404)
    assert server.ask(get("/health")).status == 200


@pytest.mark.parametrize("path", ["/health", "/health?x=y"])
def test_health(server: HttpServer, path: str) -> None:
    answer = server.ask(get(path))
    assert (answer.status, answer.body) == (200, b'{"status":"ok"}')
    assert answer.headers["content-type"] == "application/json"
    assert "server" not in answer.headers


@pytest.mark.parametrize(("path", "method", "allow"), [
    ("/health", "POST", "GET, HEAD"), ("/fastcable.js", "DELETE", "GET, HEAD"), ("/cable", "POST", "GET"),
    ("/cable", "HEAD", "GET"), ("/_broadcast", "GET", "POST"), ("/_broadcast", "PUT", "POST"),
    ("/_broadcast", "OPTIONS", "POST"), ("/_broadcast", "HEAD", "POST"),
])
def test_b11_other_methods_are_told_which_are_allowed(server: HttpServer, path: str, method: str, allow: str) -> None:
    answer = server.ask(get(path, method=method), body=method != "HEAD")
    assert (answer.status, answer.headers["allow"]) == (405, allow)


def test_plain_get_on_the_cable_path_is_told_to_upgrade(server: HttpServer) -> None:
    answer = server.ask(get("/cable"))
    assert (answer.status, answer.headers["upgrade"], answer.closes) == (426, "websocket", True)
    assert "Upgrade" in answer.headers["connection"]


def test_a1_allowed_origins_are_those_of_the_settings() -> None:
    evil = get("/cable", *UPGRADE, "Origin: https://evil.example")
    assert status(evil, allowed_origins=("https://example.com",)) == 403
    assert isinstance(begin(evil), Accept)
    good = get("/cable", *UPGRADE, "Origin: https://example.com")
    assert isinstance(begin(good, allowed_origins=("https://example.com",)), Accept)


# Files

def test_the_browser_client(server: HttpServer) -> None:
    client = server.connect()
    client.send(get("/fastcable.js"))
    answer = client.read_answer()
    assert answer.status == 200
    assert answer.body == Path(fastcable.__file__).with_name("client").joinpath("fastcable.js").read_bytes()
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    etag = answer.headers["etag"]
    for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        client.send(get("/fastcable.js", f"If-None-Match: {known}"))
        unchanged = client.read_answer(body=False)
        assert (unchanged.status, unchanged.headers["etag"]) == (304, etag)
    client.send(get("/fastcable.js", 'If-None-Match: "x"', method="HEAD"))
    answer = client.read_answer(body=False)
    assert (answer.status, int(answer.headers["content-length"]) > 0) == (200, True)


def test_the_demo_page_is_there_with_demo_only(serve: Serve) -> None:
    assert serve().ask(get("/")).status == 404
    answer = serve(demo=True).ask(get("/"))
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


# Who may publish

FORWARDED = ["Forwarded: for=1.2.3.4", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: a", "X-Forwarded-Proto: https",
             "x-forwarded-anything:"]
LOCAL_ORIGINS = ["http://localhost", "http://localhost:3000", "https://LOCALHOST", "http://app.localhost:8080",
                 "http://127.0.0.1", "http://127.9.8.7:1", "http://[::1]:3000", "tauri://localhost"]
FOREIGN_ORIGINS = ["null", "file://", "", "https://example.com", "http://localhost.evil.com", "http://evillocalhost",
                   "http://127.evil.com", "http://127.0.0.1.evil.com", "http://1127.0.0.1", "http://[::2]", "http://0.0.0.0",
                   "http://localhost@evil.com", "http://evil.com#localhost", "http://localhost."]


def test_b14_without_a_key_this_machine_may_publish() -> None:
    assert begin(post(HELLO)) is None


def test_b14_without_a_key_nobody_else_may_publish() -> None:
    answer = begin(post(HELLO), loopback=False)
    assert isinstance(answer, Response)
    assert answer.status == 403
    assert b"broadcast_key" in answer.content


@pytest.mark.parametrize("line", FORWARDED)
def test_a5_without_a_key_no_proxy_may_publish(line: str) -> None:
    assert status(post(HELLO, line)) == 403
    assert status(post(HELLO, line, "Authorization: Bearer KEY"), broadcast_key="KEY") == 200


@pytest.mark.parametrize("origin", LOCAL_ORIGINS)
def test_without_a_key_pages_of_this_machine_may_publish(origin: str) -> None:
    assert status(post(HELLO, f"Origin: {origin}")) == 200


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_without_a_key_pages_of_other_hosts_may_not_publish(origin: str) -> None:
    assert status(post(HELLO, f"Origin: {origin}")) == 403
    assert status(post(HELLO, f"Origin: {origin}", "Origin: http://localhost")) == 403


@pytest.mark.parametrize("lines", [
    pytest.param(["Authorization: Bearer KEY"], id="Bearer"), pytest.param(["Authorization: bearer KEY"], id="bearer"),
    pytest.param(["AUTHORIZATION: BEARER   KEY"], id="BEARER-spaces"),
])
@pytest.mark.parametrize("loopback", [True, False])
def test_b13_whoever_has_the_key_may_publish(lines: list[str], loopback: bool) -> None:
    assert status(post(HELLO, *lines), loopback=loopback, broadcast_key="KEY") == 200


@pytest.mark.parametrize("lines", [
    pytest.param([], id="none"), pytest.param(["Authorization: Bearer"], id="empty"),
    pytest.param(["Authorization: Bearer KE"], id="prefix"), pytest.param(["Authorization: Bearer KEYS"], id="longer"),
    pytest.param(["Authorization: Bearer key"], id="case"), pytest.param(["Authorization: KEY"], id="no-scheme"),
    pytest.param(["Authorization: Basic KEY"], id="Basic"), pytest.param(["Authorization: BearerKEY"], id="no-space"),
    pytest.param(["Authorization: Bearer K\xc9Y"], id="not-ascii"),
    pytest.param(["Authorization: Bearer KEY KEY"], id="twice-in-one"),
    pytest.param(["Authorization: Bearer KEY", "Authorization: Bearer KEY"], id="twice"),
    pytest.param(["Authorization: Bearer x", "Authorization: Bearer KEY"], id="wrong-and-right"),
    pytest.param(["Proxy-Authorization: Bearer KEY"], id="other-header"),
])
def test_b13_nobody_else_may_publish(lines: list[str]) -> None:
    answer = begin(post(HELLO, *lines), broadcast_key="KEY")
    assert isinstance(answer, Response)
    assert (answer.status, answer.headers) == (
        401, b"Content-Type: application/json\r\nWWW-Authenticate: Bearer\r\n")
    assert b"KEY" not in answer.content


def test_b13_a_key_may_have_any_characters() -> None:
    line = "Authorization: Bearer " + "schlüssel".encode().decode("latin-1")
    assert status(post(HELLO, line), broadcast_key="schlüssel") == 200


class Transport(asyncio.Transport):
    """Knows nothing but its addresses."""

    def __init__(self, peername: object, family: int) -> None:
        kind = type("Socket", (), {"family": family})
        super().__init__({"peername": peername, "socket": kind})


@pytest.mark.parametrize(("family", "peername", "loopback"), [
    (socket.AF_INET, ("127.0.0.1", 1), True), (socket.AF_INET, ("127.8.9.10", 1), True),
    (socket.AF_INET6, ("::1", 1, 0, 0), True), (socket.AF_INET6, ("::ffff:127.0.0.1", 1, 0, 0), True),
    (socket.AF_UNIX, "", True), (socket.AF_UNIX, None, True),
    (socket.AF_INET, ("10.0.0.1", 1), False), (socket.AF_INET, ("128.0.0.1", 1), False), (socket.AF_INET, None, False),
    (socket.AF_INET6, ("::ffff:10.0.0.1", 1, 0, 0), False), (socket.AF_INET6, ("fe80::1%lo", 1, 0, 1), False),
    (socket.AF_INET6, ("::", 1, 0, 0), False), (socket.AF_INET6, ("::2", 1, 0, 0), False),
], ids=str)
def test_which_peers_are_on_this_machine(family: int, peername: object, loopback: bool) -> None:
    assert fastcable._http.peer_is_loopback(Transport(peername, family)) is loopback


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_real_peers_on_this_machine_may_publish(serve: Serve, unix: bool) -> None:
    client = serve(unix=unix).connect()
    for _ in range(2):
        client.send(post(HELLO))
        assert client.read_answer().json == {"subscribers": 3}


# The order of checks

@pytest.mark.parametrize(("request_", "expected"), [
    pytest.param(post("x" * 101, path="/nope", content_type="a/b"), 404, id="path"),
    pytest.param(get("/_broadcast", "Content-Length: 101", "X-Forwarded-For: a"), 405, id="method"),
    pytest.param(post("x" * 101, "X-Forwarded-For: a", content_type="a/b"), 403, id="permission"),
    pytest.param(post("x" * 101, content_type="a/b"), 415, id="type"),
    pytest.param(post("x" * 101), 413, id="size"),
    pytest.param(post("x" * 100), 400, id="body"),
])
def test_checks_come_in_the_order_of_the_contract(serve: Serve, request_: bytes, expected: int) -> None:
    assert serve(max_broadcast_size=100).ask(request_).status == expected


@pytest.mark.parametrize("content_type", [
    "application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;charset=latin-1",
    "application/json ; x=y", "application/json;"])
def test_json_may_have_parameters(content_type: str) -> None:
    assert status(post(HELLO, content_type=content_type)) == 200


@pytest.mark.parametrize("content_type", [
    None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonx",
    "application/json, text/plain", "application/problem+json", "text/plain; application/json", "*/*"])
def test_b11_other_types_are_refused(content_type: str | None) -> None:
    assert status(post(HELLO, content_type=content_type)) == 415


def test_b11_two_types_are_refused() -> None:
    assert status(post(HELLO, "Content-Type: text/plain; charset=utf-8")) == 415
    assert status(post(HELLO, "Content-Type: application/json;", content_type="text/plain")) == 415


@pytest.mark.parametrize("coding", ["gzip", "identity", "br"])
def test_b12_encoded_bodies_are_refused(coding: str) -> None:
    assert status(post(HELLO, f"Content-Encoding: {coding}")) == 415


@pytest.mark.parametrize(("size", "expected"), [(99, 200), (100, 200), (101, 413)], ids=["-1", "0", "+1"])
def test_b9_declared_size(size: int, expected: int) -> None:
    assert status(post(b"", length=size), max_broadcast_size=100) == expected
    assert status(post(b"", length=size), max_broadcast_size=0) == 200


# Bodies

@pytest.mark.parametrize(("data", "raw"), [
    ("1", b"1"), ("null", b"null"), (' {"a" : [1, 2]} ', b'{"a" : [1, 2]}'), ('"\\u00e9\\n\\ud83d\\ude00"', None),
    ("1.0e300", b"1.0e300"), ("18446744073709551617", b"18446744073709551617"), ("9" * 300, None), ("-0.0", b"-0.0"),
    ("[" * 1000 + "]" * 1000, None), ('"é"', "\"é\"".encode()),
], ids=["number", "null", "object", "escapes", "P4-large", "P4-overflow", "P4-300-digits", "zero", "P2-deep", "UTF-8"])
def test_data_is_passed_on_byte_for_byte(data: str, raw: bytes | None) -> None:
    answer = publish(f'{{"stream":"chat","data":{data},"more":1}}')
    assert answer == (200, {"subscribers": 3}, [("chat", raw if raw is not None else data.encode())])


def test_p5_of_members_with_one_name_the_last_counts() -> None:
    assert publish('{"stream":"a","data":1,"stream":"b","d\\u0061ta":2}')[2] == [("b", b"2")]


def test_stream_names_are_compared_decoded() -> None:
    assert publish('{"stream":"\\u0063hat","data":1}')[2] == [("chat", b"1")]


@pytest.mark.parametrize(("body", "problem"), [
    pytest.param("", "body is empty", id="B10-empty"),
    pytest.param(b"\xff\xfe", "body is not UTF-8", id="not-UTF-8"),
    pytest.param(b'{"stream":"\xff","data":1}', "body is not UTF-8", id="stream-not-UTF-8"),
    pytest.param(b'\xef\xbb\xbf{"stream":"a","data":1}', "body is not JSON", id="P7-BOM"),
    pytest.param(HELLO + HELLO, "body is not JSON", id="P7-two-documents"),
    pytest.param(HELLO + "x", "body is not JSON", id="P7-trailing-garbage"),
    pytest.param("{", "body is not JSON", id="P1-cut"),
    pytest.param('{"stream":"a","data":NaN}', "body is not JSON", id="P3-NaN"),
    pytest.param('{"stream":"a","data":-Infinity}', "body is not JSON", id="P3-Infinity"),
    pytest.param('{"stream":"a","data":"\\ud800"}', "body is not JSON", id="P6-data"),
    pytest.param('{"stream":"\\ud800","data":1}', "body is not JSON", id="B16-P6-stream"),
    pytest.param('{"stream":"a","data":%s}' % ("[" * 100_000 + "]" * 100_000), "body is not JSON", id="P2-too-deep"),
    pytest.param('{"stream":"a","data":1e400}', "body is not JSON", id="P4-1e400"),
    pytest.param('{"stream":"a","data":%s}' % ("9" * 100_000), "body is not JSON", id="P4-100k-digits"),
    pytest.param("5", "body must be an object", id="P1-number"),
    pytest.param('"x"', "body must be an object", id="P1-string"),
    pytest.param("null", "body must be an object", id="P1-null"),
    pytest.param("{}", "stream is missing", id="no-stream"),
    pytest.param('{"data":1}', "stream is missing", id="no-stream-but-data"),
    pytest.param('{"stream":"a"}', "data is missing", id="B16-no-data"),
    pytest.param('{"stream":"a","Data":1}', "data is missing", id="B16-Data"),
    *(pytest.param(f'{{"stream":{name},"data":1}}', "stream must be a string", id=f"P8-{name}")
      for name in ("null", "5", "[]", "{}", "true")),
    pytest.param('{"stream":"","data":1}', "stream must not be empty", id="B16-empty"),
    pytest.param('{"stream":"a\\u0000","data":1}', "stream must not contain control", id="B16-NUL"),
    pytest.param('{"stream":"a\\n","data":1}', "stream must not contain control", id="B16-LF"),
    pytest.param('{"stream":"a\\u007f","data":1}', "stream must not contain control", id="B16-DEL"),
    pytest.param('{"stream":"%s","data":1}' % ("x" * 256), "stream must be at most 255 bytes", id="P9-256"),
    pytest.param('{"stream":"%s","data":1}' % ("é" * 128), "stream must be at most 255 bytes", id="P9-256-UTF-8"),
    pytest.param('{"stream":"%s","data":1}' % ("x" * 1_000_000), "stream must be at most 255 bytes", id="B16-1-MB"),
    pytest.param("[5]", "message 0 of the batch: must be an object", id="batch-of-numbers"),
    pytest.param("[[]]", "message 0 of the batch: must be an object", id="batch-of-arrays"),
    pytest.param(f"[{HELLO},{{}}]", "message 1 of the batch: stream is missing", id="B17-bad-item"),
    pytest.param(f'[{HELLO},{HELLO},{{"stream":"a"}}]', "message 2 of the batch: data is missing", id="B17-last-item"),
])
def test_bad_bodies_are_refused_and_nothing_is_published(body: bytes | str, problem: str) -> None:
    answer, error, published = publish(body)
    assert (answer, published) == (400, [])
    assert error["error"].startswith(problem)
    assert len(error["error"]) < 200


@pytest.mark.parametrize("length", [255, 254])
def test_p9_longest_stream_name(length: int) -> None:
    assert publish('{"stream":"%s","data":1}' % ("x" * length))[0] == 200


def test_a_batch_is_published_in_order_and_its_subscribers_summed() -> None:
    body = '[{"stream":"a","data":1}, {"data":{"data":2},"stream":"b"},{"stream":"a","data":3}]'
    assert publish(body) == (200, {"subscribers": 9}, [("a", b"1"), ("b", b'{"data":2}'), ("a", b"3")])


def test_an_empty_batch_is_accepted() -> None:
    assert publish("[]") == (200, {"subscribers": 0}, [])


@pytest.mark.parametrize(("count", "expected"), [(999, 200), (1000, 200), (1001, 413)], ids=["-1", "0", "+1"])
def test_b17_size_of_a_batch(count: int, expected: int) -> None:
    answer, error, published = publish(f"[{','.join([HELLO] * count)}]")
    assert (answer, len(published)) == (expected, count if expected == 200 else 0)
    if expected == 400:
        assert "max_batch" in error["error"]


def test_b17_the_limit_of_a_batch_may_be_off() -> None:
    assert publish(f"[{','.join([HELLO] * 2000)}]", max_batch=0)[0] == 200


def test_b10_posts_without_a_body(server: HttpServer) -> None:
    client = server.connect()
    client.send(post(""), get("/_broadcast", "Content-Type: application/json", method="POST"), post(HELLO))
    assert [client.read_answer().status for _ in range(3)] == [400, 400, 200]


def test_chunked_posts(server: HttpServer) -> None:
    answer = server.ask(post_chunked(chunk(HELLO[:9].encode()) + chunk(HELLO[9:].encode()) + b"0\r\n\r\n"))
    assert (answer.json, server.hub.published) == ({"subscribers": 3}, [("chat", b'"hello"')])


def test_h28_nothing_of_a_request_is_reflected(server: HttpServer) -> None:
    mark = "R3FL3CT"
    for request in (get(f"/{mark}?{mark}"), get("/cable", *UPGRADE[:3], f"Sec-WebSocket-Protocol: {mark}"),
                    post(f'{{"stream":5,"{mark}":1}}'), post(mark), post(f'{{"{mark}'), get(f"{mark}"),
                    get("/health", f"{mark} x: y"), post("x", f"Authorization: {mark}", content_type=mark)):
        client = server.connect()
        client.send(request)
        client.end()
        assert mark.encode() not in client.read_rest()


def test_nothing_is_taken_while_the_fan_out_is_behind() -> None:
    hub = RecordingHub()
    hub.congested = True
    answer = at_once(Endpoints(Settings(), hub, cable=True, broadcast=True, demo=False).publish(HELLO.encode()))
    assert (answer.status, hub.published) == (503, [])
    assert b"Retry-After: 1\r\n" in answer.headers


# retain, exclude

@pytest.mark.parametrize(("members", "options"), [
    ("", (False, None)), (',"retain":false', (False, None)), (',"retain":true', (True, None)),
    (',"exclude":"abc"', (False, "abc")), (',"retain":true,"exclude":""', (True, "")),
    (',"retain":1,"retain":true', (True, None)),
], ids=["neither", "not-retained", "retained", "excluded", "both", "the-last-counts"])
def test_a_message_may_be_retained_and_exclude_someone(members: str, options: tuple[bool, str | None]) -> None:
    message = f'{{"stream":"s","data":1{members}}}'
    for body in (message, f"[{message}]"):
        hub = RecordingHub()
        answer = at_once(Endpoints(Settings(), hub, cable=True, broadcast=True, demo=False).publish(body.encode()))
        assert (answer.status, hub.published, hub.options) == (200, [("s", b"1")], [options])


@pytest.mark.parametrize(("member", "problem"), [
    *((f'"retain":{value}', "retain must be true or false") for value in ("null", "1", '"true"', "[]", "{}", "0")),
    *((f'"exclude":{value}', "exclude must be a string: the socket id of a client")
      for value in ("null", "1", "true", '["abc"]', "{}")),
])
def test_other_values_of_these_are_refused(member: str, problem: str) -> None:
    assert publish(f'{{"stream":"s","data":1,{member}}}') == (400, {"error": problem}, [])
    assert publish(f'[{{"stream":"s","data":1}},{{"stream":"s","data":1,{member}}}]') == (
        400, {"error": f"message 1 of the batch: {problem}"}, [])


@pytest.mark.parametrize(("size", "expected"), [(99, 200), (100, 200), (101, 413)], ids=["-1", "0", "+1"])
def test_what_is_too_large_to_be_retained_is_refused_and_nothing_is_published(size: int, expected: int) -> None:
    limit = retained_size("s", b"1" * 100)
    message = f'{{"stream":"s","data":{"1" * size},"retain":true}}'
    problem = f"data is too large to be retained: max_retained_bytes is {limit}"
    status, answer, published = publish(message, max_retained_bytes=limit)
    assert (status, len(published)) == (expected, expected == 200)
    assert expected == 200 or answer == {"error": problem}
    status, answer, published = publish(f'[{{"stream":"t","data":1}},{message}]', max_retained_bytes=limit)
    assert (status, len(published)) == (expected, 2 * (expected == 200))
    assert expected == 200 or answer == {"error": f"message 1 of the batch: {problem}"}
    assert publish(message.replace("true", "false"), max_retained_bytes=limit)[0] == 200
    assert publish(message, max_retained_bytes=0)[0] == 200


# How many follow a stream

def count(query: str, *lines: str, method: str = "GET", loopback: bool = True, **options: Any) -> tuple[int, Any]:
    answer = begin(get(f"/_streams{query}", *lines, method=method), loopback=loopback, **options)
    assert isinstance(answer, Response)
    return answer.status, json.loads(answer.content)


@pytest.mark.parametrize(("query", "stream"), [
    ("?stream=scores", "scores"), ("?stream=a+b%20c", "a b c"), ("?stream=Z%C3%BCrich", "Zürich"),
    ("?stream=%26%3D%25", "&=%"),
    ("?x=1&stream=s&y", "s"), ("?stream=a=b", "a=b"), ("?stream=" + "%C3%BC" * 127, "ü" * 127),
])
def test_the_subscribers_of_a_stream_are_counted(server: HttpServer, query: str, stream: str) -> None:
    for method in ("GET", "HEAD"):
        answer = server.ask(get(f"/_streams{query}", method=method), body=method == "GET")
        assert (answer.status, server.hub.asked.pop()) == (200, stream)
    assert count(query) == (200, {"subscribers": 3})


@pytest.mark.parametrize(("query", "problem"), [
    ("", "one stream is expected: ?stream=NAME"), ("?", "one stream is expected: ?stream=NAME"),
    ("?Stream=s", "one stream is expected: ?stream=NAME"),
    ("?stream=a&stream=b", "one stream is expected: ?stream=NAME"),
    ("?stream=", "stream must not be empty"), ("?stream", "stream must not be empty"),
    ("?stream=%00", "stream must not contain control characters"),
    ("?stream=%C3%BC" + "x" * 254, "stream must be at most 255 bytes of UTF-8"),
    ("?stream=%ff", "bad query: ?stream=NAME is expected, percent-encoded UTF-8"),
    ("?stream=%ed%a0%80", "bad query: ?stream=NAME is expected, percent-encoded UTF-8"),
    ("?" + "&" * 8 + "stream=s", "bad query: ?stream=NAME is expected, percent-encoded UTF-8"),
])
def test_bad_queries_are_refused(query: str, problem: str) -> None:
    assert count(query) == (400, {"error": problem})


def test_whoever_may_publish_may_count_and_nobody_else() -> None:
    assert count("?stream=s", method="POST")[0] == 405
    assert count("?stream=s", method="DELETE", loopback=False)[0] == 405
    assert count("?stream=s", loopback=False)[0] == 403
    assert count("", "X-Forwarded-For: 10.0.0.1")[0] == 403
    assert count("?stream=s", "Origin: https://example.com")[0] == 403
    assert count("?stream=s", broadcast_key="secret")[0] == 401
    assert count("?stream=s", "Authorization: Bearer wrong", broadcast_key="secret")[0] == 401
    assert count("?stream=s", "Authorization: Bearer secret", broadcast_key="secret", loopback=False)[0] == 200


@pytest.mark.parametrize("broadcast", [True, False])
def test_streams_are_counted_where_broadcasts_are_posted(serve: Serve, broadcast: bool) -> None:
    server = serve(cable=True, broadcast=broadcast)
    assert server.ask(get("/_streams?stream=s")).status == (200 if broadcast else 404)
