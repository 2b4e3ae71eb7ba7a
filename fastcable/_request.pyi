HEAD_END: bytes
REPEATED_HEAD: int

class BadRequest(Exception):
    """A request refused for its form or size: the status to answer with, and one line of explanation."""

    status: int
    def __init__(self, status: int, message: str) -> None: ...

class Request:
    """One request's head. Header names are lower case, values without surrounding white space. Never changed."""

    method: bytes
    target: bytes
    path: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    fields: dict[bytes, bytes]
    """The last value of each header."""
    length: int | None
    """Bytes of the body; None when it is chunked."""
    keep_alive: bool
    expects_continue: bool
    def __init__(
        self, method: bytes, target: bytes, version: str, headers: list[tuple[bytes, bytes]], keep_alive: bool
    ) -> None:
        """Raises `BadRequest`."""

    def values(self, name: bytes) -> list[bytes]:
        """The values of all headers of that lower-case name."""

class HeadParser:
    """Reads one head, in as many pieces as it comes. The limits: 0 = off."""

    method: bytes
    """Known when the head ended, also of a request that is refused then."""
    request: Request | None
    """Set when the head ended."""
    size: int
    """Bytes of the head that have come; empty lines before it are none."""
    def __init__(self, max_bytes: int, max_headers: int) -> None: ...
    def feed(self, data: bytes, start: int = 0) -> int:
        """Read on at data[start]. Returns where the head ended, with `request` set; -1: more is needed.

        Raises `BadRequest`.
        """

    def close(self) -> None:
        """Break the cycle with httptools' parser."""

def parse_head(head: bytes, max_bytes: int, max_headers: int) -> Request:
    """Read a whole head of the kind that comes again and again: publishers send the same but for Content-Length."""
