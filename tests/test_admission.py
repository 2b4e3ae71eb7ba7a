"""auth = jwt: who is let in, to which streams, and until when; over real sockets, in both protocols."""

from __future__ import annotations

import base64
import gc
import hmac
import json
import socket
import time
from itertools import product
from typing import Any

import pytest

from fastcable._connection import alive_connections
from fastcable.admission import Expiries
from fastcable.channels import Channel
from fastcable.launch import launch
from fastcable.settings import Settings
from fastcable.signing import sign
from fastcable.tokens import MAX_TOKEN, Claims, TokenVerifier, issue
from tests.harness import CLOSE, TEXT, Client, LocalServer, Serve, frame, message, subscribed

SECRET = "j" * 32
TURBO = "t" * 32
HEAD = (b"GET /cable%b HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%b\r\n")
PROTOCOL = {"simple": b"", "actioncable": b"actioncable-v1-json, actioncable-unsupported"}
NOW = int(time.time())
GOOD = {"exp": NOW + 3600}
FAREWELL = {"unauthorized": "unauthorized", "token expired": "token_expired"}


def token(**claims: object) -> str:
    return issue({**GOOD, **claims}, SECRET)


def forged(header: object, claims: object = GOOD, secret: str = SECRET, digest: str = "sha256") -> str:
    """A token with any header."""
    def encoded(part: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")

    signed = f"{encoded(header)}.{encoded(claims)}"
    signature = hmac.digest(secret.encode(), signed.encode(), digest)
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def connect(server: LocalServer, dialect: str, jid: str | None = None, *, place: str = "query", rest: bytes = b"",
            **options: Any) -> tuple[Client, bytes]:
    """A client that brings a token, and the head of the answer."""
    offers, headers, query = PROTOCOL[dialect], b"", b""
    value = (jid or "").encode("latin-1")
    if jid is not None and place == "query":
        query = b"?jid=" + value
    elif jid is not None and place == "header":
        headers = b"X-JID: %b\r\n" % value
    elif jid is not None and place == "cookie":
        headers = b"Origin: https://a.example\r\nCookie: a=b; jwt=%b\r\n" % value
    elif jid is not None:
        offers = b", ".join(filter(None, [offers, b"anycable-token." + value]))
    if offers:
        headers += b"Sec-WebSocket-Protocol: %b\r\n" % offers
    client = Client(server.port, **options)
    return client, client.upgrade(HEAD % (query, headers) + rest)


def admitted(server: LocalServer, dialect: str, jid: str, **options: Any) -> Client:
    client, _ = connect(server, dialect, jid, **options)
    if dialect == "actioncable":
        assert client.receive()["type"] == "welcome"
    return client


def expect_ending(client: Client, dialect: str, reason: str) -> None:
    """Nothing but the goodbye comes."""
    if dialect == "actioncable":
        client.expect({"type": "disconnect", "reason": FAREWELL[reason], "reconnect": False})
    assert client.read_close() == (1008, reason)
    client.send_frame(CLOSE, b"\x03\xf0")
    client.read_eof()


def identifier(name: str, **params: object) -> str:
    return json.dumps({"channel": name, **params})


def ask(client: Client, dialect: str, stream: str) -> bool:
    """Subscribe to a public stream; whether it is confirmed."""
    if dialect == "simple":
        client.command(type="subscribe", stream=stream)
        answer = client.receive()
        assert answer in (subscribed(stream), {"type": "error", "stream": stream, "reason": "not allowed"})
        return bool(answer["type"] == "subscribed")
    named = identifier("$pubsub", stream_name=stream)
    client.command(command="subscribe", identifier=named)
    answer = client.receive()
    assert answer["identifier"] == named
    return bool(answer["type"] == "confirm_subscription")


@pytest.fixture(params=["simple", "actioncable"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(serve: Serve) -> LocalServer:
    return serve(auth="jwt", jwt_secret=(SECRET,), public_streams=True, jwt_cookie="jwt",
                 allowed_origins=("https://a.example",), max_header_bytes=1 << 22)


# ---------------------------------------------------------------------------------------------------------------------
# The handshake


@pytest.mark.parametrize(("dialect", "place"), [
    (dialect, place) for dialect in PROTOCOL for place in ("query", "header", "cookie", "offer")
])
def test_a_token_is_taken_from_each_of_its_places(server: LocalServer, dialect: str, place: str) -> None:
    client, head = connect(server, dialect, token(), place=place)
    with client:
        offered = b"Sec-WebSocket-Protocol: actioncable-v1-json" if dialect == "actioncable" else b""
        assert offered in head
        assert (b"Sec-WebSocket-Protocol" in head) == (dialect == "actioncable")
        assert b"anycable-token" not in head
        if dialect == "actioncable":
            assert client.receive()["type"] == "welcome"
        assert ask(client, dialect, "news")
        assert server.post({"stream": "news", "data": 1}) == (200, {"subscribers": 1})


BAD = {
    "none": None,
    "empty": "",
    "A6-alg-none": forged({"alg": "none"}),
    "A6-alg-None": forged({"alg": "None"}),
    "A6-alg-none-unsigned": forged({"alg": "none"}).rpartition(".")[0] + ".",
    "A7-RS256": forged({"alg": "RS256"}),
    "A7-ES256": forged({"alg": "ES256"}),
    "A8-not-yet-valid": token(nbf=NOW + 3600),
    "A8-issued-later": token(iat=NOW + 3600),
    "A8-no-exp": issue({}, SECRET),
    "A8-exp-no-number": token(exp="tomorrow"),
    "A8-exp-infinite": forged({"alg": "HS256"}, {"exp": float("inf")}),
    "A10-crit": forged({"alg": "HS256", "crit": ["exp"]}),
    "A11-kid-and-jku": forged({"alg": "HS256", "kid": "../k", "jku": "http://127.0.0.1:1/"}, secret="k" * 32),
    "A11-jwk": forged({"alg": "HS256", "jwk": {"kty": "oct", "k": "a2s"}}, secret="kk"),
    "A12-long": token(ext=json.dumps("x" * MAX_TOKEN)),
    "A12-1-MB": "a." + "b" * (1 << 20) + ".c",
    "A12-five-segments": token() + ".d.e",
    "A12-two-segments": token().rpartition(".")[0],
    "A12-bad-base64": "!!!.???.***",
    "A12-not-ascii": "é.é.é",
    "A13-altered": token()[:-4] + "AAAA",
    "another-secret": issue(GOOD, "x" * 32),
    "another-audience": token(aud="others"),
    "ext-no-string": token(ext={"user": 1}),
    "streams-no-array": token(streams="news"),
    "streams-too-many": token(streams=["s"] * 101),
}


@pytest.mark.parametrize("jid", BAD.values(), ids=BAD)
def test_a_token_that_is_none_gets_the_reason_and_nothing_else(
    server: LocalServer, dialect: str, jid: str | None
) -> None:
    command = b'{"type":"subscribe","stream":"news"}'
    if dialect == "actioncable":
        command = json.dumps({"command": "subscribe", "identifier": identifier("$pubsub", stream_name="n")}).encode()
    place = "query" if jid is None or jid.isascii() else "header"  # a URL is ASCII
    client, _ = connect(server, dialect, jid, place=place, rest=frame(TEXT, command))
    with client:
        assert server.call(lambda: dict(server.server.hub.streams)) == {}
        expect_ending(client, dialect, "unauthorized")


@pytest.mark.parametrize("exp", [NOW - 1, 0, -1, NOW - 0.5], ids=["a second ago", "0", "-1", "half a second ago"])
def test_a_token_that_has_expired_A8(server: LocalServer, dialect: str, exp: float) -> None:
    client, _ = connect(server, dialect, token(exp=exp))
    with client:
        expect_ending(client, dialect, "token expired")


def test_commands_after_the_refusal_are_not_carried_out_P20(server: LocalServer) -> None:
    client, _ = connect(server, "simple", "x.y.z")
    with client:
        client.command(type="subscribe", stream="news")
        client.command(type="hello")
        expect_ending(client, "simple", "unauthorized")
        assert server.call(lambda: dict(server.server.hub.streams)) == {}


def test_several_tokens_A12(server: LocalServer) -> None:
    with Client(server.port) as client:
        client.upgrade(HEAD % (b"?jid=%b&jid=%b" % (token().encode(), token(ext='"b"').encode()), b""))
        expect_ending(client, "simple", "unauthorized")


def test_a_cookie_is_no_token_without_an_origin_A4(server: LocalServer) -> None:
    with Client(server.port) as client:
        client.upgrade(HEAD % (b"", b"Cookie: jwt=%b\r\n" % token().encode()))
        expect_ending(client, "simple", "unauthorized")


def test_a_page_of_another_site_is_refused_before_its_cookie_is_looked_at_A1(server: LocalServer) -> None:
    with Client(server.port) as client:
        client.send(HEAD % (b"", b"Origin: https://evil.example\r\nCookie: jwt=%b\r\n" % token().encode()))
        assert client.read_until(b"\r\n").startswith(b"HTTP/1.1 403 ")


def test_no_key_is_fetched_for_a_token_A11_A18(server: LocalServer, dialect: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/keys"
        for algorithm in ("HS256", "RS256"):
            header = {"alg": algorithm, "kid": url, "jku": url, "x5u": url}
            client, _ = connect(server, dialect, forged(header, {**GOOD, "iss": url}, "k" * 32))
            with client:
                expect_ending(client, dialect, "unauthorized")
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_when_verifying_itself_fails_nobody_is_let_in_A17(
    server: LocalServer, dialect: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def verify(verifier: TokenVerifier, text: str) -> Claims:
        raise RuntimeError("out of order")

    with monkeypatch.context() as patch:
        patch.setattr(TokenVerifier, "verify", verify)
        with Client(server.port) as client, pytest.raises(EOFError):
            client.upgrade(HEAD % (b"?jid=" + token().encode(), b"Sec-WebSocket-Protocol: actioncable-v1-json\r\n"))
    server.wait_for_connections(0)
    assert "out of order" in caplog.text
    assert token() not in caplog.text
    with admitted(server, dialect, token()) as client:
        assert ask(client, dialect, "news")


def test_publishers_need_no_client_token(server: LocalServer) -> None:
    assert server.post({"stream": "news", "data": 1}) == (200, {"subscribers": 0})


def test_tokens_are_not_logged_A14(server: LocalServer, dialect: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    refused = [issue({"exp": NOW - 1}, SECRET), "x.y.z", token(streams=["\n"]), token(ext="no JSON")]
    for jid, place in product(refused, ("query", "header", "cookie")):
        client, _ = connect(server, dialect, jid, place=place)
        with client:
            expect_ending(client, dialect, "token expired" if jid == refused[0] else "unauthorized")
    with admitted(server, dialect, token()) as client:
        client.send(b"\xff\xff")
    server.wait_for_connections(0)
    lines = [record.getMessage() for record in caplog.records if "token" in record.getMessage()]
    assert lines == ["a client's token was refused: expired (exp)"]
    assert not any(jid in caplog.text for jid in [*refused, token()])
    assert "jid" not in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# Streams


def test_a_token_without_streams_opens_all(server: LocalServer, dialect: str) -> None:
    with admitted(server, dialect, token()) as client:
        assert ask(client, dialect, "anything")


def test_a_token_opens_the_streams_that_it_names(server: LocalServer, dialect: str) -> None:
    with admitted(server, dialect, token(streams=["news", "user:7:*"])) as client:
        allowed = {"news": True, "news2": False, "user:7:mail": True, "user:77:mail": False}
        assert {stream: ask(client, dialect, stream) for stream in allowed} == allowed
        assert {stream: server.post({"stream": stream, "data": 0})[1]["subscribers"] for stream in allowed} == allowed


def test_an_empty_list_of_streams_opens_none(server: LocalServer, dialect: str) -> None:
    with admitted(server, dialect, token(streams=[])) as client:
        assert not ask(client, dialect, "news")


def test_a_token_opens_its_streams_to_its_own_connection_only_A19(server: LocalServer, dialect: str) -> None:
    with admitted(server, dialect, token(streams=["a"])) as a, admitted(server, dialect, token(streams=["b"])) as b:
        for _ in range(2):  # the second time from memory
            assert [ask(client, dialect, stream) for client in (a, b) for stream in "ab"] == [True, False, False, True]
            for client, stream in ((a, "a"), (b, "b")):
                client.command(type="unsubscribe", stream=stream)


def test_what_is_not_allowed_is_no_bad_command(serve: Serve) -> None:
    server = serve(auth="jwt", jwt_secret=(SECRET,), max_errors=1)
    with admitted(server, "simple", token(streams=[])) as client:
        for _ in range(5):
            assert not ask(client, "simple", "news")
        client.command(type="subscribe", stream="")
        client.expect({"type": "error", "reason": "stream must not be empty"})


def test_names_of_the_simple_protocol_are_as_ever(server: LocalServer) -> None:
    with admitted(server, "simple", token()) as client:
        client.subscribe("x" * 255)
        client.command(type="subscribe", stream="x" * 256)
        assert client.receive()["reason"].startswith("stream ")
        client.subscribe("news")
        client.subscribe("news")
        server.publish("news", 1)
        client.expect(message("news", 1))
        client.unsubscribe("news")
        client.command(type="hello")
        assert client.receive()["type"] == "hello"
        assert server.post({"stream": "news", "data": 2}) == (200, {"subscribers": 0})


@pytest.mark.parametrize(("streams", "allowed"), [(["chat/*"], True), (["news"], False), ([], False)])
def test_signed_names_are_limited_too(serve: Serve, dialect: str, streams: list[str], allowed: bool) -> None:
    server = serve(auth="jwt", jwt_secret=(SECRET,), turbo_secret=(TURBO,), signed_streams="required")
    name = sign("chat/7", TURBO.encode())
    with admitted(server, dialect, token(streams=streams)) as client:
        if dialect == "simple":
            client.command(type="subscribe", stream=name)
            client.expect(
                subscribed(name) if allowed else {"type": "error", "stream": name, "reason": "not allowed"})
        else:
            for channel in "$pubsub", "Turbo::StreamsChannel":
                client.command(command="subscribe", identifier=identifier(channel, signed_stream_name=name))
                assert client.receive()["type"] == ("confirm_subscription" if allowed else "reject_subscription")


@pytest.mark.parametrize("streams", [None, ["room:7"], ["room:8"]])
def test_channels_that_are_not_public_are_for_those_with_a_token(serve: Serve, streams: list[str] | None) -> None:
    server = serve(auth="jwt", jwt_secret=(SECRET,), channels=(Channel("Room", "room:{id}"),))
    with admitted(server, "actioncable", token() if streams is None else token(streams=streams)) as client:
        client.command(command="subscribe", identifier=identifier("Room", id=7))
        assert client.receive()["type"] == ("reject_subscription" if streams == ["room:8"] else "confirm_subscription")
        client.command(command="subscribe", identifier=identifier("Room"))
        assert client.receive()["type"] == "reject_subscription"


# ---------------------------------------------------------------------------------------------------------------------
# Expiry


class Time:
    """The system's clock of a server's expiries."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self.seconds = float(NOW)
        assert server.server.cable.expiries is not None
        self.expiries = server.server.cable.expiries
        self.expiries.clock = lambda: self.seconds

    def set(self, seconds: float) -> None:
        self.seconds = seconds
        self.server.expire(self.server.loop.time())


def test_a_token_that_expires_ends_the_connection_A9(serve: Serve, dialect: str) -> None:
    server = serve(auth="jwt", jwt_secret=(SECRET,), public_streams=True, ticking=False)
    clock = Time(server)
    with admitted(server, dialect, token(exp=NOW + 3000)) as client, \
            admitted(server, dialect, token(exp=NOW + 3001)) as other:
        assert ask(client, dialect, "news")
        assert ask(other, dialect, "news")
        clock.set(NOW + 2999.9)
        assert server.post({"stream": "news", "data": 1}) == (200, {"subscribers": 2})
        clock.set(NOW + 3000)
        assert server.post({"stream": "news", "data": 2}) == (200, {"subscribers": 1})
        assert client.receive()["data" if dialect == "simple" else "message"] == 1
        expect_ending(client, dialect, "token expired")
        assert server.call(len, clock.expiries) == 1
        for number in 1, 2:
            assert other.receive()["data" if dialect == "simple" else "message"] == number


def test_the_systems_clock_may_be_set_O12(serve: Serve) -> None:
    server = serve(auth="jwt", jwt_secret=(SECRET,), ticking=False)
    clock = Time(server)
    with admitted(server, "simple", token()) as client:
        clock.set(NOW - 7200)
        client.subscribe("news")
        clock.set(NOW + 7200)
        expect_ending(client, "simple", "token expired")


def test_a_ticking_server_ends_it_by_itself_A9(serve: Serve, dialect: str) -> None:
    server = serve(auth="jwt", jwt_secret=(SECRET,), public_streams=True, ping_interval=0, actioncable_ping_interval=0)
    with admitted(server, dialect, token(exp=time.time() + 1)) as client:
        assert ask(client, dialect, "news")
        expect_ending(client, dialect, "token expired")


def test_a_token_need_not_expire_where_that_is_not_asked_for(serve: Serve) -> None:
    server = serve(auth="jwt", jwt_secret=(SECRET,), jwt_require_exp=False, ticking=False)
    clock = Time(server)
    with admitted(server, "simple", issue({}, SECRET)) as client:
        clock.set(NOW + 1e9)
        client.subscribe("news")


@pytest.mark.parametrize("ending", ["closed", "reset", "expired", "expired-unheard"])
def test_nothing_is_left_of_those_who_had_a_token(serve: Serve, dialect: str, ending: str) -> None:
    server = serve(auth="jwt", jwt_secret=(SECRET,), public_streams=True, ticking=False)
    clock = Time(server)
    before = alive_connections()
    gc.disable()
    try:
        clients = [admitted(server, dialect, token(exp=NOW + 3000 + number % 7)) for number in range(50)]
        for client in clients:
            assert ask(client, dialect, "news")
        assert server.call(len, clock.expiries) == 50
        if ending.startswith("expired"):
            clock.set(NOW + 3040)
        for client in clients:
            if ending == "expired":
                expect_ending(client, dialect, "token expired")
            elif ending == "closed":
                client.send_frame(CLOSE, b"\x03\xe8")
                client.read_end()
            elif ending == "reset":
                client.reset()
            client.close()
        if ending == "expired-unheard":
            server.expire(server.loop.time() + 100)
        server.wait_for_connections(0)
        assert server.call(len, clock.expiries) == 0
        assert server.call(lambda: dict(server.server.hub.streams)) == {}
        assert alive_connections() == before
    finally:
        gc.enable()


def test_nothing_is_left_of_those_who_were_refused(serve: Serve, dialect: str) -> None:
    server = serve(auth="jwt", jwt_secret=(SECRET,), ticking=False)
    before = alive_connections()
    gc.disable()
    try:
        for number in range(50):
            client, _ = connect(server, dialect, "x.y.z")
            with client:
                if number % 3 == 0:
                    expect_ending(client, dialect, "unauthorized")
                elif number % 3 == 1:
                    client.reset()
        server.expire(server.loop.time() + 100)
        server.wait_for_connections(0)
        assert alive_connections() == before
    finally:
        gc.enable()


class Pass:
    def __init__(self, expires: float | None) -> None:
        self.claims = Claims(expires, None, None, None)


def test_expiries_are_told_once_and_in_order() -> None:
    clock = [0.0]
    expiries = Expiries(lambda: clock[0])
    passes = [Pass(5.5), Pass(5), Pass(6), Pass(None), Pass(5)]
    for one in passes:
        expiries.add(one)
    assert len(expiries) == 4
    expiries.discard(passes[4])
    expiries.discard(passes[3])
    clock[0] = 4.9
    assert expiries.expired(0) == []
    clock[0] = 5
    assert expiries.expired(0) == [passes[1]]
    clock[0] = 6
    assert expiries.expired(0) == [passes[0], passes[2]]
    assert len(expiries) == 0
    expiries.discard(passes[0])


def test_expiries_forget_those_who_left() -> None:
    expiries = Expiries(lambda: 0.0)
    for second in range(1, 10_000):
        one = Pass(second)
        expiries.add(one)
        expiries.discard(one)
    assert len(expiries) == 0
    assert len(expiries._order) < 100
    again = Pass(9_999)
    expiries.add(again)
    expiries.clock = lambda: 9_999.0
    assert expiries.expired(0) == [again]


# ---------------------------------------------------------------------------------------------------------------------
# Options


def test_a_key_file_that_is_none_is_told_at_the_start_A7(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(Settings(port=0, auth="jwt", jwt_public_key=("/no/such.pem",))) == 2
    assert capsys.readouterr().err == "fastcable: jwt_public_key: /no/such.pem: No such file or directory\n"


def test_the_application_ends_all_connections_of_a_user(serve: Serve) -> None:
    """AnyCable's command, by the identifiers in the claim `ext`."""
    server = serve(auth="jwt", jwt_secret=(SECRET,), secret="s" * 32, public_streams=True)
    key = hmac.digest(b"s" * 32, b"broadcast-cable", "sha256").hex()
    mine, others = '{"user_id":"15"}', '{"user_id":"1"}'
    with (
        admitted(server, "actioncable", token(ext=mine)) as page, admitted(server, "simple", token(ext=mine)) as tab,
        admitted(server, "simple", token(ext=others)) as other, admitted(server, "simple", token()) as nobody,
    ):
        body = json.dumps({"command": "disconnect", "payload": {"identifier": mine, "reconnect": False}})
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        assert server.request("POST", "/_broadcast", body, headers)[0] == 201
        page.expect({"type": "disconnect", "reason": "remote", "reconnect": False})
        assert page.read_close() == tab.read_close() == (1000, "closed remotely for good")
        assert ask(other, "simple", "s")
        assert ask(nobody, "simple", "s")
        assert server.call(lambda: len(server.server.hub.sessions)) == 1
    server.wait_for_connections(0)
    assert server.call(lambda: len(server.server.hub.sessions)) == 0
