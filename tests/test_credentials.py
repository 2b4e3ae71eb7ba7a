"""`fastcable sign` and `fastcable token`, run as users run them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest

from fastcable.signing import StreamVerifier, turbo_key
from fastcable.tokens import TokenVerifier
from tests.harness import PATIENCE

ROOT = str(Path(__file__).parent.parent)
CLEAN = {name: value for name, value in os.environ.items() if name != "PORT" and not name.startswith("FASTCABLE_")}
SECRET = "hunter2-" * 4


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that no fastcable.toml is found by chance."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fastcable(*arguments: str | bytes, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "fastcable", *arguments], env={**CLEAN, "PYTHONPATH": ROOT, **(env or {})},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert "hunter2" not in done.stdout + done.stderr
    assert done.stderr.count("\n") == (1 if done.returncode else 0)
    return done


def printed(*arguments: str, env: Mapping[str, str] | None = None) -> str:
    done = fastcable(*arguments, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    line, end, rest = done.stdout.partition("\n")
    assert (end, rest) == ("\n", "")
    return line


# --- sign -------------------------------------------------------------------------------------------------------------

VERIFIER = StreamVerifier([SECRET.encode()])


def test_sign_with_a_secret_of_each_source() -> None:
    for command, env in (
        (["sign", "chat/2023", "--turbo-secret", SECRET], {}),
        (["sign", "chat/2023"], {"FASTCABLE_TURBO_SECRET": f"{SECRET},old"}),
        (["sign", "chat/2023"], {"FASTCABLE_SECRET": SECRET}),
    ):
        assert VERIFIER.verify(printed(*command, env=env)) == "chat/2023"
    Path("other.toml").write_text(f'turbo_secret = ["{SECRET}", "old"]\nport = 1')
    assert VERIFIER.verify(printed("sign", "é", "--config", "other.toml")) == "é"


@pytest.mark.parametrize("digest", ["sha256", "sha1"])
def test_sign_as_the_rails_application(digest: str) -> None:
    token = printed("sign", "chat", f"--secret-key-base-digest={digest}", env={"FASTCABLE_SECRET_KEY_BASE": SECRET})
    assert StreamVerifier([turbo_key(SECRET, digest)]).verify(token) == "chat"


@pytest.mark.parametrize(("arguments", "expected"), [
    (["sign", "a"], "sign: needs a turbo_secret or a secret_key_base, in fastcable.toml, as "
                    "$FASTCABLE_TURBO_SECRET or $FASTCABLE_SECRET_KEY_BASE, or as a flag"),
    (["sign"], "sign: expected one STREAM, got 0 arguments"),
    (["sign", "a", "b"], "sign: expected one STREAM, got 2 arguments"),
    (["sign", "a", "--secert", SECRET], "--secert: unknown option (did you mean --secret?)"),
    (["sign", "a", "--turbo-secret"], "--turbo-secret: expected a value (--turbo-secret=VALUE takes any)"),
    (["sign", "a", f"--turbo-secret={SECRET}\n,"], "--turbo-secret: must not have an empty entry"),
    (["sign", "", "--turbo-secret", SECRET], "STREAM: must not be empty"),
    (["sign", "a\nb", "--turbo-secret", SECRET], "STREAM: must not contain control characters"),
    (["sign", "x" * 256, "--turbo-secret", SECRET], "STREAM: must be at most 255 bytes of UTF-8"),
    (["sign", b"\xff", "--turbo-secret", SECRET], "STREAM: must not contain lone surrogates"),
    (["sign", "a", "--config", "no.toml"], "no.toml: No such file or directory"),
], ids=lambda value: repr(value)[:40])
def test_sign_in_vain(arguments: list[str | bytes], expected: str) -> None:
    done = fastcable(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected + "\n")


# --- token ------------------------------------------------------------------------------------------------------------


def claims(*arguments: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    token = printed("token", *arguments, env={"FASTCABLE_JWT_SECRET": SECRET, **(env or {})})
    decoded: dict[str, Any] = jwt.decode(token, SECRET, ["HS256"], options={"verify_aud": False})
    return decoded


def test_token_expires_after_an_hour_or_as_told() -> None:
    before = int(time.time())
    hour, minute = claims()["exp"], claims("--ttl", "60")["exp"]
    after = int(time.time())
    assert before + 3600 <= hour <= after + 3600
    assert before + 60 <= minute <= after + 60
    assert claims("--ttl=0", "--claims={}") == {}
    assert claims('--claims={"exp":4102444800}') == {"exp": 4_102_444_800}


def test_token_with_claims_streams_and_audience() -> None:
    made = claims("--claims", '{"sub":"7","ext":"{}"}', "--streams", "scores-*, news", "--jwt-audience", "cable,b")
    del made["exp"]
    assert made == {"sub": "7", "ext": "{}", "streams": ["scores-*", "news"], "aud": "cable"}
    assert claims("--claims", '{"aud":"x"}', env={"FASTCABLE_JWT_AUDIENCE": "cable"})["aud"] == "x"


def test_the_server_takes_the_token() -> None:
    Path("fastcable.toml").write_text(f'auth = "jwt"\nsecret = "{SECRET}"')
    token = printed("token", "--streams", "scores-*")
    assert TokenVerifier([SECRET]).verify(token).streams == ("scores-*",)


OBJECT = '--claims: expected an object of JSON, such as {"sub":"7"}'
TTL = "--ttl: expected whole seconds, 0 for a token that never expires"


@pytest.mark.parametrize(("arguments", "expected"), [
    (["--claims", "{"], OBJECT),
    (["--claims", "[]"], OBJECT),
    (["--claims", '"a"'], OBJECT),
    (["--claims="], OBJECT),
    (["--claims", b"{\"a\":\"\xff\"}"], OBJECT),
    (["--claims", '{"exp":"1"}'], "--claims: exp must be a number of seconds until the year 9999 at most"),
    (["--claims", '{"ext":{}}'], "--claims: ext must be a string that holds JSON"),
    (["--streams", ""], "--claims or --streams: streams: a pattern must not be empty"),
    (["--streams", b"\xff"], "--claims or --streams: streams: a pattern must not contain lone surrogates"),
    (["--streams", "a", "--claims", '{"streams":[]}'], "--streams: the claims have streams already"),
    (["--ttl", "1", "--claims", '{"exp":4102444800}'], "--ttl: the claims have an exp already"),
    (["--ttl", "1h"], TTL),
    (["--ttl=-1"], TTL),
    (["--ttl="], TTL),
    (["--ttl", "9" * 10], TTL),
    (["7"], "'7': unexpected argument"),
    (["--cliams", "{}"], "--cliams: unknown option (did you mean --claims?)"),
], ids=lambda value: repr(value)[:40])
def test_token_in_vain(arguments: list[str | bytes], expected: str) -> None:
    done = fastcable("token", *arguments, env={"FASTCABLE_JWT_SECRET": SECRET})
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected + "\n")


def test_token_without_a_secret() -> None:
    done = fastcable("token", env={"FASTCABLE_JWT_PUBLIC_KEY": "key.pem"})
    assert (done.returncode, done.stderr) == (
        2, "token: needs a jwt_secret, in fastcable.toml, as $FASTCABLE_JWT_SECRET or as --jwt-secret\n")


def test_signing_and_issuing_load_nothing_heavy() -> None:
    program = """
import sys
from fastcable import signing, tokens
assert not {"hashlib", "hmac"} & sys.modules.keys()
signing.StreamVerifier([b"k"]).verify(signing.sign("a", b"k"))
tokens.issue({"exp": 4102444800}, "k")
heavy = {"ssl", "http.client", "asyncio", "cryptography", "jwt", "email"} & sys.modules.keys()
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], env={**CLEAN, "PYTHONPATH": ROOT}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
