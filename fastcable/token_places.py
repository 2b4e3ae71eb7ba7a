"""Where a token stands in a request, pure. Every place is read in linear time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastcable.tokens import MAX_TOKEN


def find_token(target: bytes, headers: Sequence[tuple[bytes, bytes]], cookie: str | None = None) -> str | None:
    """The token of a request; None without one. The first of these that has one decides, as with AnyCable:

    1. the header `x-jid`
    2. `anycable-token.TOKEN` among the offers of `Sec-WebSocket-Protocol`
    3. `?jid=TOKEN` of the target
    4. the cookie of the name given, of requests with an `Origin` only: browsers always send one and send cookies
       unasked, so whoever passes allowed_origins must have named itself

    Where the deciding one has several tokens, or one that is too long, the result is a text that no verifier takes.
    Header names are lower case.
    """
    for found in (_header_tokens(headers), _offered_tokens(headers), _query_tokens(target),
                  _cookie_tokens(headers, cookie)):
        tokens = {token for token in found if token}
        if tokens:
            token = tokens.pop()
            return "" if tokens or len(token) > MAX_TOKEN else token.decode("latin-1")
    return None


def _header_tokens(headers: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    return (value for name, value in headers if name == b"x-jid")


def _offered_tokens(headers: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    mark = b"anycable-token."
    for name, value in headers:
        if name == b"sec-websocket-protocol" and mark in value:
            offers = (offer.strip(b" \t") for offer in value.split(b","))
            yield from (offer.removeprefix(mark) for offer in offers if offer.startswith(mark))


def _query_tokens(target: bytes) -> Iterator[bytes]:
    """Without percent-decoding: no character of a token is ever encoded."""
    parameters = target.partition(b"?")[2].split(b"&")
    return (parameter.removeprefix(b"jid=") for parameter in parameters if parameter.startswith(b"jid="))


def _cookie_tokens(headers: Sequence[tuple[bytes, bytes]], cookie: str | None) -> Iterator[bytes]:
    if cookie is None or not any(name == b"origin" for name, _ in headers):
        return
    wanted = cookie.encode()
    for name, value in headers:
        if name == b"cookie":
            for pair in value.split(b";"):
                key, _, text = pair.strip(b" \t").partition(b"=")
                if key == wanted:
                    yield text[1:-1] if text[:1] == text[-1:] == b'"' else text
