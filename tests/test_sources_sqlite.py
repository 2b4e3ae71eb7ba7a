"""Messages that Rails broadcasts through Solid Cable, in an SQLite file that other processes write."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastcable.log import escape
from fastcable.sources import Look, SourceError
from fastcable.sources import poller as poller_module
from fastcable.sources.poller import CONGESTED_SECONDS, MOST_HASHES, PORTION_ROWS, Poller
from fastcable.sources.solid_cable import channel_hash
from fastcable.sources.sqlite import SqliteReader
from tests.harness import PATIENCE
from tests.solid_cable import SqliteTable, start_writer
from tests.sources import Recorder, polling, problem


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "production_cable.sqlite3"


@pytest.fixture
def table(path: Path) -> Iterator[SqliteTable]:
    with SqliteTable(path).create() as table:
        yield table


Test = Callable[[Recorder, Poller], Coroutine[Any, Any, None]]


def run(test: Test, path: Path, *streams: str, **options: Any) -> None:
    """The test, while the file is polled for these streams."""

    async def polled() -> None:
        async with polling(SqliteReader(str(path)), *streams, **options) as (recorder, poller):
            await test(recorder, poller)

    asyncio.run(polled())


@pytest.mark.parametrize(
    ("channel", "expected"),
    [(b"chat", 3593995087618423194), (b"", -2039914840885289964), ("Zoë".encode(), -4133980547192995568)],
    ids=["ASCII", "empty", "UTF-8"],
)
def test_channels_have_the_hash_that_ruby_gives_them(channel: bytes, expected: int) -> None:
    assert channel_hash(channel) == expected  # Digest::SHA256.digest(channel).unpack1("q>")


def test_messages_of_live_streams_arrive_as_they_were_written(path: Path, table: SqliteTable) -> None:
    table.write("chat", "from before")

    async def test(recorder: Recorder, poller: Poller) -> None:
        table.write_raw("chat", b'{"n": 1.0000000000000000000001, "html":"\\u003cp\\u003e"}')
        table.write("other", "nobody listens")
        table.write_raw("news", b' \n"spaces around it are not its own"\t')
        await recorder.expect(
            ("message", "chat", b'{"n": 1.0000000000000000000001, "html":"\\u003cp\\u003e"}'),
            ("message", "news", b'"spaces around it are not its own"'),
        )

    run(test, path, "chat", "news")


def test_a_channel_prefix_is_part_of_the_channel(path: Path, table: SqliteTable) -> None:
    async def test(recorder: Recorder, poller: Poller) -> None:
        table.write("chat", "of another application")
        table.write("app_production:chat", "ours")
        await recorder.expect(("message", "chat", b'"ours"'))

    run(test, path, "chat", prefix="app_production")


def test_each_of_10_000_rows_of_several_processes_arrives_once_and_in_order(path: Path, table: SqliteTable) -> None:
    writers, count, channels = 4, 2_500, ["chat", "news", "other"]

    async def test(recorder: Recorder, poller: Poller) -> None:
        processes = [start_writer(str(path), writer, count, channels) for writer in range(writers)]
        expected = {channel: [each for each in range(count) if channels[each % 3] == channel] for channel in channels}
        await recorder.until(
            lambda: len(recorder.told) >= writers * (len(expected["chat"]) + len(expected["news"])))
        assert [process.wait() for process in processes] == [0] * writers
        table.write("chat", "the last")
        await recorder.until(lambda: recorder.told[-1] == ("message", "chat", b'"the last"'))
        for channel in ("chat", "news"):
            messages = recorder.messages(channel)
            for writer in range(writers):
                assert [message[1] for message in messages if message[0] == writer] == expected[channel]

    run(test, path, "chat", "news")


def test_a_new_subscriber_gets_nothing_from_before(path: Path, table: SqliteTable) -> None:
    async def test(recorder: Recorder, poller: Poller) -> None:
        for number in range(20):
            poller.unsubscribe("chat")
            table.write("chat", "while nobody listens")
            poller.subscribe("chat")
            await recorder.expect(("confirmed", "chat"))
            table.write("chat", number)
            await recorder.expect(("message", "chat", b"%d" % number))
            poller.unsubscribe("news")
            table.write("news", "while nobody listens to this, and others listen to that")
            poller.subscribe("news")
            await recorder.expect(("confirmed", "news"))

    run(test, path, "chat", "news")


@pytest.mark.parametrize("count", [MOST_HASHES - 1, MOST_HASHES, MOST_HASHES + 1], ids=["-1", "0", "+1"])
def test_there_may_be_many_streams(path: Path, table: SqliteTable, count: int) -> None:
    streams = [f"stream {number}" for number in range(count)]

    async def test(recorder: Recorder, poller: Poller) -> None:
        table.execute("BEGIN")
        for stream in [*streams, "other"]:
            table.write(stream, stream)
        table.execute("COMMIT")
        await recorder.expect(*(("message", stream, b'"%s"' % stream.encode()) for stream in streams))
        poller.unsubscribe(streams[0])
        table.write(streams[0], "nobody listens any more")
        table.write(streams[1], "somebody does")
        await recorder.expect(("message", streams[1], b'"somebody does"'))

    run(test, path, *streams)


# What is no message


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"NaN", b"\xff", b'"\\ud800"', b"1 2", b"\xef\xbb\xbf1"],
    ids=["empty", "cut off", "NaN", "not UTF-8", "lone surrogate", "two values", "byte order mark"])
def test_what_is_not_json_is_left_out(
    path: Path, table: SqliteTable, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(recorder: Recorder, poller: Poller) -> None:
        table.write_raw("chat", payload)
        table.write_raw("chat", payload)
        table.write("chat", "next")
        await recorder.expect(("message", "chat", b'"next"'))

    run(test, path, "chat")
    assert caplog.messages == [f"source test: a message of chat is not JSON: {escape(payload)}"]


def test_a_message_over_the_limit_is_told_as_a_gap(
    path: Path, table: SqliteTable, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(recorder: Recorder, poller: Poller) -> None:
        for payload in (b'"of  9 b"', b'"of 10 by"'):
            table.write_raw("chat", payload)
            await recorder.expect(("message", "chat", payload))
        table.write_raw("chat", b'"of 11 byt"')
        await recorder.expect(("lost", "chat"))

    run(test, path, "chat", max_size=10)
    assert "source test: a message of chat (11 bytes) is over max_broadcast_size (10)" in caplog.messages


def test_a_row_that_is_deleted_before_it_is_read_is_told_as_a_gap(
    path: Path, table: SqliteTable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = SqliteReader.read

    async def delete_first(self: SqliteReader, ids: list[int]) -> list[tuple[int, bytes, bytes]]:
        table.execute("DELETE FROM solid_cable_messages WHERE payload = cast('1' AS blob)")
        return await read(self, ids)

    async def test(recorder: Recorder, poller: Poller) -> None:
        monkeypatch.setattr(SqliteReader, "read", delete_first)
        table.execute("BEGIN")
        table.write("chat", 1, 2)
        table.execute("COMMIT")
        await recorder.expect(("lost", "chat"), ("message", "chat", b"2"))

    run(test, path, "chat")
    assert "source test: a message of chat (1 bytes) was deleted before it was read" in caplog.messages


def test_columns_of_text_are_read_too(path: Path, table: SqliteTable) -> None:
    async def test(recorder: Recorder, poller: Poller) -> None:
        table.execute(
            "INSERT INTO solid_cable_messages (created_at, channel, payload, channel_hash) VALUES (0, ?, ?, ?)",
            "chat", '"Zoë"', channel_hash(b"chat"))
        table.execute(
            "INSERT INTO solid_cable_messages (created_at, channel, payload, channel_hash) VALUES (0, ?, ?, ?)",
            "chat", 5, channel_hash(b"chat"))
        await recorder.expect(("message", "chat", '"Zoë"'.encode()), ("message", "chat", b"5"))

    run(test, path, "chat")


def test_a_channel_of_the_same_hash_is_another_channel(path: Path, table: SqliteTable) -> None:
    async def test(recorder: Recorder, poller: Poller) -> None:
        table.execute(
            "INSERT INTO solid_cable_messages (created_at, channel, payload, channel_hash) VALUES (0, ?, ?, ?)",
            b"other", b"1", channel_hash(b"chat"))
        table.write("chat", 2)
        await recorder.expect(("message", "chat", b"2"))

    run(test, path, "chat")


# Faults


def bad_file(path: Path) -> None:
    path.write_bytes(b"no database at all, but long enough to look" * 100)


def bad_schema(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE solid_cable_messages (id integer PRIMARY KEY, channel text, payload text)")
    connection.close()


def remove(path: Path) -> None:
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no such file or directory"),
        (lambda path: path.touch(), "no such table: solid_cable_messages"),
        (bad_file, "file is not a database"),
        (bad_schema, "no such column: channel_hash"),
        (Path.mkdir, "not a file"),
    ],
    ids=["absent", "empty", "no database", "another schema", "folder"],
)
def test_a_file_that_is_not_there_yet_is_waited_for(
    path: Path, make: Callable[[Path], None], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    make(path)

    async def test(recorder: Recorder, poller: Poller) -> None:
        await problem(poller, f"source test: {words}")
        assert recorder.told == [("interrupted",)]
        poller.subscribe("chat")
        remove(path)
        with SqliteTable(path).create() as table:
            await recorder.expect(("interrupted",), ("confirmed", "chat"))
            table.write("chat", 1)
            await recorder.expect(("message", "chat", b"1"))
        assert poller.problem is None

    run(test, path)
    assert caplog.messages == [f"source test: {words}; trying again", "source test: reading"]


def test_a_locked_database_is_read_on_where_it_was(path: Path, table: SqliteTable) -> None:
    table.execute("PRAGMA journal_mode = delete")  # with WAL nobody waits for anybody

    async def test(recorder: Recorder, poller: Poller) -> None:
        table.execute("BEGIN EXCLUSIVE")
        table.write("chat", 1)
        await problem(poller, "database is locked")
        poller.subscribe("news")
        table.write("news", "from before")
        table.write("chat", 2)
        table.execute("COMMIT")
        await recorder.expect(
            ("interrupted",), ("message", "chat", b"1"), ("message", "chat", b"2"), ("confirmed", "chat"),
            ("confirmed", "news"))
        table.write("news", 3)
        await recorder.expect(("message", "news", b"3"))

    run(test, path, "chat")


def test_after_a_long_outage_it_begins_anew(
    path: Path, table: SqliteTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "RESUME_SECONDS", 0)
    away = path.with_suffix(".away")

    async def test(recorder: Recorder, poller: Poller) -> None:
        os.rename(path, away)
        await problem(poller, "no such file")
        table.write("chat", "history")
        os.rename(away, path)
        await recorder.expect(("interrupted",), ("missed", "chat"))
        table.write("chat", 1)
        await recorder.expect(("message", "chat", b"1"))

    run(test, path, "chat")


def test_writers_and_checkpoints_do_not_wait_for_the_reader(path: Path, table: SqliteTable) -> None:
    async def test(recorder: Recorder, poller: Poller) -> None:
        table.connection.execute("PRAGMA busy_timeout = 0")
        for number in range(50):
            table.write("chat", number)
            await recorder.expect(("message", "chat", b"%d" % number))
        busy, _, left = table.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert (busy, left) == (0, 0)

    run(test, path, "chat")


def test_a_failure_that_nobody_thought_of_is_logged_and_not_the_end(
    path: Path, table: SqliteTable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = SqliteReader.look
    failures = iter([ZeroDivisionError("here")])

    async def fail_once(self: SqliteReader, hashes: list[int] | None, above: int | None) -> Look:
        for failure in failures:
            raise failure
        return await look(self, hashes, above)

    async def test(recorder: Recorder, poller: Poller) -> None:
        monkeypatch.setattr(SqliteReader, "look", fail_once)
        table.write("chat", 1)
        await recorder.expect(("interrupted",), ("message", "chat", b"1"), ("confirmed", "chat"))

    run(test, path, "chat")
    assert [record.exc_text is not None or record.exc_info is not None for record in caplog.records] == [True, False]


def test_rows_whose_reading_failed_are_read_again(
    path: Path, table: SqliteTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = SqliteReader.read
    failing = iter([False, True])

    async def fail_the_second(self: SqliteReader, ids: list[int]) -> list[tuple[int, bytes, bytes]]:
        if next(failing, False):
            raise SourceError("disk I/O error")
        return await read(self, ids)

    async def test(recorder: Recorder, poller: Poller) -> None:
        monkeypatch.setattr(SqliteReader, "read", fail_the_second)
        count = PORTION_ROWS + 1
        table.execute("BEGIN")
        table.write("chat", *range(count))
        table.execute("COMMIT")
        await recorder.until(lambda: len(recorder.told) >= count + 2)
        assert recorder.messages("chat") == list(range(count))
        assert recorder.told[PORTION_ROWS] == ("interrupted",)
        assert recorder.told[-1] == ("confirmed", "chat")

    run(test, path, "chat")


# What applications do to the table


def test_rows_that_are_trimmed_make_no_difference(path: Path, table: SqliteTable) -> None:
    async def test(recorder: Recorder, poller: Poller) -> None:
        for number in range(10):
            table.write("chat", number)
            await recorder.expect(("message", "chat", b"%d" % number))
            table.execute("DELETE FROM solid_cable_messages WHERE id <= (SELECT max(id) - ? FROM solid_cable_messages)",
                          3)

    run(test, path, "chat")


async def looked(recorder: Recorder, poller: Poller) -> None:
    """A look has begun after this was called, and is over; nothing is told but that."""
    poller.subscribe("a look")
    await recorder.expect(("confirmed", "a look"))
    poller.unsubscribe("a look")


def test_a_table_that_is_emptied_loses_nothing(path: Path, table: SqliteTable) -> None:
    async def test(recorder: Recorder, poller: Poller) -> None:
        table.write("chat", 1, 2)
        await recorder.expect(("message", "chat", b"1"), ("message", "chat", b"2"))
        table.execute("DELETE FROM solid_cable_messages")
        await looked(recorder, poller)
        table.write("chat", 3)
        await recorder.expect(("message", "chat", b"3"))

    run(test, path, "chat")


def test_a_table_that_was_made_anew_begins_with_small_ids_again(path: Path, table: SqliteTable) -> None:
    async def test(recorder: Recorder, poller: Poller) -> None:
        table.write("chat", 1, 2)
        await recorder.expect(("message", "chat", b"1"), ("message", "chat", b"2"))
        table.execute("BEGIN")
        table.execute("DROP TABLE solid_cable_messages")
        table.execute("COMMIT")
        await problem(poller, "no such table")
        table.create()
        await recorder.expect(("interrupted",), ("confirmed", "chat"))
        table.write("chat", 3)
        await recorder.expect(("message", "chat", b"3"))

    run(test, path, "chat")


def test_rows_of_a_table_that_was_made_anew_between_two_looks_are_told_as_a_gap(
    path: Path, table: SqliteTable
) -> None:
    async def test(recorder: Recorder, poller: Poller) -> None:
        table.write("chat", 1, 2)
        await recorder.expect(("message", "chat", b"1"), ("message", "chat", b"2"))
        table.execute("BEGIN")
        table.execute("DELETE FROM solid_cable_messages")
        table.execute("DELETE FROM sqlite_sequence")
        table.write("chat", "news or history")
        table.execute("COMMIT")
        await recorder.expect(("lost", "chat"))
        table.write("chat", 3)
        await recorder.expect(("message", "chat", b"3"))

    run(test, path, "chat")


@pytest.mark.parametrize("rows", [0, 5], ids=["empty", "with more rows"])
def test_a_file_that_was_put_in_its_place_is_read(path: Path, table: SqliteTable, rows: int) -> None:
    async def test(recorder: Recorder, poller: Poller) -> None:
        table.write("chat", 1, 2)
        await recorder.expect(("message", "chat", b"1"), ("message", "chat", b"2"))
        table.connection.close()
        restored = path.with_suffix(".restored")
        with SqliteTable(restored).create() as other:
            other.write("chat", *range(rows))
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for file in (f"{path}-wal", f"{path}-shm"):  # of the old one
            os.unlink(file)
        os.replace(restored, path)
        with SqliteTable(path) as other:
            if rows:
                await recorder.expect(("lost", "chat"))
            else:
                await looked(recorder, poller)
            other.write("chat", 3)
            await recorder.expect(("message", "chat", b"3"))

    run(test, path, "chat")


def test_any_path_will_do(tmp_path: Path) -> None:
    folder = tmp_path / "a b?mode=rw&x#y%41é"
    folder.mkdir()
    path = folder / "cable.sqlite3"

    with SqliteTable(path).create() as table:

        async def test(recorder: Recorder, poller: Poller) -> None:
            table.write("chat", 1)
            await recorder.expect(("message", "chat", b"1"))

        run(test, path, "chat")
    assert os.listdir(tmp_path) == [folder.name]


# What it costs


def test_without_subscribers_nothing_is_asked(
    path: Path, table: SqliteTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look = SqliteReader.look

    async def count(self: SqliteReader, hashes: list[int] | None, above: int | None) -> Look:
        nonlocal looks
        looks += 1
        return await look(self, hashes, above)

    monkeypatch.setattr(SqliteReader, "look", count)

    async def test(recorder: Recorder, poller: Poller) -> None:
        await problem(poller, None)
        poller.subscribe("chat")
        await recorder.expect(("confirmed", "chat"))
        poller.unsubscribe("chat")
        await asyncio.sleep(0.1)  # one more may be under way
        before = looks
        await asyncio.sleep(0.2)
        assert looks == before

    run(test, path, interval=0.01)


def test_after_a_while_without_subscribers_the_file_is_closed(
    path: Path, table: SqliteTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "IDLE_SECONDS", 0.01)
    closed = asyncio.Event()
    close = SqliteReader.close

    async def tell(self: SqliteReader) -> None:
        await close(self)
        closed.set()

    monkeypatch.setattr(SqliteReader, "close", tell)

    async def test(recorder: Recorder, poller: Poller) -> None:
        for number in range(3):
            await asyncio.wait_for(closed.wait(), PATIENCE)
            poller.subscribe("chat")
            await recorder.expect(("confirmed", "chat"))
            table.write("chat", number)
            await recorder.expect(("message", "chat", b"%d" % number))
            poller.unsubscribe("chat")
            closed.clear()
        assert poller.problem is None

    run(test, path)


def test_a_hub_with_too_much_to_send_is_waited_for(path: Path, table: SqliteTable) -> None:
    async def test(recorder: Recorder, poller: Poller) -> None:
        recorder.congested = True
        table.execute("BEGIN")
        table.write("chat", *range(PORTION_ROWS + 1))
        table.execute("COMMIT")
        await recorder.until(lambda: len(recorder.told) == PORTION_ROWS)
        await asyncio.sleep(CONGESTED_SECONDS * 3)
        assert len(recorder.told) == PORTION_ROWS
        recorder.congested = False
        await recorder.until(lambda: len(recorder.told) == PORTION_ROWS + 1)

    run(test, path, "chat")
