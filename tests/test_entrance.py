"""Whom the server lets in: connections of an address, handshakes of a second, and memory."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fastcable import memory
from fastcable._request import Request
from fastcable.addresses import PerAddress, shown
from fastcable.entrance import Bucket
from fastcable.memory import MemoryWatch, control_group_limit
from fastcable.options import Wrong, proxy
from fastcable.settings import Settings
from fastcable.worker import share
from tests.harness import UPGRADE, Client, LocalServer, Reachable, Serve, Spawn, message
from tests.nginx import free_port, nginx

MIB = 1 << 20


def answer(client: Client, *forwarded: str) -> tuple[int, str | None, str | None]:
    """Status, Retry-After and reason of the answer to a handshake."""
    headers = "".join(f"X-Forwarded-For: {text}\r\n" for text in forwarded)
    client.send(UPGRADE[:-2] + headers.encode("latin-1") + b"\r\n")
    head = client.read_until(b"\r\n\r\n")
    status = int(head[9:12])
    if status == 101:
        return status, None, None
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:] if line)
    text = client.read_until(b"}")
    return status, fields.get("Retry-After"), json.loads(text)["error"]


IN = (101, None, None)
TOO_MANY = (429, "5", "this address has max_connections_per_address already")
TOO_FAST = (503, "1", "more than max_handshakes_per_second")
NO_MEMORY = (503, "5", "no more connections are taken: memory is short")


# max_connections_per_address


def test_max_connections_per_address(serve: Serve) -> None:
    server = serve(ticking=False, max_connections_per_address=2)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server.port)) for _ in range(4)]
        assert [answer(client) for client in clients] == [IN, IN, TOO_MANY, TOO_MANY]
        clients[0].subscribe("s")
        clients[1].reset()
        server.wait_until(lambda: server.server.cable.connections == 1)
        assert answer(stack.enter_context(Client(server.port))) == IN
        assert answer(stack.enter_context(Client(server.port))) == TOO_MANY
    server.wait_for_connections(0)
    assert server.server.cable.addresses is not None
    assert server.server.cable.addresses.counts == {}


def test_0_is_no_limit_for_an_address(serve: Serve) -> None:
    server = serve(ticking=False, memory_limit=0)
    assert server.server.site.entrance is None
    with ExitStack() as stack:
        assert [answer(stack.enter_context(Client(server.port))) for _ in range(20)] == [IN] * 20


def test_a_unix_socket_is_one_address(serve: Serve, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    serve(ticking=False, uds=path, max_connections_per_address=1)
    with Client(path) as one, Client(path) as two:
        assert answer(one, "192.0.2.1") == IN
        assert answer(two, "192.0.2.2") == TOO_MANY


def test_a_trusted_proxy_on_a_unix_socket_says_who_it_is(serve: Serve, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    serve(ticking=False, uds=path, max_connections_per_address=1, trusted_proxies=("unix",))
    with Client(path) as one, Client(path) as two, Client(path) as three:
        assert answer(one, "192.0.2.1") == IN
        assert answer(two, "192.0.2.2") == IN
        assert answer(three, "192.0.2.2") == TOO_MANY


def test_a_forged_header_gives_nobody_more_connections(serve: Serve) -> None:
    server = serve(ticking=False, max_connections_per_address=1, trusted_proxies=("10.0.0.0/8",))
    with Client(server.port) as one, Client(server.port) as two:
        assert answer(one, "192.0.2.1") == IN
        assert answer(two, "192.0.2.2") == TOO_MANY


def test_each_worker_counts_by_itself(spawn: Spawn) -> None:
    server = spawn("--workers", "2", "--max-connections-per-address", "2", "--ping-interval", "0")
    with ExitStack() as stack:
        answers = [answer(stack.enter_context(Client(server.port))) for _ in range(40)]
    assert 2 <= answers.count(IN) <= 4
    assert set(answers) == {IN, TOO_MANY}


class Transport:
    def __init__(self, peer: Any) -> None:
        self.peer = peer

    def get_extra_info(self, name: str) -> Any:
        assert name == "peername"
        return self.peer


PROXIES = ("127.0.0.1", "10.0.0.0/8", "2001:db8:ffff::/48")


@pytest.mark.parametrize(("peer", "headers", "counted"), [
    ("192.0.2.1", [], "192.0.2.1"),
    ("::ffff:192.0.2.1", [], "192.0.2.1"),
    ("2001:db8:1:2:3:4:5:6", [], "2001:db8:1:2::/64"),
    ("2001:db8:1:2:ffff::1", [], "2001:db8:1:2::/64"),
    ("fe80::1%eth0", [], "fe80::/64"),
    ("192.0.2.1", ["198.51.100.1"], "192.0.2.1"),
    ("127.0.0.1", [], "127.0.0.1"),
    ("::ffff:127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
    ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
    ("127.0.0.1", ["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
    ("127.0.0.1", ["203.0.113.9", "198.51.100.1"], "198.51.100.1"),
    ("127.0.0.1", ["203.0.113.9, 198.51.100.1, 10.1.2.3"], "198.51.100.1"),
    ("2001:db8:ffff::5", ["203.0.113.9,198.51.100.1 ,\t10.1.2.3"], "198.51.100.1"),
    ("127.0.0.1", ["2001:db8:1:2::7"], "2001:db8:1:2::/64"),
    ("127.0.0.1", ["[2001:db8:1:2::7]:4711"], "2001:db8:1:2::/64"),
    ("127.0.0.1", ["[2001:db8:1:2::7]"], "2001:db8:1:2::/64"),
    ("127.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
    ("127.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
    ("127.0.0.1", ["10.1.1.1, 10.1.2.3"], "10.1.1.1"),
    ("127.0.0.1", ["198.51.100.1, unknown"], "127.0.0.1"),
    ("127.0.0.1", ["garbage, 10.1.2.3"], "10.1.2.3"),
    ("127.0.0.1", [""], "127.0.0.1"),
    ("127.0.0.1", [", ,"], "127.0.0.1"),
    ("127.0.0.1", ["198.51.100.256"], "127.0.0.1"),
    ("127.0.0.1", ["[198.51.100.1]"], "127.0.0.1"),
    ("127.0.0.1", ["[2001:db8::1"], "127.0.0.1"),
    ("127.0.0.1", ["\xff\xfe\0"], "127.0.0.1"),
    ("127.0.0.1", ["," * 8000], "127.0.0.1"),
    ("127.0.0.1", ["9" * 8000], "127.0.0.1"),
    ("", ["198.51.100.1"], "unix"),
    (None, ["198.51.100.1"], "unix"),
], ids=[
    "ipv4", "mapped", "ipv6", "same-64", "scope", "not-trusted", "no-header", "mapped-proxy", "one", "forged-left",
    "two-headers", "two-proxies", "white-space", "ipv6-entry", "ipv6-port", "ipv6-brackets", "ipv4-port",
    "mapped-entry", "all-trusted", "unknown", "garbage-left", "empty", "commas", "no-ipv4", "no-ipv6", "open-bracket",
    "binary", "many-commas", "long", "unix", "no-peername",
])  # fmt: skip
def test_the_rightmost_address_that_is_no_trusted_proxy_counts(peer: Any, headers: list[str], counted: str) -> None:
    """A5."""
    addresses = PerAddress(1, PROXIES)
    fields = [(b"host", b"h")] + [(b"x-forwarded-for", text.encode("latin-1")) for text in headers]
    request = Request(b"GET", b"/cable", "1.1", fields, True)
    transport: Any = Transport((peer, 4711) if peer else peer)
    assert shown(addresses.key(transport, request)) == counted


@pytest.mark.parametrize(("text", "good"), [
    ("unix", "unix"), ("10.0.0.1", "10.0.0.1"), ("10.0.0.0/8", "10.0.0.0/8"), ("2001:DB8::/32", "2001:db8::/32"),
    ("::1", "::1"),
])  # fmt: skip
def test_trusted_proxies(text: str, good: str) -> None:
    assert proxy(text) == good


@pytest.mark.parametrize(("text", "problem"), [
    ("proxy.example", "expected an address, a network such as 10.0.0.0/8, or unix, got 'proxy.example'"),
    ("10.0.0.1/8", "'10.0.0.1/8' is no network (did you mean 10.0.0.0/8?)"),
    ("10.0.0.0/33", "expected an address, a network such as 10.0.0.0/8, or unix, got '10.0.0.0/33'"),
    ("::ffff:10.0.0.1", "expected IPv4 in its usual form (10.0.0.1), got '::ffff:10.0.0.1'"),
    ("*", "expected an address, a network such as 10.0.0.0/8, or unix, got '*'"),
])  # fmt: skip
def test_trusted_proxies_that_are_none(text: str, problem: str) -> None:
    with pytest.raises(Wrong) as raised:
        proxy(text)
    assert str(raised.value) == problem


def test_clients_behind_nginx_count_by_their_own_addresses(serve: Serve, tmp_path: Path) -> None:
    server = serve(ticking=False, max_connections_per_address=1, trusted_proxies=("127.0.0.1",))
    outer, inner = free_port(), free_port()
    forward = (
        "proxy_http_version 1.1; proxy_set_header Host $host; proxy_set_header Upgrade $http_upgrade; "
        "proxy_set_header Connection upgrade; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;")
    blocks = (
        f"server {{ listen 127.0.0.1:{outer}; location = /cable "
        f"{{ proxy_pass http://127.0.0.1:{inner}; {forward} }} }}\n"
        f"server {{ listen 127.0.0.1:{inner}; location = /cable "
        f"{{ proxy_pass http://127.0.0.1:{server.port}; {forward} }} }}\n")
    with nginx(blocks, tmp_path), ExitStack() as stack:
        def attempt(forwarded: str) -> tuple[int, str | None, str | None]:
            return answer(stack.enter_context(Client(outer)), forwarded)

        assert attempt("198.51.100.1") == IN
        assert attempt("198.51.100.2") == IN
        assert attempt("198.51.100.2") == TOO_MANY
        assert attempt("203.0.113.1, 198.51.100.1") == TOO_MANY  # what stands left is no address of its own


# max_handshakes_per_second


def test_a_second_has_its_handshakes() -> None:
    now = 100.0
    bucket = Bucket(3, lambda: now)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now += 0.25
    assert not bucket.take()
    now += 0.25
    assert [bucket.take() for _ in range(2)] == [True, False]
    now += 3600
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_max_handshakes_per_second(serve: Serve) -> None:
    """R6."""
    server = serve(ticking=False, max_handshakes_per_second=2, max_connections_per_address=4)
    now = 0.0
    server.server.site.entrance._handshakes = Bucket(2, lambda: now)  # type: ignore[union-attr]
    with ExitStack() as stack:
        def attempts(count: int) -> list[tuple[int, str | None, str | None]]:
            return [answer(stack.enter_context(Client(server.port))) for _ in range(count)]

        assert attempts(3) == [IN, IN, TOO_FAST]
        now += 1
        assert attempts(3) == [IN, IN, TOO_MANY]


# memory_limit


def group(root: Path, text: str, files: dict[str, str]) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(text)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


V2 = "0::/a/b\n"
V1 = "9:cpu,cpuacct:/\n4:memory:/a/b\n0::/\n"
NONE = "9223372036854771712\n"


@pytest.mark.parametrize(("text", "files", "limit"), [
    (V2, {}, 0),
    (V2, {"a/b/memory.max": "max\n"}, 0),
    (V2, {"a/b/memory.max": "268435456\n"}, 256 * MIB),
    (V2, {"a/b/memory.max": "max\n", "a/memory.max": "134217728\n"}, 128 * MIB),
    (V2, {"a/b/memory.max": "134217728\n", "a/memory.max": "268435456\n"}, 128 * MIB),
    (V2, {"a/b/memory.max": "268435456\n", "a/b/memory.high": "134217728\n"}, 128 * MIB),
    (V2, {"a/other/memory.max": "134217728\n"}, 0),
    (V2, {"memory.max": "134217728\n"}, 128 * MIB),
    (V2, {"a/b/memory.max": "nonsense\n"}, 0),
    (V1, {}, 0),
    (V1, {"memory/memory.limit_in_bytes": NONE}, 0),
    (V1, {"memory/memory.limit_in_bytes": NONE, "memory/a/b/memory.limit_in_bytes": "134217728\n"}, 128 * MIB),
    (V1, {"memory/memory.limit_in_bytes": "134217728\n"}, 128 * MIB),
    (V1, {"memory/a/memory.limit_in_bytes": "134217728\n", "memory.max": "67108864\n"}, 64 * MIB),
    ("", {"memory.max": "67108864\n"}, 0),
], ids=[
    "v2-none", "v2-max", "v2", "v2-outer", "v2-inner", "v2-high", "v2-other", "v2-top", "v2-nonsense", "v1-none",
    "v1-unlimited", "v1", "v1-container", "both", "no-groups",
])  # fmt: skip
def test_the_least_limit_of_the_control_groups_counts(
    tmp_path: Path, text: str, files: dict[str, str], limit: int
) -> None:
    group(tmp_path, text, files)
    assert control_group_limit(str(tmp_path)) == limit


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert control_group_limit(str(tmp_path)) == 0


@pytest.mark.parametrize(("setting", "limit"), [(256 * MIB, 64 * MIB), (0, 0), (None, 32 * MIB)])
def test_workers_divide_the_memory(monkeypatch: pytest.MonkeyPatch, setting: int | None, limit: int) -> None:
    monkeypatch.setattr(memory, "control_group_limit", lambda: 128 * MIB)
    assert [share(Settings(memory_limit=setting), index, 4).memory_limit for index in range(4)] == [limit] * 4


@pytest.mark.parametrize(("used", "refuses"), [(-1, False), (0, False), (1, True)], ids=["-1", "0", "+1"])
@pytest.mark.parametrize("kernel", [0, 10 * MIB])
def test_above_85_percent_nobody_new_is_taken(used: int, refuses: bool, kernel: int) -> None:
    told: list[str | None] = []
    most = 85 * MIB
    size = most + used - kernel
    watch = MemoryWatch(100 * MIB, lambda: kernel, told.append, lambda: size, lambda: size)
    watch(0.0)
    problem = "memory: 85 MiB of 100 MiB are in use (memory_limit)" if refuses else None
    assert (watch.problem, told) == (problem, [problem])


def test_what_several_processes_share_counts_in_part() -> None:
    watch = MemoryWatch(100 * MIB, lambda: 0, lambda problem: None, lambda: 99 * MIB, lambda: 50 * MIB)
    watch(0.0)
    assert watch.problem is None


def test_this_process_has_both_figures() -> None:
    assert MIB < memory.proportional() <= memory.resident() * 1.1


def test_the_kernels_share_of_a_socket_that_is_full_is_counted(serve: Serve) -> None:
    server = serve(ticking=False, memory_limit=0)
    with server.connect("s", receive_buffer=4096):
        assert server.call(server.server.cable.kernel_memory) == 0
        server.stall("s")
        assert server.call(server.server.cable.kernel_memory) > 16 << 10


def readiness(server: Reachable) -> tuple[int, dict[str, str]]:
    status, _, content = server.request("GET", "/health/ready")
    return status, json.loads(content)


def look(server: LocalServer, size: int) -> None:
    watch = server.server.memory
    assert watch is not None
    watch._measure = watch._exact = lambda: size
    server.call(watch, 0.0)


def test_short_of_memory_old_clients_stay_and_new_ones_are_refused(serve: Serve) -> None:
    """R3."""
    server = serve(ticking=False, memory_limit=100 * MIB)
    with server.connect("s") as old:
        look(server, 85 * MIB + 1)
        with Client(server.port) as new:
            assert answer(new) == NO_MEMORY
        reason = "memory: 85 MiB of 100 MiB are in use (memory_limit)"
        assert readiness(server) == (503, {"status": "not ready", "reason": reason})
        assert server.request("GET", "/health/live")[0] == 200
        assert server.post({"stream": "s", "data": 1}) == (200, {"subscribers": 1})
        old.expect(message("s", 1))
        look(server, 85 * MIB)
        assert readiness(server) == (200, {"status": "ok"})
        with Client(server.port) as new:
            assert answer(new) == IN


def test_a_real_process_refuses_when_its_memory_is_short_and_takes_clients_again(spawn: Spawn) -> None:
    """R3. Last values fill it, and leave it again."""
    server = spawn(
        "--memory-limit", "80MiB", "--max-retained-bytes", "100MiB", env={"MALLOC_MMAP_THRESHOLD_": "65536"})

    def fill(data: str) -> None:
        for number in range(60):
            body = {"stream": f"{number}", "data": data, "retain": True}
            assert server.post(body) == (200, {"subscribers": 0})

    def wait_for(status: int) -> dict[str, str]:
        while (found := readiness(server))[0] != status:
            pass
        return found[1]

    with server.connect("s") as old:
        fill("x" * (MIB - 1000))
        reason = wait_for(503)["reason"]
        assert reason.startswith("memory: ")
        assert reason.endswith(" MiB of 80 MiB are in use (memory_limit)")
        with Client(server.port) as new:
            assert answer(new) == NO_MEMORY
        assert server.post({"stream": "s", "data": 1}) == (200, {"subscribers": 1})
        while (received := old.receive()) == {"type": "ping"}:
            pass
        assert received == message("s", 1)
        fill("")
        wait_for(200)
        with Client(server.port) as new:
            assert answer(new) == IN
