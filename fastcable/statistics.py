"""What one process counts and holds, as plain values that fit into JSON: for metrics, the status page, and for workers
to tell each other. Taking it costs the same however many are connected."""

from __future__ import annotations

import heapq
import os
from itertools import islice
from time import monotonic, process_time
from typing import TYPE_CHECKING, Any

from fastcable._histogram import Histogram
from fastcable.log import escape

if TYPE_CHECKING:
    from fastcable._connection import Cable
    from fastcable._heartbeat import Heartbeat
    from fastcable._hub import Hub

Snapshot = dict[str, Any]

TOP = 10
LOOKED_AT = 20_000
"""Streams among which the largest are looked for: a few milliseconds. The oldest, where there are more."""
STATUS = "_status."
"""What the names of the status page's own streams begin with."""
PAGE = os.sysconf("SC_PAGE_SIZE")


class Statistics:
    """Of one process; `max_connections` is its share."""

    def __init__(self, hub: Hub, cable: Cable, heartbeat: Heartbeat, requests: set[Any], max_connections: int) -> None:
        self._hub = hub
        self._cable = cable
        self._heartbeat = heartbeat
        self._requests = requests
        self._max_connections = max_connections
        self._began = monotonic()
        self.lag = Histogram()
        """How late the beats of the clock came."""

    def snapshot(self) -> Snapshot:
        hub, cable, counters = self._hub, self._cable, self._hub.counters
        simple, actioncable = self._heartbeat.open_connections()
        return {
            "worker": os.getpid(),
            "uptime": monotonic() - self._began,
            "cpu": process_time(),
            "rss": resident_memory(),
            "connections": {
                "simple": simple, "actioncable": actioncable, "closing": cable.connections - simple - actioncable},
            "max_connections": self._max_connections,
            "http_connections": len(self._requests),
            "slow_connections": len(cable.blocked),
            "streams": len(hub.streams),
            "subscriptions": counters.subscriptions,
            "opened": counters.opened,
            "closes": [[by, code, count] for (by, code), count in counters.closes.items()],
            "refusals": counters.refusals,
            "broadcasts": counters.broadcasts,
            "deliveries": counters.deliveries,
            "drops": counters.drops,
            "gaps": counters.gaps,
            "slow_closes": counters.slow_closes,
            "bytes_received": counters.bytes_received,
            "bytes_sent": counters.bytes_sent,
            "pending_bytes": cable.pending.size,
            "backlog_bytes": counters.backlog,
            "lag": _histogram(self.lag),
            "fanout": _histogram(counters.fanout),
            "latency": _histogram(counters.latency),
            "problem": hub.problem,
        }

    def status(self) -> Snapshot:
        """The same and the largest streams, for which it takes some milliseconds."""
        return {**self.snapshot(), "top": self._top_streams()}

    def _top_streams(self) -> list[list[object]]:
        """The streams with most subscribers here, without the status page's own; the names are made fit to be shown."""
        counted = (
            (stream.subscribers, name) for name, stream in islice(self._hub.streams.items(), LOOKED_AT)
            if not name.startswith(STATUS))
        return [[escape(name), count] for count, name in heapq.nlargest(TOP, counted)]


def resident_memory() -> int:
    """RSS of this process in bytes; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE
    except OSError:
        return 0


def _histogram(histogram: Histogram) -> Snapshot:
    return {"counts": histogram.counts, "seconds": histogram.seconds}
