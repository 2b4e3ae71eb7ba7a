"""Messages that Rails broadcasts through Solid Cable, in PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import asyncpg
import pytest

from fastcable.settings import SettingsError
from fastcable.sources import START_ROWS, postgresql
from fastcable.sources.joined import open_reader
from fastcable.sources.poller import Poller
from fastcable.sources.postgresql import PostgresqlReader
from tests.harness import Serve, message
from tests.postgresql import Cluster
from tests.solid_cable import INDEXES, INSERT, POSTGRESQL_SCHEMA, TOGETHER, start_writer, values
from tests.sources import Recorder, polling, problem


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


class Application:
    """A connection of the application."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self.connection = connection
        self.execute = connection.execute

    async def create(self) -> None:
        await self.execute("DROP TABLE IF EXISTS solid_cable_messages CASCADE")
        await self.execute(POSTGRESQL_SCHEMA + INDEXES)

    async def write(self, channel: str, *messages: object) -> None:
        await self.connection.executemany(INSERT, [values(channel, json.dumps(each).encode()) for each in messages])


@contextlib.asynccontextmanager
async def connected(cluster: Cluster) -> AsyncIterator[Application]:
    connection = await asyncpg.connect(cluster.url)
    try:
        yield Application(connection)
    finally:
        connection.terminate()


Test = Callable[[Recorder, Poller, Application], Coroutine[Any, Any, None]]


def run(test: Test, cluster: Cluster, *streams: str, url: str | None = None, **options: Any) -> None:
    """The test, while a new table is polled for these streams."""

    async def polled() -> None:
        async with connected(cluster) as application:
            await application.create()
            async with polling(PostgresqlReader(url or cluster.url), *streams, **options) as (recorder, poller):
                await test(recorder, poller, application)

    asyncio.run(polled())


def test_messages_of_live_streams_arrive_as_they_were_written(cluster: Cluster) -> None:
    async def test(recorder: Recorder, poller: Poller, application: Application) -> None:
        await application.write("app:chat", "from before")
        poller.subscribe("chat")
        await recorder.expect(("confirmed", "chat"))
        raw = b'{"n": 1.0000000000000000000001, "html":"\\u003cp\\u003e"}'
        await application.connection.execute(INSERT, *values("app:chat", raw))
        await application.write("chat", "of another application")
        await application.connection.execute(INSERT, *values("app:chat", b"{"))
        await application.write("app:chat", "next")
        await recorder.expect(("message", "chat", raw), ("message", "chat", b'"next"'))

    run(test, cluster, prefix="app")


def test_each_of_10_000_rows_arrives_once_and_in_order_however_late_it_is_committed(cluster: Cluster) -> None:
    processes, count, channels = 2, 1_250, ["chat", "news", "other"]

    async def test(recorder: Recorder, poller: Poller, application: Application) -> None:
        writing = [start_writer(cluster.url, process, count, channels) for process in range(processes)]
        expected = {channel: [each for each in range(count) if channels[each % 3] == channel] for channel in channels}
        writers = processes * TOGETHER
        await recorder.until(
            lambda: len(recorder.told) >= writers * (len(expected["chat"]) + len(expected["news"])))
        assert [process.wait() for process in writing] == [0] * processes
        await application.write("chat", "the last")
        await recorder.until(lambda: recorder.told[-1] == ("message", "chat", b'"the last"'))
        for channel in ("chat", "news"):
            messages = recorder.messages(channel)
            for writer in range(writers):
                assert [message[1] for message in messages if message[0] == writer] == expected[channel]

    run(test, cluster, "chat", "news", interval=0.1)


def test_a_row_that_is_written_before_a_subscription_and_committed_after_it_arrives(cluster: Cluster) -> None:
    async def test(recorder: Recorder, poller: Poller, application: Application) -> None:
        await application.write("chat", *range(START_ROWS // 10))
        async with connected(cluster) as late, late.connection.transaction():
            await late.write("chat", "late")
            await application.write("chat", "from before")
            poller.subscribe("chat")
            await recorder.expect(("confirmed", "chat"))
            await application.write("chat", "now")
            await recorder.expect(("message", "chat", b'"now"'))
            poller.subscribe("news")
            await recorder.expect(("confirmed", "news"))
        # Only now it is there.
        await recorder.expect(("message", "chat", b'"late"'))
        await application.write("news", 1)
        await recorder.expect(("message", "news", b"1"))

    run(test, cluster)


def test_a_server_that_restarts_is_read_on_where_it_was(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    async def test(recorder: Recorder, poller: Poller, application: Application) -> None:
        for number in (signal.SIGINT, signal.SIGQUIT):
            cluster.stop(number)
            await problem(poller, "source test: no such file or directory")  # its Unix socket
            poller.subscribe("news")
            cluster.start()
            async with connected(cluster) as application:
                await application.write("chat", 1, 2)
                await application.write("news", "from before, or from after")
                await recorder.until(lambda: ("confirmed", "news") in recorder.told)
                recorder.told.remove(("interrupted",))
                told = recorder.told[:4]
                recorder.told.clear()
                await application.write("news", 3)
                await recorder.until(lambda: ("message", "news", b"3") in recorder.told)
                assert [each for each in told if each[1] == "chat"] == [
                    ("message", "chat", b"1"), ("message", "chat", b"2"), ("confirmed", "chat")]
                recorder.told.clear()
            poller.unsubscribe("news")

    run(test, cluster, "chat")
    assert len([message for message in caplog.messages if "trying again" in message]) == 2


def test_a_server_that_does_not_answer_is_given_up(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "ANSWER_SECONDS", 0.3)

    async def test(recorder: Recorder, poller: Poller, application: Application) -> None:
        cluster.backends(signal.SIGSTOP)
        try:
            await problem(poller, "source test: no answer in time")
        finally:
            cluster.backends(signal.SIGCONT)
        await application.write("chat", 1)
        await recorder.until(lambda: len(recorder.told) == 3)
        assert set(recorder.told) == {("interrupted",), ("message", "chat", b"1"), ("confirmed", "chat")}

    run(test, cluster, "chat")


@pytest.mark.parametrize(
    ("change", "user", "words"),
    [
        ("DROP TABLE solid_cable_messages", "fastcable", 'relation "solid_cable_messages" does not exist'),
        ("ALTER TABLE solid_cable_messages DROP channel_hash", "fastcable", 'column "channel_hash" does not exist'),
        ("SELECT", "stranger", "permission denied for table solid_cable_messages"),
        ("DROP ROLE stranger", "stranger", 'role "stranger" does not exist'),
    ],
    ids=["no table", "another schema", "no permission", "no such user"],
)
def test_a_table_that_cannot_be_read_is_a_problem_until_it_can(
    cluster: Cluster, change: str, user: str, words: str
) -> None:
    async def test() -> None:
        async with connected(cluster) as application:
            await application.create()
            await application.execute("CREATE ROLE stranger LOGIN")
            await application.execute(change)
            async with polling(PostgresqlReader(cluster.url.replace("fastcable@", f"{user}@"))) as (recorder, poller):
                await problem(poller, f"source test: {words}")
                poller.subscribe("chat")
                await application.execute("DROP ROLE IF EXISTS stranger; CREATE ROLE stranger LOGIN SUPERUSER")
                await application.create()
                await recorder.expect(("interrupted",), ("confirmed", "chat"))
            await application.execute("DROP ROLE stranger")

    asyncio.run(test())


def test_permission_to_select_is_enough(cluster: Cluster) -> None:
    async def test(recorder: Recorder, poller: Poller, application: Application) -> None:
        await application.execute("CREATE ROLE reader LOGIN; GRANT SELECT ON solid_cable_messages TO reader")
        poller.subscribe("chat")
        await recorder.until(lambda: ("confirmed", "chat") in recorder.told)
        recorder.told.clear()
        await application.write("chat", 1)
        await recorder.expect(("message", "chat", b"1"))
        await application.execute("DROP OWNED BY reader; DROP ROLE reader")

    run(test, cluster, url=cluster.url.replace("fastcable@", "reader@"))


def test_a_table_that_is_trimmed_emptied_or_made_anew_is_read_on(cluster: Cluster) -> None:
    async def test(recorder: Recorder, poller: Poller, application: Application) -> None:
        await application.write("chat", 1, 2, 3)
        await recorder.expect(*(("message", "chat", b"%d" % number) for number in (1, 2, 3)))
        for number, change in enumerate((
            "DELETE FROM solid_cable_messages WHERE id = 2", "DELETE FROM solid_cable_messages",
            "TRUNCATE solid_cable_messages RESTART IDENTITY", "VACUUM FULL solid_cable_messages",
        )):
            await application.execute(change)
            poller.subscribe("a look")
            await recorder.expect(("confirmed", "a look"))
            poller.unsubscribe("a look")
            await application.write("chat", number)
            await recorder.expect(("message", "chat", b"%d" % number))
        async with application.connection.transaction():
            await application.create()
            await application.write("chat", "news or history")
        await recorder.expect(("lost", "chat"))
        await application.write("chat", 4)
        await recorder.expect(("message", "chat", b"4"))

    run(test, cluster, "chat")


def test_there_may_be_many_streams(cluster: Cluster) -> None:
    streams = [f"stream {number}" for number in range(1_001)]

    async def test(recorder: Recorder, poller: Poller, application: Application) -> None:
        async with application.connection.transaction():
            for stream in ["other", *streams]:
                await application.write(stream, stream)
        await recorder.expect(*(("message", stream, b'"%s"' % stream.encode()) for stream in streams))

    run(test, cluster, *streams)


def test_clients_of_a_server_get_what_is_written(cluster: Cluster, serve: Serve) -> None:
    async def write(*messages: object) -> None:
        async with connected(cluster) as application:
            if not messages:
                await application.create()
            await application.write("chat", *messages)

    asyncio.run(write())
    server = serve(source=(f"solid_cable+{cluster.url}",), source_interval=0.02)
    with server.connect("chat") as client:
        asyncio.run(write(1, 2))
        client.expect(message("chat", 1), message("chat", 2))


def test_a_url_that_is_no_good_is_a_problem_like_others() -> None:
    async def test() -> None:
        async with polling(PostgresqlReader("postgresql://localhost:port/app")) as (_, poller):
            await problem(poller, "source test: ")
            assert "not foreseen" not in str(poller.problem)

    asyncio.run(test())


def test_both_kinds_of_url_are_understood(cluster: Cluster) -> None:
    async def test() -> None:
        async with connected(cluster) as application:
            await application.create()
        for url in (cluster.url, f"solid_cable+{cluster.url}"):
            reader = open_reader(url)
            await reader.open()
            assert (await reader.look([], None)).rows == []
            await reader.close()

    asyncio.run(test())


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    monkeypatch.delitem(sys.modules, "fastcable.sources.postgresql")
    with pytest.raises(SettingsError) as caught:
        open_reader("postgresql://localhost/app")
    assert str(caught.value) == "source: PostgreSQL needs asyncpg: pip install 'fastcable[postgresql]'"
