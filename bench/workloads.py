"""The workloads: each takes a started server and yields what it measured, in seconds, bytes and counts.

Fan-outs are measured in pairs with the floor: both servers are up with the same number of subscribers, and short
segments alternate between them, so that what the machine does meanwhile to the one it does to the other. A generator
that fails has yielded what it measured before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from bench.instructions import measure
from bench.load import Load, LoadError
from bench.peers.peer import Peer
from bench.process import Failed, Server, Usage, load_core, socket_memory, socket_objects
from bench.results import FASTCABLE_ACTION_CABLE, case_name

MICRO = 1e-6
PATIENCE = 300
"""Seconds for many connections: the slowest servers need milliseconds for each."""
FAULTS = ("duplicates", "reordered")
PING_SECONDS, PING_SLOTS = 3.0, 6
"""How often Action Cable's clients are pinged, and over how many moments fastcable spreads that."""
PING_SIZE = 36
"""Bytes of data, the fewest that a message can have: a ping has 37 in all."""


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    rounds: int
    connections: tuple[int, ...]
    """At which memory is measured."""
    fanouts: tuple[tuple[int, int, int, float], ...]
    """Subscribers, bytes, pairs of segments, seconds of each; the number of subscribers never falls."""
    distribution: tuple[int, int]
    """Of which fan-out (subscribers, bytes) the whole distribution of latencies is kept."""
    heartbeat: tuple[int, float]
    """Connections of each server, and seconds for which they are watched."""
    pings: tuple[int, int, float]
    """Connections of each of the two, segments, seconds of each."""
    burst: int
    streams: tuple[int, int]
    """Connections, and the streams that they share."""
    storm: int
    slow: tuple[int, int, float]
    """Connections, messages, seconds at most; the seconds stay below the time after which servers cut a reader off."""
    fairness: tuple[int, float]
    """Subscribers of the large stream, seconds."""
    seconds: float
    """Of posting."""


def plan(quick: bool, rounds: int | None, most: int) -> Plan:
    """What is done in a quick or a full run, with at most that many connections to one server."""

    def cap(count: int) -> int:
        return min(count, most)

    if quick:
        return Plan(
            rounds=rounds or 1,
            connections=(1000, cap(5000)),
            fanouts=((1000, 100, rounds or 3, 0.15), (cap(5000), 100, rounds or 3, 0.15)),
            distribution=(cap(5000), 100),
            heartbeat=(1000, 3.0),
            pings=(cap(5000), 1, 6.0),
            burst=1000,
            streams=(2000, 1000),
            storm=cap(2000),
            slow=(200, 400, 3.0),
            fairness=(cap(5000), 1.0),
            seconds=0.3,
        )
    repeats = rounds or 3
    fanouts = [
        (cap(count), size, *((rounds or 5, 0.8) if size == 100 and count in (1000, 5000) else (repeats, 0.2)))
        for count in (100, 1000, 5000, 19000)
        for size in (100, 1024, 16384)
    ]
    return Plan(
        rounds=repeats,
        connections=(1000, cap(5000), cap(19000)),
        fanouts=tuple(fanouts),
        distribution=(cap(5000), 100),
        heartbeat=(cap(2000), 60.0),
        pings=(cap(19000), repeats, 15.0),
        burst=1000,
        streams=(cap(10000), 5000),
        storm=cap(10000),
        slow=(500, 1000, 5.0),
        fairness=(cap(19000) - 1, 3.0),
        seconds=1.5,
    )


@dataclass(frozen=True)
class Sample:
    case: str
    figure: str
    value: float
    floor: float | None = None
    """The floor's, of the same pair."""


@dataclass(frozen=True)
class Distribution:
    """Deliveries by latency: (seconds up to which, how many)."""

    case: str
    buckets: list[tuple[float, int]]
    floor: list[tuple[float, int]] | None = None


class Rig:
    """A server and the load client that speaks to it, as a context manager."""

    def __init__(self, peer: Peer, port: int, on_progress: Callable[[str], None]) -> None:
        self.peer = peer
        self.server = Server(peer, port)
        self.faults = dict.fromkeys(FAULTS, 0)
        self._on_progress = on_progress
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.server)
            self.load = stack.enter_context(
                Load(self.server.target, core=load_core(), on_progress=self._progress)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def do(self, verb: str, **words: Any) -> dict[str, Any]:
        """Have the load client do something. Raises `LoadError`, also when something was lost, for then there are no
        figures; or `Failed` when the server is gone."""
        try:
            answer = self.load.command(verb, **words)
        except LoadError:
            self.server.check()
            raise
        for fault in FAULTS:
            self.faults[fault] += answer.get(fault, 0)
        if lost := answer.get("lost"):
            told = f", of which it told {answer['missed']:,}" if answer.get("missed") else ""
            raise LoadError(f"{verb}: {lost:,} deliveries lost{told}")
        return answer

    def measured(self, verb: str, **words: Any) -> tuple[dict[str, Any], Usage]:
        """The answer, and the CPU time that it cost the server."""
        before = self.server.usage()
        answer = self.do(verb, **words)
        return answer, self.server.usage() - before

    def settle(self) -> None:
        """Wait until the server has nothing to do, for at most 3 s."""
        before = self.server.usage().cpu
        for _ in range(15):
            time.sleep(0.2)
            now = self.server.usage().cpu
            if now - before < 0.002:
                return
            before = now

    def ports(self) -> list[int]:
        return [self.server.target.port]

    def _progress(self, verb: str, done: int, of: int) -> None:
        self._on_progress(f"{verb} {done:,} of {of:,}")


def idle(plan: Plan, rig: Rig) -> Iterator[Sample]:
    """Memory without connections, and of each subscribed connection."""
    objects = socket_objects()
    rig.settle()
    base = rig.server.memory()
    yield Sample("connections=0", "rss", base.rss)
    yield Sample("connections=0", "pss", base.pss)
    yield Sample("connections=0", "private_dirty", base.private_dirty)
    opened = 0
    for count in plan.connections:
        if count > (rig.peer.most or count):
            break
        rig.do("connect", group="idle", count=count - opened, timeout=PATIENCE)
        opened = count
        rig.settle()
        now = rig.server.memory()
        sockets = socket_memory(rig.ports())
        case = case_name(connections=count)
        yield Sample(case, "rss", (now.rss - base.rss) / count)
        yield Sample(case, "pss", (now.pss - base.pss) / count)
        yield Sample(case, "private_dirty", (now.private_dirty - base.private_dirty) / count)
        yield Sample(case, "buffers", sockets / count)
        yield Sample(case, "objects", objects)
        yield Sample(case, "host", (now.pss - base.pss + sockets) / count + objects)


def heartbeat(plan: Plan, rigs: list[Rig]) -> Iterator[tuple[Rig, Sample | Exception]]:
    """CPU of connections that do nothing, as a share of one core: all servers side by side, for a minute of each is
    long to wait and hardly any of it is work. Yields the error of one that fails, and leaves it out."""
    count, seconds = plan.heartbeat
    started = []
    for rig in rigs:
        try:
            rig.do("connect", group="beat", count=count)
            rig.settle()
        except (LoadError, Failed) as error:
            yield rig, error
        else:
            started.append((rig, time.monotonic(), rig.server.usage().cpu))
    time.sleep(seconds)
    for rig, start, cpu in started:
        try:
            share = (rig.server.usage().cpu - cpu) / (time.monotonic() - start)
            rig.do("stats")  # fails when a connection was closed meanwhile
        except (LoadError, Failed) as error:
            yield rig, error
        else:
            yield rig, Sample(case_name(connections=count), "cpu", share)


def pings(plan: Plan, rig: Rig, floor: Rig) -> Iterator[Sample]:
    """Connections on which nothing happens but a ping every 3 s, beside as many of the floor's that are sent frames as
    small in the same pattern: a sixth of them each half second. Both are up at once, so the time is that of both."""
    count, segments, seconds = plan.pings
    for one in (floor, rig):
        one.do("connect", group="ping", count=count, streams=PING_SLOTS, timeout=PATIENCE)
    every = round(1000 * PING_SECONDS / PING_SLOTS)
    floor.do("probe", group="ping", size=PING_SIZE, every=every, streams=PING_SLOTS)
    time.sleep(PING_SECONDS)  # until all are in their places
    case = case_name(connections=count)
    for _ in range(segments):
        theirs, mine = _Watch(floor, "messages"), _Watch(rig, "pings")
        time.sleep(seconds)
        for figure, value, least in zip(_Watch.FIGURES, mine.figures(), theirs.figures(), strict=True):
            yield Sample(case, figure, value, least)
    floor.do("probe_stop")


class _Watch:
    """What a server spends from now on for each of the frames of one kind that it sends."""

    FIGURES = ("cpu", "rate", "core")

    def __init__(self, rig: Rig, kind: str) -> None:
        self._rig, self._kind = rig, kind
        self._start = self._now()

    def figures(self) -> tuple[float, float, float]:
        """CPU time per frame, frames per second, share of a core. Raises `LoadError` where there were no frames."""
        then, cpu, frames = (now - start for now, start in zip(self._now(), self._start, strict=True))
        if not frames:
            raise LoadError(f"no {self._kind} came")
        return cpu / frames, frames / then, cpu / then

    def _now(self) -> tuple[float, float, float]:
        stats = self._rig.do("stats")  # fails when a connection was closed meanwhile
        return time.monotonic(), self._rig.server.usage().cpu, stats[self._kind]


def fanout(plan: Plan, rig: Rig, floor: Rig) -> Iterator[Sample | Distribution]:
    """One broadcast to many, over and over, the next when the last subscriber has the one before."""
    opened = 0
    for count, size, pairs, seconds in plan.fanouts:
        if count > (rig.peer.most or count) or count * size > (rig.peer.most_sent or count * size):
            continue
        if count > opened:
            for one in (floor, rig):
                one.do("connect", group="fan", count=count - opened, timeout=PATIENCE)
                one.settle()
            opened = count
        case = case_name(subscribers=count, size=size)
        histogram = (count, size) == plan.distribution
        for _ in range(pairs):
            words = {"group": "fan", "size": size, "seconds": seconds, "min": 1, "histogram": int(histogram)}
            theirs, their_usage = floor.measured("fanout", **words)
            mine, my_usage = rig.measured("fanout", **words)
            their_figures = _fanout_figures(theirs, their_usage)
            for figure, value in _fanout_figures(mine, my_usage).items():
                yield Sample(case, figure, value, their_figures[figure])
            if histogram:
                yield Distribution(case, _buckets(mine["each"]), _buckets(theirs["each"]))


def _fanout_figures(answer: dict[str, Any], usage: Usage) -> dict[str, float]:
    deliveries = answer["deliveries"]
    return {
        "cpu": usage.cpu / deliveries,
        "user": usage.user / deliveries,
        "system": usage.system / deliveries,
        "rate": deliveries / answer["seconds"],
        "last_p50": answer["last"]["p50"] * MICRO,
        "last_p99": answer["last"]["p99"] * MICRO,
        "each_p50": answer["each"]["p50"] * MICRO,
        "each_p99": answer["each"]["p99"] * MICRO,
    }


def burst(plan: Plan, rig: Rig) -> Iterator[Sample]:
    """A hundred broadcasts posted back to back, beside single ones to the same subscribers."""
    rig.do("connect", group="burst", count=plan.burst)
    rig.settle()
    case = case_name(subscribers=plan.burst, messages=100)
    single, single_usage = rig.measured("fanout", group="burst", size=100, seconds=min(plan.seconds, 0.5))
    joined, joined_usage = rig.measured(
        "burst", group="burst", size=100, messages=100, connections=rig.peer.burst_connections)
    alone, together = single_usage.cpu / single["deliveries"], joined_usage.cpu / joined["deliveries"]
    yield Sample(case, "cpu", together)
    yield Sample(case, "share", together / alone)
    yield Sample(case, "rate", joined["deliveries"] / joined["seconds"])
    yield Sample(case, "seconds", joined["last"]["max"] * MICRO)


def streams(plan: Plan, rig: Rig) -> Iterator[Sample]:
    """Many small streams, posted to at random."""
    connections, count = plan.streams
    rig.do("connect", group="many", count=connections, streams=count)
    rig.settle()
    answer, usage = rig.measured("random", group="many", streams=count, size=100, seconds=plan.seconds)
    case = case_name(connections=connections, streams=count)
    yield Sample(case, "rate", answer["posts"] / answer["seconds"])
    yield Sample(case, "cpu", usage.cpu / answer["posts"])
    yield Sample(case, "each_p50", answer["each"]["p50"] * MICRO)
    yield Sample(case, "each_p99", answer["each"]["p99"] * MICRO)


def posts(plan: Plan, rig: Rig) -> Iterator[Sample]:
    """As many posts as are answered: one by one on 16 connections, then a hundred in each on two."""
    rig.do("connect", group="posts", count=1)
    for batch in (0, 100):
        if batch and "batch" in rig.peer.skips:
            continue
        # Few enough at a time that no server has a reason to drop any of them.
        connections = 2 if batch else 16
        answer, usage = rig.measured(
            "posts", group="posts", size=100, seconds=plan.seconds, batch=batch, connections=connections
        )
        case = case_name(batch=batch or 1)
        yield Sample(case, "rate", answer["messages"] / answer["seconds"])
        yield Sample(case, "cpu", usage.cpu / answer["messages"])
        yield Sample(case, "answer_p50", answer["answer"]["p50"] * MICRO)
        yield Sample(case, "answer_p99", answer["answer"]["p99"] * MICRO)


def storm(plan: Plan, rig: Rig) -> Iterator[Sample]:
    """Everybody connects and subscribes at once, while somebody who is there already is sent to."""
    rig.do("connect", group="present", count=1)
    rig.settle()
    rig.do("probe", group="present", size=100, every=20)
    answer, usage = rig.measured("connect", group="storm", count=plan.storm, window=plan.storm, timeout=PATIENCE)
    present = rig.do("probe_stop")
    case = case_name(connections=plan.storm)
    yield Sample(case, "cpu", usage.cpu / plan.storm)
    yield Sample(case, "seconds", answer["seconds"])
    yield Sample(case, "present_p50", present["each"]["p50"] * MICRO)
    yield Sample(case, "present_max", present["each"]["max"] * MICRO)


def slow(plan: Plan, rig: Rig) -> Iterator[Sample]:
    """One subscriber in ten stops reading; the rest is sent 4 KB each time that it has the message before."""
    connections, messages, seconds = plan.slow
    rig.do("connect", group="slow", count=connections, rcvbuf=4096)
    rig.settle()
    case = case_name(connections=connections, stalled=connections // 10)
    healthy = rig.do("fanout", group="slow", size=4096, seconds=plan.seconds / 2)
    rig.do("stall", group="slow", percent=10)
    rig.settle()
    before, sockets = rig.server.memory(), socket_memory(rig.ports(), both_ends=True)
    beside = rig.do("fanout", group="slow", size=4096, seconds=seconds, max=messages)
    process = rig.server.memory().pss - before.pss
    kernel = socket_memory(rig.ports(), both_ends=True) - sockets
    stalled = connections // 10
    yield Sample(case, "messages", beside["broadcasts"])
    yield Sample(case, "before_p99", healthy["last"]["p99"] * MICRO)
    yield Sample(case, "last_p99", beside["last"]["p99"] * MICRO)
    yield Sample(case, "process", process / stalled)
    yield Sample(case, "buffers", kernel / stalled)
    yield Sample(case, "host", (process + kernel) / stalled)


def fairness(plan: Plan, rig: Rig) -> Iterator[Sample]:
    """A stream with one subscriber, beside a large one that is broadcast to without pause."""
    count, seconds = plan.fairness
    rig.do("connect", group="few", count=1)
    rig.do("connect", group="crowd", count=count, timeout=PATIENCE)
    rig.settle()
    rig.do("probe", group="few", size=100, every=20)
    crowd = rig.do("fanout", group="crowd", size=100, seconds=seconds, window=2)
    few = rig.do("probe_stop")
    case = case_name(subscribers=count)
    yield Sample(case, "each_p50", few["each"]["p50"] * MICRO)
    yield Sample(case, "each_p99", few["each"]["p99"] * MICRO)
    yield Sample(case, "each_max", few["each"]["max"] * MICRO)
    yield Sample(case, "rate", crowd["deliveries"] / crowd["seconds"])


def instructions(peer: Peer, port: int) -> Iterator[Sample]:
    """Instructions in user mode, counted, not timed."""
    found = measure(peer, port)
    yield Sample("", "deliver", found.deliver)
    yield Sample("", "post", found.post)
    yield Sample("", "connect", found.connect)


def _buckets(latency: dict[str, Any]) -> list[tuple[float, int]]:
    return [(upper * MICRO, count) for upper, count in latency["histogram"]]


@dataclass(frozen=True)
class Workload:
    """One of the functions above: of a server `alone`, of a server `paired` with the floor, of all servers `together`,
    or of a server that is started for being `counted`, which is done once."""

    key: str
    seconds: tuple[float, float]
    """A guess of what one round with one server takes, in a quick and in a full run, for telling the time left."""
    connections: Callable[[Plan], int] = lambda plan: 0
    """What every server has to hold for it."""
    rounds: int | None = None
    """At most, where there are rounds: what takes long and repeats well needs few."""
    alone: Callable[[Plan, Rig], Iterator[Sample]] | None = None
    paired: Callable[[Plan, Rig, Rig], Iterator[Sample | Distribution]] | None = None
    together: Callable[[Plan, list[Rig]], Iterator[tuple[Rig, Sample | Exception]]] | None = None
    counted: Callable[[Peer, int], Iterator[Sample]] | None = None
    peers: tuple[str, ...] = ()
    """Servers that it is for; none: all."""


WORKLOADS = (
    Workload("fanout", (4, 45), paired=fanout),
    Workload("idle", (1.5, 6), rounds=2, alone=idle),
    Workload("burst", (1, 3), alone=burst),
    Workload("posts", (1, 5), alone=posts),
    Workload("storm", (1, 3), lambda plan: plan.storm, alone=storm),
    Workload("streams", (1, 5), lambda plan: plan.streams[0], alone=streams),
    Workload("slow", (4, 12), rounds=2, alone=slow),
    Workload("fairness", (2, 9), lambda plan: plan.fairness[0], rounds=2, alone=fairness),
    Workload("instructions", (12, 12), counted=instructions),
    Workload("heartbeat", (0.5, 7), together=heartbeat),
    Workload("pings", (10, 60), lambda plan: plan.pings[0], paired=pings, peers=(FASTCABLE_ACTION_CABLE,)),
)

ONLY = {
    "fastcable2": ("fanout", "fairness"),
    FASTCABLE_ACTION_CABLE: ("fanout", "idle", "storm", "instructions", "heartbeat", "pings"),
    "floor2": ("fanout", "fairness"),
    "httptools": ("posts",),
}
"""Servers that have a part in these workloads, and in no others."""

__all__ = ["ONLY", "WORKLOADS", "Distribution", "Failed", "LoadError", "Plan", "Rig", "Sample", "Workload", "plan"]
