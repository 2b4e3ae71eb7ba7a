"""A worker's end of its link: what it writes and reads, when it waits, and what it tells those who wait for answers."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
import pytest
import uvloop

from fastcable import bus
from fastcable._hub import Hub
from fastcable.brokers import HandoverError
from fastcable.brokers.memory import MemoryBroker
from fastcable.brokers.message import decode_at, head
from fastcable.link import Link
from fastcable.retained import Retained
from fastcable.sessions import Sessions
from fastcable.switch import Switch
from fastcable.switch_ports import LoopPorts
from tests.harness import PATIENCE

opened: list[LoopPorts | socket.socket] = []
Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test in a loop, and lets go of what it opened even when it fails."""

    async def main(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await asyncio.wait_for(test(), PATIENCE)
        finally:
            while opened:
                opened.pop().close()
            await asyncio.sleep(0)

    return lambda test: request.param(main(test))


class Commanded(Sessions):
    def __init__(self) -> None:
        super().__init__()
        self.commands: list[tuple[str, bool]] = []

    def disconnect(self, identifier: str, reconnect: bool) -> int:
        self.commands.append((identifier, reconnect))
        return 0


class Listening(Hub):
    """A hub that tells what it is handed, and how many subscribers it is said to have."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop().call_soon, retained=Retained(0, 0, lambda: 1000.0))
        self.broker = MemoryBroker(self)
        self.heard: list[tuple[Any, ...]] = []
        self.counts: dict[str, int] = {}
        self.gaps: list[str] = []
        self.is_congested = False
        self.commanded = Commanded()

    @property
    def sessions(self) -> Commanded:
        return self.commanded

    @property
    def congested(self) -> bool:
        return self.is_congested

    @property
    def streams(self) -> dict[str, Any]:
        return self.counts

    def subscribers(self, name: str) -> int:
        return self.counts[name]

    def lost(self, name: str) -> None:
        self.gaps.append(name)

    def deliver(self, name: str, data: bytes, *options: Any) -> None:
        if data == b'"fail"':
            raise RuntimeError("a fault in the hub")
        self.heard.append((name, data, *(option for option in options if option)))
        super().deliver(name, data, *options)

    def set_count(self, stream: str, count: int) -> None:
        self.counts[stream] = count
        assert self.on_change is not None
        self.on_change(stream)


class Peer:
    """The switch's end of a link, in the test's hands."""

    def __init__(self) -> None:
        self.sock, self.other = socket.socketpair()
        self.sock.setblocking(False)
        opened.append(self.sock)
        self.read = bytearray()

    async def expect(self, *kinds: int) -> list[bytes]:
        """The next frames are these; their bodies."""
        return [await self._expect(kind) for kind in kinds]

    async def _expect(self, kind: int) -> bytes:
        header = await self._take(bus.HEADER.size)
        length, found, p, q = bus.HEADER.unpack(header)
        assert found == kind
        body = await self._take(length)
        return body if kind != bus.MESSAGE else body[:p] + b" " + decode_at(body[p:], q).data

    async def _take(self, size: int) -> bytes:
        while len(self.read) < size:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
            assert data, "the link is closed"
            self.read += data
        taken = bytes(self.read[:size])
        del self.read[:size]
        return taken

    async def send(self, *frames: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, b"".join(frames))


def accepted(*elsewhere: int) -> bytes:
    return bus.frame(bus.ACCEPTED, struct.pack(f">{len(elsewhere)}I", *elsewhere))


def message(stream: str, data: bytes, retain: bool = False, exclude: str | None = None) -> bytes:
    return bus.message_frame(stream.encode(), head(retain, exclude, False), data)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (a condition of code that knows of no event)
        await asyncio.sleep(0.001)


async def linked(hub: Hub, patience: float = PATIENCE, **options: Any) -> tuple[Link, Peer]:
    """A link that has started, and the other end of it."""
    peer = Peer()
    link = Link(hub, asyncio.get_running_loop(), patience, **options)
    start = asyncio.ensure_future(link.start(peer.other))
    await peer.expect(bus.HELLO)
    await peer.send(bus.frame(bus.HELLO, bus.GREETING), bus.frame(bus.REPLAYED))
    await start
    return link, peer


async def unlinked(link: Link, peer: Peer) -> None:
    """What the peer still sends is read, and the link ends."""
    peer.sock.close()
    await link.finish()


async def failure(answer: asyncio.Future[int]) -> str:
    with pytest.raises(HandoverError) as caught:
        await answer
    return str(caught.value)


def test_start_greets_reports_and_waits_for_what_is_retained(run: Run) -> None:
    async def test() -> None:
        hub, peer = Listening(), Peer()
        hub.counts = {"s": 2, "Zürich": 1}
        link = Link(hub, asyncio.get_running_loop(), PATIENCE)
        assert link.problem is not None
        start = asyncio.ensure_future(link.start(peer.other))
        hello, counts = await peer.expect(bus.HELLO, bus.COUNTS)
        assert orjson.loads(hello) == {"v": 1}
        assert dict(bus.counts_in(counts, 0, len(counts))) == {b"s": 2, "Zürich".encode(): 1}
        await peer.send(
            bus.frame(bus.HELLO, b'{"v":3}'), bus.frame(99, b"later"), bus.retained_frame(b"r", b'{"x":1}', 7.0))
        assert hub.retained is not None
        await until(lambda: bool(hub.retained))
        assert not start.done()
        await peer.send(bus.frame(bus.REPLAYED))
        await start
        assert link.problem is None
        assert (hub.retained.get("r"), hub.retained.age("r")) == (b'{"x":1}', 7.0)
        assert hub.heard == []
        await unlinked(link, peer)

    run(test)


def test_start_fails_when_the_switch_goes_before_all_is_there(run: Run) -> None:
    async def test() -> None:
        peer = Peer()
        link = Link(Listening(), asyncio.get_running_loop(), PATIENCE)
        start = asyncio.ensure_future(link.start(peer.other))
        await peer.expect(bus.HELLO)
        peer.sock.close()
        with pytest.raises(ConnectionError, match="has ended"):
            await start

    run(test)


def test_our_own_message_is_delivered_at_its_place_in_the_order(run: Run) -> None:
    async def test() -> None:
        hub = Listening()
        link, peer = await linked(hub)
        first = link.publish("s", b"1")
        second = link.publish("t", b'"2"', False, "abc", True)
        assert await peer.expect(bus.MESSAGE, bus.MESSAGE) == [b"s 1", b't "2"']
        await peer.send(message("s", b"0", exclude="x"))
        await until(lambda: bool(hub.heard))
        assert hub.heard == [("s", b"0", "x")]
        await peer.send(accepted(3), message("s", b"1.5"), accepted(0), message("s", b"3", retain=True))
        assert (await first, await second) == (3, 0)
        await until(lambda: len(hub.heard) == 5)
        assert hub.heard[1:] == [("s", b"1"), ("s", b"1.5"), ("t", b'"2"', "abc", True), ("s", b"3", True)]
        assert hub.retained is not None
        assert hub.retained.get("s") == b"3"
        await unlinked(link, peer)

    run(test)


def test_what_is_written_in_one_turn_goes_out_together(run: Run) -> None:
    async def test() -> None:
        link, peer = await linked(Listening())
        for number in range(100):
            link.publish("s", b"%d" % number)
        link.control({"is": "ready"})
        await until(lambda: readable(peer.sock))
        assert len(peer.sock.recv(1 << 16)) == 100 * len(message("s", b"1")) + 90 + len(b'{"is":"ready"}') + 9
        await unlinked(link, peer)

    run(test)


def readable(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_a_poster_is_told_in_time_and_the_message_is_delivered_when_it_is_accepted_after_all(run: Run) -> None:
    async def test() -> None:
        hub = Listening()
        link, peer = await linked(hub, patience=0.05)
        late = [link.publish("s", b"1"), link.disconnect("u", True), link.publish("s", b"2")]
        asked = link.count("s")
        for answer in (*late, asked):
            assert await failure(answer) == "the server's other workers did not take it within 0.05 s"
        assert hub.heard == []
        await peer.send(accepted(1, 0, 1), bus.frame(bus.COUNTED, bytes(4)))
        await until(lambda: len(hub.heard) == 2)
        in_time = link.publish("s", b"3")
        await peer.send(accepted(4))
        assert await in_time == 4
        await unlinked(link, peer)

    run(test)


def test_answers_in_time_are_no_reason_to_give_up_those_that_follow(run: Run) -> None:
    async def test() -> None:
        link, peer = await linked(Listening(), patience=0.05)
        for _ in range(10):
            answers = [link.publish("s", b"1") for _ in range(3)]
            await peer.send(accepted(1, 2))
            assert [await answers[0], await answers[1]] == [1, 2]
            assert "within" in await failure(answers[2])
            await peer.send(accepted(3))
        await unlinked(link, peer)

    run(test)


def test_a_cancelled_answer_does_not_matter(run: Run) -> None:
    async def test() -> None:
        hub = Listening()
        link, peer = await linked(hub)
        cancelled, other = link.publish("s", b"1"), link.publish("s", b"2")
        cancelled.cancel()
        await peer.send(accepted(1, 2))
        assert await other == 2
        assert len(hub.heard) == 2
        await unlinked(link, peer)

    run(test)


def test_what_waits_for_the_switch_is_bounded_by_max_backlog(run: Run) -> None:
    async def test() -> None:
        hub = Listening()
        link, peer = await linked(hub)
        hub.max_backlog = 100_000
        data = b'"%b"' % (b"x" * 30_000)
        answers = [link.publish("s", data) for _ in range(5)]
        assert [answer.done() for answer in answers] == [False, False, False, False, True]
        assert await failure(answers[4]) == "more is posted than the server's other workers take"
        await peer.expect(*[bus.MESSAGE] * 4)
        await peer.send(accepted(1))
        await answers[0]
        assert not link.publish("s", data).done()
        await unlinked(link, peer)

    run(test)


def test_small_messages_that_wait_count_for_what_they_cost(run: Run) -> None:
    async def test() -> None:
        hub = Listening()
        link, peer = await linked(hub)
        hub.max_backlog = 100_000
        taken = 0
        while not link.publish("s", b"1").done():
            taken += 1
        assert 100 < taken < 200
        await unlinked(link, peer)

    run(test)


def test_a_message_too_large_for_a_frame_is_refused_in_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        link, peer = await linked(Listening())
        monkeypatch.setattr(bus, "MAX_FRAME", 100)
        size = len(message("s", b"")) - bus.HEADER.size
        answers = [link.publish("s", b"1" * (100 - size + more)) for more in (-1, 0, 1)]
        assert [answer.done() for answer in answers] == [False, False, True]
        assert await failure(answers[2]) == "it is too large for the server's other workers"
        await unlinked(link, peer)

    run(test)


def test_a_disconnect_command_is_carried_out_where_it_was_given_when_it_is_accepted(run: Run) -> None:
    async def test() -> None:
        hub = Listening()
        closed = hub.commanded.commands
        link, peer = await linked(hub)
        answer = link.disconnect('u"1', False)
        (sent,) = await peer.expect(bus.DISCONNECT)
        assert orjson.loads(sent) == {"identifier": 'u"1', "reconnect": False}
        assert closed == []
        await peer.send(accepted(0), bus.frame(bus.DISCONNECT, b'{"identifier":"v","reconnect":true,"later":1}'))
        await answer
        await until(lambda: len(closed) == 2)
        assert closed == [('u"1', False), ("v", True)]
        await unlinked(link, peer)

    run(test)


def test_counts_are_asked_and_answered_in_turn(run: Run) -> None:
    async def test() -> None:
        link, peer = await linked(Listening())
        answers = [link.count("s"), link.count("Zürich")]
        assert await peer.expect(bus.COUNT, bus.COUNT) == [b"s", "Zürich".encode()]
        await peer.send(bus.frame(bus.COUNTED, b"\0\0\0\1"), bus.frame(bus.COUNTED, b"\0\1\0\0"))
        assert [await answer for answer in answers] == [1, 65536]
        await unlinked(link, peer)

    run(test)


def test_changes_of_one_moment_are_one_report_of_what_is_so_then(run: Run) -> None:
    async def test() -> None:
        hub = Listening()
        link, peer = await linked(hub)
        for count in range(50):
            hub.set_count("s", count)
            hub.set_count(f"t{count}", 1)
        hub.set_count("t7", 0)
        (counts,) = await peer.expect(bus.COUNTS)
        told = dict(bus.counts_in(counts, 0, len(counts)))
        assert len(told) == 51
        assert (told[b"s"], told[b"t7"], told[b"t8"]) == (49, 0, 1)
        await unlinked(link, peer)
        assert hub.on_change is None

    run(test)


def test_the_next_report_waits_for_its_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastcable.link.REPORT_SECONDS", 3600.0)

    async def test() -> None:
        hub = Listening()
        link, peer = await linked(hub)
        hub.set_count("s", 3)
        for _ in range(3):
            await asyncio.sleep(0)
        link.control({})
        await peer.expect(bus.CONTROL)
        await unlinked(link, peer)

    run(test)


def test_a_congested_hub_is_not_handed_more_until_it_is_no_longer(run: Run) -> None:
    async def test() -> None:
        hub = Listening()
        link, peer = await linked(hub)
        hub.is_congested = True
        await peer.send(message("s", b"1"))
        await until(lambda: bool(hub.heard))
        large = message("s", b'"%b"' % (b"x" * (4 << 20)))
        sending = asyncio.ensure_future(peer.send(large, large))
        await asyncio.sleep(0.05)
        assert not sending.done()
        assert len(hub.heard) == 1
        hub.is_congested = False
        await sending
        await until(lambda: len(hub.heard) == 3)
        await unlinked(link, peer)

    run(test)


def test_a_link_that_ends_while_the_hub_is_congested_leaves_no_timer(run: Run) -> None:
    async def test() -> None:
        hub = Listening()
        link, peer = await linked(hub)
        hub.is_congested = True
        await peer.send(message("s", b"1"))
        await until(lambda: bool(hub.heard))
        await unlinked(link, peer)
        hub.is_congested = False
        await asyncio.sleep(0.02)

    run(test)


def test_what_a_full_socket_does_not_take_waits_and_nothing_is_lost(run: Run) -> None:
    async def test() -> None:
        hub = Listening()
        link, peer = await linked(hub)
        data = b'"%b"' % (b"x" * 100_000)
        answers = []
        for number in range(100):
            answers.append(link.publish(f"s{number}", data))
            hub.set_count(f"s{number}", number)
            await asyncio.sleep(0)
        bodies: list[bytes] = []
        counts: dict[bytes, int] = {}
        while len(bodies) < 100 or len(counts) < 100:
            header = await peer._take(bus.HEADER.size)
            length, kind, p, _ = bus.HEADER.unpack(header)
            body = await peer._take(length)
            if kind == bus.MESSAGE:
                bodies.append(body[:p])
            else:
                counts.update(bus.counts_in(body, 0, length))
        assert bodies == [b"s%d" % number for number in range(100)]
        assert counts == {b"s%d" % number: number for number in range(100)}
        await peer.send(accepted(*range(100)))
        assert [await answer for answer in answers] == list(range(100))
        await unlinked(link, peer)

    run(test)


def test_lost_messages_are_a_gap_in_every_stream(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        hub = Listening()
        hub.counts = {"s": 1, "t": 1}
        link, peer = await linked(hub)
        await peer.send(message("s", b"1"), bus.frame(bus.LOST), message("s", b"2"))
        await until(lambda: len(hub.heard) == 2)
        assert hub.gaps == ["s", "t"]
        await unlinked(link, peer)

    with caplog.at_level(logging.WARNING, "fastcable"):
        run(test)
    assert [record.getMessage() for record in caplog.records] == [
        "messages of the other workers were lost here: this worker could not keep up"]


def test_the_end_of_the_switch_is_told_to_all_who_wait(run: Run) -> None:
    async def test() -> None:
        hub = Listening()
        ends: list[str] = []
        link, peer = await linked(hub, on_end=lambda: ends.append("it ended"))
        answers = [link.publish("s", b"1"), link.count("s"), link.disconnect("u", True)]
        peer.sock.close()
        gone = "the connection with the server's other workers has ended"
        for answer in answers:
            assert await failure(answer) == gone
        assert ends == ["it ended"]
        assert link.problem == gone
        assert await failure(link.publish("s", b"2")) == gone
        link.control({})
        assert hub.heard == []
        await link.finish()
        assert ends == ["it ended"]

    run(test)


def test_finish_waits_for_what_was_published_and_does_not_call_on_end(run: Run) -> None:
    async def test() -> None:
        hub = Listening()
        link, peer = await linked(hub, on_end=lambda: pytest.fail("it was us who ended it"))
        answer = link.publish("s", b"1")
        finish = asyncio.ensure_future(link.finish())
        await peer.expect(bus.MESSAGE)
        assert not finish.done()
        await peer.send(accepted(2))
        await finish
        assert await answer == 2
        assert hub.heard == [("s", b"1")]
        assert await asyncio.get_running_loop().sock_recv(peer.sock, 1) == b""
        peer.sock.close()

    run(test)


def test_finish_gives_up_on_a_switch_that_does_not_answer_or_read(run: Run) -> None:
    async def test() -> None:
        link, peer = await linked(Listening(), patience=0.05)
        answer = link.publish("s", b'"%b"' % (b"x" * (4 << 20)))
        await link.finish()
        assert "within" in await failure(answer)
        peer.sock.close()

    run(test)


@pytest.mark.parametrize("sent", [
    pytest.param(bus.HEADER.pack(bus.MAX_FRAME + 1, bus.MESSAGE, 1, 14), id="too large"),
    pytest.param(bus.HEADER.pack(2**32 - 1, 99, 1, 14), id="as large as can be"),
])
def test_a_frame_that_cannot_be_one_ends_the_link(run: Run, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        ended = asyncio.Event()
        _, peer = await linked(Listening(), on_end=ended.set)
        await peer.send(sent)
        await ended.wait()
        peer.sock.close()

    run(test)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "the switch between the workers sent a broken frame"]


@pytest.mark.parametrize("sent", [
    pytest.param(bus.message_frame(b"\xff", head(False, None, False), b"1"), id="the name is no UTF-8"),
    pytest.param(bus.message_frame(b"s", b'{"v":1,"retain":1,"data":', b"1"), id="a bad option"),
    pytest.param(bus.message_frame(b"s", b"{", b"1"), id="a bad head"),
    pytest.param(bus.frame(bus.RETAINED, b"1"), id="RETAINED without an age"),
    pytest.param(bus.frame(bus.DISCONNECT, b"{}"), id="DISCONNECT of nobody"),
    pytest.param(bus.frame(bus.CONTROL, b"{"), id="CONTROL is no JSON"),
    pytest.param(accepted(1), id="ACCEPTED, though nothing waits"),
    pytest.param(message("s", b'"fail"'), id="the hub fails"),
])
def test_what_cannot_be_delivered_is_logged_and_the_rest_is(
    run: Run, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        hub = Listening()
        link, peer = await linked(hub)
        await peer.send(sent, message("s", b"2"))
        await until(lambda: bool(hub.heard))
        assert hub.heard == [("s", b"2")]
        await unlinked(link, peer)

    run(test)
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info


def test_our_own_message_that_fails_here_is_accepted_all_the_same(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        link, peer = await linked(Listening())
        answers = [link.publish("s", b'"fail"'), link.publish("s", b"2")]
        await peer.send(accepted(1, 2))
        assert [await answer for answer in answers] == [1, 2]
        await unlinked(link, peer)

    run(test)
    assert len(caplog.records) == 1


def test_control_goes_both_ways(run: Run) -> None:
    async def test() -> None:
        said: list[dict[str, object]] = []
        link, peer = await linked(Listening(), on_control=said.append)
        link.control({"is": "ready"})
        assert await peer.expect(bus.CONTROL) == [b'{"is":"ready"}']
        await peer.send(bus.frame(bus.CONTROL, b'{"do":"retire"}'))
        await until(lambda: bool(said))
        assert said == [{"do": "retire"}]
        await unlinked(link, peer)

    run(test)


# With a real switch, in the same loop


def switched(switch: Switch, on_end: Callable[[int, str | None], object] = lambda member, reason: None) -> LoopPorts:
    ports = LoopPorts(switch, asyncio.get_running_loop(), on_end)
    opened.append(ports)
    return ports


async def attached(ports: LoopPorts, hub: Listening, member: int) -> Link:
    ours, theirs = socket.socketpair()
    ports.add(member, theirs)
    link = Link(hub, asyncio.get_running_loop(), PATIENCE)
    await link.start(ours)
    return link


def test_workers_of_one_switch_hear_each_other_in_one_order(run: Run) -> None:
    async def test() -> None:
        switch = Switch(Retained(0, 0, lambda: 1000.0))
        ends: list[tuple[int, str | None]] = []
        ports = switched(switch, lambda *end: ends.append(end))
        hubs = [Listening(), Listening(), Listening()]
        links = [await attached(ports, hub, member) for member, hub in enumerate(hubs)]
        hubs[1].set_count("s", 5)
        hubs[2].set_count("s", 7)
        await until(lambda: switch.count("s") == 12)

        async def publish(number: int) -> None:
            for turn in range(200):
                data = b"%d" % (1000 * number + turn)
                elsewhere = await links[number].publish("s", data, turn % 7 == 0)
                assert elsewhere == (12, 7, 5)[number]
                assert any(heard[1] == data for heard in hubs[number].heard)  # it was delivered here by then

        await asyncio.gather(publish(0), publish(1), publish(2))
        await until(lambda: all(len(hub.heard) == 600 for hub in hubs))
        assert hubs[0].heard == hubs[1].heard == hubs[2].heard
        for number in range(3):
            own = [int(data) for _, data, *_ in hubs[0].heard if int(data) // 1000 == number]
            assert own == [1000 * number + turn for turn in range(200)]
        joiner = Listening()
        links.append(await attached(ports, joiner, 3))
        assert joiner.retained is not None
        last = [heard for heard in hubs[0].heard if True in heard][-1]
        assert joiner.retained.get("s") == last[1]
        await links[2].finish()
        await until(lambda: ends == [(2, None)])
        assert await links[0].count("s") == 5
        for link in (links[0], links[1], links[3]):
            await link.finish()
        await until(lambda: len(switch) == 0)
        ports.close()

    run(test)


def test_a_worker_that_breaks_the_form_is_cut_off_alone(run: Run) -> None:
    async def test() -> None:
        ends: dict[int, str | None] = {}
        switch = Switch()
        ports = switched(switch, ends.__setitem__)
        hubs = [Listening(), Listening()]
        links = [await attached(ports, hub, member) for member, hub in enumerate(hubs)]
        broken, theirs = socket.socketpair()
        opened.append(broken)
        ports.add(9, theirs)
        broken.sendall(b"GET / HTTP/1.1\r\n\r\n")
        await until(lambda: 9 in ends)
        assert ends == {9: "broken frame: HELLO is expected first"}
        broken.close()
        assert await links[0].publish("s", b"1") == 0
        await until(lambda: hubs[1].heard == [("s", b"1")])
        for link in links:
            await link.finish()
        ports.close()

    run(test)


def test_a_worker_that_does_not_read_for_a_while_is_told_what_it_lost(run: Run) -> None:
    async def test() -> None:
        switch = Switch(Retained(0, 0, lambda: 1000.0), max_queue=1 << 20)
        ports = switched(switch)
        hubs = [Listening(), Listening()]
        links = [await attached(ports, hub, member) for member, hub in enumerate(hubs)]
        hubs[1].set_count("s", 1)
        hubs[1].is_congested = True
        data = b'"%b"' % (b"x" * 100_000)
        for number in range(40):
            await links[0].publish(f"s{number}", data, number >= 38)
        assert len(hubs[0].heard) == 40
        hubs[1].is_congested = False
        await until(lambda: hubs[1].gaps == ["s"])
        assert len(hubs[1].heard) < 40
        await links[0].publish("s", b"1")
        await until(lambda: hubs[1].heard[-1] == ("s", b"1"))
        assert [heard[0] for heard in hubs[1].heard[:-1]] == [f"s{n}" for n in range(len(hubs[1].heard) - 1)]
        assert hubs[1].retained is not None
        assert hubs[1].retained.get("s39") == data
        for link in links:
            await link.finish()
        ports.close()

    run(test)
