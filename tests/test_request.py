"""Heads of requests, without sockets."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastcable._request import BadRequest, HeadParser, Request, parse_head
from tests.peers.rawhttp import UPGRADE, get, post

HEAD = get("/a?b=c?d", "Accept:  */* \t", "X-Empty:", "Accept: text/plain")


def parse(*pieces: bytes, max_bytes: int = 16384, max_headers: int = 100) -> Request:
    """The request in these pieces, the last of which must end it."""
    parser = HeadParser(max_bytes, max_headers)
    try:
        for piece in pieces[:-1]:
            assert parser.feed(piece) == -1
        assert parser.feed(pieces[-1]) == len(pieces[-1])
    finally:
        parser.close()
    assert parser.request is not None
    return parser.request


def refusal(*pieces: bytes, max_bytes: int = 16384, max_headers: int = 100) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(*pieces, max_bytes=max_bytes, max_headers=max_headers)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_request_has_lower_case_names_and_trimmed_values() -> None:
    request = parse(HEAD)
    assert (request.method, request.target, request.path, request.version) == (b"GET", b"/a?b=c?d", b"/a", "1.1")
    assert request.headers == [
        (b"host", b"localhost"), (b"accept", b"*/*"), (b"x-empty", b""), (b"accept", b"text/plain")]
    assert request.fields[b"accept"] == b"text/plain"
    assert request.values(b"accept") == [b"*/*", b"text/plain"]
    assert (request.keep_alive, request.length, request.expects_continue) == (True, 0, False)


@pytest.mark.parametrize("head", [HEAD, get("/cable", *UPGRADE), post("x")[:-1]], ids=["GET", "upgrade", "POST"])
def test_a_head_may_be_cut_anywhere(head: bytes) -> None:
    whole = parse(head)
    for cut in range(1, len(head)):
        assert parse(head[:cut], head[cut:]).headers == whole.headers
    assert parse(*(head[at : at + 1] for at in range(len(head)))).headers == whole.headers


@given(st.lists(st.integers(1, len(HEAD) - 1), max_size=6), st.binary(max_size=20))
def test_what_follows_a_head_is_not_read(cuts: list[int], rest: bytes) -> None:
    edges = [0, *sorted(set(cuts)), len(HEAD)]
    pieces = [HEAD[a:b] for a, b in pairwise(edges)]
    parser = HeadParser(0, 0)
    for piece in pieces[:-1]:
        assert parser.feed(piece) == -1
    assert parser.feed(b"before" + pieces[-1] + rest, len("before")) == len("before") + len(pieces[-1])


# In how many pieces a head comes makes no difference.

def outcome(*pieces: bytes) -> object:
    """What becomes of a head: all of the request, the status of its refusal, or that more is needed."""
    parser = HeadParser(0, 0)
    try:
        ends = [parser.feed(piece) for piece in pieces]
    except BadRequest as problem:
        return problem.status
    finally:
        parser.close()
    request = parser.request
    if request is None:
        return None
    return (ends[-1] - len(pieces[-1]), request.method, request.target, request.path, request.version, request.headers,
            request.fields, request.length, request.keep_alive, request.expects_continue)


def assert_same_whole_and_cut(head: bytes) -> None:
    assert outcome(head) == outcome(head[:1], head[1:]), head


@given(
    st.sampled_from([b"GET", b"GET ", b"HEAD", b"POST", b"get"]),
    st.sampled_from([b"/", b"/cable?a=/&b", b"/a#b", b"//", b"*", b"cable", b"/\xff", b""]),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/1.1 ", b"http/1.1", b""]),
    st.lists(st.tuples(
        st.sampled_from([b"Host", b"Connection", b"connection", b"Upgrade", b"Content-Length", b"Transfer-Encoding",
                         b"Proxy-Connection", b"Expect", b"X!", b"X ", b" X", b""]),
        st.sampled_from([b":", b": ", b":\t ", b""]),
        st.sampled_from([b"a", b"a b", b"Upgrade", b"keep-alive", b"Keep-Alive, Upgrade", b"close", b"upgrade,close",
                         b"websocket", b"0", b"5", b"chunked", b"100-continue", b'"', b"\xe4", b"\x00", b"", b"\r"]),
        st.sampled_from([b"\r\n", b" \t\r\n", b"\r\n ", b"\n", b"\r"]),
    ), max_size=6),
    st.binary(max_size=3),
)
def test_heads_whole_and_in_pieces_are_the_same(
    method: bytes, target: bytes, version: bytes, lines: list[tuple[bytes, ...]], rest: bytes
) -> None:
    assert_same_whole_and_cut(
        b"%b %b %b\r\nHost: h\r\n%b\r\n%b" % (method, target, version, b"".join(map(b"".join, lines)), rest))


def test_empty_lines_before_a_request_are_ignored_and_do_not_count() -> None:
    parser = HeadParser(len(HEAD), 0)
    for piece in (b"\r\n", b"\r", b"\n\r\n" * 1000):
        assert parser.feed(piece) == -1
        assert not parser.size
    assert parser.feed(b"\r\n" + HEAD + b"x") == len(HEAD) + 2


@pytest.mark.parametrize(("head", "keep_alive"), [
    (get("/"), True), (get("/", "Connection: keep-alive"), True), (get("/", "Connection: close"), False),
    (get("/", "Connection: x, CLOSE"), False), (get("/", "Connection: notclose"), True),
    (get("/", "Connection: keep-alive", "Connection: close"), False),
    (get("/", version="1.0"), False), (get("/", "Connection: Keep-Alive", version="1.0"), True),
], ids=str)
def test_whether_the_connection_goes_on(head: bytes, keep_alive: bool) -> None:
    assert parse(head).keep_alive is keep_alive


BAD_LENGTHS = ["+5", "-1", "0x10", "5_0", "5 5", "5, 5", "5,5", "\u0665".encode().decode("latin-1"), "9" * 30, "", "5;",
               "5\x0b", "1e3", "5.0", "0" * 5000 + "5", "18446744073709551616"]


@pytest.mark.parametrize("length", BAD_LENGTHS)
def test_b3_bad_lengths(length: str) -> None:
    assert refusal(get("/", f"Content-Length: {length}", method="POST")).status == 400


@pytest.mark.parametrize(
    ("length", "size"), [("0", 0), ("5", 5), ("05", 5), ("  5\t", 5), ("18446744073709551615", 2**64 - 1)])
def test_lengths(length: str, size: int) -> None:
    assert parse(get("/", f"Content-Length: {length}", method="POST")).length == size


@pytest.mark.parametrize(("lines", "status"), [
    pytest.param(["Content-Length: 5", "Transfer-Encoding: chunked"], 400, id="B1-both"),
    pytest.param(["Transfer-Encoding: chunked", "Content-Length: 5"], 400, id="B1-both-turned"),
    pytest.param(["Content-Length: 5", "Content-Length: 5"], 400, id="B2-twice"),
    pytest.param(["Content-Length: 5", "Content-Length: 6"], 400, id="B2-twice-different"),
    *(pytest.param([f"Transfer-Encoding: {coding}"], status, id=f"B4-{coding}") for coding, status in [
        ("xchunked", 400), ("chunked, identity", 400), ("chunked, chunked", 400), ("chunked,", 400), ("identity", 400),
        ("gzip", 400), ("chunked;a=b", 400), ('"chunked"', 400), ("", 400),
        ("gzip, chunked", 501), (",chunked", 501)]),
    pytest.param(["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 400, id="B4-two-lines"),
    pytest.param(["Transfer-Encoding: identity", "Transfer-Encoding: chunked"], 501, id="B4-identity-chunked"),
    pytest.param(["Expect: 200-ok", "Content-Length: 1"], 417, id="Expect"),
    pytest.param(["Expect: 100-continue", "Expect: 100-continue", "Content-Length: 1"], 417, id="two-Expects"),
])
def test_bad_framing(lines: list[str], status: int) -> None:
    assert refusal(get("/", *lines, method="POST")).status == status


def test_b4_http_1_0_has_no_transfer_encoding() -> None:
    assert refusal(get("/", "Transfer-Encoding: chunked", method="POST", version="1.0")).status == 400


def test_chunked_bodies_have_no_length() -> None:
    assert parse(get("/", "Transfer-Encoding: CHUNKED ", method="POST")).length is None


@pytest.mark.parametrize(("lines", "version", "expects"), [
    (["Expect: 100-Continue", "Content-Length: 5"], "1.1", True),
    (["Expect: 100-continue", "Transfer-Encoding: chunked"], "1.1", True),
    (["Expect: 100-continue", "Content-Length: 0"], "1.1", False),
    (["Expect: 100-continue"], "1.1", False),
    (["Expect: 100-continue", "Content-Length: 5"], "1.0", False),
    (["Expect: else", "Content-Length: 5"], "1.0", False),
], ids=str)
def test_who_expects_to_be_told_to_continue(lines: list[str], version: str, expects: bool) -> None:
    assert parse(get("/", *lines, method="POST", version=version)).expects_continue is expects


@pytest.mark.parametrize("host", [
    "a", "a.b:80", "a:", "127.0.0.1:3000", "[::1]", "[::1]:3000", "xn--bcher-kva.example", "under_score", "x" * 255])
def test_hosts(host: str) -> None:
    assert parse(get("/", host=host)).fields[b"host"] == host.encode()


@pytest.mark.parametrize("host", [
    "", "a b", "a/b", "a@b", "a:b", "a:1:2", "::1", "[::1", "[::1]x", "a\\b", "a?b", "a#b", "<a>", "\xe4",
    "a:123456", "x" * 262], ids=ascii)
def test_h9_bad_hosts(host: str) -> None:
    assert refusal(get("/", host=host)).status == 400


def test_h9_http_1_1_needs_exactly_one_host() -> None:
    assert refusal(get("/", host=None)).status == 400
    assert refusal(get("/", "Host: localhost")).status == 400
    assert refusal(get("/", "Host: localhost", version="1.0")).status == 400
    assert parse(get("/", host=None, version="1.0")).version == "1.0"


@pytest.mark.parametrize(
    "target", ["*", "http://localhost/cable", "localhost:80", "cable", "?x", "//\x7f", "/\xe4", "/\x00"], ids=ascii)
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "CONNECT"])
def test_h21_targets_must_be_paths(target: str, method: str) -> None:
    assert refusal(get(target, method=method)).status == 400


@pytest.mark.parametrize(("version", "status"), [("0.9", 505), ("2.0", 505), ("1.2", 400), ("3.0", 400), ("1.10", 400)])
def test_other_versions(version: str, status: int) -> None:
    assert refusal(get("/", version=version)).status == status


@pytest.mark.parametrize("head", [
    pytest.param(get("/", "A: b\r\n c"), id="H15-obs-fold"),
    pytest.param(get("/", "A : b"), id="H15-space-before-colon"),
    pytest.param(get("/", " A: b"), id="H15-leading-space"),
    pytest.param(get("/", "A: b\rc"), id="H15-bare-CR"),
    pytest.param(get("/", "A: b\nC: d"), id="H15-bare-LF"),
    pytest.param(b"GET / HTTP/1.1\nHost: a\n\n\r\n\r\n", id="H15-LF-only"),
    pytest.param(get("/", "A"), id="H15-no-colon"),
    pytest.param(get("/", ": b"), id="H15-no-name"),
    pytest.param(get("/", "A(b): c"), id="H15-bad-name"),
    *(pytest.param(get("/", f"A: {'b' * 40}{chr(code)}c"), id=f"H16-{code:02x}")
      for code in [*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F]),
    pytest.param(b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03\r\n\r\n", id="H27-TLS"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\n", id="H27-HTTP-2"),
    pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", id="H27-SSH"),
    pytest.param(b"\xff\x00\xfe\r\n\r\n", id="H27-random"),
    pytest.param(b"get / HTTP/1.1\r\nHost: a\r\n\r\n", id="lower-case-method"),
    pytest.param(b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", id="unknown-method"),
])
def test_bad_syntax(head: bytes) -> None:
    assert refusal(head).status == 400


def test_h16_high_bytes_are_opaque() -> None:
    assert parse(get("/", "A: \x80\x85\xff")).fields[b"a"] == b"\x80\x85\xff"


# Limits. With 1,000 bytes for a head, its target and each line may have 500.

def head_of(size: int) -> bytes:
    """A head of exactly so many bytes."""
    lines = [f"X{index}: {'v' * 90}" for index in range((size - 100) // 100)]
    empty = get("/", *lines, "Y: ")
    return get("/", *lines, "Y: " + "v" * (size - len(empty)))


@pytest.mark.parametrize("cut", [None, 1, 600, 999], ids=["whole", "at-1", "at-600", "at-999"])
@pytest.mark.parametrize(("size", "fits"), [(999, True), (1000, True), (1001, False)], ids=["-1", "0", "+1"])
def test_h12_size_of_a_head(size: int, fits: bool, cut: int | None) -> None:
    head = head_of(size)
    assert len(head) == size
    pieces = [head] if cut is None or cut >= size else [head[:cut], head[cut:]]
    if fits:
        parse(*pieces, max_bytes=1000)
    else:
        assert refusal(*pieces, max_bytes=1000).status == 431


@pytest.mark.parametrize(("size", "fits"), [(499, True), (500, True), (501, False)], ids=["-1", "0", "+1"])
@pytest.mark.parametrize("step", [1000, 7], ids=["whole", "pieces"])
def test_h13_size_of_a_target(size: int, fits: bool, step: int) -> None:
    head = get("/" + "a" * (size - 1))
    pieces = [head[at : at + step] for at in range(0, len(head), step)]
    if fits:
        assert len(parse(*pieces, max_bytes=1000).target) == size
    else:
        assert refusal(*pieces, max_bytes=1000).status == 414


@pytest.mark.parametrize(("size", "fits"), [(499, True), (500, True), (501, False)], ids=["-1", "0", "+1"])
def test_h12_size_of_a_line(size: int, fits: bool) -> None:
    head = get("/", "X: " + "v" * (size - 3))
    if fits:
        parse(head, max_bytes=1000)
    else:
        assert refusal(head, max_bytes=1000).status == 431


@pytest.mark.parametrize(("count", "fits"), [(99, True), (100, True), (101, False)], ids=["-1", "0", "+1"])
def test_h12_number_of_headers(count: int, fits: bool) -> None:
    head = get("/", *["a: b"] * (count - 1))
    if fits:
        assert len(parse(head).headers) == count
    else:
        assert refusal(head).status == 431


def test_an_endless_target_is_refused_before_the_head_ends() -> None:
    assert refusal(b"GET /" + b"a" * 600, b"x", max_bytes=1000).status == 414
    assert refusal(b"GET /" + b"a" * 2000, b"x", max_bytes=1000).status == 414


def test_an_endless_line_is_refused_before_the_head_ends() -> None:
    assert refusal(b"GET / HTTP/1.1\r\nX: " + b"a" * 2000, b"x", max_bytes=1000).status == 431


def test_h14_the_same_header_10_000_times() -> None:
    assert refusal(get("/", *["A: b"] * 10_000)).status == 431
    assert refusal(get("/", *["A: b"] * 10_000), max_bytes=0).status == 431
    assert refusal(get("/", *["A: b"] * 10_000)[:-2], b"x", max_bytes=0).status == 431


def test_limits_may_be_off() -> None:
    request = parse(get("/" + "a" * 20_000, *[f"A: {'b' * 100}"] * 1000), max_bytes=0, max_headers=0)
    assert len(request.target) == 20_001
    assert len(request.headers) == 1001


def test_repeated_heads_are_read_once() -> None:
    head = post("x")[:-1]
    assert parse_head(head, 16384, 100) is parse_head(bytes(bytearray(head)), 16384, 100)
    with pytest.raises(BadRequest):
        parse_head(head, 20, 100)


@pytest.mark.parametrize("pieces", [[HEAD], [HEAD[:9]], [b"GET / HTTP/9"], [get("/", host="")]],
                         ids=["whole", "part", "bad", "refused"])
def test_a_parser_dies_without_the_garbage_collector(pieces: list[bytes]) -> None:
    class Watched(HeadParser):
        pass

    gc.disable()
    try:
        parser = Watched(0, 0)
        try:
            for piece in pieces:
                parser.feed(piece)
        except BadRequest:
            pass
        parser.close()
        watch = weakref.ref(parser)
        del parser
        assert watch() is None
    finally:
        gc.enable()
