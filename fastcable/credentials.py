"""What `fastcable sign` and `fastcable token` print. Raises ValueError with one line that names the flag at fault."""

from __future__ import annotations

import re
import time

from fastcable.settings import Settings
from fastcable.signing import sign, stream_keys
from fastcable.tokens import BadToken, Claims, issue

TTL = 3600  # seconds
SIGNING_OPTIONS = ("secret", "turbo_secret", "secret_key_base", "secret_key_base_digest")
TOKEN_OPTIONS = ("secret", "jwt_secret", "jwt_audience")

SIGN_HELP = """\
usage: fastcable sign STREAM [--config FILE] [options]

Print the signed name of STREAM, as Turbo signs it: what signed_streams = required and Turbo's channel ask for.

  --turbo-secret SECRETS               signs with the first of these secrets
  --secret-key-base SECRETS            signs with the key that Turbo makes out of the application's secret_key_base
  --secret-key-base-digest DIGEST      how: sha256, or sha1 before load_defaults 7.0 [sha256]
  --secret SECRET                      AnyCable's secret, where there is none of these
  --config FILE                        read this file; otherwise $FASTCABLE_CONFIG, or fastcable.toml

examples:
  FASTCABLE_TURBO_SECRET=... fastcable sign chat/2023
  fastcable sign chat/2023 --config /etc/fastcable.toml

A secret is better given in the environment or the file than with a flag, which other users can see.
"""

TOKEN_HELP = f"""\
usage: fastcable token [--claims JSON] [--ttl SECONDS] [--streams PATTERNS] [--config FILE] [options]

Print a token for a client of a server with auth = jwt, signed with the first jwt_secret (HS256).

  --claims JSON            its claims, an object of JSON
  --ttl SECONDS            it expires after this; 0: never, which servers take with jwt_require_exp = false only
                           [{TTL}, unless the claims have an exp]
  --streams PATTERNS       the streams that it opens, comma-separated, each * for any run of characters
  --jwt-secret SECRETS     signs with the first of these secrets
  --jwt-audience NAMES     is for the first of these, unless the claims have an aud
  --secret SECRET          AnyCable's secret, where there is no jwt_secret
  --config FILE            read this file; otherwise $FASTCABLE_CONFIG, or fastcable.toml

examples:
  FASTCABLE_JWT_SECRET=... fastcable token --claims '{{"sub":"7"}}' --ttl 600
  fastcable token --streams 'scores-*,news' --config /etc/fastcable.toml

A secret is better given in the environment or the file than with a flag, which other users can see.
"""


def signed_name(settings: Settings, stream: str) -> str:
    keys = stream_keys(settings.turbo_secret, settings.secret_key_base, settings.secret_key_base_digest)
    if not keys:
        raise ValueError("sign: needs a turbo_secret or a secret_key_base, in fastcable.toml, as "
                         "$FASTCABLE_TURBO_SECRET or $FASTCABLE_SECRET_KEY_BASE, or as a flag")
    try:
        return sign(stream, keys[0])
    except ValueError as error:
        raise ValueError(f"STREAM: {error}") from None


def token(settings: Settings, claims_text: str | None, ttl_text: str | None, streams_text: str | None) -> str:
    """A token; None for a flag that was not given."""
    if not settings.jwt_secret:
        raise ValueError("token: needs a jwt_secret, in fastcable.toml, as $FASTCABLE_JWT_SECRET or as --jwt-secret")
    claims = _claims("{}" if claims_text is None else claims_text)
    if streams_text is not None:
        if "streams" in claims:
            raise ValueError("--streams: the claims have streams already")
        claims["streams"] = [pattern.strip() for pattern in streams_text.split(",")]
    if ttl_text is not None or "exp" not in claims:
        ttl = _ttl(str(TTL) if ttl_text is None else ttl_text)
        if "exp" in claims:
            raise ValueError("--ttl: the claims have an exp already")
        if ttl:
            claims["exp"] = int(time.time()) + ttl
    if settings.jwt_audience:
        claims.setdefault("aud", settings.jwt_audience[0])
    try:
        Claims.of(claims)
    except BadToken as error:
        raise ValueError(f"{'--claims' if streams_text is None else '--claims or --streams'}: {error}") from None
    return issue(claims, settings.jwt_secret[0])


def _claims(text: str) -> dict[str, object]:
    import orjson

    try:
        claims = orjson.loads(text)
    except ValueError:  # not JSON, or not UTF-8
        claims = None
    if not isinstance(claims, dict):
        raise ValueError('--claims: expected an object of JSON, such as {"sub":"7"}')
    return claims


def _ttl(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError("--ttl: expected whole seconds, 0 for a token that never expires")
    return int(text)
