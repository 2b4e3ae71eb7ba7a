"""The log: two forms, peers' text made harmless, and a stderr that is closed or full."""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import orjson
import pytest

from fastcable import log as logs
from fastcable.log import Throttle, configure, escape, log


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The root logger is pytest's before and after."""
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    flags = logging.logThreads, logging.logProcesses, logging.logMultiprocessing
    yield
    root.handlers[:], logging.raiseExceptions = handlers, raising
    root.setLevel(level)
    log.setLevel(logging.NOTSET)
    logging.logThreads, logging.logProcesses, logging.logMultiprocessing = flags


def logged(form: str, *args: object, **kwargs: object) -> str:
    stream = io.StringIO()
    configure("info", form, stream)
    log.warning(*args, **kwargs)  # type: ignore[arg-type]
    return stream.getvalue()


def test_lines_of_a_worker_name_it() -> None:
    for form, part in (("text", " [worker 42] hello\n"), ("json", '"message":"hello","worker":42}\n')):
        stream = io.StringIO()
        configure("info", form, stream, worker=42)
        log.warning("hello")
        assert stream.getvalue().endswith(part)


def test_text_line_has_utc_time_level_message_and_fields() -> None:
    line = logged("text", "refused %s", "x", extra={"peer": "127.0.0.1", "status": 503})
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z WARNING refused x peer=127\.0\.0\.1 status=503\n", line)


def test_json_line_is_one_object_with_iso_time_and_fields() -> None:
    line = logged("json", "refused %s", "x\ny", extra={"peer": "127.0.0.1", "status": 503, "time": "not this"})
    assert line.count("\n") == 1
    entry = orjson.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert entry == {"level": "warning", "message": "refused x\ny", "peer": "127.0.0.1", "status": 503}


@pytest.mark.parametrize("value", ["\ud800", 2**70, {1: 2}, object()], ids=["surrogate", "big", "key", "object"])
def test_json_line_survives_fields_that_are_not_json(value: object) -> None:
    assert orjson.loads(logged("json", "m", extra={"odd": value}))["message"] == "m"


def test_a_message_is_one_line_of_text() -> None:
    assert logged("text", "a\nb").endswith(" WARNING a\\nb\n")


@pytest.mark.parametrize("form", ["text", "json"])
def test_exceptions_are_logged_with_their_traceback(form: str) -> None:
    stream = io.StringIO()
    configure("info", form, stream)
    try:
        raise LookupError("gone")
    except LookupError:
        log.exception("failed")
    assert "LookupError: gone" in stream.getvalue()


def test_utc_at_a_known_second() -> None:
    assert logs.utc(1_000_000_000.9996, "T") == "2001-09-09T01:46:40.999Z"


@pytest.mark.parametrize(("level", "expected"), [("debug", "diwe"), ("info", "iwe"), ("warning", "we"), ("error", "e")])
def test_level(level: str, expected: str) -> None:
    stream = io.StringIO()
    configure(level, "json", stream)
    for letter, number in (("d", 10), ("i", 20), ("w", 30), ("e", 40)):
        log.log(number, letter)
    assert "".join(orjson.loads(line)["message"] for line in stream.getvalue().splitlines()) == expected


def test_warnings_of_other_loggers_are_in_the_same_form() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    logging.getLogger("asyncio").info("not shown")
    logging.getLogger("asyncio").warning("shown")
    assert orjson.loads(stream.getvalue())["message"] == "shown"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ü €", "plain ü €"),
        (b"caf\xc3\xa9", "café"),
        ("a\r\nb\t\x1b[31m\x00", "a\\r\\nb\\t\\x1b[31m\\x00"),
        ("\u202eevil\u2028", "\\u202eevil\\u2028"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("\ud800", "\\ud800"),
        ("", ""),
    ],
    ids=["printable", "utf-8", "control", "bidi", "bad utf-8", "surrogate", "empty"],
)
def test_escape(text: bytes | str, expected: str) -> None:
    assert escape(text) == expected


@pytest.mark.parametrize("make", [lambda n: "é" * n, lambda n: ("é" * n).encode()], ids=["str", "bytes"])
@pytest.mark.parametrize(("length", "expected"), [(9, "é" * 9), (10, "é" * 10), (11, "é" * 10 + "…")])
def test_escape_cuts_at_the_limit(make, length: int, expected: str) -> None:  # type: ignore[no-untyped-def]
    assert escape(make(length), limit=10) == expected


def test_escape_does_not_cut_an_escape() -> None:
    assert escape("\x00" * 100, limit=10) == "\\x00\\x00…"


def test_throttle_logs_the_first_and_counts_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    throttle = Throttle(10, clock=lambda: now[0])
    for at in (100, 100, 109.9, 110, 125):
        now[0] = at
        throttle.log(logging.WARNING, "dropped %d", int(at))
    assert caplog.messages == ["dropped 100", "dropped 110 (2 more in the last 10 s)", "dropped 125"]


def test_a_full_pipe_never_blocks_and_the_loss_is_told() -> None:
    reader, writer = os.pipe()
    try:
        with open(writer, "w", closefd=False) as stream:
            configure("info", "text", stream)
            handler = logging.getLogger().handlers[0]
            assert isinstance(handler, logs.DescriptorHandler)
            while not handler.lost:
                log.warning("x" * 1000)
            log.warning("y" * 1000)
            text = os.read(reader, 1 << 20).decode()
            log.warning("x" * 10_000)
            log.warning("last")
            assert handler.lost == 0
            text += os.read(reader, 1 << 20).decode()
        assert sum(map(int, re.findall(r" (\d+) log lines lost: stderr was full", text))) == 2
        assert "x" * 10_000 + "\n" in text
        assert text.endswith("last\n")
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("promised", [True, False], ids=["a page is promised", "none is"])
def test_what_another_process_has_filled_meanwhile_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, promised: bool
) -> None:
    """Workers share stderr: each may have been promised the last page of a pipe."""
    reader, writer = os.pipe()
    with open(reader), open(writer, "w") as stream:
        configure("info", "text", stream)
        handler = logging.getLogger().handlers[0]
        assert isinstance(handler, logs.DescriptorHandler)
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)
        monkeypatch.setattr(handler, "_room", Promise(promised))
        log.warning("lost")
        assert handler.lost == 1


class Promise:
    """Says of a descriptor whether it can be written to."""

    def __init__(self, room: bool) -> None:
        self.poll = lambda _: [(0, 0)] if room else []


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM])
def test_where_the_kernel_cannot_write_at_once_it_is_asked_first(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwritev", refuse)
    reader, writer = os.pipe()
    with open(reader), open(writer, "w") as stream:
        configure("info", "text", stream)
        while not lost():
            log.warning("x" * 1000)
        os.read(reader, 1 << 20)
        log.warning("last")
        assert os.read(reader, 1 << 20).endswith(b"WARNING last\n")


def test_a_line_that_was_torn_is_ended_before_the_next() -> None:
    reader, writer = os.pipe()
    with open(reader), open(writer, "w") as stream:
        configure("info", "json", stream)
        while not lost():
            log.warning("x" * 10_000)
        text = os.read(reader, 1 << 20).decode()
        log.warning("next")
        text += os.read(reader, 1 << 20).decode()
    *_, torn, told, last = text.splitlines()
    assert torn.endswith("xxx")
    assert [orjson.loads(line)["message"] for line in (told, last)] == ["1 log lines lost: stderr was full", "next"]


def lost() -> int:
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, logs.DescriptorHandler)
    return handler.lost


def test_a_pipe_without_reader_is_ignored() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        configure("info", "text", stream)
        log.warning("nobody reads this")


def test_a_process_started_without_stderr_does_not_write_to_what_got_its_descriptor(tmp_path: object) -> None:
    program = (
        "import sys, os; assert sys.stderr is None\n"
        f"victim = open({str(tmp_path)!r} + '/victim', 'w'); assert victim.fileno() == 2\n"
        "from fastcable.log import configure, log\n"
        "configure('info', 'text'); log.error('hello'); sys.exit(os.fstat(2).st_size)"
    )
    shell = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, program], timeout=20)
    assert shell.returncode == 0
