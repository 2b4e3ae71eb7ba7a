"""A run: every server through every workload, rounds outermost, so that a slow minute of the machine meets all alike.

What a server fails in is noted and the run goes on.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench.instructions import COUNTABLE, Uncountable
from bench.load import LoadError
from bench.peers.peer import BUILD, Missing, Peer
from bench.process import Failed, socket_objects
from bench.progress import Progress
from bench.results import ACTION_CABLE, Failure, PeerRecord, Results
from bench.workloads import ONLY, Distribution, Plan, Rig, Sample, Workload

FIRST_PORT, PORTS, PORTS_EACH = 4400, 100, 4
SO_FAR = BUILD / "so-far.json"
"""The results up to the last step; a run that is stopped leaves them to be rendered."""


@dataclass(frozen=True)
class Step:
    workload: Workload
    round: int
    peer: Peer | None
    """None: all of them."""


class Run:
    def __init__(self, plan: Plan, peers: Sequence[Peer], floor: Peer, results: Results, progress: Progress) -> None:
        self._plan = plan
        self._peers = list(peers)
        self._floor = floor
        self._results = results
        self._progress = progress
        self._failed: set[tuple[str, str]] = set()
        self._faults: dict[tuple[str, str], Counter[str]] = {}
        """(workload, server) → what was wrong with its deliveries."""
        # Each server gets ports of its own in turn: those of the one before may still be cooling down.
        self._ports = itertools.cycle(range(FIRST_PORT, FIRST_PORT + PORTS, PORTS_EACH))

    def install(self) -> None:
        """Leave out the servers that cannot be had here, and say why."""
        had = []
        for peer in self._peers:
            self._progress.note(f"looking for {peer.name}, or installing it")
            try:
                peer.install()
                record = PeerRecord(peer.key, peer.name, peer.cores, peer.note, dict(peer.versions()))
            except Missing as error:
                self._progress.say(f"{peer.name}: left out, {error}")
                self._results.missing[peer.name] = str(error)
            else:
                had.append(peer)
                self._results.peers.append(record)
        self._peers = had

    def measure(self, workloads: Sequence[Workload]) -> None:
        for peer in self._peers:
            for skipped, reason in peer.skips.items():
                self._results.skips.append(Failure(skipped, "", peer.key, reason))
            for workload in workloads:
                if self._too_large(peer, workload) and not workload.peers:
                    reason = f"it is given at most {peer.most:,} connections"
                    self._results.skips.append(Failure(workload.key, "", peer.key, reason))
        socket_objects()  # while the machine is quiet
        steps = [step for workload in workloads for step in self._steps(workload)]
        self._progress.expect([self._guess(step) for step in steps])
        for step in steps:
            name = step.peer.name if step.peer else "all servers"
            self._progress.step(f"{step.workload.key}, round {step.round}: {name}")
            if step.peer is None:
                self._together(step.workload)
            elif (step.workload.key, step.peer.key) not in self._failed:
                self._alone(step.workload, step.peer)
            self._results.save(SO_FAR)
        for (where, key), faults in self._faults.items():
            said = ", ".join(f"{count:,} {fault}" for fault, count in faults.items() if count)
            self._results.failures.append(Failure(where, "", key, f"of all deliveries {said}"))

    def _steps(self, workload: Workload) -> Iterator[Step]:
        if workload.together:
            yield Step(workload, 1, None)
            return
        rounds = 1 if workload.paired or workload.counted else min(self._plan.rounds, workload.rounds or 99)
        for number in range(1, rounds + 1):
            for peer in self._peers:
                if self._takes_part(peer, workload):
                    yield Step(workload, number, peer)

    def _takes_part(self, peer: Peer, workload: Workload) -> bool:
        if (workload.counted and peer.key not in COUNTABLE) or self._too_large(peer, workload):
            return False
        if workload.peers and peer.key not in workload.peers:
            return False
        return workload.key not in peer.skips and workload.key in ONLY.get(peer.key, (workload.key,))

    def _too_large(self, peer: Peer, workload: Workload) -> bool:
        return peer.most is not None and workload.connections(self._plan) > peer.most

    def _guess(self, step: Step) -> float:
        seconds = step.workload.seconds[0 if self._results.quick else 1]
        if step.peer is None:
            return seconds * len(self._peers)
        return seconds * (3 if step.peer.key.startswith(ACTION_CABLE) else 1)

    def _alone(self, workload: Workload, peer: Peer) -> None:
        try:
            with ExitStack() as stack:
                for sample in self._samples(workload, peer, stack):
                    self._note(workload, peer, sample)
        except Uncountable as error:
            self._results.skips.append(Failure(workload.key, "", peer.key, str(error)))
            self._progress.say(f"{peer.name}: {error}")
        except Exception as error:  # whatever one server does, the others are still to be measured
            self._fail(workload, peer, error)

    def _samples(self, workload: Workload, peer: Peer, stack: ExitStack) -> Iterator[Sample | Distribution]:
        if workload.counted:
            return workload.counted(peer, next(self._ports))
        if workload.paired:
            floor = stack.enter_context(self._rig(self._floor))
            rig = stack.enter_context(self._rig(peer))
            stack.callback(self._count_faults, workload, rig)
            return workload.paired(self._plan, rig, floor)
        assert workload.alone
        rig = stack.enter_context(self._rig(peer))
        stack.callback(self._count_faults, workload, rig)
        return workload.alone(self._plan, rig)

    def _together(self, workload: Workload) -> None:
        assert workload.together
        with ExitStack() as stack:
            rigs = []
            for peer in self._peers:
                if self._takes_part(peer, workload):
                    try:
                        rigs.append(stack.enter_context(self._rig(peer)))
                    except Exception as error:
                        self._fail(workload, peer, error)
            for rig, sample in workload.together(self._plan, rigs):
                if isinstance(sample, Exception):
                    self._fail(workload, rig.peer, sample)
                else:
                    self._note(workload, rig.peer, sample)

    def _rig(self, peer: Peer) -> Rig:
        return Rig(peer, next(self._ports), self._progress.detail)

    def _note(self, workload: Workload, peer: Peer, sample: Sample | Distribution) -> None:
        if isinstance(sample, Sample):
            self._results.add(workload.key, sample.case, peer.key, sample.figure, sample.value, sample.floor)
        else:
            self._results.add_histogram(sample.case, peer.key, sample.buckets)

    def _count_faults(self, workload: Workload, rig: Rig) -> None:
        if any(rig.faults.values()):
            self._faults.setdefault((workload.key, rig.peer.key), Counter()).update(rig.faults)

    def _fail(self, workload: Workload, peer: Peer, error: Exception) -> None:
        reason = str(error) if isinstance(error, LoadError | Failed) else f"{type(error).__name__}: {error}"
        case = next((s.case for s in reversed(self._results.series) if s.workload == workload.key), "")
        self._failed.add((workload.key, peer.key))
        self._results.failures.append(Failure(workload.key, case, peer.key, reason))
        self._progress.say(f"{peer.name} failed in {workload.key}: {reason}")
