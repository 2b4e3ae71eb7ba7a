"""The negotiation of permessage-deflate as a table (RFC 6455 §9.1, RFC 7692 §7.1).

The H numbers in the ids are those of the project's catalogue of hostile input.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)
from websockets.headers import parse_extension

from fastcable.extensions import negotiate

AGREED = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"
WINDOW = AGREED + b"; server_max_window_bits=12"


@pytest.mark.parametrize(("header", "answer"), [
    pytest.param(b"permessage-deflate", AGREED, id="plain"),
    pytest.param(b"permessage-deflate; client_max_window_bits", AGREED, id="browsers"),
    pytest.param(b"permessage-deflate; client_max_window_bits=8", AGREED, id="client-8-bits"),
    pytest.param(b"permessage-deflate; client_max_window_bits=15", AGREED, id="client-15-bits"),
    pytest.param(b"permessage-deflate; server_max_window_bits=12; client_max_window_bits=12", WINDOW, id="websockets"),
    pytest.param(b"permessage-deflate; server_max_window_bits=15", WINDOW, id="server-15-bits"),
    pytest.param(
        b"permessage-deflate; server_no_context_takeover; client_no_context_takeover", AGREED, id="no-takeover"),
    pytest.param(b"permessage-deflate;server_no_context_takeover\t;\tclient_max_window_bits = 9", AGREED, id="spaces"),
    pytest.param(b'permessage-deflate; server_max_window_bits="13"', WINDOW, id="quoted"),
    pytest.param(b'permessage-deflate; server_max_window_bits="\\1\\3"', WINDOW, id="quoted-and-escaped"),
    pytest.param(b"x-webkit-deflate-frame, permessage-deflate", AGREED, id="another-first"),
    pytest.param(b'x; a="b, c; \\"d\\""; e=f, permessage-deflate', AGREED, id="another-with-quotes-first"),
    pytest.param(b", ,permessage-deflate ,\t,", AGREED, id="empty-members"),
    pytest.param(b"permessage-deflate; server_max_window_bits=9, permessage-deflate", AGREED, id="second-offer"),
    pytest.param(
        b"permessage-deflate; x, permessage-deflate; server_max_window_bits=12", WINDOW, id="second-offer-of-two-bad"),
    # Declined
    pytest.param(b"", None, id="nothing"),
    pytest.param(b" ,, ", None, id="only-empty-members"),
    pytest.param(b"permessage-bzip2", None, id="another"),
    pytest.param(b"Permessage-Deflate", None, id="another-case"),
    pytest.param(b"permessage-deflate; server_max_window_bits=11", None, id="server-11-bits"),
    pytest.param(b"permessage-deflate; server_max_window_bits=8", None, id="server-8-bits"),
    pytest.param(b"permessage-deflate; server_max_window_bits=7", None, id="H20-server-7-bits"),
    pytest.param(b"permessage-deflate; server_max_window_bits=16", None, id="H20-server-16-bits"),
    pytest.param(b"permessage-deflate; client_max_window_bits=7", None, id="H20-client-7-bits"),
    pytest.param(b"permessage-deflate; client_max_window_bits=16", None, id="H20-client-16-bits"),
    pytest.param(b"permessage-deflate; client_max_window_bits=abc", None, id="H20-abc"),
    pytest.param(b"permessage-deflate; client_max_window_bits=012", None, id="H20-leading-zero"),
    pytest.param(b"permessage-deflate; client_max_window_bits=-9", None, id="H20-negative"),
    pytest.param(b'permessage-deflate; client_max_window_bits=""', None, id="H20-empty"),
    pytest.param(b"permessage-deflate; server_max_window_bits", None, id="H20-server-without-bits"),
    pytest.param(
        b"permessage-deflate; client_max_window_bits; client_max_window_bits=9", None, id="H20-repeated"),
    pytest.param(
        b"permessage-deflate; server_no_context_takeover; server_no_context_takeover", None, id="H20-repeated-flag"),
    pytest.param(b"permessage-deflate; server_no_context_takeover=1", None, id="H20-value-of-a-flag"),
    pytest.param(b"permessage-deflate; client_no_context_takeover=true", None, id="H20-value-of-another-flag"),
    pytest.param(b"permessage-deflate; mode=fast", None, id="H20-unknown"),
    # Malformed, so nothing in it is believed
    pytest.param(b"; constructor", None, id="H18-constructor"),
    pytest.param(b"permessage-deflate;", None, id="H18-no-parameter"),
    pytest.param(b"permessage-deflate; ;client_max_window_bits", None, id="H18-empty-parameter"),
    pytest.param(b"permessage-deflate; client_max_window_bits=", None, id="H18-no-value"),
    pytest.param(b"permessage-deflate=1", None, id="H18-value-of-an-extension"),
    pytest.param(b'permessage-deflate, a;b="', None, id="H18-unclosed"),
    pytest.param(b'permessage-deflate, a;b="\\"', None, id="H18-unclosed-escape"),
    pytest.param(b"permessage-deflate client_max_window_bits", None, id="H18-two-words"),
    pytest.param(b"permessage-deflate, \xff", None, id="H18-no-token"),
])
def test_what_is_offered_decides_what_is_answered(header: bytes, answer: bytes | None) -> None:
    assert negotiate(header, 12) == answer


@pytest.mark.parametrize("bits", range(8, 16))
def test_a_window_is_taken_that_is_not_smaller_than_ours(bits: int) -> None:
    expected = WINDOW if bits >= 12 else None
    assert negotiate(b"permessage-deflate; server_max_window_bits=%d" % bits, 12) == expected


@pytest.mark.parametrize("value", [
    pytest.param(b'a;b="' + b"\\c" * 100_000, id="H18-unclosed"),
    pytest.param(b'a;b="' + b"\\" * 200_001, id="H18-backslashes"),
    pytest.param(b'a;b="\\"' * 30_000, id="H18-many-unclosed"),
    pytest.param(b'a="' * 60_000, id="H18-quotes"),
    pytest.param(b"a;" * 100_000, id="H18-parameters"),
    pytest.param(b"," * 200_000, id="H18-commas"),
    pytest.param(b" ," * 100_000 + b" ", id="H18-empty-members"),
    pytest.param(b" " * 200_000, id="H18-spaces"),
    pytest.param(b"a" + b" " * 200_000 + b"b", id="H18-spaces-between"),
    pytest.param(b"a" * 200_000 + b"=", id="H18-token"),
    pytest.param(b"permessage-deflate;x," * 10_000 + b" ", id="H20-bad-offers"),
])
def test_hostile_values_take_linear_time(value: bytes) -> None:
    """With anything quadratic these would not end."""
    assert negotiate(value, 12) is None


PARAMETERS = st.lists(st.sampled_from([
    "server_no_context_takeover", "client_no_context_takeover", "client_max_window_bits", "client_max_window_bits=9",
    "client_max_window_bits=7", "server_max_window_bits=15", "server_max_window_bits=16", "server_max_window_bits=12",
    "server_max_window_bits", "client_no_context_takeover=1", "x", 'client_max_window_bits="10"']), max_size=4)


@given(st.lists(PARAMETERS, min_size=1, max_size=3))
def test_agrees_with_websockets_on_what_can_be_accepted(offers: list[list[str]]) -> None:
    header = ", ".join("; ".join(["permessage-deflate", *parameters]) for parameters in offers)
    factory = ServerPerMessageDeflateFactory(True, True, 12)
    expected = None
    for name, parameters in parse_extension(header):
        try:
            expected, _ = factory.process_request_params(parameters, [])
            break
        except (NegotiationError, InvalidHeader):
            assert name == "permessage-deflate"
    answer = negotiate(header.encode(), 12)
    assert (answer is None) == (expected is None), header
    if answer is not None and expected is not None:
        ((_, ours),) = parse_extension(answer.decode())
        # A limit that was asked for is answered, and one that was not asked for needs not be set.
        assert dict(ours).keys() <= dict(expected).keys()
        assert {name for name, _ in expected} - {name for name, _ in ours} <= {
            "server_max_window_bits", "client_max_window_bits"}


@given(st.integers(8, 15) | st.none(), st.integers(9, 15) | st.booleans(), st.booleans(), st.booleans())
def test_websockets_as_a_client_takes_what_it_is_answered(
    server_bits: int | None, client_bits: int | bool, server_none: bool, client_none: bool
) -> None:
    factory = ClientPerMessageDeflateFactory(server_none, client_none, server_bits, client_bits or None)
    parameters = [name if value is None else f"{name}={value}" for name, value in factory.get_request_params()]
    answer = negotiate("; ".join(["permessage-deflate", *parameters]).encode(), 12)
    assert (answer is None) == (server_bits is not None and server_bits < 12)
    if answer is not None:
        ((_, agreed),) = parse_extension(answer.decode())
        extension = factory.process_response_params(agreed, [])
        assert extension.remote_no_context_takeover
        assert extension.local_no_context_takeover


@given(st.text("permessage-dflt;,= \t\"\\_123\xff", max_size=60))
def test_nothing_of_the_client_is_repeated(header: str) -> None:
    assert negotiate(header.encode("latin-1"), 12) in (None, AGREED, WINDOW)
