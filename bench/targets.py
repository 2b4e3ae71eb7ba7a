"""What fastcable asks of itself, held against a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.results import (
    ACTION_CABLE,
    FASTCABLE,
    FASTCABLE2,
    FASTCABLE_ACTION_CABLE,
    Results,
    case_name,
    case_words,
)

KB, MB = 1024, 1024 * 1024
YARDSTICKS = ("floor", "floor2", "uvloop", "httptools")
"""Servers that nobody would run: they check nothing and limit nothing."""
NOT_CLEARLY = 1.10
"""A server whose figure is within this of another's is not clearly above it."""


@dataclass(frozen=True)
class Target:
    what: str
    measured: float
    limit: float
    unit: str
    least: bool = False
    """The limit is the least that is asked for, not the most."""
    remark: str = ""

    @property
    def met(self) -> bool:
        return self.measured >= self.limit if self.least else self.measured <= self.limit


def targets(results: Results) -> Iterator[Target]:
    """Those that the run has figures for."""
    yield from _memory(results)
    yield from _fanout(results)
    yield from _threads(results)
    yield from _others(results)


def largest(results: Results, *others: str) -> str:
    """The case with the most connections of those in which the memory of fastcable and of these others was measured."""
    cases = [
        case for case in results.cases("idle")
        if all(results.figure("idle", case, key, "rss") for key in (FASTCABLE, *others))
    ]
    return max(cases, key=lambda case: int(case_words(case)["connections"]), default="")


def _memory(results: Results) -> Iterator[Target]:
    idle = results.median("idle", case_name(connections=0), FASTCABLE, "rss")
    if idle is not None:
        yield Target("resident memory of the idle server", idle / MB, 26, "MB")
    case = largest(results)
    each = results.median("idle", case, FASTCABLE, "rss")
    if each is None:
        return
    count = f"{int(case_words(case)['connections']):,}"
    yield Target(f"resident memory per connection, of {count}", each / KB, 1.5, "KB")
    if bun := results.median("idle", case, "bun", "rss"):
        yield Target("… against Bun's", each / bun, 1, "×")
    case = largest(results, ACTION_CABLE)
    if action_cable := results.ratio("idle", case, ACTION_CABLE, FASTCABLE, "rss"):
        count = f"{int(case_words(case)['connections']):,}"
        yield Target(f"… Action Cable's against it, of {count}", action_cable.median, 8, "×", least=True)
    case = largest(results, FASTCABLE_ACTION_CABLE)
    if spoken := results.ratio("idle", case, FASTCABLE_ACTION_CABLE, FASTCABLE, "rss"):
        count = f"{int(case_words(case)['connections']):,}"
        yield Target(f"… that of {count} with Action Cable's protocol against it", spoken.median, 1.10, "×")


def _fanout(results: Results) -> Iterator[Target]:
    for count in (1000, 5000):
        case = case_name(subscribers=count, size=100)
        where = f"{count:,} subscribers, 100 B"
        if cpu := results.to_floor("fanout", case, FASTCABLE, "cpu"):
            yield Target(f"CPU per delivery against the floor's, {where}", cpu.median, 1.10, "×")
        others = [
            (ratio.median, peer.name)
            for peer in results.measured("fanout")
            if peer.key not in (FASTCABLE, FASTCABLE2, FASTCABLE_ACTION_CABLE, *YARDSTICKS)
            and (ratio := results.ratio("fanout", case, FASTCABLE, peer.key, "cpu"))
        ]
        if others:
            worst, name = max(others)
            yield Target("… against that of the best of the others", worst, NOT_CLEARLY, "×", remark=name)
        if action_cable := results.ratio("fanout", case, ACTION_CABLE, FASTCABLE, "cpu"):
            yield Target("… Action Cable's against it", action_cable.median, 10, "×", least=True)
        if spoken := results.ratio("fanout", case, FASTCABLE_ACTION_CABLE, FASTCABLE, "cpu"):
            yield Target("… that with Action Cable's protocol against it", spoken.median, 1.10, "×")
        if last := results.to_floor("fanout", case, FASTCABLE, "last_p99"):
            yield Target(f"last subscriber's p99 against the floor's, {where}", last.median, 1.15, "×")


def _threads(results: Results) -> Iterator[Target]:
    """On two cores, which the load client shares where there are no more."""
    cases = [case for case in results.cases("fanout") if case_words(case)["size"] == "100"]
    case = max(cases, key=lambda case: int(case_words(case)["subscribers"]), default="")
    if last := results.to_floor("fanout", case, FASTCABLE2, "last_p50"):
        count = f"{int(case_words(case)['subscribers']):,}"
        yield Target(f"last of {count} subscribers, p50, on two cores against the floor on one", last.median, 0.75, "×")


def _others(results: Results) -> Iterator[Target]:
    if ratio := results.ratio("instructions", "", FASTCABLE, "uvloop", "deliver"):
        what = "instructions per delivery in user mode against a plain `transport.write` loop's"
        yield Target(what, ratio.median, 0.5, "×")
    for case in results.cases("burst"):
        if (share := results.median("burst", case, FASTCABLE, "share")) is not None:
            yield Target("CPU per delivery in a burst against its own of single messages", share, 0.35, "×")
    single = case_name(batch=1)
    if ratio := results.ratio("posts", single, FASTCABLE, "gorilla", "rate"):
        yield Target("posts/s against the Go handler's", ratio.median, 2, "×", least=True)
    if ratio := results.ratio("posts", single, FASTCABLE, "httptools", "rate"):
        yield Target("posts/s against a bare httptools protocol's", ratio.median, 0.7, "×", least=True)
    for case in results.cases("storm"):
        if ratio := results.ratio("storm", case, FASTCABLE, "uvloop", "cpu"):
            yield Target("CPU per connect and subscribe against a bare uvloop protocol's", ratio.median, 1.3, "×")
    for case in results.cases("pings"):
        if cpu := results.to_floor("pings", case, FASTCABLE_ACTION_CABLE, "cpu"):
            count = f"{int(case_words(case)['connections']):,}"
            what = f"CPU per ping to {count} idle connections of Action Cable's protocol against the floor's per frame"
            yield Target(what, cpu.median, 1.2, "×")
    for case in results.cases("fairness"):
        if (p99 := results.median("fairness", case, FASTCABLE, "each_p99")) is not None:
            yield Target("p99 of a small stream beside a large one", p99 * 1000, 50, "ms")
    for case in results.cases("slow"):
        if (host := results.median("slow", case, FASTCABLE, "host")) is not None:
            yield Target("memory of a reader that stalled, the kernel's at both ends included", host / KB, 128, "KB")


