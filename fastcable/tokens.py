"""JSON Web Tokens (RFC 7519) that say who connects, pure: a token in, its claims or a refusal out.

What a token may say about itself is only with which of the configured keys' own algorithms it is signed (RFC 8725
§3.1): a secret verifies HMACs and nothing else, an RSA key RS256, a P-256 key ES256. Headers that name or bring a key
(`kid`, `jku`, `jwk`, `x5c`, …) are not looked at. Of members given twice the last one counts, as RFC 7519 §4 allows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from fastcable.jws import is_signed, public_key, secret_key
from fastcable.settings import Settings, SettingsError
from fastcable.signing import decode_base64
from fastcable.stream_name import stream_name_error

MAX_TOKEN = 8192
MAX_PATTERNS = 100
CLOCK_SKEW = 10
"""Seconds by which the clock that `nbf` and `iat` come from may be ahead of ours. `exp` is taken at its word."""
MAX_KEY_FILE = 64 * 1024

_LATEST = 253_402_300_799  # the last second of the year 9999; a time in milliseconds is beyond it
_is_jwt = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)").fullmatch


class BadToken(Exception):
    """`reason` is for the client; the text says more, for the log, and has nothing of the token in it."""

    def __init__(self, text: str, reason: Literal["expired", "invalid"] = "invalid") -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says, checked for its types but not against the clock."""

    expires: float | None
    """Unix seconds; from then on the token is not valid. None: never."""
    not_before: float | None
    identifiers: str | None
    """The claim `ext`, a JSON text: who this is to the application, as AnyCable has it."""
    streams: tuple[str, ...] | None
    """Patterns of the streams to which the token opens the way; None when it does not say."""

    @classmethod
    def of(cls, claims: Mapping[str, object]) -> Claims:
        """Raises `BadToken`."""
        starts = [start for start in (_time(claims, "nbf"), _time(claims, "iat")) if start is not None]
        return cls(_time(claims, "exp"), max(starts, default=None), _identifiers(claims), _streams(claims))

    def allows(self, stream: str) -> bool:
        """Whether one of the token's patterns, where it has any, matches."""
        return self.streams is None or any(matches(pattern, stream) for pattern in self.streams)


class TokenVerifier:
    """Verifies tokens with any of several keys: while a key is exchanged, the old and the new one.

    `public_keys` are PEM files' contents; ValueError says what is wrong with one, ImportError that PyJWT (or its
    `cryptography`) is missing. An audience is asked for where one is given; a token for others is refused in any case.
    """

    __slots__ = ("_audiences", "_keys", "_require_exp")

    def __init__(
        self, secrets: Iterable[str] = (), public_keys: Iterable[bytes] = (),
        *, require_exp: bool = True, audiences: Iterable[str] = (),
    ) -> None:
        self._require_exp = require_exp
        self._audiences = frozenset(audiences)
        self._keys = [*map(secret_key, secrets), *map(public_key, public_keys)]

    @classmethod
    def configured(cls, settings: Settings) -> TokenVerifier:
        """With the keys of the options. Raises `SettingsError`."""
        try:
            public_keys = [_read(path) for path in settings.jwt_public_key]
            return cls(settings.jwt_secret, public_keys,
                       require_exp=settings.jwt_require_exp, audiences=settings.jwt_audience)
        except ImportError:
            raise SettingsError("auth: jwt needs the package PyJWT: pip install 'fastcable[jwt]'") from None

    def verify(self, token: str, now: float | None = None) -> Claims:
        """The claims of a token that one of the keys has signed and that is valid now (Unix seconds).

        Raises `BadToken`.
        """
        now = time.time() if now is None else now
        parts = _is_jwt(token) if len(token) <= MAX_TOKEN else None
        if parts is None:
            raise BadToken(f"not a JWT in three parts of at most {MAX_TOKEN} characters")
        header = _object(parts[1], "header")
        if "crit" in header:
            raise BadToken("the header has critical extensions (crit)")
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or not any(algorithm in key.algorithms for key in self._keys):
            raise BadToken("its algorithm (alg) is not that of a configured key")
        if not is_signed(token, algorithm, self._keys):
            raise BadToken("not signed with a configured key")
        return self._valid(_object(parts[2], "payload"), now)

    def _valid(self, members: Mapping[str, object], now: float) -> Claims:
        claims = Claims.of(members)
        self._check_audience(members)
        if claims.not_before is not None and now + CLOCK_SKEW < claims.not_before:
            raise BadToken("not valid yet (nbf or iat)")
        if claims.expires is None and self._require_exp:
            raise BadToken("never expires: it has no exp, and jwt_require_exp is true")
        if claims.expires is not None and now >= claims.expires:
            raise BadToken("expired (exp)", "expired")
        return claims

    def _check_audience(self, members: Mapping[str, object]) -> None:
        """Who is not among a token's audiences must refuse it (RFC 7519 §4.1.3)."""
        if "aud" not in members and not self._audiences:
            return
        claim = members.get("aud")
        named = [claim] if isinstance(claim, str) else claim
        if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
            raise BadToken("its audience (aud) is missing or not a string or an array of strings")
        if self._audiences.isdisjoint(named):
            raise BadToken("for another audience (aud) than jwt_audience")


def issue(claims: Mapping[str, object], secret: str) -> str:
    """A token with these claims, signed with HS256."""
    import hmac

    import orjson

    signed = f"{_base64url(orjson.dumps({'alg': 'HS256', 'typ': 'JWT'}))}.{_base64url(orjson.dumps(claims))}"
    return f"{signed}.{_base64url(hmac.digest(secret.encode(), signed.encode(), 'sha256'))}"


def matches(pattern: str, stream: str) -> bool:
    """Whether a pattern, in which each `*` stands for any run of characters, is the whole of a name."""
    first, *rest = pattern.split("*")
    if not rest:
        return stream == pattern
    *inner, last = rest
    position, end = len(first), len(stream) - len(last)
    if position > end or not stream.startswith(first) or not stream.endswith(last):
        return False
    for piece in inner:  # the leftmost place of each leaves the most for the next: nothing is ever taken back
        position = stream.find(piece, position, end)
        if position < 0:
            return False
        position += len(piece)
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Parts of a token


def _object(segment: str, what: str) -> dict[str, object]:
    import orjson

    try:
        decoded = orjson.loads(decode_base64(segment) or b"")
    except orjson.JSONDecodeError:
        decoded = None
    if not isinstance(decoded, dict):
        raise BadToken(f"its {what} is not an object of JSON in base64url")
    return decoded


def _time(claims: Mapping[str, object], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if type(value) not in (int, float) or not -_LATEST <= value <= _LATEST:  # type: ignore[operator]
        raise BadToken(f"{name} must be a number of seconds until the year 9999 at most")
    return float(value)  # type: ignore[arg-type]


def _identifiers(claims: Mapping[str, object]) -> str | None:
    if "ext" not in claims:
        return None
    import orjson

    text = claims["ext"]
    try:
        if isinstance(text, str):
            orjson.loads(text)
            return text
    except orjson.JSONDecodeError:
        pass
    raise BadToken("ext must be a string that holds JSON")


def _streams(claims: Mapping[str, object]) -> tuple[str, ...] | None:
    if "streams" not in claims:
        return None
    patterns = claims["streams"]
    if not isinstance(patterns, list) or len(patterns) > MAX_PATTERNS:
        raise BadToken(f"streams must be an array of at most {MAX_PATTERNS} patterns")
    for pattern in patterns:
        problem = stream_name_error(pattern)
        if problem:
            raise BadToken(f"streams: a pattern {problem}")
    return tuple(patterns)


def _base64url(data: bytes) -> str:
    from base64 import urlsafe_b64encode

    return urlsafe_b64encode(data).decode().rstrip("=")


def _read(path: str) -> bytes:
    """A file of jwt_public_key, found good."""
    try:
        with open(path, "rb") as file:
            pem = file.read(MAX_KEY_FILE)
        public_key(pem)
    except OSError as error:
        raise SettingsError(f"jwt_public_key: {path}: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"jwt_public_key: {path}: {error}") from None
    return pem
