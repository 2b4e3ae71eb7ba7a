"""Signed stream names: Rails' own beside ours, and everything that is not one."""

from __future__ import annotations

import base64
import hmac
import json
import random
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastcable.signing import (
    MAX_TOKEN,
    StreamVerifier,
    bearer_key,
    decode_base64,
    sign,
    stream_keys,
    turbo_key,
)
from fastcable.stream_name import stream_name_error
from tests.harness import PATIENCE

KEY = b"s3Krit"
SECRET_KEY_BASE = "0123456789abcdef" * 8
NAMES = st.text(min_size=1, max_size=255).filter(lambda name: stream_name_error(name) is None)


def signed(payload: str, key: bytes = KEY, digest: str = "sha256") -> str:
    return f"{payload}--{hmac.digest(key, payload.encode(), digest).hex()}"


def encoded(text: str | bytes) -> str:
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def urlsafe(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


# --- vectors ----------------------------------------------------------------------------------------------------------

VECTORS = [
    ("chat:2021", "ImNoYXQ6MjAyMSI=--f9ee45dbccb1da04d8ceb99cc820207804370ba0d06b46fc3b8b373af1315628"),
    ("chat/2023", "ImNoYXQvMjAyMyI=--2b2e054b6413bf3bc7e8bbad2f68962aa2ba19821800ccbd8de6fd7314e8320c"),
    ("chat?~>", "ImNoYXQ/fj4i--96e031340386bfe322a53ec1ac1bb8c03a9f025f031549703acfa0462d3b9b6a"),
]
URL_SAFE = "ImNoYXQ_fj4i--0c3a4c6f61e1e538c82632646f18b48cf433cf42cd8d955e92e2f961c024c83f"
NOT_A_STRING = "WyJjaGF0LzIwMjMiLDE2ODUwMjQwMTdd--5b6661024d4c463c4936cd1542bc9a7672dd8039ac407d0b6c901697190e8aeb"


@pytest.mark.parametrize(("name", "token"), VECTORS, ids=[name for name, _ in VECTORS])
def test_names_signed_with_a_text(name: str, token: str) -> None:
    assert sign(name, KEY) == token
    assert StreamVerifier([KEY]).verify(token) == name


def test_the_url_safe_alphabet_is_verified_too() -> None:
    assert StreamVerifier([KEY]).verify(URL_SAFE) == "chat?~>"


def test_a_well_signed_array_is_not_a_name() -> None:
    assert signed(NOT_A_STRING.partition("--")[0]) == NOT_A_STRING
    assert StreamVerifier([KEY]).verify(NOT_A_STRING) is None


@pytest.mark.parametrize(("digest", "key", "signature"), [
    ("sha256", "7abcd5758752313f1d691ad878b93c5c7e9bf71bd853e9b10c3d2861233525e8"
               "98d0a04aae89abc8b5da1e1ccbd749cccb3a93a9900de3d53189b40191b5a460",
     "85c47b03bb7be5ac8afbca74e36e07eac665b3e97ac92b1086177265e232c75a"),
    ("sha1", "f2162065152bf45163868492b2f081295f938a68f7a18b6d40bc9d15e94b8ea0"
             "819b3011cf2f3c1b9228b8e722f706453e0257e9da2530eee8d59875740244a1",
     "a0f38e3d57c7ed5bd26f17bba89957ac13295677a4c7517c2173e0d85d7a885d"),
])  # fmt: skip
def test_names_signed_with_a_key_from_secret_key_base(digest: str, key: str, signature: str) -> None:
    assert turbo_key(SECRET_KEY_BASE, digest).hex() == key
    keys = stream_keys((), (SECRET_KEY_BASE,), digest)
    token = f"ImNoYXQvMjAyMyI=--{signature}"
    assert sign("chat/2023", keys[0]) == token
    assert StreamVerifier(keys).verify(token) == "chat/2023"


@pytest.mark.parametrize(("secret", "phrase", "key"), [
    ("qwerty", "broadcast-cable", "42923a28b760e667fc92f7c6123bb07a282822b329dd2ef48e7aee7830d98485"),
    ("s3Krit", "broadcast-cable", "a239a7ca182c90fc32bdedf73703d271388cf433843affffd3a5e757041fc716"),
    ("s3Krit", "rpc-cable", "08ac56f1562c6377ddd5d2d55cee2e35e117a55959d6a6ea3a63548ef0a7e559"),
    ("s3Krit", "api-cable", "1db397202b5bd68b12665b638515c3aeac9100f721fd7c4fcb6f29c69f32c886"),
])
def test_bearer_keys_from_a_secret(secret: str, phrase: str, key: str) -> None:
    assert bearer_key(secret, phrase) == key


# --- several keys -----------------------------------------------------------------------------------------------------


def test_all_keys_verify_in_their_order_of_use() -> None:
    keys = stream_keys(("new", "öld"), (SECRET_KEY_BASE, "x"), "sha256")
    assert keys == [b"new", "öld".encode(), turbo_key(SECRET_KEY_BASE, "sha256"), turbo_key("x", "sha256")]
    verifier = StreamVerifier(keys)
    assert [verifier.verify(sign("chat", key)) for key in keys] == ["chat"] * 4
    assert verifier.verify(sign("chat", b"other")) is None


def test_without_keys_nothing_verifies() -> None:
    assert StreamVerifier([]).verify(VECTORS[0][1]) is None
    assert StreamVerifier([]).verify(signed(encoded('"a"'), b"")) is None


@pytest.mark.parametrize("which", [0, 1, 2, None], ids=["first", "middle", "last", "none"])
def test_every_key_is_tried_in_constant_time_whichever_fits(which: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [b"a", b"b", b"c"]
    token = sign("chat", b"other" if which is None else keys[which])
    compared = []
    compare = hmac.compare_digest

    def counting(ours: bytes, theirs: bytes) -> bool:
        compared.append((type(ours), type(theirs), len(ours), len(theirs)))
        return compare(ours, theirs)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    assert StreamVerifier(keys).verify(token) == (None if which is None else "chat")
    assert compared == [(bytes, bytes, 64, 64)] * 3


# --- round trips ------------------------------------------------------------------------------------------------------


@given(NAMES, st.binary(max_size=80))
def test_what_is_signed_verifies(name: str, key: bytes) -> None:
    token = sign(name, key)
    assert StreamVerifier([key]).verify(token) == name
    assert StreamVerifier([key + b"x"]).verify(token) is None


WRITERS: list[Callable[[str], str]] = [
    lambda name: json.dumps(name, ensure_ascii=False),
    json.dumps,
    lambda name: '"' + "".join(f"\\u{int.from_bytes(unit):04X}" for unit in units(name)) + '"',
]
ENCODINGS: list[Callable[[str], str]] = [
    encoded, urlsafe, lambda text: urlsafe(text).rstrip("="),
]


def units(name: str) -> list[bytes]:
    code = name.encode("utf-16-be")
    return [code[at:at + 2] for at in range(0, len(code), 2)]


@given(NAMES, st.sampled_from(WRITERS), st.sampled_from(ENCODINGS))
def test_however_a_signer_writes_json_and_base64(
    name: str, write: Callable[[str], str], encode: Callable[[str], str]
) -> None:
    assert StreamVerifier([KEY]).verify(signed(encode(write(name)))) == name


@given(st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9+/=_-]{0,80}(--)?([0-9a-f]{64})?", fullmatch=True))
def test_what_was_not_signed_is_refused_without_an_exception(token: str) -> None:
    assert StreamVerifier([KEY]).verify(token) is None


@given(st.binary(max_size=60))
def test_whatever_was_signed_is_a_name_or_refused(content: bytes) -> None:
    name = StreamVerifier([KEY]).verify(signed(encoded(content)))
    assert name is None or stream_name_error(name) is None


# --- what is refused --------------------------------------------------------------------------------------------------

GOOD = sign("chat/2023", KEY)


def test_A13_every_changed_left_out_or_added_character_is_refused() -> None:
    verifier = StreamVerifier([KEY])
    assert verifier.verify(GOOD) == "chat/2023"
    for at in range(len(GOOD)):
        assert verifier.verify(GOOD[:at]) is None
        assert verifier.verify(GOOD[at + 1:]) is None
        assert verifier.verify(GOOD[:at] + GOOD[at + 1:]) is None
        for other in "aA0-_=+/ \0\né":
            if GOOD[at] != other:
                assert verifier.verify(GOOD[:at] + other + GOOD[at + 1:]) is None
            assert verifier.verify(GOOD[:at] + other + GOOD[at:]) is None


@pytest.mark.parametrize("token", [
    pytest.param("", id="A13-empty"),
    pytest.param("--", id="A13-mark-only"),
    pytest.param(GOOD + GOOD, id="A13-twice"),
    pytest.param(GOOD.upper(), id="A13-upper-case"),
    pytest.param(GOOD[:-64] + GOOD[-64:].upper(), id="A13-upper-case-signature"),
    pytest.param(GOOD + "\n", id="A13-line-end"),
    pytest.param(" " + GOOD, id="A13-space"),
    pytest.param(GOOD.replace("--", "–"), id="A13-dash"),
    pytest.param("é" * 10 + GOOD[16:], id="A13-non-ASCII-payload"),
    pytest.param(GOOD[:-1] + "é", id="A13-non-ASCII-signature"),
    pytest.param(GOOD[:-1] + "\ud800", id="A13-lone-surrogate"),
    pytest.param(GOOD[:-1] + "٣", id="A13-other-digits"),
    pytest.param(signed(encoded('"chat/2023"'), digest="sha1"), id="A13-SHA1-signature"),
    pytest.param(signed(encoded('"chat/2023"'), digest="sha512"), id="A13-SHA512-signature"),
    pytest.param(encoded('"chat/2023"') + "--", id="A13-no-signature"),
    pytest.param(encoded('"chat/2023"'), id="A13-payload-only"),
    pytest.param(GOOD[-64:], id="A13-signature-only"),
    pytest.param("x" * (1 << 20) + GOOD, id="A12-1-MiB"),
])
def test_tokens_that_are_none(token: str) -> None:
    assert StreamVerifier([KEY, b"other"]).verify(token) is None


@pytest.mark.parametrize("payload", [
    pytest.param("", id="nothing"),
    pytest.param(encoded(""), id="no-JSON"),
    pytest.param(encoded("chat"), id="text-that-is-not-JSON"),
    pytest.param(encoded("'chat'"), id="single-quotes"),
    pytest.param(encoded("5"), id="number"),
    pytest.param(encoded("null"), id="null"),
    pytest.param(encoded('["chat"]'), id="array"),
    pytest.param(encoded('{"_rails":{"message":"ImNoYXQi","exp":null,"pur":"login"}}'), id="A13-other-purpose-Rails-6"),
    pytest.param(encoded('{"_rails":{"data":"chat","pur":"login"}}'), id="A13-other-purpose-Rails-7.1"),
    pytest.param(encoded(b"\x04\bI\"\tchat\x06:\x06ET"), id="A20-Marshal"),
    pytest.param(encoded('""'), id="empty-name"),
    pytest.param(encoded('"a\\u0000b"'), id="control-character"),
    pytest.param(encoded('"\\ud800"'), id="lone-surrogate"),
    pytest.param(encoded(b'"\xff"'), id="not-UTF-8"),
    pytest.param(encoded('"chat" "chat"'), id="two-documents"),
    pytest.param(encoded("[" * 2000), id="deep"),
    pytest.param(encoded(json.dumps("x" * 256)), id="name-of-256-bytes"),
    pytest.param("ImNoYXQvMjAyMyI==", id="too-much-padding"),
    pytest.param("ImNoYXQvMjAyMyI=====", id="four-more-of-padding"),
    pytest.param("ImFiIg=", id="half-of-the-padding"),
    pytest.param("ImNo=YXQi", id="padding-inside"),
    pytest.param("ImNoYXQvMjAyMyJ=", id="digits-beyond-the-last-byte"),
    pytest.param("ImNoYXQi\n", id="line-end"),
    pytest.param("ImNo YXQi", id="space"),
    pytest.param("ImNoYXQi.", id="other-character"),
    pytest.param("I", id="one-digit"),
])
def test_well_signed_payloads_that_name_no_stream(payload: str) -> None:
    assert StreamVerifier([KEY]).verify(signed(payload)) is None


@pytest.mark.parametrize(("length", "good"), [(254, True), (255, True), (256, False)])
def test_longest_name_as_any_signer_may_write_it(length: int, good: bool) -> None:
    token = signed(encoded('"' + "\\u003c" * length + '"'))
    assert (len(token) <= MAX_TOKEN) == good
    assert StreamVerifier([KEY]).verify(token) == ("<" * length if good else None)


def test_A12_a_token_that_is_longer_than_any_name_needs_is_refused_unread() -> None:
    verifier = StreamVerifier([KEY])
    longest = (MAX_TOKEN - 66) // 4 * 3
    for size in (longest - 1, longest):
        assert verifier.verify(signed(encoded('"chat"'.ljust(size)))) == "chat"
    assert verifier.verify(signed(encoded('"chat"'.ljust(longest + 1)))) is None


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256, "\ud800"])
def test_what_is_no_name_is_not_signed(name: str) -> None:
    with pytest.raises(ValueError, match=r"^must "):
        sign(name, KEY)


# --- base64 -----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=40))
def test_both_alphabets_with_and_without_padding(data: bytes) -> None:
    for text in (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()):
        assert decode_base64(text) == decode_base64(text.rstrip("=")) == data


@given(st.text(alphabet="AQgwB/_-+= \n", max_size=10))
def test_only_what_an_encoder_writes_is_decoded(text: str) -> None:
    decoded = decode_base64(text)
    if decoded is not None:
        standard = text.replace("-", "+").replace("_", "/")
        assert standard in (encoded(decoded), encoded(decoded).rstrip("="))


# --- Rails itself -----------------------------------------------------------------------------------------------------

RUBY = """
require "json"
require "base64"
require "openssl"
require "active_support"
require "active_support/message_verifier"
require "active_support/key_generator"
asked = JSON.parse($stdin.read)
base = asked["secret_key_base"]
salt = "turbo/signed_stream_verifier_key"
keys = {
  "text" => "s3Krit",
  "sha256" => OpenSSL::PKCS5.pbkdf2_hmac(base, salt, 1000, 64, "SHA256"),
  "sha1" => ActiveSupport::KeyGenerator.new(base, iterations: 1000).generate_key(salt),
}
answer = keys.transform_values do |key|
  verifier = ActiveSupport::MessageVerifier.new(key, digest: "SHA256", serializer: JSON)
  {
    signed: asked["names"].map { |name| verifier.generate(name) },
    verified: asked["tokens"].map { |token| verifier.verified(token) },
    urlsafe: asked["names"].map do |name|
      payload = Base64.urlsafe_encode64(JSON.generate(name), padding: false)
      payload + "--" + OpenSSL::HMAC.hexdigest("SHA256", key, payload)
    end,
    purpose: verifier.generate("chat", purpose: "login"),
  }
end
puts JSON.generate(answer)
"""


def ask_rails(names: list[str], tokens: list[str]) -> dict[str, dict[str, list[str | None]]]:
    done = subprocess.run(
        ["ruby", "-E", "UTF-8:UTF-8", "-e", RUBY], check=True, stdout=subprocess.PIPE, timeout=PATIENCE,
        input=json.dumps({"secret_key_base": SECRET_KEY_BASE, "names": names, "tokens": tokens}).encode())  # fmt: skip
    answer: dict[str, dict[str, list[str | None]]] = json.loads(done.stdout)
    return answer


def test_rails_signs_and_verifies_the_same() -> None:
    dice = random.Random(8)
    alphabet = [*map(chr, range(0x20, 0x7F)), *"\x80\x85éß€→\u2028\u2029\ufeff😀𝄞"]
    names = ["chat/2023", "Z2lkOi8vYXBwL1Jvb20vMQ:messages", '"\\/<>&', *(
        "".join(dice.choices(alphabet, k=dice.randint(1, 60))) for _ in range(400)
    )]
    keys = {"text": KEY, **{digest: turbo_key(SECRET_KEY_BASE, digest) for digest in ("sha256", "sha1")}}
    ours = [sign(name, KEY) for name in names]
    standard = [token for token in ours if "-" not in token[:-66]][:20]
    tampered = []
    for token in standard:
        at = dice.randrange(len(token))
        tampered += [
            token[:at] + dice.choice("aB9+/=-") + token[at + 1:], token[:at], token[at:], token + "-", token + "x",
            token[:-64] + token[-64:].upper(), "--" + token,
        ]
    tampered += [signed(payload) for payload in ("ImNoYXQvMjAyMyI=", "ImNoYXQvMjAyMyJ=", "ImNo YXQi")]
    theirs = ask_rails(names, ours + tampered)
    for kind, key in keys.items():
        verifier = StreamVerifier([key])
        assert theirs[kind]["signed"] == [sign(name, key) for name in names]
        assert [verifier.verify(str(token)) for token in theirs[kind]["signed"]] == names
        assert [verifier.verify(str(token)) for token in theirs[kind]["urlsafe"]] == names
        assert verifier.verify(str(theirs[kind]["purpose"])) is None
        assert [verifier.verify(token) for token in ours + tampered] == theirs[kind]["verified"]
    assert theirs["text"]["verified"][:len(names)] == names
