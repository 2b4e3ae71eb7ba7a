"""Stream names as Rails' MessageVerifier signs them for Turbo, CableReady and AnyCable, pure.

    token     = payload + "--" + signature
    payload   = base64 of the name as JSON, in either alphabet
    signature = HMAC-SHA256 of the payload's text, in lower-case hexadecimal

The signature is always SHA256: Turbo asks for it whatever Rails' own default is. What does differ is the digest with
which Rails makes the key out of its secret_key_base: SHA256 since `load_defaults 7.0`, SHA1 before.

hashlib and hmac are imported by those who have a secret only: they take 0.6 MB.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable

from fastcable.stream_name import MAX_STREAM_NAME, stream_name_error

TURBO_SALT = b"turbo/signed_stream_verifier_key"
_SIGNATURE = 64  # hexadecimal digits
_JSON = 2 + 6 * MAX_STREAM_NAME  # of a name whose every character is escaped: "\u0041…"
MAX_TOKEN = (_JSON + 2) // 3 * 4 + len("--") + _SIGNATURE

_STANDARD_ALPHABET = str.maketrans("-_", "+/")


class StreamVerifier:
    """Verifies signed stream names with any of several keys: while a secret is exchanged, the old and the new one."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._keys = tuple(keys)

    def verify(self, token: str) -> str | None:
        """The stream name that was signed; None for what no key has signed or does not name a stream.

        Takes the same time whichever key fits and wherever a signature begins to be wrong.
        """
        if len(token) > MAX_TOKEN or token[-_SIGNATURE - 2:-_SIGNATURE] != "--" or not token.isascii():
            return None
        payload, signature = token[:-_SIGNATURE - 2], token[-_SIGNATURE:].encode()
        from hmac import compare_digest

        fits = [compare_digest(_signature(payload, key), signature) for key in self._keys]
        return _stream_name(payload) if any(fits) else None


def sign(name: str, key: bytes) -> str:
    """A name signed as Rails does. Raises ValueError for what is not the name of a stream."""
    problem = stream_name_error(name)
    if problem:
        raise ValueError(problem)
    import orjson

    payload = b2a_base64(orjson.dumps(name), newline=False).decode()
    return f"{payload}--{_signature(payload, key).decode()}"


def stream_keys(secrets: Iterable[str], secret_key_bases: Iterable[str], digest: str) -> list[bytes]:
    """The keys of `turbo_secret` and `secret_key_base`: the first signs, all verify."""
    return [
        *(secret.encode() for secret in secrets),
        *(turbo_key(secret_key_base, digest) for secret_key_base in secret_key_bases),
    ]


def turbo_key(secret_key_base: str, digest: str) -> bytes:
    """The key that Turbo makes out of the application's secret_key_base; `digest` is `sha256` or `sha1`."""
    from hashlib import pbkdf2_hmac

    return pbkdf2_hmac(digest, secret_key_base.encode(), TURBO_SALT, 1000, 64)


def bearer_key(secret: str, phrase: str) -> str:
    """The key for one purpose that AnyCable makes out of its secret, such as `broadcast-cable`."""
    import hmac

    return hmac.digest(secret.encode(), phrase.encode(), "sha256").hex()


def decode_base64(text: str) -> bytes | None:
    """What is encoded in either alphabet, padded or not; None for what an encoder does not write (RFC 4648 §3.5)."""
    standard = text.translate(_STANDARD_ALPHABET)
    if "=" not in standard:
        standard += "=" * (-len(standard) % 4)
    try:
        decoded = a2b_base64(standard, strict_mode=True)
    except ValueError:
        return None
    return decoded if b2a_base64(decoded, newline=False).decode() == standard else None


def _signature(payload: str, key: bytes) -> bytes:
    import hmac

    return hmac.digest(key, payload.encode(), "sha256").hex().encode()


def _stream_name(payload: str) -> str | None:
    import orjson

    decoded = decode_base64(payload)
    try:
        name = orjson.loads(decoded or b"")
    except orjson.JSONDecodeError:
        return None
    return name if stream_name_error(name) is None else None
