"""The measurements of many connections and of several workers and servers, in small: what they count is right, and what
they ask of the server (nobody lost, nothing twice) holds."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from bench import scale, scaling
from bench.holder import SUBSCRIBED, TEXT, Client, Holder
from bench.machine import this_machine
from bench.progress import Progress
from bench.scale import Scale
from bench.scaling import NODES, ONE, WORKERS, Plan, Scaling
from tests.redis_server import free_port

CONNECTIONS = 300


@pytest.fixture
def progress() -> Progress:
    progress = Progress(io.StringIO())
    progress.expect([1.0] * 10)
    return progress


@pytest.fixture
def holder() -> Holder:
    return Holder(1, 1)


def test_all_clients_hear_all_and_come_back_from_a_restart(progress: Progress) -> None:
    found = Scale(this_machine(), "", CONNECTIONS, workers=2, holders=2, reload_drain=1.0, idle_seconds=0.0)
    scale.measure(found, free_port(), progress)
    assert [broadcast.subscribers for broadcast in found.broadcasts] == [CONNECTIONS] * 4
    assert len(found.shares) == 2
    assert sum(found.shares) == CONNECTIONS
    assert found.reload is not None
    assert sum(found.reload.shares) == CONNECTIONS
    assert found.reload.connects >= CONNECTIONS
    assert sum(found.reload.ended.values()) == found.reload.connects
    page = scale.render(found)
    assert page.startswith("# 300 connections on one machine")
    assert "nan" not in page


def test_a_clients_messages_are_counted_once_and_told_apart(holder: Holder) -> None:
    client = Client()
    client.state = SUBSCRIBED
    for number in (1, 1, 3, 2):
        holder._take(client, TEXT, b'{"type":"message","stream":"all","data":%d}' % number)
    assert holder.state.repeated == 2
    assert holder._got == {1: 1, 3: 1}


@pytest.mark.parametrize(
    ("opcode", "payload"),
    [
        pytest.param(TEXT, b'{"type":"gap","stream":"all","missed":1}', id="a gap"),
        pytest.param(TEXT, b'{"type":"error","reason":"no"}', id="an error"),
        pytest.param(TEXT, b'{"type":"subscribed","stream":"all"}', id="a second confirmation"),
    ],
)
def test_what_is_not_to_be_expected_is_counted(holder: Holder, opcode: int, payload: bytes) -> None:
    client = Client()
    client.state = SUBSCRIBED
    holder._take(client, opcode, payload)
    assert holder.state.strange == 1


def test_workers_and_servers_on_redis_are_measured(progress: Progress) -> None:
    found = Scaling(this_machine(), "", Plan(rounds=1, seconds=0.05, subscribers=20))

    def ports() -> Iterator[int]:
        while True:
            yield free_port()

    scaling.Run(found, ports(), progress).measure()
    for row in WORKERS:
        assert found.median("posts 1", row, "rate") > 0
        assert (found.median("posts 1", row, "supervisor") > 0) == (WORKERS[row] > 1)
        assert found.median("fanout", row, "redis") > 0 or "Redis" not in row
    for batch in (1, 100):
        written = [found.median(f"bus {batch}", count, "written") for count in NODES]
        assert written == sorted(written)
        assert written[2] > 3 * written[0]
    page = scaling.render(found)
    assert f"| {ONE} |" in page
    assert "nan" not in page
