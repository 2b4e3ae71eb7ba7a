"""Where a token stands in a request, and what a request with several is worth."""

from __future__ import annotations

import pytest

from fastcable.token_places import find_token
from fastcable.tokens import MAX_TOKEN, BadToken, TokenVerifier

HEADER = (b"x-jid", b"h.h.h")
OFFER = (b"sec-websocket-protocol", b"actioncable-v1-json, anycable-token.o.o.o")
COOKIES = (b"cookie", b"a=b; jwt=c.c.c;d")
ORIGIN = (b"origin", b"https://example.com")
PLAIN = [(b"host", b"x"), (b"connection", b"upgrade")]
QUERY = b"/cable?x=1&jid=q.q.q"


@pytest.mark.parametrize(("target", "headers", "cookie", "token"), [
    pytest.param(b"/cable", PLAIN, "jwt", None, id="none"),
    pytest.param(QUERY, [COOKIES, ORIGIN, OFFER, HEADER], "jwt", "h.h.h", id="header-first"),
    pytest.param(QUERY, [COOKIES, ORIGIN, OFFER], "jwt", "o.o.o", id="then-offer"),
    pytest.param(QUERY, [COOKIES, ORIGIN], "jwt", "q.q.q", id="then-query"),
    pytest.param(b"/cable", [COOKIES, ORIGIN], "jwt", "c.c.c", id="then-cookie"),
    pytest.param(b"/cable", [COOKIES, ORIGIN], None, None, id="A1-cookie-not-asked-for"),
    pytest.param(b"/cable", [COOKIES], "jwt", None, id="A4-cookie-without-origin"),
    pytest.param(b"/cable", [COOKIES, ORIGIN], "JWT", None, id="cookie-of-another-name"),
    pytest.param(b"/cable", [(b"cookie", b"xjwt=c.c.c; jwt"), ORIGIN], "jwt", None, id="cookie-alike"),
    pytest.param(b"/cable", [(b"cookie", b'jwt="c.c.c"'), ORIGIN], "jwt", "c.c.c", id="cookie-in-quotes"),
    pytest.param(b"/cable", [(b"cookie", b'jwt="'), ORIGIN], "jwt", None, id="cookie-of-one-quote"),
    pytest.param(b"/cable", [(b"cookie", b"jwt=a.a.a; jwt=b.b.b"), ORIGIN], "jwt", "", id="A12-two-cookies"),
    pytest.param(b"/cable", [(b"cookie", b"jwt=a.a.a; jwt=a.a.a"), ORIGIN], "jwt", "a.a.a", id="the-same-cookie-twice"),
    pytest.param(b"/cable", [(b"cookie", b"jwt=a"), (b"cookie", b"jwt=b"), ORIGIN], "jwt", "", id="A12-cookie-headers"),
    pytest.param(b"/cable", [HEADER, (b"x-jid", b"i.i.i")], None, "", id="A12-two-headers"),
    pytest.param(b"/cable?jid=a&jid=b", [], None, "", id="A12-two-in-the-query"),
    pytest.param(b"/cable?jid=a&jid=a", [], None, "a", id="the-same-twice-in-the-query"),
    pytest.param(b"/cable", [(OFFER[0], b"anycable-token.a,anycable-token.b")], None, "", id="A12-two-offers"),
    pytest.param(b"/cable", [OFFER, (OFFER[0], b"anycable-token.b")], None, "", id="A12-two-offer-headers"),
    pytest.param(b"/cable", [(OFFER[0], b"\tanycable-token.a ,x")], None, "a", id="offer-with-spaces"),
    pytest.param(b"/cable", [(OFFER[0], b"anycable-token, x-anycable-token.a")], None, None, id="offers-alike"),
    pytest.param(b"/cable?jid=", [(b"x-jid", b""), (OFFER[0], b"anycable-token.")], None, None, id="all-empty"),
    pytest.param(b"/cable?jid=q.q.q", [(b"x-jid", b"")], None, "q.q.q", id="empty-header-decides-nothing"),
    pytest.param(b"/cable?xjid=a&JID=b&jid", [], None, None, id="parameters-alike"),
    pytest.param(b"/jid=a", [], None, None, id="path"),
    pytest.param(b"/cable?a?jid=b&jid=c?d", [], None, "c?d", id="question-marks"),
    pytest.param(b"/cable?jid=a%2Eb", [], None, "a%2Eb", id="percent-is-not-decoded"),
    pytest.param(b"/cable?jid=a=b", [], None, "a=b", id="equals-sign"),
    pytest.param(b"/cable?jid=\xe9", [], None, "é", id="A12-bytes"),
    pytest.param(b"/cable?jid=" + b"x" * (MAX_TOKEN - 1), [], None, "x" * (MAX_TOKEN - 1), id="A12-limit-less-1"),
    pytest.param(b"/cable?jid=" + b"x" * MAX_TOKEN, [], None, "x" * MAX_TOKEN, id="A12-limit"),
    pytest.param(b"/cable?jid=" + b"x" * (MAX_TOKEN + 1), [], None, "", id="A12-limit-and-1"),
    pytest.param(b"/cable?" + b"jid=&" * 3000 + b"jid=a", [], None, "a", id="A12-many-parameters"),
    pytest.param(b"/cable", [(OFFER[0], b"x," * 8000 + b"anycable-token.a")], None, "a", id="H19-many-offers"),
])
def test_find_token(
    target: bytes, headers: list[tuple[bytes, bytes]], cookie: str | None, token: str | None
) -> None:
    assert find_token(target, PLAIN + headers, cookie) == token


def test_what_stands_for_several_tokens_is_refused() -> None:
    with pytest.raises(BadToken):
        TokenVerifier(["s" * 32]).verify("")
