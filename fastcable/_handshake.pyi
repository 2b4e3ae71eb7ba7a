from fastcable.origins import AllowedOrigins

class Accept:
    """The 101 to send, the dialect spoken afterwards, and whether messages may be compressed."""

    response: bytes
    dialect: str
    deflates: bool

class Refusal:
    """The status to answer with before closing, header lines (each with its CRLF), and one line of explanation."""

    status: int
    headers: bytes
    message: str

def handshake(
    method: bytes,
    version: str,
    headers: list[tuple[bytes, bytes]],
    fields: dict[bytes, bytes],
    allowed_origins: AllowedOrigins | None,
    compression: bool = False,
) -> Accept | Refusal:
    """Decide on a request for the cable path. Header names are lower case, `fields` is the dict of `headers`;
    `allowed_origins` None lets all connect. With `compression` permessage-deflate is negotiated."""

def check_origin(origin: bytes | None, allowed_origins: AllowedOrigins | None) -> Refusal | None:
    """Refuse a page that may not connect; what has no `Origin` is none."""

def negotiate(offers: bytes) -> tuple[str, bytes | None]:
    """The dialect to speak for the subprotocols a client offers (a comma-separated list), and the one of ours to name
    in the answer.

    `default` is for a client that offers none, or nothing but a token for us; `actioncable` for all others, who are not
    told of any if they did not offer ours, as by Action Cable itself. Behind it stand `+stock` for @rails/actioncable,
    which is known by what it offers, and `+pong` for those who answer pings."""

def accept_key(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 §4.2.2)."""
