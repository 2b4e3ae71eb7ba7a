"""Where to publish: a URL and a key, checked and taken apart."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

from fastcable.log import escape
from fastcable.options import Wrong, bearer_key

DEFAULT_URL = "http://127.0.0.1:3000/_broadcast"
URL_VARIABLE, KEY_VARIABLE = "FASTCABLE_BROADCAST_URL", "FASTCABLE_BROADCAST_KEY"


class BadKey(ValueError):
    """The key cannot be sent in a header."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A broadcast endpoint. Its `repr` has no key."""

    url: str
    secure: bool
    host: str
    port: int
    path: str
    """Of a Unix socket; then host and port mean nothing."""
    head: bytes = field(repr=False)
    """Of a request, without the length of its body."""
    key: str = field(repr=False)

    @classmethod
    def parse(cls, url: str, key: str | None) -> Self:
        """Raises ValueError for the URL and `BadKey` for the key, neither of which names whose it is."""
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not hold a user name or password")
        unix = parts.scheme == "http+unix"
        if (parts.scheme not in ("http", "https", "http+unix") or not parts.hostname or parts.fragment
                or not url.isascii() or not url.isprintable() or " " in url):
            raise ValueError(f"expected http://HOST:PORT/PATH, got {escape(url)!r}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            key = bearer_key(key) if key else ""
        except Wrong as error:
            raise BadKey(str(error)) from None
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        head = (
            f"POST {target} HTTP/1.1\r\nHost: {'localhost' if unix else parts.netloc}\r\n"
            + (f"Authorization: Bearer {key}\r\n" if key else "")
            + "Content-Type: application/json\r\nContent-Length: "
        )
        path = unquote(parts.netloc) if unix else ""
        return cls(url, parts.scheme == "https", parts.hostname, port, path, head.encode(), key)

    @classmethod
    def configured(cls, url: str | None, key: str | None) -> Self:
        """What is None is taken from the environment. Raises ValueError, with the name of what is wrong."""
        url_from, key_from = "url", "key"
        if url is None:
            url_from, url = URL_VARIABLE, os.environ.get(URL_VARIABLE) or DEFAULT_URL
        if key is None:
            key_from, key = KEY_VARIABLE, os.environ.get(KEY_VARIABLE)
        try:
            return cls.parse(url, key)
        except BadKey as error:
            raise BadKey(f"{key_from}: {error}") from None
        except ValueError as error:
            raise ValueError(f"{url_from}: {error}") from None

    def request(self, body: bytes) -> bytes:
        return b"%b%d\r\n\r\n%b" % (self.head, len(body), body)

    def harmless(self, text: str) -> str:
        """Text of the server for a message or the log: one line, and never with the key, which a server (a debug
        page, say) could send back."""
        return escape(text.replace(self.key, "KEY") if self.key else text)
