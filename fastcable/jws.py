"""The keys of JSON Web Tokens, and which algorithms each is for (RFC 7518 §3). PyJWT does the rest; it is imported when
the first key is made, because it takes 12 MB."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

HMACS = ("HS256", "HS384", "HS512")


@dataclass(frozen=True, slots=True)
class Key:
    """`material` is what PyJWT takes for the `algorithms`."""

    algorithms: tuple[str, ...]
    material: Any


def secret_key(secret: str) -> Key:
    """ImportError: PyJWT is missing."""
    import warnings

    import jwt

    # The options warn of short secrets, once and by name.
    warnings.filterwarnings("ignore", category=jwt.warnings.InsecureKeyLengthWarning)
    return Key(HMACS, secret.encode())


def public_key(pem: bytes) -> Key:
    """The key in a PEM file, for the one algorithm that it has.

    ValueError says what is wrong with the file, ImportError that PyJWT or its `cryptography` is missing.
    """
    if b"PRIVATE KEY" in pem:
        raise ValueError("holds a private key: only the public one belongs here")
    if pem.count(b"-----BEGIN ") != 1 or b"-----BEGIN PUBLIC KEY-----" not in pem:
        raise ValueError("must hold one public key in PEM (BEGIN PUBLIC KEY)")
    import jwt  # noqa: F401
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("its public key cannot be read") from None
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048:  # RFC 7518 §3.3
            raise ValueError(f"its RSA key has {key.key_size} bits, at least 2048 are needed")
        return Key(("RS256",), key)
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return Key(("ES256",), key)
    raise ValueError("its public key must be RSA (for RS256) or on the curve P-256 (for ES256)")


def is_signed(token: str, algorithm: str, keys: Iterable[Key]) -> bool:
    """Whether one of the keys for this algorithm has signed a token; all of them are tried."""
    import jwt

    def fits(key: Key) -> bool:
        try:
            jwt.PyJWS().decode(token, key.material, [algorithm])
        except jwt.PyJWTError:
            return False
        return True

    return any([fits(key) for key in keys if algorithm in key.algorithms])  # noqa: C419
