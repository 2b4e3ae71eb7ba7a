"""What `GET /metrics` answers, in the text format of Prometheus. The counters are our own and are read when somebody
asks; `prometheus_client`, which takes some 5 MB, only writes them down, and is imported by the first who asks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from fastcable import __version__
from fastcable._histogram import BOUNDS
from fastcable.response import Response, error
from fastcable.statistics import Snapshot

if TYPE_CHECKING:
    from prometheus_client.core import HistogramMetricFamily
    from prometheus_client.metrics_core import Metric

MISSING = "metrics need the package prometheus_client: pip install 'fastcable[metrics]'"

GAUGES = {
    "http_connections": "HTTP connections that are open",
    "max_connections": "WebSocket connections that are taken at most",
    "slow_connections": "Connections whose socket is full",
    "streams": "Streams with subscribers",
    "subscriptions": "Subscriptions, those that wait for their confirmation included",
    "pending_bytes": "Bytes that wait for full sockets, what several wait for counted once",
    "backlog_bytes": "Bytes of accepted messages whose fan-out is still to be done",
}
COUNTERS = {
    "opened": ("connections_opened", "WebSocket connections that were opened"),
    "broadcasts": ("broadcasts", "Messages accepted, from publishers, brokers and sources"),
    "deliveries": ("deliveries", "Messages handed to subscribers' sockets"),
    "drops": ("drops", "Messages that subscribers did not get because they were slow, or left before their turn"),
    "gaps": ("gaps", "Gaps that subscribers were told of"),
    "slow_closes": ("slow_closes", "Connections that were closed for being slow"),
    "bytes_received": ("received_bytes", "Bytes received on WebSocket connections"),
    "bytes_sent": ("sent_bytes", "Bytes handed to the sockets of WebSocket connections"),
}
HISTOGRAMS = {
    "latency": "publish_latency_seconds", "fanout": "fanout_duration_seconds", "lag": "loop_lag_seconds",
}
HISTOGRAM_HELP = {
    "latency": "Time from when a message was accepted until all its subscribers' sockets had it",
    "fanout": "Time of one fan-out of one or several messages to a group of subscribers",
    "lag": "How late the event loop came to its clock",
}


def response(snapshots: Sequence[Snapshot], accept: str) -> Response:
    """The metrics of these processes, each labelled with its process id where there are several; `accept` is the
    request's header."""
    try:
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder
    except ImportError:
        return error(501, MISSING)
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshots))
    return Response(200, encode(registry), b"Content-Type: %b\r\n" % content_type.encode())


class _Collector:
    def __init__(self, snapshots: Sequence[Snapshot]) -> None:
        self._snapshots = snapshots
        self._names = ["worker"] if len(snapshots) > 1 else []

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(name, text, labels=[*self._names, *labels])

        def counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
            return CounterMetricFamily(name, text, labels=[*self._names, *labels])

        info = gauge("fastcable_build_info", "1; the label is the version", "version")
        up = gauge("fastcable_broker_up", "Whether messages can be carried: 1, else 0")
        connections = gauge("fastcable_connections", "WebSocket connections, by the protocol they speak; closing: "
                            "their end has begun", "dialect")
        closes = counter("fastcable_closes", "Ends of WebSocket connections, by who closed them (none: no close frame) "
                         "and the close code (other: one that only the client knows)", "by", "code")
        refusals = counter("fastcable_refusals", "Connections, handshakes and requests that were refused", "reason")
        memory = gauge("process_resident_memory_bytes", "Resident memory of the process")
        start = gauge("process_start_time_seconds", "When the process began to serve, in seconds since 1970")
        cpu = counter("process_cpu_seconds", "User and system time of the process")
        for labels, each in self._each():
            info.add_metric([*labels, __version__], 1)
            up.add_metric(labels, each["problem"] is None)
            for dialect, count in each["connections"].items():
                connections.add_metric([*labels, dialect], count)
            for by, code, count in each["closes"]:
                closes.add_metric([*labels, by, str(code or "other")], count)
            for reason, count in each["refusals"].items():
                refusals.add_metric([*labels, reason], count)
            memory.add_metric(labels, each["rss"])
            start.add_metric(labels, time.time() - each["uptime"])
            cpu.add_metric(labels, each["cpu"])
        yield from (info, up, connections, closes, refusals, memory, start, cpu)
        for name, text in GAUGES.items():
            family = gauge(f"fastcable_{name}", text)
            for labels, each in self._each():
                family.add_metric(labels, each[name])
            yield family
        for name, (shown, text) in COUNTERS.items():
            total = counter(f"fastcable_{shown}", text)
            for labels, each in self._each():
                total.add_metric(labels, each[name])
            yield total
        for name, shown in HISTOGRAMS.items():
            histogram = HistogramMetricFamily(f"fastcable_{shown}", HISTOGRAM_HELP[name], labels=self._names)
            for labels, each in self._each():
                _add(histogram, labels, each[name])
            yield histogram

    def _each(self) -> Iterable[tuple[list[str], Snapshot]]:
        for each in self._snapshots:
            yield [str(each["worker"])] if self._names else [], each


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Snapshot) -> None:
    sums = accumulate(histogram["counts"])
    bounds = [*(format(bound, "g") for bound in BOUNDS), "+Inf"]
    family.add_metric(labels, list(zip(bounds, map(float, sums), strict=True)), histogram["seconds"])
