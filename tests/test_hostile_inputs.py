"""docs/hostile-inputs.md: every test that it names exists; and what is shown nowhere else."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pytest

from tests.harness import PATIENCE, Client, Serve, post

ROOT = Path(__file__).parent.parent
MANUAL = (ROOT / "docs/hostile-inputs.md").read_text()
CASES = {"H": 28, "B": 23, "F": 33, "C": 6, "P": 24, "A": 20, "R": 15, "O": 18}
"""How many each part of the catalogue has."""
REFERENCE = re.compile(r"`(test_\w+)::(\w+)(?:\[(.+?)\])?`")


Reference = tuple[str, str, str]
"""The file, the function and the parameters, which end with "…" if they are the beginning of several tests', or ""."""


def rows() -> list[str]:
    return re.findall(r"^\| ([HBFCPARO]\d+) \|", MANUAL, re.MULTILINE)


def test_every_named_test_exists(request: pytest.FixtureRequest) -> None:
    """Among those of this run, or else of the files, because to collect them takes some seconds."""
    references = set(REFERENCE.findall(MANUAL))
    missing = references - named([item.nodeid for item in request.session.items], references)
    if missing:
        files = sorted({f"tests/{file}.py" for file, _, _ in missing})
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE * 5)
        assert done.returncode == 0, done.stdout[-2000:]
        missing -= named(done.stdout.splitlines(), missing)
    assert sorted(missing) == []


def named(nodes: Iterable[str], references: set[Reference]) -> set[Reference]:
    """The references that name one of the tests with these ids."""
    ids = {re.sub(r"^tests/(\w+)\.py::(?:Test\w+::)?", r"\1::", node) for node in nodes}
    functions = {each.partition("[")[0] for each in ids}
    found = set()
    for file, function, parameters in references:
        name = f"{file}::{function}"
        if (
            (not parameters and name in functions)
            or f"{name}[{parameters}]" in ids
            or (parameters.endswith("…") and any(each.startswith(f"{name}[{parameters[:-1]}") for each in ids))
        ):
            found.add((file, function, parameters))
    return found


def test_a_name_that_is_no_tests_is_noticed() -> None:
    ids = ["tests/test_a.py::test_b", "tests/test_a.py::TestC::test_d[F1-x]", "tests/test_a.py::TestC::test_d[F2]"]
    right = {("test_a", "test_b", ""), *(("test_a", "test_d", parameters) for parameters in ("", "F2", "F1…"))}
    wrong = {("test_a", "test_c", ""), ("test_b", "test_b", ""), ("test_a", "test_d", "F1")}
    wrong.add(("test_a", "test_d", "F3…"))
    assert named(ids, right | wrong) == right


def test_every_reference_has_the_form_that_is_looked_for() -> None:
    assert len(re.findall(r"test_\w+::", MANUAL)) == len(REFERENCE.findall(MANUAL))


def test_cases_have_their_numbers_and_stand_in_order() -> None:
    everything = list(chain.from_iterable([f"{part}{i + 1}" for i in range(count)] for part, count in CASES.items()))
    assert rows() == [case for case in everything if case in set(rows())]


def test_who_has_no_test_says_why() -> None:
    lines = [line for line in MANUAL.splitlines() if re.match(r"\| [HBFCPARO]\d+ \|", line)]
    without = [line.split("|")[1].strip() for line in lines if not REFERENCE.search(line) and "there is no" not in line]
    assert without == []


# --- shown here -------------------------------------------------------------------------------------------------------


def test_b23_pings_leave_in_a_storm_of_broadcasts(serve: Serve) -> None:
    server = serve(ping_interval=0.2, max_pending_messages=0, max_pending_bytes=0)
    over = threading.Event()

    def storm() -> None:
        while not over.is_set():
            assert post(server.port, [{"stream": "s", "data": "x" * 1000}] * 100)[0] == 200

    poster = threading.Thread(target=storm)
    with server.connect("s") as client:
        poster.start()
        try:
            pings = messages = 0
            while pings < 5:
                _, text = client.read_frame()
                pings += text == b'{"type":"ping"}'
                messages += text.startswith(b'{"type":"message"')
        finally:
            over.set()
            poster.join()
    assert messages > 5


def test_p12_r10_streams_come_and_go_without_a_trace(serve: Serve) -> None:
    server = serve(ping_interval=0)
    with Client(server.port) as client:
        client.upgrade()

        def ask() -> None:
            for number in range(10_000):
                client.command(type="subscribe", stream=f"stream {number}")
                client.command(type="unsubscribe", stream=f"stream {number}")

        asker = threading.Thread(target=ask)
        asker.start()
        for number in range(10_000):
            client.expect({"type": "subscribed", "stream": f"stream {number}"})
        asker.join()
        server.wait_until(lambda: not server.server.hub.streams)
        client.subscribe("another")
