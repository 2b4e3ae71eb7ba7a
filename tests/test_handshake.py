"""The opening handshake as a table, without sockets (RFC 6455 §4)."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastcable._handshake import Accept, Refusal, accept_key, handshake, negotiate
from fastcable.origins import AllowedOrigins

Headers = list[tuple[bytes, bytes]]

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
GOOD: Headers = [
    (b"host", b"localhost:3000"),
    (b"connection", b"Upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", KEY),
]
ALLOWED = AllowedOrigins(["https://example.com", "https://*.example.com", "http://app.test:8080", "http://[::1]:3000"])


def ask(headers: Headers, *, method: bytes = b"GET", version: str = "1.1", allowed: AllowedOrigins | None = None
        ) -> Accept | Refusal:
    return handshake(method, version, headers, dict(headers), allowed)


def without(name: bytes) -> Headers:
    return [header for header in GOOD if header[0] != name]


def with_(name: bytes, *values: bytes) -> Headers:
    """The good request, with these lines instead of those of that name."""
    return [*without(name), *((name, value) for value in values)]


def assert_accepted(answer: Accept | Refusal, dialect: str = "default") -> None:
    assert isinstance(answer, Accept), answer
    assert answer.dialect == dialect
    assert answer.response == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )


def assert_refused(answer: Accept | Refusal, status: int) -> Refusal:
    assert isinstance(answer, Refusal)
    assert answer.status == status
    assert answer.message
    assert "\n" not in answer.message
    return answer


def test_the_key_of_the_rfc_is_answered_as_in_the_rfc() -> None:
    assert accept_key(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("headers", [
    pytest.param(GOOD, id="plain"),
    pytest.param(with_(b"connection", b"keep-alive, UPGRADE"), id="H11-Firefox"),
    pytest.param(with_(b"connection", b"keep-alive", b"upgrade"), id="H11-two-lines"),
    pytest.param(with_(b"connection", b",,keep-alive\t, \tUpgrade ,"), id="H11-empty-members"),
    pytest.param(with_(b"upgrade", b"WebSocket"), id="H11-WebSocket"),
    pytest.param(with_(b"upgrade", b"h2c, websocket"), id="H11-one-of-two"),
    pytest.param(with_(b"upgrade", b"h2c", b"websocket"), id="H11-upgrade-two-lines"),
    pytest.param(with_(b"content-length", b"0"), id="H8-empty-body"),
    pytest.param(with_(b"content-length", b"000"), id="H8-empty-body-zeros"),
    pytest.param(with_(b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits"), id="H20-deflate"),
    pytest.param(with_(b"sec-websocket-extensions", b"permessage-deflate; server_max_window_bits=7"), id="H20-7-bits"),
    pytest.param(with_(b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits=abc"), id="H20-abc"),
    pytest.param(with_(b"sec-websocket-extensions", b"; constructor"), id="H18-constructor"),
    pytest.param(with_(b"origin", b"https://evil.example"), id="A4-any-origin-without-a-list"),
    pytest.param(with_(b"origin", b"null", b"https://a.example"), id="two-origins-without-a-list"),
])
def test_good_requests(headers: Headers) -> None:
    assert_accepted(ask(headers))


OURS = b"actioncable-v1-json"
TOKEN = b"anycable-token.eyJhbGciOiJIUzI1NiJ9.e30.c2ln"


@pytest.mark.parametrize(("offers", "dialect", "protocol"), [
    pytest.param([], "default", None, id="nothing"),
    pytest.param([b""], "default", None, id="empty"),
    pytest.param([b" ,,\t, "], "default", None, id="empty-members"),
    pytest.param([OURS], "actioncable", OURS, id="anycable-core"),
    pytest.param([OURS + b", actioncable-unsupported"], "actioncable+stock", OURS, id="rails-actioncable"),
    pytest.param([OURS + b",actioncable-unsupported,x"], "actioncable+stock", OURS, id="rails-actioncable-and-more"),
    pytest.param([OURS, b"actioncable-unsupported"], "actioncable+stock", OURS, id="two-lines"),
    pytest.param(
        [OURS + b", actioncable-unsupported, actioncable-ext-pong"], "actioncable+stock+pong", OURS, id="pong"),
    pytest.param([b"\tactioncable-ext-pong ,\t" + OURS + b" "], "actioncable+pong", OURS, id="white-space"),
    pytest.param([OURS + b", " + TOKEN], "actioncable", OURS, id="token"),
    pytest.param([TOKEN + b", " + OURS], "actioncable", OURS, id="token-first"),
    pytest.param([b"actioncable-v1-ext-json, " + OURS], "actioncable", OURS, id="the-first-of-ours"),
    pytest.param([TOKEN], "default", None, id="token-alone"),
    pytest.param([TOKEN + b", ", TOKEN + b"x"], "default", None, id="tokens-alone"),
    pytest.param([TOKEN + b", graphql-transport-ws"], "actioncable", None, id="token-and-unknown"),
    pytest.param([b"anycable-token"], "actioncable", None, id="resembling-a-token"),
    pytest.param([b"actioncable-v1-ext-json"], "actioncable", None, id="extended"),
    pytest.param([b"actioncable-v1-msgpack"], "actioncable", None, id="msgpack"),
    pytest.param([b"graphql-transport-ws"], "actioncable", None, id="graphql"),
    pytest.param([b"actioncable-unsupported"], "actioncable+stock", None, id="unsupported-alone"),
    pytest.param([OURS.upper()], "actioncable", None, id="capitals"),
    pytest.param([OURS + b"x, x" + OURS], "actioncable", None, id="resembling"),
    pytest.param([b"evil\x80, b"], "actioncable", None, id="H19-unknown"),
    pytest.param([b", ".join(b"p%d" % i for i in range(1000))], "actioncable", None, id="H19-1000"),
])
def test_what_is_offered_decides_what_is_spoken(offers: list[bytes], dialect: str, protocol: bytes | None) -> None:
    """A browser hangs up if it is not told of one that it offered, or of another: so only ours is ever named."""
    assert negotiate(b",".join(offers)) == (dialect, protocol)
    answer = ask(with_(b"sec-websocket-protocol", *offers))
    if protocol is None:
        assert_accepted(answer, dialect)
    else:
        assert isinstance(answer, Accept)
        assert answer.dialect == dialect
        assert answer.response.endswith(b"\r\nSec-WebSocket-Protocol: " + protocol + b"\r\n\r\n")
        assert answer.response.count(b"Sec-WebSocket-Protocol") == 1


@pytest.mark.parametrize(("headers", "status"), [
    pytest.param(without(b"sec-websocket-key"), 400, id="H1-no-key"),
    pytest.param(with_(b"sec-websocket-key", b""), 400, id="H2-empty-key"),
    *(pytest.param(with_(b"sec-websocket-key", base64.b64encode(bytes(size))), 400, id=f"H2-{size}-bytes")
      for size in (0, 15, 17)),
    pytest.param(with_(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZR=="), 400, id="H2-not-canonical"),
    pytest.param(with_(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ"), 400, id="H2-no-padding"),
    pytest.param(with_(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZ-=="), 400, id="H2-url-alphabet"),
    pytest.param(with_(b"sec-websocket-key", KEY + b"\n"), 400, id="H2-line-feed"),
    pytest.param(with_(b"sec-websocket-key", b"dGhlIHNhbXBs\xc5\xb8Sub25jZQ=="), 400, id="H2-not-ascii"),
    pytest.param(with_(b"sec-websocket-key", KEY, KEY), 400, id="H3-two-keys"),
    pytest.param(without(b"sec-websocket-version"), 426, id="H4-no-version"),
    *(pytest.param(with_(b"sec-websocket-version", version), 426, id=f"H5-{version.decode()}")
      for version in (b"8", b"14", b"13abc", b"013", b"13, 8", b"")),
    pytest.param(with_(b"sec-websocket-version", b"13", b"13"), 426, id="H5-two-versions"),
    pytest.param(with_(b"content-length", b"5"), 400, id="H8-body"),
    pytest.param(with_(b"transfer-encoding", b"chunked"), 400, id="H8-chunked"),
    pytest.param(without(b"host"), 400, id="H9-no-Host"),
    pytest.param(with_(b"host", b"a", b"a"), 400, id="H9-two-Hosts"),
    pytest.param(with_(b"connection", b"notupgrade"), 426, id="H10-notupgrade"),
    pytest.param(with_(b"connection", b"upgrade-insecure"), 426, id="H10-upgrade-insecure"),
    pytest.param(with_(b"connection", b"close"), 426, id="H10-close"),
    pytest.param(with_(b"upgrade", b"websocketx"), 426, id="H10-websocketx"),
    pytest.param(with_(b"upgrade", b"websocket/13"), 426, id="H10-websocket-with-version"),
    pytest.param(with_(b"upgrade", b"h2c"), 426, id="H10-h2c"),
    pytest.param(without(b"connection"), 426, id="no-Connection"),
    pytest.param(without(b"upgrade"), 426, id="no-Upgrade"),
    pytest.param([(b"host", b"a")], 426, id="plain-GET"),
])
def test_bad_requests(headers: Headers, status: int) -> None:
    assert_refused(ask(headers), status)


@pytest.mark.parametrize(("at", "digits"), [
    (0, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"), (21, b"AQgw"), (22, b"="), (23, b"="),
])
def test_h2_digits_of_a_key(at: int, digits: bytes) -> None:
    for code in range(256):
        key = KEY[:at] + bytes([code]) + KEY[at + 1 :]
        assert isinstance(ask(with_(b"sec-websocket-key", key)), Accept) is (code in digits), key


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"get"])
def test_h7_other_methods_than_get_are_told_so(method: bytes) -> None:
    assert assert_refused(ask(GOOD, method=method), 405).headers == b"Allow: GET\r\n"


def test_h6_http_1_0_knows_no_upgrade() -> None:
    assert_refused(ask(GOOD, version="1.0"), 400)


def test_h5_another_version_is_told_the_one_that_is_spoken() -> None:
    refusal = assert_refused(ask(with_(b"sec-websocket-version", b"8")), 426)
    assert b"Sec-WebSocket-Version: 13\r\n" in refusal.headers
    assert b"Upgrade: websocket\r\n" in refusal.headers


def test_a_plain_request_is_told_what_to_upgrade_to() -> None:
    assert assert_refused(ask([(b"host", b"a")]), 426).headers == b"Upgrade: websocket\r\nConnection: Upgrade\r\n"


@pytest.mark.parametrize("origin", [
    b"https://example.com", b"https://example.com:443", b"HTTPS://EXAMPLE.com", b"https://www.example.com",
    b"https://a.b.example.com", b"https://a.example.com:443", b"http://app.test:8080", b"http://[::1]:3000",
])
def test_listed_origins_may_connect(origin: bytes) -> None:
    assert_accepted(ask(with_(b"origin", origin), allowed=ALLOWED))


def test_a4_clients_without_origin_may_connect() -> None:
    assert_accepted(ask(GOOD, allowed=ALLOWED))


@pytest.mark.parametrize("origins", [
    pytest.param([b"https://evil.com"], id="A1"),
    pytest.param([b"null"], id="A2-null"),
    pytest.param([b"file://"], id="A2-file"),
    pytest.param([b""], id="A2-empty"),
    pytest.param([b"https://evilexample.com"], id="A3-suffix"),
    pytest.param([b"https://example.com.evil.net"], id="A3-prefix"),
    pytest.param([b"https://www.example.com.evil.net"], id="A3-wildcard-prefix"),
    pytest.param([b"http://example.com"], id="A3-scheme"),
    pytest.param([b"http://www.example.com"], id="A3-wildcard-scheme"),
    pytest.param([b"https://example.com:8443"], id="A3-port"),
    pytest.param([b"https://www.example.com:8443"], id="A3-wildcard-port"),
    pytest.param([b"https://example.com:80"], id="A3-port-of-http"),
    pytest.param([b"http://app.test"], id="A3-no-port"),
    pytest.param([b"https://.example.com"], id="A3-empty-subdomain"),
    pytest.param([b"https://*.example.com"], id="A3-asterisk"),
    pytest.param([b"https://example.com/"], id="A3-path"),
    pytest.param([b"https://example.com."], id="A3-dot"),
    pytest.param([b"https://user@example.com"], id="A3-user"),
    pytest.param([b"https://evil.com#.example.com"], id="A3-fragment"),
    pytest.param([b"https://evil.com/.example.com"], id="A3-path-with-domain"),
    pytest.param([b"https://evil.com\\.example.com"], id="A3-backslash"),
    pytest.param([b"https://\xe4.example.com"], id="A3-not-ascii"),
    pytest.param([b"https://example.com https://evil.com"], id="A3-list"),
    pytest.param([b"https://example.com", b"https://example.com"], id="two-Origins"),
    pytest.param([b"https://example.com", b"https://evil.com"], id="two-different-Origins"),
])
def test_other_origins_are_refused(origins: list[bytes]) -> None:
    assert_refused(ask(with_(b"origin", *origins), allowed=ALLOWED), 403)


@pytest.mark.parametrize("name", [b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"])
def test_a5_what_a_proxy_is_said_to_have_seen_changes_nothing(name: bytes) -> None:
    for value in (b"example.com", b"host=example.com;proto=https", b"https", b"127.0.0.1"):
        assert_refused(ask([*with_(b"origin", b"https://evil.com"), (name, value)], allowed=ALLOWED), 403)
        assert_refused(ask([*with_(b"origin", b"http://example.com"), (name, value)], allowed=ALLOWED), 403)
        assert_accepted(ask([*with_(b"origin", b"https://example.com"), (name, value)], allowed=ALLOWED))


@pytest.mark.parametrize(("name", "value"), [
    pytest.param(b"sec-websocket-protocol", b"b" + b" " * 1_000_000 + b"x", id="H17"),
    pytest.param(b"sec-websocket-protocol", b"a," * 500_000, id="H19"),
    pytest.param(b"sec-websocket-extensions", b'a;b="' + b"\\c" * 500_000, id="H18"),
    pytest.param(b"connection", b" ," * 500_000 + b"upgrade", id="tokens"),
    pytest.param(b"connection", b" " * 1_000_000, id="spaces"),
    pytest.param(b"origin", b"https://" + b"a." * 500_000, id="origin-labels"),
    pytest.param(b"origin", b"a" * 1_000_000, id="origin-scheme"),
    pytest.param(b"sec-websocket-key", b"A" * 1_000_000, id="key"),
])
def test_hostile_values_take_linear_time(name: bytes, value: bytes) -> None:
    """Each is a megabyte: with anything quadratic this would not end."""
    ask([*without(name), (name, value)], allowed=ALLOWED)


@given(st.lists(st.tuples(
    st.sampled_from([name for name, _ in GOOD] + [b"origin", b"sec-websocket-protocol", b"content-length"]),
    st.binary(max_size=30)), max_size=8))
def test_h28_nothing_of_the_client_is_echoed(extra: Headers) -> None:
    marked = [(name, b"M\xff" + value) for name, value in extra]
    for headers in (marked, GOOD + marked):
        answer = ask(headers, allowed=ALLOWED)
        sent = answer.response if isinstance(answer, Accept) else answer.headers + answer.message.encode()
        assert b"M\xff" not in sent
