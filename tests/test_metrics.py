"""GET /metrics: a real scrape, read by Prometheus's own parser."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from fastcable.metrics import COUNTERS, GAUGES, HISTOGRAMS, response
from tests.harness import CABLE_UPGRADE, TEXT, Client, LocalServer, Reachable, ServerProcess, Spawn, children, until

Samples = dict[str, float]
MANUAL = (Path(__file__).parent.parent / "docs/operations.md").read_text()


def samples(text: str) -> Samples:
    """By name and labels: `name` or `name{label="value"}`."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def scrape(server: Reachable) -> Samples:
    status, headers, content = server.request("GET", "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return samples(content.decode())


@pytest.fixture
def server(serve: Callable[..., LocalServer]) -> LocalServer:
    return serve(metrics=True, allowed_origins=("http://localhost",), max_errors=1)


def test_a_scrape_tells_what_happened(server: LocalServer) -> None:
    before = scrape(server)
    with server.connect("news", "sport") as client, server.connect("news"), Client(server.port) as cable:
        cable.upgrade(CABLE_UPGRADE)
        assert server.post({"stream": "news", "data": "hello"}) == (200, {"subscribers": 2})
        client.expect({"type": "message", "stream": "news", "data": "hello"})
        server.wait_until(lambda: server.server.hub.idle)
        now = scrape(server)
    assert now['fastcable_connections{dialect="simple"}'] == 2
    assert now['fastcable_connections{dialect="actioncable"}'] == 1
    assert now['fastcable_connections{dialect="closing"}'] == 0
    assert now["fastcable_connections_opened_total"] == 3
    assert (now["fastcable_streams"], now["fastcable_subscriptions"]) == (2, 3)
    assert (now["fastcable_broadcasts_total"], now["fastcable_deliveries_total"]) == (1, 2)
    assert (now["fastcable_drops_total"], now["fastcable_gaps_total"], now["fastcable_slow_closes_total"]) == (0, 0, 0)
    assert now["fastcable_broker_up"] == 1
    assert now["fastcable_pending_bytes"] == now["fastcable_backlog_bytes"] == 0
    assert now["fastcable_received_bytes_total"] > before["fastcable_received_bytes_total"] == 0
    frame = len('{"type":"message","stream":"news","data":"hello"}') + 2
    assert now["fastcable_sent_bytes_total"] > 2 * frame
    assert now["fastcable_publish_latency_seconds_count"] == now["fastcable_fanout_duration_seconds_count"] == 1
    assert now['fastcable_publish_latency_seconds_bucket{le="+Inf"}'] == 1
    assert now["fastcable_publish_latency_seconds_sum"] >= now["fastcable_fanout_duration_seconds_sum"] > 0
    assert now["process_resident_memory_bytes"] > 1 << 20
    assert now["process_cpu_seconds_total"] > 0


def test_bytes_are_counted_exactly(server: LocalServer) -> None:
    with server.connect("news") as client:
        before = server.call(lambda: server.server.hub.counters.bytes_sent)
        server.publish("news", "x" * 100_000)
        client.receive()
        sent = server.call(lambda: server.server.hub.counters.bytes_sent) - before
    assert sent == len('{"type":"message","stream":"news","data":""}') + 100_000 + 10


def leave(client: Client) -> None:
    client.send_frame(8, b"\x03\xe8")


def invent(client: Client) -> None:
    client.send_frame(8, b"\x0f\xa0")


def misbehave(client: Client) -> None:
    for _ in range(2):
        client.command(type="nonsense")


def send_binary(client: Client) -> None:
    client.send_frame(2, b"x")


@pytest.mark.parametrize(("end", "by", "code"), [
    (leave, "client", "1000"), (invent, "client", "other"), (misbehave, "server", "1008"),
    (send_binary, "server", "1003"), (Client.reset, "none", "1006"),
], ids=["client", "its own code", "policy", "failed", "cut off"])
def test_ends_are_counted_by_who_and_why(
    server: LocalServer, end: Callable[[Client], None], by: str, code: str
) -> None:
    client = server.connect("news")
    end(client)
    client.close()
    server.wait_for_connections(0)
    now = scrape(server)
    assert {name: count for name, count in now.items() if name.startswith("fastcable_closes_total")} == {
        f'fastcable_closes_total{{by="{by}",code="{code}"}}': 1}
    assert now["fastcable_subscriptions"] == now["fastcable_streams"] == 0


@pytest.mark.parametrize(("head", "reason"), [
    (b"GET /cable HTTP/1.1\r\nHost: x\r\n\r\n", "upgrade"),
    (b"PUT /cable HTTP/1.1\r\nHost: x\r\n\r\n", "method"),
    (CABLE_UPGRADE[:-2] + b"Origin: http://example.com\r\n\r\n", "origin"),
    (CABLE_UPGRADE.replace(b"dGhl", b"____"), "malformed"),
    (b"nonsense\r\n\r\n", "malformed"),
])
def test_refusals_are_counted_by_reason(server: LocalServer, head: bytes, reason: str) -> None:
    with Client(server.port) as client:
        client.send(head)
        client.read_until(b"\r\n\r\n")
    now = scrape(server)
    assert {name: count for name, count in now.items() if name.startswith("fastcable_refusals_total")} == {
        f'fastcable_refusals_total{{reason="{reason}"}}': 1}


def test_a_full_server_counts_whom_it_refuses(serve: Callable[..., LocalServer]) -> None:
    server = serve(metrics=True, max_connections=1)
    with server.connect(), Client(server.port) as second:
        second.send(CABLE_UPGRADE)
        assert second.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 503 ")
        assert scrape(server)['fastcable_refusals_total{reason="full"}'] == 1


def test_what_slow_clients_lose_is_counted(serve: Callable[..., LocalServer]) -> None:
    server = serve(metrics=True, max_pending_messages=1)
    with server.connect("s", receive_buffer=4096):
        server.stall("s")
        for number in range(3):
            server.publish("s", number)
        server.wait_until(lambda: server.server.hub.idle)
        now = scrape(server)
        assert (now["fastcable_drops_total"], now["fastcable_slow_connections"]) == (2, 1)
        assert now["fastcable_pending_bytes"] > 1 << 20


def test_openmetrics_for_those_who_ask(server: LocalServer) -> None:
    status, headers, content = server.request(
        "GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert status == 200
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "fastcable_broadcasts" in {family.name for family in parse_openmetrics(content.decode())}  # type: ignore[no-untyped-call]


def test_no_label_is_of_a_clients_making(server: LocalServer) -> None:
    with server.connect("a stream's name"):
        text = server.request("GET", "/metrics")[2].decode()
    assert "a stream" not in text
    labels = set(re.findall(r"(\w+)=\"", text))
    assert labels <= {"dialect", "by", "code", "reason", "le", "version"}


def test_o18_a_scrape_does_not_grow_with_connections_and_streams(server: LocalServer) -> None:
    before = scrape(server)
    with ExitStack() as stack:
        for number in range(200):
            client = stack.enter_context(server.connect(f"stream {number}"))
            assert server.post({"stream": f"stream {number}", "data": 1})[0] == 200
            client.expect({"type": "message", "stream": f"stream {number}", "data": 1})
        now = scrape(server)
    assert now["fastcable_streams"] == 200
    assert now.keys() == before.keys()


def test_metrics_are_off_by_default(serve: Callable[..., LocalServer]) -> None:
    assert serve().request("GET", "/metrics")[0] == 404


@pytest.mark.parametrize(("headers", "status"), [
    ({}, 200), ({"Host": "127.0.0.1"}, 200), ({"Host": "[::1]:3000"}, 200), ({"Host": "evil.example"}, 403),
    ({"Host": "localhost.evil.example"}, 403), ({"X-Forwarded-For": "1.2.3.4"}, 403),
    ({"Origin": "http://evil.example"}, 403),
], ids=["local", "address", "IPv6", "rebound", "looks local", "forwarded", "page"])
def test_beside_the_cable_it_is_for_this_machine(server: LocalServer, headers: dict[str, str], status: int) -> None:
    assert server.request("GET", "/metrics", headers=headers)[0] == status


@pytest.mark.parametrize(("headers", "status"), [
    ({}, 401), ({"Authorization": "Bearer wrong"}, 401), ({"Authorization": "Bearer k"}, 200),
    ({"Authorization": "Bearer k", "Host": "example.com"}, 200),
], ids=["none", "wrong", "right", "by name"])
def test_with_a_key_it_is_for_those_who_have_it(
    serve: Callable[..., LocalServer], headers: dict[str, str], status: int
) -> None:
    assert serve(metrics=True, broadcast_key="k").request("GET", "/metrics", headers=headers)[0] == status


def test_get_only(server: LocalServer) -> None:
    assert server.request("POST", "/metrics")[0] == 405
    assert server.request("HEAD", "/metrics")[::2] == (200, b"")


class Listener(Reachable):
    def __init__(self, port: int) -> None:
        self.port = port


def test_a_listener_of_its_own_is_for_all_who_reach_it(serve: Callable[..., LocalServer]) -> None:
    server = serve(metrics_listen="127.0.0.1:0", broadcast_key="k")
    listener = Listener(server.server.listening.metrics[0].getsockname()[1])
    assert scrape(listener)["fastcable_broker_up"] == 1
    assert listener.request("GET", "/health")[0] == 200
    assert listener.request("POST", "/_broadcast", b"{}")[0] == 404
    assert listener.request("GET", "/cable")[0] == 404
    assert server.request("GET", "/metrics")[0] == 404


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    answer = response([], "")
    assert answer.status == 501
    assert b"pip install 'fastcable[metrics]'" in answer.content


def test_the_package_is_imported_at_the_first_scrape_only(spawn: Spawn) -> None:
    server = spawn("--metrics", "true")
    assert server.post({"stream": "s", "data": 1})[0] == 200
    assert scrape(server)["fastcable_broadcasts_total"] == 1
    script = (
        "import sys, fastcable.server, fastcable.metrics\n"
        "sys.exit('prometheus_client' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def of_worker(now: Samples, name: str) -> list[float]:
    return [value for label, value in now.items() if re.fullmatch(rf'{name}\{{worker="\d+"\}}', label)]


def test_whichever_worker_is_asked_tells_of_all(spawn: Spawn) -> None:
    server: ServerProcess = spawn("--workers", "2", "--metrics", "true")
    clients = [server.connect("news") for _ in range(6)]
    try:
        assert server.post({"stream": "news", "data": 1})[0] == 200
        for client in clients:
            client.expect({"type": "message", "stream": "news", "data": 1})
        pids = {str(pid) for pid in children(server.process.pid)}
        now = until(lambda: (now := scrape(server)) and sum(of_worker(now, "fastcable_deliveries_total")) == 6 and now)
        assert now
        assert of_worker(now, "fastcable_broadcasts_total") == [1, 1]
        assert sum(of_worker(now, "fastcable_subscriptions")) == 6
        assert set(re.findall(r'worker="(\d+)"', str(now))) == pids
    finally:
        for client in clients:
            client.close()


def test_each_metric_is_explained() -> None:
    names = [f"fastcable_{name}" for name in (*GAUGES, *HISTOGRAMS.values())]
    names += [f"fastcable_{name}_total" for name, _ in COUNTERS.values()]
    names += ["fastcable_connections", "fastcable_closes_total", "fastcable_refusals_total", "fastcable_broker_up",
              "fastcable_build_info", "process_resident_memory_bytes", "process_start_time_seconds",
              "process_cpu_seconds_total"]
    assert [name for name in names if f"`{name}`" not in MANUAL] == []


def test_a_command_is_answered_while_somebody_scrapes(server: LocalServer) -> None:
    with server.connect("s") as client:
        scrape(server)
        client.send_frame(TEXT, b'{"type":"subscribe","stream":"t"}')
        client.expect({"type": "subscribed", "stream": "t"})
