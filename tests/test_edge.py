"""A small server at the edge of the memory that it may have."""

from __future__ import annotations

from bench.machine import this_machine
from tests.edge import MB, Edge, Sample, measure, render


def test_past_the_limit_new_clients_are_refused_and_the_others_stay() -> None:
    said: list[str] = []
    found = Edge(this_machine(), "", connections=100, stalled=12, limit=64 * MB, size=40_000)
    measure(found, 0, said.append, "--send-buffer", "1MiB", "--max-pending-messages", "4")
    assert found.peak.total < 0.85 * found.limit
    assert found.connected.kernel < found.peak.kernel < found.full.kernel <= found.full.both
    assert found.back.kernel < found.peak.kernel
    assert found.stalled < found.more < found.connections
    assert found.refused > 0
    assert found.dropped >= found.stalled
    page = render(found)
    assert page.startswith("# 100 connections in 64 MB")
    assert f"| {found.more} do not read: no new clients are taken, at most |" in page
    assert len(said) == 4


def test_a_sample_is_what_the_process_and_its_sockets_take() -> None:
    assert Sample(rss=3, kernel=2, both=4).total == 5
