"""max_messages_per_second: who sends more is read slowly, loses nothing, and holds up nobody."""

from __future__ import annotations

import pytest

from tests.harness import CLOSE, PING, PONG, TEXT, Client, LocalServer, Serve, frame

BAD = {"type": "error", "reason": "not valid JSON"}


def limited(serve: Serve, rate: int) -> LocalServer:
    return serve(ticking=False, max_messages_per_second=rate, max_errors=0, ping_interval=0.0)


def throttled(server: LocalServer) -> int:
    meter = server.server.cable.meter
    assert meter is not None
    return len(meter.throttled)


@pytest.mark.parametrize(("count", "over"), [(19, 0), (20, 0), (21, 1)], ids=["-1", "0", "+1"])
def test_ten_seconds_worth_may_come_at_once(serve: Serve, count: int, over: int) -> None:
    server = limited(serve, 2)
    with server.connect() as client:
        client.send(frame(TEXT, b"?") * count)
        client.expect(*[BAD] * min(count, 20))
        server.wait_until(lambda: throttled(server) == over)
        server.beat(0.5)
        client.expect(*[BAD] * over)
        assert throttled(server) == 0


def test_over_it_each_second_lets_as_many_through_and_nothing_is_lost(serve: Serve) -> None:
    server = limited(serve, 2)
    with server.connect() as client, server.connect() as other:
        client.send(frame(TEXT, b"?") * 24 + frame(TEXT, b'{"type":"subscribe","stream":"s"}'))
        client.expect(*[BAD] * 20)
        for _ in range(4):
            server.wait_until(lambda: throttled(server) == 1)
            server.beat(0.5)
            client.expect(BAD)
            other.subscribe("other")  # others are read
        server.beat(0.5)
        client.expect({"type": "subscribed", "stream": "s"})
        server.beat(60)
        assert throttled(server) == 0


def test_pings_count_as_messages(serve: Serve) -> None:
    server = limited(serve, 1)
    with server.connect() as client:
        client.send(frame(PING, b"x") * 11)
        for _ in range(10):
            assert client.read_frame() == (PONG, b"x")
        server.wait_until(lambda: throttled(server) == 1)
        server.beat(1)
        assert client.read_frame() == (PONG, b"x")


def test_who_is_quiet_again_has_no_entry(serve: Serve) -> None:
    server = limited(serve, 1)
    with server.connect() as client:
        client.send(frame(TEXT, b"?") * 3)
        client.expect(BAD, BAD, BAD)
        server.beat(3)
        client.send(frame(TEXT, b"?") * 11)
        client.expect(*[BAD] * 10)
        server.wait_until(lambda: throttled(server) == 1)


def test_who_has_been_throttled_is_no_silent_client(serve: Serve) -> None:
    """Its messages wait here for longer than idle_timeout; it answers nothing meanwhile."""
    server = serve(
        ticking=False, max_messages_per_second=1, max_errors=0, idle_timeout=4.0, ping_interval=0.0, write_timeout=0.0)
    with server.connect() as client:
        client.send(frame(TEXT, b"?") * 20)
        client.expect(*[BAD] * 10)
        for _ in range(10):
            server.beat(1)
            client.expect(BAD)


def test_a_throttled_client_that_vanishes_leaves_nothing(serve: Serve) -> None:
    server = limited(serve, 1)
    with server.connect() as client:
        client.send(frame(TEXT, b"?") * 12)
        client.expect(*[BAD] * 10)
        server.wait_until(lambda: throttled(server) == 1)
        server.call(server.connection().abort)
        server.wait_for_connections(0)
        assert throttled(server) == 0


def test_a_throttled_client_can_be_closed(serve: Serve) -> None:
    server = limited(serve, 1)
    with server.connect() as client:
        client.send(frame(TEXT, b"?") * 12)
        client.expect(*[BAD] * 10)
        server.wait_until(lambda: throttled(server) == 1)
        server.call(server.connection().close, 1001, "bye")
        assert client.read_close() == (1001, "bye")
        client.send_frame(CLOSE)
        server.beat(1)
        client.read_eof()


def test_0_counts_nothing(serve: Serve) -> None:
    server = limited(serve, 0)
    assert server.server.cable.meter is None
    with Client(server.port) as client:
        client.upgrade()
        client.send(frame(TEXT, b"?") * 5000)
        client.expect(*[BAD] * 5000)
