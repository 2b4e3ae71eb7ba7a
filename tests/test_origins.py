"""Origins and lists of them; what a handshake makes of them is in test_handshake."""

from __future__ import annotations

import pytest

from fastcable.origins import AllowedOrigins, Origin, parse_origin


def test_a_wildcard_does_not_stand_for_the_domain_itself() -> None:
    allowed = AllowedOrigins(["https://*.example.com"])
    assert b"https://example.com" not in allowed
    assert b"https://a.example.com" in allowed


@pytest.mark.parametrize("text", ["*", "example.com", "null", "https://", "https://a/b", "https://a.*.b", "https://ä.de"])
def test_an_entry_that_is_no_origin_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="allowed_origins: expected"):
        AllowedOrigins([text])


@pytest.mark.parametrize(("value", "origin"), [
    (b"http://a", Origin(b"http", b"a", 80)),
    (b"https://A:444", Origin(b"https", b"a", 444)),
    (b"tauri://localhost", Origin(b"tauri", b"localhost", None)),
    (b"http://[::1]", Origin(b"http", b"[::1]", 80)),
    (b"null", None),
    (b"//a", None),
])
def test_parts_of_an_origin(value: bytes, origin: Origin | None) -> None:
    assert parse_origin(value) == origin
