"""Tokens: those of PyJWT beside ours, and hostile ones made by hand."""

from __future__ import annotations

import base64
import hmac
import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from fastcable.settings import Settings, SettingsError
from fastcable.tokens import (
    CLOCK_SKEW,
    MAX_PATTERNS,
    MAX_TOKEN,
    BadToken,
    Claims,
    TokenVerifier,
    issue,
    matches,
)

SECRET = "s" * 64
NOW = 1_800_000_000.0
CLAIMS: dict[str, Any] = {"sub": "7", "exp": 4_102_444_800}
GOOD = Claims(expires=4_102_444_800, not_before=None, identifiers=None, streams=None)


def base64url(data: bytes | str) -> str:
    return base64.urlsafe_b64encode(data.encode() if isinstance(data, str) else data).decode().rstrip("=")


def handmade(
    payload: object = CLAIMS, header: object = None, *, secret: str | bytes = SECRET, digest: str = "sha256"
) -> str:
    """Signed with an HMAC, whatever the header says; header and payload are JSON already where they are text."""
    parts = [{"alg": "HS256", "typ": "JWT"} if header is None else header, payload]
    signed = ".".join(base64url(part if isinstance(part, str | bytes) else json.dumps(part)) for part in parts)
    key = secret.encode() if isinstance(secret, str) else secret
    return f"{signed}.{base64url(hmac.digest(key, signed.encode(), digest))}"


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def p256_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public_pem(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def refusal(token: str, verifier: TokenVerifier | None = None, now: float = NOW) -> BadToken:
    with pytest.raises(BadToken) as caught:
        (verifier or TokenVerifier([SECRET])).verify(token, now)
    told = str(caught.value)
    assert "\n" not in told
    assert not any(part in told for part in token.split(".") if len(part) > 5)  # nothing of the token is in it
    return caught.value


# --- good tokens ------------------------------------------------------------------------------------------------------


def test_a_token_of_anycable() -> None:
    token = ("eyJhbGciOiJIUzI1NiJ9.eyJleHQiOiJ7XCJ1c2VyX2lkXCI6XCIxNVwifSIsImV4cCI6NDEwMjQ0NDgwMH0"
             ".DciK26Q4DZYjYdZJ26a4-TgQGXbkT_WHZH1phBEszpM")
    claims = TokenVerifier(["s3Krit"]).verify(token)
    assert claims == Claims(expires=4_102_444_800, not_before=None, identifiers='{"user_id":"15"}', streams=None)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_hmacs_of_pyjwt(algorithm: str) -> None:
    assert TokenVerifier([SECRET]).verify(jwt.encode(CLAIMS, SECRET, algorithm), NOW) == GOOD


def test_signatures_of_pyjwt_with_keys_of_both_kinds() -> None:
    verifier = TokenVerifier(public_keys=[public_pem(rsa_key().public_key()), public_pem(p256_key().public_key())])
    assert verifier.verify(jwt.encode(CLAIMS, rsa_key(), "RS256"), NOW) == GOOD
    for _ in range(20):  # of random length as DER
        assert verifier.verify(jwt.encode(CLAIMS, p256_key(), "ES256"), NOW) == GOOD


def test_pyjwt_takes_what_we_issue() -> None:
    token = issue({**CLAIMS, "name": "Zoë"}, SECRET)
    assert jwt.decode(token, SECRET, ["HS256"]) == {**CLAIMS, "name": "Zoë"}
    assert TokenVerifier([SECRET]).verify(token, NOW) == GOOD


def test_several_secrets_beside_a_public_key() -> None:
    verifier = TokenVerifier(["n" * 32, "o" * 32], [public_pem(rsa_key().public_key())])
    for secret in ("n" * 32, "o" * 32):
        assert verifier.verify(handmade(secret=secret), NOW) == GOOD
    assert verifier.verify(jwt.encode(CLAIMS, rsa_key(), "RS256"), NOW) == GOOD
    assert refusal(handmade(secret="x" * 32), verifier).reason == "invalid"


def test_every_secret_is_tried_in_constant_time_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = hmac.compare_digest

    def counting(ours: bytes, theirs: bytes) -> bool:
        compared.append((type(ours), type(theirs)))
        return compare(ours, theirs)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    TokenVerifier([SECRET, "b", "c"]).verify(handmade(), NOW)
    assert compared == [(bytes, bytes)] * 3


def test_what_is_claimed() -> None:
    claims = TokenVerifier([SECRET]).verify(handmade({
        "exp": NOW + 0.5, "nbf": NOW - 2, "iat": NOW - 1, "ext": '{"user":"é"}', "streams": ["scores-*", "news"],
        "iss": "x", "jti": 5, "sub": None, "unknown": [{}],
    }), NOW)  # fmt: skip
    assert claims == Claims(NOW + 0.5, NOW - 1, '{"user":"é"}', ("scores-*", "news"))
    assert not hasattr(claims, "__dict__")


OTHER_NAMES = st.text(max_size=5).map(lambda name: f"my_{name}")


@given(st.dictionaries(OTHER_NAMES, st.text(max_size=5) | st.integers(0, 9) | st.none(), max_size=4))
def test_whatever_else_pyjwt_signs_is_taken(claims: Mapping[str, object]) -> None:
    token = jwt.encode({**claims, **CLAIMS}, SECRET)
    assert TokenVerifier([SECRET]).verify(token, NOW).expires == CLAIMS["exp"]


# --- signatures and algorithms ----------------------------------------------------------------------------------------


def test_every_changed_or_left_out_character_is_refused() -> None:
    token = handmade()
    for at in range(len(token)):
        for other in "aA0-_.=+ é":
            if token[at] != other:
                assert refusal(token[:at] + other + token[at + 1:]).reason == "invalid"
        assert refusal(token[:at]).reason == "invalid"
        assert refusal(token[at + 1:]).reason == "invalid"


@pytest.mark.parametrize("signature", ["", "x", base64url(b"\0" * 32)], ids=["empty", "short", "zeros"])
@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", "HS", "hs256", "HS256 ", "\0"])
def test_A6_algorithm_none_and_other_words(name: str, signature: str) -> None:
    signed = f"{base64url(json.dumps({'alg': name}))}.{base64url(json.dumps(CLAIMS))}"
    for verifier in (TokenVerifier([SECRET]), TokenVerifier(public_keys=[public_pem(rsa_key().public_key())])):
        assert refusal(f"{signed}.{signature}", verifier).reason == "invalid"
    assert refusal(handmade(header={"alg": name})).reason == "invalid"


def test_A6_unsigned_token_of_pyjwt() -> None:
    assert refusal(jwt.encode(CLAIMS, "", "none")).reason == "invalid"


@pytest.mark.parametrize("alg", [None, 5, True, ["HS256"], {"HS256": 1}], ids=repr)
def test_A6_algorithm_of_another_type(alg: object) -> None:
    assert refusal(handmade(header={"alg": alg})).reason == "invalid"


def test_A6_no_algorithm_and_no_keys() -> None:
    assert refusal(handmade(header={"typ": "JWT"})).reason == "invalid"
    assert refusal(handmade(), TokenVerifier()).reason == "invalid"
    assert refusal(handmade(secret=""), TokenVerifier()).reason == "invalid"


@pytest.mark.parametrize("key", [rsa_key, p256_key], ids=["RSA", "P-256"])
@pytest.mark.parametrize("form", ["PEM", "PEM-stripped", "DER"])
@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_A7_hmac_with_the_public_key_as_secret(key: Callable[[], Any], form: str, digest: str) -> None:
    public = key().public_key()
    pem = public_pem(public)
    secret = {"PEM": pem, "PEM-stripped": pem.strip(),
              "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)}[form]
    token = handmade(header={"alg": f"HS{digest[3:]}"}, secret=secret, digest=digest)
    assert refusal(token, TokenVerifier(public_keys=[pem])).reason == "invalid"


@pytest.mark.parametrize(("key", "algorithm"), [
    (rsa_key, "RS384"), (rsa_key, "RS512"), (rsa_key, "PS256"), (rsa_key, "PS512"),
    (lambda: ec.generate_private_key(ec.SECP384R1()), "ES384"), (ed25519.Ed25519PrivateKey.generate, "EdDSA"),
], ids=["RS384", "RS512", "PS256", "PS512", "ES384", "EdDSA"])  # fmt: skip
def test_A7_algorithms_that_no_key_is_for(key: Callable[[], Any], algorithm: str) -> None:
    verifier = TokenVerifier([SECRET], [public_pem(rsa_key().public_key()), public_pem(p256_key().public_key())])
    assert refusal(jwt.encode(CLAIMS, key(), algorithm), verifier).reason == "invalid"


@pytest.mark.parametrize(("header", "signer"), [("ES256", "RS256"), ("RS256", "ES256"), ("HS256", "RS256")])
def test_A7_signatures_of_one_algorithm_under_the_name_of_another(header: str, signer: str) -> None:
    key: Any = rsa_key() if signer == "RS256" else p256_key()
    verifier = TokenVerifier([SECRET], [public_pem(rsa_key().public_key()), public_pem(p256_key().public_key())])
    signature = jwt.encode(CLAIMS, key, signer).rpartition(".")[2]
    signed = f"{base64url(json.dumps({'alg': header}))}.{base64url(json.dumps(CLAIMS))}"
    assert refusal(f"{signed}.{signature}", verifier).reason == "invalid"


def test_A7_keys_of_others() -> None:
    verifier = TokenVerifier(public_keys=[public_pem(rsa_key().public_key()), public_pem(p256_key().public_key())])
    others: list[tuple[Any, str]] = [
        (rsa.generate_private_key(65537, 2048), "RS256"), (ec.generate_private_key(ec.SECP256R1()), "ES256")]
    for key, algorithm in others:
        assert refusal(jwt.encode(CLAIMS, key, algorithm), verifier).reason == "invalid"


ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.mark.parametrize("signature", [
    b"", bytes(64), bytes(31) + b"\1" + bytes(32), bytes(32) + ORDER.to_bytes(32), ORDER.to_bytes(32) * 2,
    (ORDER - 1).to_bytes(32) * 2, b"\xff" * 64, bytes(63), bytes(65), b"\x30\x06\x02\x01\x01\x02\x01\x01",
], ids=["empty", "zeros", "r-1", "s-order", "orders", "order-less-1", "ones", "63-bytes", "65-bytes", "DER"])
def test_A7_odd_signatures_on_a_curve(signature: bytes) -> None:
    signed = f"{base64url(json.dumps({'alg': 'ES256'}))}.{base64url(json.dumps(CLAIMS))}"
    verifier = TokenVerifier(public_keys=[public_pem(p256_key().public_key())])
    assert refusal(f"{signed}.{base64url(signature)}", verifier).reason == "invalid"


@pytest.mark.parametrize("crit", [["exp"], ["b64"], [], "exp", None, ["https://example.com/x"]], ids=repr)
def test_A10_critical_extensions(crit: object) -> None:
    assert refusal(handmade(header={"alg": "HS256", "crit": crit, "exp": 1, "b64": True})).reason == "invalid"


STEERING = {
    "kid": "../../dev/null", "jku": "https://evil.example/keys", "x5u": "https://evil.example/cert",
    "jwk": {"kty": "oct", "k": base64url("evil" * 8)}, "x5c": ["MIIB"], "iss": "https://evil.example",
}


@pytest.mark.parametrize("name", STEERING)
def test_A11_headers_that_name_or_bring_a_key_are_not_looked_at(name: str) -> None:
    header = {"alg": "HS256", name: STEERING[name]}
    assert TokenVerifier([SECRET]).verify(handmade(header=header), NOW) == GOOD
    assert refusal(handmade(header=header, secret="evil" * 8)).reason == "invalid"
    assert refusal(handmade(header=header, secret="")).reason == "invalid"


# --- form and size ----------------------------------------------------------------------------------------------------


def of_length(length: int) -> str:
    """A good token; lengths differ from the wanted one by rounding, which the header's text makes good."""
    for spaces in range(4):
        header = json.dumps({"alg": "HS256"}) + " " * spaces
        rest = length - len(handmade({**CLAIMS, "x": ""}, header))
        for size in range(max(0, rest * 3 // 4 - 4), rest * 3 // 4 + 5):
            token = handmade({**CLAIMS, "x": "x" * size}, header)
            if len(token) == length:
                return token
    raise AssertionError(length)


def test_A12_longest_token() -> None:
    for length in (MAX_TOKEN - 1, MAX_TOKEN):
        assert TokenVerifier([SECRET]).verify(of_length(length), NOW) == GOOD
    assert "8192" in str(refusal(of_length(MAX_TOKEN + 1)))


TOKEN = handmade()
HEAD, BODY, SIGNATURE = TOKEN.split(".")


@pytest.mark.parametrize("token", [
    pytest.param("", id="A12-empty"),
    pytest.param(".", id="A12-one-dot"),
    pytest.param("..", id="A12-two-dots"),
    pytest.param(HEAD, id="A12-1-part"),
    pytest.param(f"{HEAD}.{BODY}", id="A12-2-parts"),
    pytest.param(f"{TOKEN}.x", id="A12-4-parts"),
    pytest.param(f"{TOKEN}.x.y", id="A12-5-parts"),
    pytest.param(f"{HEAD}.{BODY}.", id="A12-no-signature"),
    pytest.param(f".{BODY}.{SIGNATURE}", id="A12-no-header"),
    pytest.param(f"{HEAD}..{SIGNATURE}", id="A12-no-payload"),
    pytest.param(f"{TOKEN}=", id="A12-padding"),
    pytest.param(f" {TOKEN}", id="A12-space"),
    pytest.param(f"{TOKEN}\n", id="A12-line-end"),
    pytest.param(f"{HEAD}.{BODY}.{SIGNATURE[:-1]}é", id="A12-non-ASCII"),
    pytest.param(f"{HEAD}.{BODY}.\ud800", id="A12-lone-surrogate"),
    pytest.param(f"{HEAD}.{BODY}.!!!!", id="A12-bad-base64"),
    pytest.param(f"{HEAD}.{BODY}.x", id="A12-one-digit"),
    pytest.param(f"Bearer {TOKEN}", id="A12-scheme"),
    pytest.param(TOKEN.replace(".", "%2E"), id="A12-percent"),
    pytest.param("x" * (1 << 20), id="A12-1-MiB"),
    pytest.param(f"{'x' * (1 << 20)}.{BODY}.{SIGNATURE}", id="A12-1-MiB-header"),
    pytest.param("." * (1 << 20), id="A12-1-MiB-of-dots"),
])
def test_what_is_no_token(token: str) -> None:
    assert refusal(token).reason == "invalid"


def test_A12_signatures_with_digits_beyond_their_last_byte() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet[alphabet.index(SIGNATURE[-1]) + 1]  # the two lowest bits belong to no byte
    assert refusal(TOKEN[:-1] + last).reason == "invalid"


NOT_OBJECTS = ["", "x", "5", "null", "[]", '"exp"', b"\xff", "{", '{"exp":1}x', '{"exp":NaN}', '{"a":"\\ud800"}',
               '{"a":' * 1500, "\ufeff{}", "{'exp':1}"]


@pytest.mark.parametrize("text", NOT_OBJECTS, ids=lambda text: repr(text)[:12])
def test_headers_and_payloads_that_are_no_objects(text: str | bytes) -> None:
    assert refusal(handmade(text or " ")).reason == "invalid"
    assert refusal(handmade(header=text or " ")).reason == "invalid"


def test_of_members_given_twice_the_last_counts() -> None:
    verifier = TokenVerifier([SECRET])
    assert verifier.verify(handmade('{"exp":1,"exp":4102444800}'), NOW) == GOOD
    assert refusal(handmade('{"exp":4102444800,"exp":1}')).reason == "expired"
    assert verifier.verify(handmade(header='{"alg":"none","alg":"HS256"}'), NOW) == GOOD
    assert refusal(handmade(header='{"alg":"HS256","alg":"none"}')).reason == "invalid"


# --- claims -----------------------------------------------------------------------------------------------------------


def with_claims(claims: object, now: float = NOW, **options: Any) -> Claims | tuple[str, str]:
    try:
        return TokenVerifier([SECRET], **options).verify(handmade(claims), now)
    except BadToken as error:
        return error.reason, str(error)


@pytest.mark.parametrize(("claims", "result"), [
    pytest.param({"exp": NOW - 1}, "expired", id="A8-exp-past"),
    pytest.param({"exp": NOW}, "expired", id="A8-exp-now"),
    pytest.param({"exp": NOW + 1}, None, id="A8-exp-future"),
    pytest.param({"exp": NOW + 0.25}, None, id="A8-exp-fraction-of-a-second-ahead"),
    pytest.param({"exp": -1}, "expired", id="A8-exp-negative"),
    pytest.param({"exp": 0}, "expired", id="A8-exp-0"),
    pytest.param({"exp": 253_402_300_799}, None, id="A8-exp-last-second"),
    pytest.param({"exp": 253_402_300_800}, "invalid", id="A8-exp-beyond"),
    pytest.param({"exp": 1_800_000_000_000}, "invalid", id="A8-exp-milliseconds"),
    pytest.param('{"exp":1' + "0" * 400 + "}", "invalid", id="A8-exp-400-digits"),
    pytest.param('{"exp":1e308}', "invalid", id="A8-exp-huge-float"),
    pytest.param('{"exp":1e400}', "invalid", id="A8-exp-infinite"),
    pytest.param('{"exp":-1e308}', "invalid", id="A8-exp-huge-negative"),
    pytest.param({"exp": "4102444800"}, "invalid", id="A8-exp-text"),
    pytest.param({"exp": True}, "invalid", id="A8-exp-boolean"),
    pytest.param({"exp": None}, "invalid", id="A8-exp-null"),
    pytest.param({"exp": [4102444800]}, "invalid", id="A8-exp-array"),
    pytest.param({}, "invalid", id="A8-no-exp"),
    pytest.param({"EXP": 4102444800}, "invalid", id="A8-exp-in-capitals"),
    *(pytest.param({**CLAIMS, name: value}, result, id=f"A8-{name}-{label}")
      for name in ("nbf", "iat")
      for label, value, result in (
          ("past", NOW - 1, None), ("now", NOW, None), ("skew-less-1", NOW + CLOCK_SKEW - 1, None),
          ("skew", NOW + CLOCK_SKEW, None), ("skew-and-1", NOW + CLOCK_SKEW + 1, "invalid"),
          ("text", "1", "invalid"), ("null", None, "invalid"), ("milliseconds", NOW * 1000, "invalid"))),
    pytest.param({"exp": NOW - 1, "nbf": NOW + 60}, "invalid", id="A8-neither-yet-nor-still"),
    pytest.param({**CLAIMS, "ext": '{"a":1}'}, None, id="ext"),
    pytest.param({**CLAIMS, "ext": {"a": 1}}, "invalid", id="ext-object"),
    pytest.param({**CLAIMS, "ext": None}, "invalid", id="ext-null"),
    pytest.param({**CLAIMS, "ext": ""}, "invalid", id="ext-empty"),
    pytest.param({**CLAIMS, "ext": "{"}, "invalid", id="ext-not-JSON"),
    pytest.param({**CLAIMS, "ext": '{"a":NaN}'}, "invalid", id="ext-NaN"),
    pytest.param({**CLAIMS, "streams": []}, None, id="streams-none"),
    pytest.param({**CLAIMS, "streams": ["a"] * (MAX_PATTERNS - 1)}, None, id="streams-limit-less-1"),
    pytest.param({**CLAIMS, "streams": ["a"] * MAX_PATTERNS}, None, id="streams-limit"),
    pytest.param({**CLAIMS, "streams": ["a"] * (MAX_PATTERNS + 1)}, "invalid", id="streams-limit-and-1"),
    pytest.param({**CLAIMS, "streams": ["*" * 254]}, None, id="pattern-254"),
    pytest.param({**CLAIMS, "streams": ["*" * 255]}, None, id="pattern-255"),
    pytest.param({**CLAIMS, "streams": ["*" * 256]}, "invalid", id="pattern-256"),
    pytest.param({**CLAIMS, "streams": [""]}, "invalid", id="pattern-empty"),
    pytest.param({**CLAIMS, "streams": ["a\nb"]}, "invalid", id="pattern-control"),
    pytest.param({**CLAIMS, "streams": [5]}, "invalid", id="pattern-number"),
    pytest.param({**CLAIMS, "streams": [["a"]]}, "invalid", id="pattern-array"),
    pytest.param({**CLAIMS, "streams": "a"}, "invalid", id="streams-text"),
    pytest.param({**CLAIMS, "streams": None}, "invalid", id="streams-null"),
    pytest.param({**CLAIMS, "streams": {"a": 1}}, "invalid", id="streams-object"),
])
def test_claims(claims: object, result: str | None) -> None:
    given = with_claims(claims)
    assert isinstance(given, Claims) if result is None else given[0] == result  # type: ignore[index]


def test_A8_a_token_without_exp_where_none_is_asked_for() -> None:
    assert with_claims({}, require_exp=False) == Claims(None, None, None, None)
    assert with_claims({"exp": NOW}, require_exp=False) == ("expired", "expired (exp)")


def test_A8_expired_is_told_only_of_a_token_that_we_signed() -> None:
    assert refusal(handmade({"exp": 1}, secret="x" * 32)).reason == "invalid"


def test_A8_the_clock_is_that_of_the_machine() -> None:
    verifier = TokenVerifier([SECRET])
    assert verifier.verify(handmade()) == GOOD
    with pytest.raises(BadToken, match="expired"):
        verifier.verify(handmade({"exp": NOW - 1e9}))


@pytest.mark.parametrize(("audiences", "claim", "good"), [
    ([], ..., True), ([], "cable", False), ([], [], False), ([], None, False),
    (["cable", "b"], "cable", True), (["cable"], ["x", "cable"], True), (["cable"], ..., False),
    (["cable"], "Cable", False), (["cable"], [], False), (["cable"], ["x"], False), (["cable"], None, False),
    (["cable"], ["cable", 5], False), (["cable"], {"cable": 1}, False), (["cable"], 5, False), (["c"], "cable", False),
], ids=repr)
def test_A11_tokens_for_others(audiences: list[str], claim: object, good: bool) -> None:
    claims = CLAIMS if claim is ... else {**CLAIMS, "aud": claim}
    assert isinstance(with_claims(claims, audiences=audiences), Claims) == good


# --- patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pattern", "yes", "no"), [
    ("news", ["news"], ["new", "newss", "News", " news"]),
    ("*", ["", "a", "a\x80é*"], []),
    ("scores-*", ["scores-", "scores-1", "scores-*"], ["scores", "xscores-1"]),
    ("*-live", ["-live", "a-live", "-live-live"], ["live", "a-live "]),
    ("a*a", ["aa", "aba", "aaa"], ["a", "ab", "ba"]),
    ("room-*-chat", ["room--chat", "room-1-chat", "room-1-chat-chat"], ["room-chat", "room-1-chat2"]),
    ("a*b*c", ["abc", "a1b2c", "abbc", "abcbc"], ["ac", "acb", "ab", "bc"]),
    ("ab*bc*cd", ["abbccd", "abXbcXcd"], ["abcd", "abbcd", "abccd"]),
    ("**", ["", "x"], []),
    ("a.c", ["a.c"], ["abc"]),
    ("[ab]?", ["[ab]?"], ["a", "ab"]),
])
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [name for name in yes + no if matches(pattern, name)] == yes


@given(st.text("ab*", max_size=8), st.text("ab", max_size=10))
def test_patterns_match_as_regular_expressions_would(pattern: str, name: str) -> None:
    expression = ".*".join(map(re.escape, pattern.split("*")))
    assert matches(pattern, name) == (re.fullmatch(expression, name, re.DOTALL) is not None)


def test_patterns_that_make_backtracking_explode() -> None:
    assert not matches("*a" * 127 + "b", "a" * 255)
    assert not matches("a*" * 127 + "b", "a" * 255)


def test_what_claims_allow() -> None:
    claims = with_claims({**CLAIMS, "streams": ["scores-*", "news"]})
    assert isinstance(claims, Claims)
    assert [claims.allows(name) for name in ("news", "scores-7", "chat")] == [True, True, False]
    assert GOOD.allows("chat")
    assert not Claims(None, None, None, ()).allows("chat")


# --- keys of the options ----------------------------------------------------------------------------------------------


def with_key_file(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        TokenVerifier.configured(Settings(jwt_public_key=(str(path),)))
    return str(caught.value).removeprefix(f"jwt_public_key: {path}: ")


def test_configured(tmp_path: Path) -> None:
    for name, key in (("rsa.pem", rsa_key()), ("p256.pem", p256_key())):
        (tmp_path / name).write_bytes(b"a comment\r\n" + public_pem(key.public_key()))
    verifier = TokenVerifier.configured(Settings(
        jwt_secret=(SECRET,), jwt_public_key=(str(tmp_path / "rsa.pem"), str(tmp_path / "p256.pem")),
        jwt_require_exp=False, jwt_audience=("cable",)))
    tokens = [jwt.encode({"aud": "cable"}, SECRET), jwt.encode({"aud": "cable"}, rsa_key(), "RS256"),
              jwt.encode({"aud": "cable"}, p256_key(), "ES256")]
    assert [verifier.verify(token, NOW) for token in tokens] == [Claims(None, None, None, None)] * 3
    assert refusal(handmade(), verifier).reason == "invalid"


PEM = "must hold one public key in PEM (BEGIN PUBLIC KEY)"
PRIVATE = "holds a private key: only the public one belongs here"
KIND = "its public key must be RSA (for RS256) or on the curve P-256 (for ES256)"


@pytest.mark.parametrize(("content", "expected"), [
    pytest.param(lambda: b"", PEM, id="empty"),
    pytest.param(lambda: b"s3Krit", PEM, id="secret"),
    pytest.param(lambda: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", PEM, id="certificate"),
    pytest.param(lambda: public_pem(rsa_key().public_key()) * 2, PEM, id="two-keys"),
    pytest.param(lambda: b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
                 "its public key cannot be read", id="garbage"),
    pytest.param(lambda: public_pem(rsa_key().public_key())[:-60], "its public key cannot be read", id="cut"),
    pytest.param(lambda: private_pem(p256_key()), PRIVATE, id="private"),
    pytest.param(lambda: public_pem(rsa_key().public_key()) + private_pem(rsa_key()), PRIVATE, id="pair"),
    pytest.param(lambda: public_pem(rsa_key(1024).public_key()),
                 "its RSA key has 1024 bits, at least 2048 are needed", id="A16-1024-bits"),
    pytest.param(lambda: public_pem(ec.generate_private_key(ec.SECP384R1()).public_key()), KIND, id="P-384"),
    pytest.param(lambda: public_pem(ed25519.Ed25519PrivateKey.generate().public_key()), KIND, id="Ed25519"),
])  # fmt: skip
def test_key_files_that_are_none(content: Callable[[], bytes], expected: str, tmp_path: Path) -> None:
    assert with_key_file(tmp_path / "key.pem", content()) == expected


def test_key_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, expected in ((tmp_path / "no.pem", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(SettingsError) as caught:
            TokenVerifier.configured(Settings(jwt_public_key=(str(path),)))
        assert str(caught.value) == f"jwt_public_key: {path}: {expected}"


@pytest.mark.parametrize("missing", ["jwt", "cryptography.exceptions"])
def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    needs = "auth: jwt needs the package PyJWT: pip install 'fastcable[jwt]'"
    assert with_key_file(tmp_path / "key.pem", public_pem(rsa_key().public_key())) == needs
    if missing == "jwt":
        with pytest.raises(SettingsError) as caught:
            TokenVerifier.configured(Settings(jwt_secret=(SECRET,)))
        assert str(caught.value) == needs
