"""What a run measured, as plain data. Every sample is kept, in seconds, bytes and counts; what is said of them (median,
spread, ratio) is computed here."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.machine import Machine

FLOOR = "floor"
ACTION_CABLE = "action-cable"
FASTCABLE = "fastcable"
FASTCABLE2 = "fastcable2"
FASTCABLE_ACTION_CABLE = "fastcable-action-cable"

STEADY = 0.20
"""Runs that disagree by more than this share of their median are marked."""


@dataclass
class Series:
    """One figure of one server under one case of a workload, a value for each run."""

    workload: str
    case: str
    peer: str
    figure: str
    values: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    """The floor's value measured just before each of `values`; empty where the workload makes no such pairs."""


@dataclass(frozen=True)
class Figure:
    """What is said of several runs."""

    median: float
    spread: float
    """(largest − smallest) / median."""
    runs: int

    @property
    def steady(self) -> bool:
        return self.spread <= STEADY


@dataclass(frozen=True)
class PeerRecord:
    key: str
    name: str
    cores: int
    note: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Failure:
    """A workload that a server did not get through, or not without fault."""

    workload: str
    case: str
    peer: str
    reason: str


@dataclass
class Results:
    machine: Machine
    date: str
    """UTC, to the minute."""
    quick: bool
    versions: dict[str, str]
    """Of the load client's and the benchmark's own tools."""
    seconds: float = 0.0
    """What the run took."""
    peers: list[PeerRecord] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Name of a server that was not had on this machine → why."""
    skips: list[Failure] = field(default_factory=list)
    """Workloads that a server has no part in."""
    failures: list[Failure] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    histograms: dict[str, dict[str, list[tuple[float, int]]]] = field(default_factory=dict)
    """Case → server → (seconds up to which, deliveries)."""
    again: dict[str, str] = field(default_factory=dict)
    """Workloads that were measured once more, after the others → when."""

    def replace(self, workloads: Iterable[str], newer: Results) -> None:
        """Have a newer run's figures of these workloads in place of ours; servers may have been added to it. Raises
        ValueError if it was of others."""
        same = (self.machine, self.quick) == (newer.machine, newer.quick)
        if not same or any(peer not in newer.peers for peer in self.peers):
            raise ValueError("measured on another machine, of other servers or versions, or otherwise")
        self.peers = newer.peers
        gone = set(workloads)
        self.skips = [one for one in self.skips if one.workload not in gone] + [
            one for one in newer.skips if one.workload in gone]
        self.series = [one for one in self.series if one.workload not in gone] + newer.series
        self.failures = [one for one in self.failures if one.workload not in gone] + newer.failures
        if newer.histograms:
            self.histograms = newer.histograms
        self.again |= dict.fromkeys(gone, newer.date)

    def add(self, workload: str, case: str, peer: str, figure: str, value: float, floor: float | None = None) -> None:
        """One more run's value, with the floor's of the same pair."""
        series = self.find(workload, case, peer, figure)
        if series is None:
            series = Series(workload, case, peer, figure)
            self.series.append(series)
        series.values.append(value)
        if floor is not None:
            series.floor.append(floor)

    def add_histogram(self, case: str, peer: str, buckets: Iterable[tuple[float, int]]) -> None:
        """Deliveries of one more run, by their latency."""
        counts = dict(self.histograms.setdefault(case, {}).get(peer, ()))
        for upper, count in buckets:
            counts[upper] = counts.get(upper, 0) + count
        self.histograms[case][peer] = sorted(counts.items())

    def find(self, workload: str, case: str, peer: str, figure: str) -> Series | None:
        wanted = (workload, case, peer, figure)
        return next((s for s in self.series if (s.workload, s.case, s.peer, s.figure) == wanted), None)

    def figure(self, workload: str, case: str, peer: str, figure: str) -> Figure | None:
        series = self.find(workload, case, peer, figure)
        return summary(series.values) if series else None

    def median(self, workload: str, case: str, peer: str, figure: str) -> float | None:
        said = self.figure(workload, case, peer, figure)
        return said.median if said else None

    def cases(self, workload: str) -> list[str]:
        """In the order in which they were run."""
        return list(dict.fromkeys(s.case for s in self.series if s.workload == workload))

    def measured(self, workload: str) -> list[PeerRecord]:
        """The servers that have figures of a workload."""
        keys = {s.peer for s in self.series if s.workload == workload}
        return [peer for peer in self.peers if peer.key in keys]

    def to_floor(self, workload: str, case: str, peer: str, figure: str) -> Figure | None:
        """× the floor, over the pairs of runs; over the medians where there are no pairs."""
        return self.ratio(workload, case, peer, FLOOR, figure)

    def ratio(self, workload: str, case: str, peer: str, other: str, figure: str) -> Figure | None:
        """How many times `other`'s figure `peer`'s is.

        Both were measured beside the floor: then each is taken as the median of its pairs, so that what the machine
        did between the two stands in neither. Else both ran in the same rounds, and it is the median over these.
        """
        mine = self.find(workload, case, peer, figure)
        theirs = self.find(workload, case, other, figure)
        if mine is not None and mine.floor and other == FLOOR:
            return quotients(mine.values, mine.floor)
        if mine is None or theirs is None:
            return None
        if peer == other:
            return Figure(1.0, 0.0, len(mine.values))
        if theirs.floor and peer == FLOOR:
            return quotients(theirs.floor, theirs.values)
        if mine.floor and theirs.floor:
            ours, others = quotients(mine.values, mine.floor), quotients(theirs.values, theirs.floor)
            if ours is None or others is None or not others.median:
                return None
            return Figure(ours.median / others.median, max(ours.spread, others.spread), min(ours.runs, others.runs))
        return quotients(mine.values, theirs.values)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), ensure_ascii=False, separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        raw: dict[str, Any] = json.loads(path.read_text())
        return cls(
            **{
                **raw,
                "machine": Machine(**raw["machine"]),
                "peers": [PeerRecord(**peer) for peer in raw["peers"]],
                "skips": [Failure(**skip) for skip in raw["skips"]],
                "failures": [Failure(**failure) for failure in raw["failures"]],
                "series": [Series(**series) for series in raw["series"]],
                "histograms": {
                    case: {peer: [(upper, count) for upper, count in buckets] for peer, buckets in peers.items()}
                    for case, peers in raw["histograms"].items()
                },
            }
        )


def summary(values: Sequence[float]) -> Figure:
    """Of at least one value."""
    median = statistics.median(values)
    return Figure(median, (max(values) - min(values)) / median if median else 0.0, len(values))


def quotients(values: Sequence[float], others: Sequence[float]) -> Figure | None:
    """The values as multiples of the others, pair by pair; what has no partner is left out."""
    ratios = [value / other for value, other in zip(values, others, strict=False) if other]
    return summary(ratios) if ratios else None


def quantile(buckets: Sequence[tuple[float, int]], share: float) -> float:
    """The upper bound of the bucket in which that share of a histogram is reached."""
    wanted = share * sum(count for _, count in buckets)
    seen = 0
    for upper, count in buckets:
        seen += count
        if seen >= wanted:
            return upper
    raise ValueError("an empty histogram")


def case_name(**words: object) -> str:
    """The name of a case: `subscribers=1000 size=100`."""
    return " ".join(f"{key}={value}" for key, value in words.items())


def case_words(case: str) -> Mapping[str, str]:
    """A case taken apart again."""
    return dict(word.split("=", 1) for word in case.split())


def number(value: float) -> str:
    """Three digits that count, no more than the measurement has."""
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    for least, digits in ((9.995, 1), (0.9995, 2), (0.09995, 2), (0.0009995, 3)):
        if size >= least:
            return f"{value:.{digits}f}"
    return "0" if size < 0.0005 else f"{value:.3f}"
