"""Clients that stop reading cost a bounded amount of memory, nobody else anything, and are told what they missed."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from fastcable._connection import Cable
from tests.harness import CLOSE, TEXT, LocalServer, ServerProcess, post
from tests.swarm import Member, Swarm, split_frames

KB = 1024
MESSAGES = 2000
BATCH = 50
WINDOW = 200
"""Messages that may be on their way to the healthy clients: fewer than a connection may have waiting."""

# The client's side of a connection has a buffer, too, of megabytes if need be: a small one, so that what is measured is
# the server's side.
SMALL_BUFFER = 16 * KB


def payload(number: int) -> str:
    return f"{number:06}".ljust(4 * KB - 2, ".")


def message_frame(number: int) -> bytes:
    text = b'{"type":"message","stream":"s","data":%b}' % json.dumps(payload(number)).encode()
    return b"\x81\x7e" + len(text).to_bytes(2, "big") + text


FRAME_SIZE = len(message_frame(0))


class Exact:
    """Takes what a client receives, which must be these bytes, each once and in order."""

    def __init__(self, expected: bytes) -> None:
        self.expected = expected
        self.size = 0

    def __call__(self, data: bytes) -> None:
        assert self.expected.startswith(data, self.size)
        self.size += len(data)


def broadcast(port: int, swarm: Swarm, healthy: Sequence[Exact], numbers: range) -> None:
    """Post messages in batches, no faster than the healthy clients can read."""

    def wait_for(number: int) -> None:
        swarm.run_until(lambda: min(client.size for client in healthy) >= number * FRAME_SIZE)

    for first in range(numbers.start, numbers.stop, BATCH):
        wait_for(first + BATCH - WINDOW)
        status, _ = post(port, [{"stream": "s", "data": payload(number)} for number in range(first, first + BATCH)])
        assert status == 200
    wait_for(numbers.stop)


class Account:
    """Follows one client's messages and gaps; every message must be accounted for, in order."""

    def __init__(self) -> None:
        self.delivered = 0
        self.missed = 0
        self.gaps = 0
        self.close_code: int | None = None
        self._buffer = b""

    @property
    def accounted(self) -> int:
        return self.delivered + self.missed

    def __call__(self, data: bytes) -> None:
        frames, self._buffer = split_frames(self._buffer + data)
        for opcode, text in frames:
            assert self.close_code is None, "a frame after the close frame"
            if opcode == CLOSE:
                self.close_code = int.from_bytes(text[:2], "big")
                continue
            assert opcode == TEXT
            message = json.loads(text)
            if message["type"] == "gap":
                assert list(message) == ["type", "stream", "missed"]
                assert message["missed"] > 0
                self.missed += message["missed"]
                self.gaps += 1
            else:
                assert message["data"] == payload(self.accounted)
                self.delivered += 1


def follow(member: Member) -> Account:
    account = Account()
    member.received = account
    return account


def resident(pid: int, field: str = "VmRSS") -> int:
    """Bytes of a process's memory that are in RAM; VmHWM is the most there ever were."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * KB
    raise AssertionError(field)


def kernel_socket_memory(clients: Sequence[Member]) -> int:
    """Bytes that all TCP sockets of this machine hold in the kernel, but for the receiving side of these clients."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            words = line.split()
            pages = int(words[words.index("mem") + 1])
            return pages * os.sysconf("SC_PAGE_SIZE") - sum(received_memory(client.socket) for client in clients)
    raise AssertionError("no TCP in /proc/net/sockstat")


def received_memory(sock: socket.socket) -> int:
    """Bytes that the kernel holds for what a socket received (SO_MEMINFO: sk_meminfo in linux/sock_diag.h)."""
    rmem_alloc, _, _, _, forward_alloc, *_ = struct.unpack("9I", sock.getsockopt(socket.SOL_SOCKET, 55, 36))
    return int(rmem_alloc + forward_alloc)


def test_a_fifth_of_the_readers_stalls_and_the_others_do_not_notice(
    spawn: Callable[..., ServerProcess], record_property: Callable[[str, object], None]
) -> None:
    server = spawn("--write-timeout", "120", "--ping-interval", "0", "--idle-timeout", "0")
    pid = server.process.pid
    expected = b"".join(map(message_frame, range(MESSAGES + WINDOW)))
    with Swarm(server.port) as swarm:
        healthy = [Exact(expected) for _ in range(800)]
        for member, client in zip(swarm.connect(800, "s"), healthy, strict=True):
            member.received = client
        stalled = swarm.connect(200, "s", receive_buffer=SMALL_BUFFER)
        slow = [follow(member) for member in stalled]
        # Sockets that were used keep a little; so all are before the first look.
        broadcast(server.port, swarm, healthy, range(BATCH))
        swarm.run_until(partial(have, slow, BATCH))
        for member in stalled:
            swarm.stall(member)
        memory, kernel = resident(pid), kernel_socket_memory(stalled)
        broadcast(server.port, swarm, healthy, range(BATCH, MESSAGES))
        growth = resident(pid, "VmHWM") - memory
        per_reader = (kernel_socket_memory(stalled) - kernel) / len(stalled)
        record_property("rss_growth", growth)
        record_property("kernel_bytes_per_stalled_reader", per_reader)
        print(f"RSS grew by {growth / KB:.0f} KB, the kernel holds {per_reader / KB:.1f} KB per stalled reader")
        assert growth < 32 * KB * KB
        assert per_reader < 128 * KB

        back = slow[:100]
        for member in stalled[:100]:
            swarm.resume(member)
        swarm.run_until(partial(have, back, MESSAGES))
        # What they did get is what waited for them: in our queue, 256 messages, and in the kernel.
        assert all(account.gaps == 1 and 256 <= account.delivered - BATCH < 256 + 64 for account in back)
        broadcast(server.port, swarm, healthy, range(MESSAGES, MESSAGES + WINDOW))
        swarm.run_until(partial(have, back, MESSAGES + WINDOW))
        assert all(account.gaps == 1 for account in back)


def publish(server: LocalServer, first: int, count: int = 1) -> int:
    """Broadcast so many messages from this number on, all in one turn of the server's loop; the next number."""
    messages = [json.dumps(payload(number)).encode() for number in range(first, first + count)]

    def work() -> None:
        for message in messages:
            server.server.hub.publish("s", message)

    server.call(work)
    server.wait_until(lambda: server.server.hub.idle)
    return first + count


def publish_to(server: LocalServer, swarm: Swarm, healthy: Sequence[Account], total: int) -> None:
    """Broadcast messages, no faster than the healthy clients can read."""
    sent = 0
    while sent < total:
        sent = publish(server, sent, BATCH)
        swarm.run_until(partial(have, healthy, sent))


def have(clients: Sequence[Account], number: int) -> bool:
    return all(client.accounted == number for client in clients)


def waiting_messages(cable: Cable) -> int:
    return sum(connection.outbox.messages for connection in cable.blocked if connection.outbox is not None)


def test_every_message_is_counted_as_delivered_or_dropped(serve: Callable[..., LocalServer]) -> None:
    server = serve(ticking=False, write_timeout=2.0, ping_interval=0.0, idle_timeout=0.0)
    counters, cable = server.server.hub.counters, server.server.cable
    total = 1200
    with Swarm(server.port) as swarm:
        healthy = [follow(member) for member in swarm.connect(40, "s")]
        stalled = swarm.connect(20, "s", receive_buffer=SMALL_BUFFER)
        for member in stalled:
            swarm.stall(member)
        publish_to(server, swarm, healthy, total)
        assert all(client.delivered == total for client in healthy)
        assert server.call(lambda: set(cable.blocked)) == set(server.call(lambda: cable.oldest(60)[40:]))
        back = [follow(member) for member in stalled[:10]]
        for member in stalled[:10]:
            swarm.resume(member)
        swarm.run_until(partial(have, back, total))
        server.wait_until(lambda: len(cable.blocked) == 10)
        assert counters.gaps == sum(client.gaps for client in back) == 10

        # The others take nothing for as long as write_timeout allows, and a beat more: the first one takes note.
        server.beat(2.0)
        assert server.call(lambda: cable.connections) == 60
        waiting = server.call(waiting_messages, cable)
        dropped = counters.drops
        server.beat(server.server.heartbeat.seconds)
        server.wait_until(lambda: cable.connections == 50)
        assert not cable.blocked
        assert counters.slow_closes == 10
        assert counters.drops == dropped + waiting
        assert counters.broadcasts == total
        assert counters.deliveries + counters.drops == 60 * total
        lost = [follow(member) for member in stalled[10:]]
        for member in stalled[10:]:
            swarm.resume(member)
        swarm.run_until(lambda: all(member.ended for member in stalled[10:]))
        assert all(client.missed == 0 and client.close_code is None for client in lost)
        # Reset: the kernel would go on offering them what waits in the send buffer for minutes.
        assert {member.ended for member in stalled[10:]} == {"reset"}


@pytest.mark.parametrize("slow_consumer", ["drop", "close"])
def test_who_stalls_again_and_again_loses_only_what_is_over_its_limits(
    serve: Callable[..., LocalServer], slow_consumer: str
) -> None:
    """With messages waiting for at most the limit nothing is dropped, nobody closed; with one more it is."""
    server = serve(ticking=False, slow_consumer=slow_consumer, max_pending_messages=8)
    counters, cable = server.server.hub.counters, server.server.cable
    with Swarm(server.port) as swarm:
        (member,) = swarm.connect(1, "s", receive_buffer=SMALL_BUFFER)
        client = follow(member)
        sent = 0

        def block(sent: int) -> int:
            """Send until the socket is full."""
            swarm.stall(member)
            while not server.call(lambda: len(cable.blocked)):
                sent = publish(server, sent)
            return sent

        for _ in range(3):
            sent = publish(server, block(sent), 8)
            swarm.resume(member)
            swarm.run_until(partial(have, [client], sent))
            server.wait_until(lambda: not cable.blocked)
        assert (counters.drops, counters.gaps, counters.slow_closes) == (0, 0, 0)
        sent = publish(server, block(sent), 9)
        swarm.resume(member)
        if slow_consumer == "drop":
            swarm.run_until(partial(have, [client], sent))
            assert (client.missed, client.gaps) == (1, 1)
            assert (counters.drops, counters.gaps, counters.slow_closes) == (1, 1, 0)
        else:
            swarm.run_until(lambda: client.close_code == 1013)
            assert (counters.drops, counters.gaps, counters.slow_closes) == (9, 0, 1)
        assert counters.deliveries == client.delivered
        assert counters.deliveries + counters.drops == sent


def test_slow_consumer_close_ends_with_a_close_frame(serve: Callable[..., LocalServer]) -> None:
    server = serve(ticking=False, slow_consumer="close")
    counters, cable = server.server.hub.counters, server.server.cable
    with Swarm(server.port) as swarm:
        healthy = [follow(member) for member in swarm.connect(20, "s")]
        stalled = swarm.connect(20, "s", receive_buffer=SMALL_BUFFER)
        for member in stalled:
            swarm.stall(member)
        publish_to(server, swarm, healthy, 500)
        assert counters.slow_closes == 20
        assert server.call(server.server.hub.subscribers, "s") == 20
        late = [follow(member) for member in stalled]
        for member in stalled:
            swarm.resume(member)
        swarm.run_until(lambda: all(client.close_code for client in late))
        assert {client.close_code for client in late} == {1013}
        # What had waited was thrown away, and nothing was skipped before it.
        assert all(client.delivered < 64 and client.missed == 0 for client in late)
        for member in stalled:
            swarm.remove(member)
        server.wait_until(lambda: cable.connections == 20)
        assert counters.deliveries == sum(client.delivered for client in [*healthy, *late])
