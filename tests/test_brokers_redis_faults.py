"""Redis is absent, dies, sleeps, refuses, talks nonsense or cuts us off: what is told, and that it passes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastcable.brokers import HandoverError, redis_connection
from tests.redis_nodes import Node, node, run, until
from tests.redis_server import RedisServer, free_port, self_signed


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_connection, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(redis_connection, "LONGEST_PAUSE", 0.05)


async def deaf_until(one: Node, problem: str) -> None:
    """Wait until this is the problem."""
    await until(lambda: problem in (one.broker.problem or ""))



LOST_AND_FOUND = ["lost", "found"]


def transitions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return ["found" if line == "redis: connected again" else "lost" if "; trying again" in line else line
            for line in caplog.messages]


def test_redis_may_come_later(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with node(redis) as one:
            assert one.broker.problem == "redis: not connected yet"
            one.broker.subscribe("a")
            await deaf_until(one, f"redis: 127.0.0.1:{redis.port}: connection refused")
            messages = [one.broker.publish("a", b"%d" % number, False, None, False) for number in range(3)]
            redis.start()
            await asyncio.gather(*messages)
            await one.until_ready()
            first = await one.hub.told.get()
            assert first == ("confirmed", "a", None)

    caplog.set_level("INFO")
    run(scenario())
    assert transitions(caplog) == LOST_AND_FOUND


def test_what_was_live_is_heard_again_after_a_restart(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one:
            await one.subscribe("a", "b", "c")
            one.broker.unsubscribe("c")
            for _ in range(2):
                redis.kill()
                await one.expect(("interrupted",))
                await deaf_until(one, "connection refused")
                one.broker.subscribe("d")
                redis.start()
                await one.expect(*(("confirmed", stream, None) for stream in "abd"))
                await one.until_ready()
                await one.publish("b", b"1")
                await one.publish("c", b"2")
                await one.publish("d", b"3")
                await one.expect(("b", b"1"), ("d", b"3"))
                one.broker.unsubscribe("d")

    caplog.set_level("INFO")
    run(scenario())
    assert transitions(caplog) == LOST_AND_FOUND * 2


def test_the_state_is_fetched_again_after_an_outage(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one, node(redis) as other:
            await one.subscribe("a")
            await other.publish("a", b"1", True)
            await one.expect(("a", b"1", True))
            redis("CLIENT", "KILL", "TYPE", "pubsub")
            redis("SET", "fastcable:retained:a", b'{"v":1,"at":%d,"data":2}' % 2**40)
            await one.expect(("interrupted",), ("confirmed", "a", b"2"))

    run(scenario())


def test_one_of_both_connections_is_lost(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one:
            await one.subscribe("a")
            await one.until_ready()
            redis("CLIENT", "KILL", "TYPE", "pubsub")
            await one.expect(("interrupted",), ("confirmed", "a", None))
            await one.until_ready()
            redis("CLIENT", "KILL", "TYPE", "normal")
            await until(lambda: len(caplog.messages) == 3)
            await one.until_ready()
            await one.publish("a", b"1")
            await one.expect(("a", b"1"))

    caplog.set_level("INFO")
    run(scenario())
    assert transitions(caplog) == LOST_AND_FOUND * 2


# Handing over


def test_what_is_not_handed_over_in_time_fails_with_the_reason(redis: RedisServer) -> None:
    async def scenario() -> None:
        async with node(redis, publish_timeout=0.05) as one:
            await deaf_until(one, "connection refused")
            with pytest.raises(HandoverError, match=r"^redis: 127.0.0.1:\d+: connection refused \(for 0.05 s\)$"):
                await one.publish("a", b"1")
            other = [one.broker.publish("a", b"2", False, None, False) for _ in range(100)]
            other.append(one.broker.disconnect("a", False))
            for failed in await asyncio.gather(*other, return_exceptions=True):
                assert isinstance(failed, HandoverError)
            one.broker.subscribe("a")
            redis.start()
            await one.expect(("confirmed", "a", None))
            await one.until_ready()
            await one.quiet()  # nothing of it is sent later

    run(scenario())


def test_a_sleeping_redis_fails_posts_and_loses_no_subscription(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis, publish_timeout=0.1) as one:
            await one.subscribe("a")
            await one.until_ready()
            redis.signal(signal.SIGSTOP)
            with pytest.raises(HandoverError, match=r"^redis: no answer \(for 0\.1 s\)$"):
                await one.publish("a", b"1")
            one.broker.subscribe("b")
            redis.signal(signal.SIGCONT)
            # It was sent already. Which connection Redis serves first is up to it.
            assert {await one.hub.told.get(), await one.hub.told.get()} == {("a", b"1"), ("confirmed", "b", None)}
            await one.publish("b", b"2")
            await one.expect(("b", b"2"))
            assert one.broker.problem is None

    run(scenario())
    assert caplog.messages == []


def test_what_was_sent_fails_at_once_when_the_connection_breaks_and_is_not_sent_twice(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis, publish_timeout=60) as one:
            await one.subscribe("a")
            await one.until_ready()
            redis.signal(signal.SIGSTOP)
            sent = one.broker.publish("a", b"1", False, None, False)
            await asyncio.sleep(0.01)
            redis.kill()
            with pytest.raises(HandoverError, match=r"(?i)connection"):
                await sent
            waits = one.broker.publish("a", b"2", False, None, False)
            await one.expect(("interrupted",))
            redis.start()
            await waits
            await one.expect(("confirmed", "a", None))
            await one.until_ready()
            assert redis("INFO", "commandstats")["cmdstat_publish"]["calls"] == 1

    run(scenario())


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_only_so_much_waits(redis: RedisServer, extra: int) -> None:
    async def scenario() -> None:
        async with node(redis, publish_timeout=60) as one:
            first = one.broker.publish("a", b"1" * 1000, False, None, False)
            size = one.broker._publishing._held
            one.broker._publishing._most = 2 * size - extra
            second = one.broker.publish("a", b"2" * 1000, False, None, False)
            if extra > 0:
                with pytest.raises(HandoverError, match=r"^redis: more is posted than it takes$"):
                    await second
            redis.start()
            await first
            if extra <= 0:
                await second
            one.broker._publishing._most = 1
            await one.publish("a", b"3" * 1000)  # by itself anything is taken

    run(scenario())


def test_messages_that_waited_are_sent_in_order(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as other:
            await other.subscribe("a")
            async with node(redis, publish_timeout=60) as one:
                messages = [one.broker.publish("a", b"%d" % number, number % 3 == 0, None, False)
                            for number in range(5000)]
                messages += [one.broker.publish("a", b'"%b"' % (b"x" * 50_000), False, None, False) for _ in range(9)]
                await asyncio.gather(*messages)
            for number in range(5000):
                assert (await other.hub.told.get())[1] == b"%d" % number

    run(scenario())


def test_stopping_hands_over_what_was_accepted(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as other:
            await other.subscribe("a")
            async with node(redis) as one:
                messages = [one.broker.publish("a", b"%d" % number, False, None, False) for number in range(100)]
            assert all(message.result() == 0 for message in messages)
            await other.expect(*(("a", b"%d" % number) for number in range(100)))

    run(scenario())


def test_stopping_does_not_wait_longer_than_the_messages_have(redis: RedisServer) -> None:
    async def scenario() -> None:
        async with node(redis, publish_timeout=0.05) as one:
            message = one.broker.publish("a", b"1", False, None, False)
        assert isinstance(message.exception(), HandoverError)

    run(scenario())


def test_who_asked_may_be_gone(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one:
            await one.subscribe("a")
            one.broker.publish("a", b"1", False, None, False).cancel()
            await one.publish("a", b"2")
            await one.expect(("a", b"1"), ("a", b"2"))

    run(scenario())


# Refusals


def test_a_redis_that_is_loading_is_waited_for(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        redis.start()
        redis("MSET", *(part for number in range(300)
                        for part in (f"fastcable:retained:{number}", b'{"v":1,"at":9999999999,"data":1}')))
        redis("SAVE")
        redis.kill()
        redis.start("--key-load-delay", "3000", "--loading-process-events-interval-bytes", "1024",
                    line=b"Loading RDB")
        async with node(redis) as one:
            one.broker.subscribe("7")
            await deaf_until(one, "LOADING")
            await one.publish("8", b"1")
            await one.expect(("confirmed", "7", b"1"))
            await one.until_ready()

    caplog.set_level("INFO")
    run(scenario())
    assert transitions(caplog) == LOST_AND_FOUND


def test_a_replica_is_not_published_to(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one:
            await one.subscribe("a")
            await one.until_ready()
            redis("REPLICAOF", "127.0.0.1", str(free_port()))
            with pytest.raises(HandoverError, match=r"^redis: READONLY"):
                await one.publish("a", b"1", True)
            await deaf_until(one, "it is a replica, and the master is needed")
            waits = one.broker.publish("a", b"2", False, None, False)
            redis("REPLICAOF", "NO", "ONE")
            await waits
            await one.until_ready()

    run(scenario())


@pytest.mark.parametrize("password", ["", ":guessed@"], ids=["none", "wrong"])
def test_a_password_that_is_not_the_right_one(
    redis: RedisServer, caplog: pytest.LogCaptureFixture, password: str
) -> None:
    async def scenario() -> None:
        redis.start("--requirepass", "right")
        redis.password = "right"
        url = redis.url.replace("//", f"//{password}")
        async with node(url) as one:
            one.broker.subscribe("a")
            await deaf_until(one, "HELLO must be called" if not password else "invalid username-password pair")
            redis("CONFIG", "SET", "requirepass", "guessed" if password else "")
            redis.password = None
            await one.expect(("confirmed", "a", None))
            await one.until_ready()
            assert "guessed" not in caplog.text

    caplog.set_level("INFO")
    run(scenario())
    assert transitions(caplog) == LOST_AND_FOUND


def test_the_right_password_and_user_and_database(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start("--requirepass", "p@ss/wörd")
        redis.password = "p@ss/wörd"
        redis("ACL", "SETUSER", "cable", "on", ">other", "~*", "&*", "+@all")
        async with node(redis.url.replace("//", "//:p%40ss%2Fw%C3%B6rd@")) as one:
            await one.subscribe("a")
            async with node(redis.url.replace("//", "//cable:other@") + "/3") as other:
                await other.publish("a", b"1", True)
                await one.expect(("a", b"1", True))
            assert redis("DBSIZE") == 0
            assert redis("INFO", "keyspace")["db3"]["keys"] == 1

    run(scenario())


def test_a_message_that_redis_refuses_fails_alone(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one:
            await one.subscribe("a")
            redis("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(HandoverError, match=r"^redis: OOM command not allowed"):
                await one.publish("a", b"1", True)
            await one.publish("a", b"2")
            await one.expect(("a", b"2"))
            assert one.broker.problem is None

    run(scenario())


def test_without_the_right_to_read_keys_streams_are_heard_without_their_values(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        redis.start()
        redis("ACL", "SETUSER", "cable", "on", ">secret", "&*", "+@all")
        async with node(redis.url.replace("//", "//cable:secret@")) as one:
            await one.subscribe("a")
            await one.publish("a", b"1")
            await one.expect(("a", b"1"))

    run(scenario())
    (line,) = caplog.messages
    assert line.startswith("redis: retained values cannot be read: NOPERM")


def test_a_stream_that_the_user_may_not_hear_costs_the_others_nothing(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        redis.start()
        redis("ACL", "SETUSER", "cable", "on", ">secret", "~*", "+@all", "resetchannels", "&fastcable:a*",
              "&fastcable!control")
        async with node(redis.url.replace("//", "//cable:secret@")) as one:
            await one.until_ready()
            for stream in "a", "b", "aa":  # in one turn, so with one command
                one.broker.subscribe(stream)
            await one.expect(("confirmed", "a", None), ("confirmed", "aa", None))
            redis("ACL", "SETUSER", "cable", "allchannels")
            redis("CLIENT", "KILL", "TYPE", "pubsub")
            await one.expect(("interrupted",))
            confirmed = [("confirmed", stream, None) for stream in ("a", "b", "aa")]
            await one.expect(*confirmed)
            await one.publish("b", b"1")
            await one.expect(("b", b"1"))

    caplog.set_level("WARNING")
    run(scenario())
    (line,) = (line for line in caplog.messages if "NOPERM" in line)
    assert line.startswith("redis: stream b cannot be heard: NOPERM")


# Being cut off


def test_a_process_that_cannot_keep_up_does_not_read_and_may_be_cut_off(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start("--client-output-buffer-limit", "pubsub 1mb 0 0")
        async with node(redis) as one, node(redis) as other:
            await one.subscribe("a")
            one.hub.congested = True
            large = b'"%b"' % (b"x" * 100_000)
            for _ in range(200):
                await other.publish("a", large)
            one.hub.congested = False
            while (event := await one.hub.told.get()) == ("a", large):
                pass
            assert event == ("interrupted",)
            await one.expect(("confirmed", "a", None))
            await one.publish("a", b"1")
            await one.expect(("a", b"1"))

    run(scenario())


def test_a_process_that_can_keep_up_again_reads_on(redis: RedisServer) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one, node(redis) as other:
            await one.subscribe("a")
            one.hub.congested = True
            large = b'"%b"' % (b"x" * 100_000)
            for _ in range(100):
                await other.publish("a", large)
            await asyncio.sleep(0)
            assert one.hub.told.qsize() < 90
            one.hub.congested = False
            await one.expect(*[("a", large)] * 100)

    run(scenario())


# Silence and nonsense


def test_a_peer_that_fell_silent_is_cut_and_sought_again(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one:
            await one.subscribe("a")
            await one.until_ready()
            redis.signal(signal.SIGSTOP)
            await one.expect(("interrupted",))
            assert "nothing heard for" in (one.broker.problem or "")
            redis.signal(signal.SIGCONT)
            await one.expect(("confirmed", "a", None))
            await one.until_ready()

    monkeypatch.setattr(redis_connection, "PING_SECONDS", 0.03)
    monkeypatch.setattr(redis_connection, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr("fastcable.brokers.redis_endpoint.CONNECT_SECONDS", 0.1)
    caplog.set_level("INFO")
    run(scenario())
    assert transitions(caplog) == LOST_AND_FOUND


def test_a_peer_that_answers_is_left_alone(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        redis.start()
        async with node(redis) as one:
            await one.subscribe("a")
            await until(lambda: redis("INFO", "commandstats")["cmdstat_ping"]["calls"] > 20)
            await one.quiet()

    monkeypatch.setattr(redis_connection, "PING_SECONDS", 0.01)
    run(scenario())


HELLO = b"%1\r\n+proto\r\n:3\r\n"


@pytest.fixture
def pretend() -> Iterator[Callable[[dict[bytes, bytes]], int]]:
    """Starts a server that answers each command with what is given for the command's name, and nothing otherwise; its
    port."""
    with contextlib.ExitStack() as stack:

        def serve(sock: socket.socket, answers: dict[bytes, bytes]) -> None:
            with sock, contextlib.suppress(ConnectionError):
                while data := sock.recv(65536):
                    for part in data.split(b"\r\n"):
                        sock.sendall(answers.get(part, b""))

        def accept(listener: socket.socket, answers: dict[bytes, bytes]) -> None:
            threads = []
            with contextlib.suppress(OSError):  # shut down
                while True:
                    threads.append(threading.Thread(target=serve, args=(listener.accept()[0], answers)))
                    threads[-1].start()
            for thread in threads:
                thread.join()

        def start(answers: dict[bytes, bytes]) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            thread = threading.Thread(target=accept, args=(listener, answers))
            stack.callback(thread.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            thread.start()
            return int(listener.getsockname()[1])

        yield start


USUAL = {b"HELLO": HELLO, b"PING": b"+PONG\r\n", b"ROLE": b"*1\r\n$6\r\nmaster\r\n"}
NONSENSE: dict[str, tuple[dict[bytes, bytes], str]] = {
    "another protocol": ({b"HELLO": b"HTTP/1.1 400 Bad Request\r\n\r\n"}, "Protocol error"),
    "another protocol later": (USUAL | {b"PING": b"HTTP/1.1 400\r\n"},
                               "this is not Redis' protocol: Protocol error, got \"H\" as reply type byte"),
    "too many items": (USUAL | {b"PING": b"*99999999999\r\n"}, "Multi-bulk length out of range"),
    "more answers than asked for": (USUAL | {b"ROLE": b"*1\r\n$6\r\nmaster\r\n+OK\r\n+OK\r\n+OK\r\n"},
                                    "what it was not asked"),
    "a confirmation of something else": (USUAL | {b"SUBSCRIBE": b">3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n"},
                                         "Redis confirmed what it was not asked"),
    "a message that is none": (USUAL | {b"SUBSCRIBE": b">3\r\n$7\r\nmessage\r\n:1\r\n:1\r\n"},
                               "Redis sent a message that is none"),
    "half a message": (USUAL | {b"SUBSCRIBE": b">1\r\n$7\r\nmessage\r\n"}, "Redis sent a message that is none"),
    "a refusal": (USUAL | {b"SUBSCRIBE": b"-ERR no\r\n"}, "ERR no"),
    "an old Redis": ({b"HELLO": b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `secret`\r\n"},
                     "too old: Redis 6 or later is needed"),
    "a password repeated": ({b"HELLO": b"-ERR what is `secret`?\r\n"}, "what is `****`?"),
    "a line break": ({b"HELLO": b"-ERR first\x0bsecond\r\n"}, "first\\x0bsecond"),
}


@pytest.mark.parametrize(("answers", "problem"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_told_in_one_line_and_tried_again(
    pretend: Callable[[dict[bytes, bytes]], int], caplog: pytest.LogCaptureFixture,
    answers: dict[bytes, bytes], problem: str,
) -> None:
    async def scenario() -> None:
        async with node(f"redis://:secret@127.0.0.1:{pretend(answers)}") as one:
            one.broker.subscribe("a")
            for _ in range(3):
                await deaf_until(one, problem)
                await asyncio.sleep(0.02)
            assert "secret" not in (one.broker.problem or "")

    caplog.set_level("INFO")
    run(scenario())
    assert set(transitions(caplog)) == {"lost"}
    assert "secret" not in caplog.text


# TLS and Unix sockets


def test_redis_behind_tls(redis: RedisServer, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    port = free_port()

    async def scenario() -> None:
        redis.start("--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key,
                    "--tls-ca-cert-file", certificate, "--tls-auth-clients", "no")
        async with node(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}") as one:
            await one.subscribe("a")
            await one.publish("a", b"1")
            await one.expect(("a", b"1"))
            redis("CLIENT", "KILL", "TYPE", "pubsub")
            await one.expect(("interrupted",), ("confirmed", "a", None))
        async with node(f"rediss://127.0.0.1:{port}") as one:
            await deaf_until(one, "certificate verify failed")

    assert ssl.HAS_TLSv1_2  # of the real module: uvloop would refuse TLS else
    run(scenario())


def test_redis_behind_a_unix_socket(redis: RedisServer) -> None:
    async def scenario() -> None:
        path = redis.file("socket")
        redis.start("--unixsocket", str(path))
        async with node(f"unix://{path}") as one:
            await one.subscribe("a")
            await one.publish("a", b"1")
            await one.expect(("a", b"1"))
            redis.kill()
            path.unlink(missing_ok=True)
            await deaf_until(one, f"redis: {path}: no such file or directory")

    run(scenario())
