"""The switch between workers: one order for all, counts, slow members, broken frames, and its state over an exec."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from fastcable import bus
from fastcable.brokers.message import decode_at, encode, head
from fastcable.retained import Retained
from fastcable.switch import Switch

Frame = tuple[int, bytes]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def message(stream: str, data: bytes, retain: bool = False, exclude: str | None = None) -> bytes:
    return bus.message_frame(stream.encode(), head(retain, exclude, False), data)


def disconnect(identifier: str) -> bytes:
    return bus.frame(bus.DISCONNECT, orjson.dumps({"identifier": identifier, "reconnect": True}))


def counts(**streams: int) -> bytes:
    return b"".join(bus.counts_frames((name.encode(), count) for name, count in streams.items()))


def frames(data: bytes) -> list[Frame]:
    """The frames in these bytes, which must be whole; each a type and what it says, without what is only form."""
    found = []
    at = 0
    while at < len(data):
        length, kind, p, q = bus.HEADER.unpack_from(data, at)
        at += bus.HEADER.size
        body = data[at : at + length]
        assert len(body) == length
        if kind == bus.MESSAGE:
            body = body[:p] + b" " + decode_at(body[p:], q).data
        elif kind == bus.RETAINED:
            stream, value, age = bus.retained_in(body, 0, length, p)
            body = b"%b %b %g" % (stream.encode(), value, age)
        found.append((kind, body))
        at += length
    return found


def taken(switch: Switch, member: int, most: int | None = None) -> bytes:
    """What is written to a member: all, or as many bytes as its socket takes."""
    data = b""
    while member in switch.waiting and (most is None or len(data) < most):
        piece = b"".join(switch.pieces(member))
        piece = piece if most is None else piece[: most - len(data)]
        switch.wrote(member, len(piece))
        data += piece
    return data


def heard(switch: Switch, member: int) -> list[Frame]:
    return frames(taken(switch, member))


def joined(switch: Switch, *members: int) -> None:
    for member in members:
        switch.join(member)
        switch.feed(member, bus.frame(bus.HELLO, bus.GREETING))
        taken(switch, member)


def accepted(*elsewhere: int) -> Frame:
    return bus.ACCEPTED, struct.pack(f">{len(elsewhere)}I", *elsewhere)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def switch(clock: Clock) -> Switch:
    """Of workers 1, 2 and 3."""
    switch = Switch(Retained(0, 0, clock))
    joined(switch, 1, 2, 3)
    return switch


def test_a_message_goes_to_all_others_and_its_origin_learns_its_place(switch: Switch) -> None:
    switch.feed(1, message("s", b"1"))
    switch.feed(2, message("s", b"2"))
    assert heard(switch, 1) == [accepted(0), (bus.MESSAGE, b"s 2")]
    assert heard(switch, 2) == [(bus.MESSAGE, b"s 1"), accepted(0)]
    assert heard(switch, 3) == [(bus.MESSAGE, b"s 1"), (bus.MESSAGE, b"s 2")]
    assert not switch.waiting


def test_messages_read_together_are_accepted_together_and_one_piece_for_all_others(switch: Switch) -> None:
    switch.feed(1, message("s", b"1") + message("t", b"2") + disconnect("u") + message("s", b"3"))
    assert heard(switch, 1) == [accepted(0, 0, 0, 0)]
    pieces = switch.pieces(2)
    assert len(pieces) == 1
    assert pieces[0] is switch.pieces(3)[0]
    assert [kind for kind, _ in heard(switch, 2)] == [bus.MESSAGE, bus.MESSAGE, bus.DISCONNECT, bus.MESSAGE]


def test_all_options_of_a_message_arrive(switch: Switch) -> None:
    sent = message("s", b'{"x":1}', retain=True, exclude="abc")
    switch.feed(1, sent)
    assert taken(switch, 2) == sent


def test_acceptance_tells_the_subscribers_elsewhere(switch: Switch) -> None:
    switch.feed(1, counts(s=5))
    switch.feed(2, counts(s=7, t=1))
    switch.feed(3, counts(s=1))
    switch.feed(1, message("s", b"1") + message("t", b"2") + message("u", b"3"))
    assert heard(switch, 1) == [accepted(8, 1, 0)]
    assert (switch.count("s"), switch.count("t"), switch.count("u")) == (13, 1, 0)


def test_a_report_counts_from_its_place_between_messages(switch: Switch) -> None:
    switch.feed(1, counts(s=1) + message("s", b"1") + counts(s=4))
    switch.feed(2, message("s", b"2") + counts(s=9) + message("s", b"3"))
    assert heard(switch, 2) == [(bus.MESSAGE, b"s 1"), accepted(4), accepted(4)]
    switch.feed(1, counts(s=0) + message("s", b"4"))
    assert heard(switch, 1)[-1] == accepted(9)


def test_a_member_may_ask_for_a_count(switch: Switch) -> None:
    switch.feed(1, counts(s=5))
    switch.feed(2, counts(s=7))
    ask = bus.frame(bus.COUNT, b"s") + bus.frame(bus.COUNT, b"t")
    switch.feed(1, ask)
    switch.feed(3, ask)
    assert heard(switch, 1) == [(bus.COUNTED, b"\0\0\0\7"), (bus.COUNTED, b"\0\0\0\0")]
    assert heard(switch, 3) == [(bus.COUNTED, b"\0\0\0\x0c"), (bus.COUNTED, b"\0\0\0\0")]


def test_a_member_that_left_counts_no_more_and_hears_nothing(switch: Switch) -> None:
    switch.feed(2, counts(s=7, t=1))
    switch.feed(3, message("s", b"1"))
    switch.leave(2)
    switch.leave(2)
    assert (switch.count("s"), switch.count("t"), len(switch), 2 in switch) == (0, 0, 2, False)
    assert switch.waiting == {1, 3}
    switch.feed(1, message("s", b"2"))
    assert heard(switch, 1)[-1] == accepted(0)


def test_many_counts_come_in_several_frames() -> None:
    reported = {b"%0200d" % number: number for number in range(1, 1001)}
    sent = list(bus.counts_frames(reported.items()))
    assert len(sent) == 1000 * 206 // bus.BATCH + 1
    switch = Switch()
    joined(switch, 1)
    switch.feed(1, b"".join(sent))
    assert all(switch.count(name.decode()) == count for name, count in reported.items())


def test_control_is_between_a_worker_and_who_runs_the_switch() -> None:
    said: list[tuple[int, dict[str, object]]] = []
    switch = Switch(on_control=lambda member, message: said.append((member, message)))
    joined(switch, 1, 2)
    switch.feed(1, message("s", b"1") + bus.frame(bus.CONTROL, b'{"is":"ready"}') + message("s", b"2"))
    switch.control(2, {"do": "retire"})
    assert said == [(1, {"is": "ready"})]
    assert heard(switch, 1) == [accepted(0), accepted(0)]
    assert heard(switch, 2) == [(bus.MESSAGE, b"s 1"), (bus.MESSAGE, b"s 2"), (bus.CONTROL, b'{"do":"retire"}')]


def test_frames_and_members_of_a_later_version_are_ignored(switch: Switch) -> None:
    switch.join(4)
    switch.feed(4, bus.frame(bus.HELLO, b'{"v":2,"more":[]}') + bus.frame(77, b"news") + message("s", b"1"))
    assert heard(switch, 4)[-1] == accepted(0)
    assert heard(switch, 1) == [(bus.MESSAGE, b"s 1")]
    assert switch.take_failed() == []


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 10, 11])
def test_frames_may_come_in_any_pieces(switch: Switch, size: int) -> None:
    sent = b"".join((
        message("s", b"1"), counts(s=1, t=2), message("t", b'"%b"' % (b"x" * 20)), bus.frame(bus.COUNT, b"s"),
        disconnect("u"), message("s", b"2", retain=True)))
    for at in range(0, len(sent), size):
        switch.feed(1, sent[at : at + size])
    assert heard(switch, 3) == [
        (bus.MESSAGE, b"s 1"), (bus.MESSAGE, b't "%b"' % (b"x" * 20)), frames(disconnect("u"))[0],
        (bus.MESSAGE, b"s 2")]
    kinds = [kind for kind, _ in heard(switch, 1)]
    assert (kinds.count(bus.COUNTED), kinds.count(bus.ACCEPTED) > 0) == (1, True)


def test_a_large_message_is_put_together_once() -> None:
    switch = Switch()
    joined(switch, 1, 2)
    sent = message("s", b'"%b"' % (b"x" * (8 << 20)))
    for at in range(0, len(sent), 1 << 16):
        switch.feed(1, sent[at : at + (1 << 16)])
    assert taken(switch, 2) == sent


# Retained messages


def test_who_joins_is_first_told_what_is_retained(switch: Switch, clock: Clock) -> None:
    switch.feed(1, message("s", b"1", retain=True) + message("t", b"2", retain=True) + message("u", b"3"))
    clock.now += 5
    switch.feed(2, message("t", b"null", retain=True) + message("v", b'"4"', retain=True, exclude='"retain":false'))
    switch.join(4)
    switch.feed(3, message("s", b"6"))
    assert heard(switch, 4) == [
        (bus.HELLO, b'{"v":1}'), (bus.RETAINED, b"s 1 5"), (bus.RETAINED, b'v "4" 0'), (bus.REPLAYED, b""),
        (bus.MESSAGE, b"s 6")]


def test_an_exclusion_that_looks_like_an_option_is_none(switch: Switch) -> None:
    switch.feed(1, message("s", b"1", exclude=',"retain":true'))
    switch.join(4)
    assert heard(switch, 4) == [(bus.HELLO, b'{"v":1}'), (bus.REPLAYED, b"")]


def test_a_switch_without_a_store_retains_nothing() -> None:
    switch = Switch()
    joined(switch, 1)
    switch.feed(1, message("s", b"1", retain=True))
    switch.join(2)
    assert heard(switch, 2) == [(bus.HELLO, b'{"v":1}'), (bus.REPLAYED, b"")]


def test_what_is_replayed_does_not_fill_the_queue(clock: Clock) -> None:
    switch = Switch(Retained(0, 0, clock), max_queue=100)
    joined(switch, 1)
    for number in range(100):
        switch.feed(1, message(f"s{number}", b'"%b"' % (b"x" * 2000), retain=True))
        taken(switch, 1)
    switch.join(2)
    switch.feed(1, message("s", b"1"))
    kinds = [kind for kind, _ in heard(switch, 2)]
    assert kinds == [bus.HELLO] + [bus.RETAINED] * 100 + [bus.REPLAYED, bus.MESSAGE]


# Slow members


@pytest.mark.parametrize(("more", "arrives"), [(-1, True), (0, False), (1, False)])
def test_a_message_is_dropped_when_max_queue_bytes_wait(more: int, arrives: bool) -> None:
    first = message("s", b'"%b"' % (b"x" * 80))
    switch = Switch(max_queue=len(first) - more)
    joined(switch, 1, 2, 3)
    switch.feed(1, first)
    taken(switch, 3)
    switch.feed(1, message("s", b"2"))
    assert heard(switch, 3) == [(bus.MESSAGE, b"s 2")]
    last = (bus.MESSAGE, b"s 2") if arrives else (bus.LOST, b"")
    assert heard(switch, 2) == [*frames(first), last]
    switch.feed(1, message("s", b"3"))
    assert heard(switch, 2) == [(bus.MESSAGE, b"s 3")]


def test_until_its_queue_is_empty_a_member_gets_what_is_no_message_and_then_what_it_missed(clock: Clock) -> None:
    switch = Switch(Retained(0, 0, clock), max_queue=500)
    joined(switch, 1, 2)
    first = message("s", b'"%b"' % (b"x" * 500))
    switch.feed(1, first)
    switch.feed(1, message("r", b"1", retain=True) + disconnect("u") + message("n", b"null", retain=True))
    clock.now += 1
    switch.feed(1, message("r", b"2", retain=True) + message("q", b"3", retain=True) + message("s", b"4"))
    clock.now += 1
    switch.feed(2, message("s", b"5") + bus.frame(bus.COUNT, b"s"))
    switch.control(2, {})
    assert taken(switch, 2, most=len(first) - 1) + taken(switch, 2, most=1) == first
    switch.feed(1, message("s", b"6"))
    assert heard(switch, 2) == [
        *frames(disconnect("u")), accepted(0), (bus.COUNTED, bytes(4)), (bus.CONTROL, b"{}"),
        (bus.LOST, b""), (bus.RETAINED, b"r 2 1"), (bus.RETAINED, b"n null 0"), (bus.RETAINED, b"q 3 1")]
    assert heard(switch, 1) == [accepted(0), accepted(0, 0, 0), accepted(0, 0, 0), (bus.MESSAGE, b"s 5"), accepted(0)]


FLOODS: dict[str, Callable[[int], tuple[int, bytes]]] = {
    "commands": lambda number: (1, disconnect("u")),
    "questions": lambda number: (2, bus.frame(bus.COUNT, b"s")),
    "retained": lambda number: (1, message(f"s{number}", b"1", retain=True)),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_member_that_does_not_read_fails_before_it_costs_too_much(flood: str, clock: Clock) -> None:
    switch = Switch(Retained(0, 0, clock), max_queue=1000)
    joined(switch, 1, 2, 3)
    switch.feed(1, message("s", b'"%b"' % (b"x" * 1000)))
    for number in range(1000):
        if 2 not in switch.waiting:
            break
        assert sum(map(len, switch.pieces(2))) < 1100 + 1000
        switch.feed(*FLOODS[flood](number))
        taken(switch, 1), taken(switch, 3)
    assert switch.take_failed() == [(2, "does not read its link")]
    assert switch.take_failed() == []
    switch.feed(2, message("s", b"1"))
    switch.control(2, {})
    assert switch.pieces(2) == []
    switch.leave(2)
    taken(switch, 1), taken(switch, 3)
    switch.feed(1, message("s", b"7"))
    assert heard(switch, 3) == [(bus.MESSAGE, b"s 7")]


# Broken frames

HELLO = bus.frame(bus.HELLO, bus.GREETING)


def header(length: int, kind: int = bus.MESSAGE, p: int = 1, q: int = 14) -> bytes:
    return bus.HEADER.pack(length, kind, p, q)


@pytest.mark.parametrize(("sent", "problem"), [
    pytest.param(message("s", b"1"), "HELLO is expected", id="a message before HELLO"),
    pytest.param(b"GET / HTTP/1.1\r\n", "HELLO is expected", id="HTTP"),
    pytest.param(bus.frame(bus.HELLO, b"[]"), "objects", id="HELLO is an array"),
    pytest.param(bus.frame(bus.HELLO), "JSON|unexpected|empty", id="HELLO is empty"),
    pytest.param(HELLO + header(bus.MAX_FRAME + 1), "too large", id="a byte too large"),
    pytest.param(HELLO + header(2**32 - 1), "too large", id="as large as can be"),
    pytest.param(HELLO + header(15) + b"x" * 15, "without data", id="no data"),
    pytest.param(HELLO + header(0, p=0, q=0), "without data", id="an empty message"),
    pytest.param(HELLO + header(10, p=0xffff) + b"x" * 10, "without data", id="the name is longer than the frame"),
    pytest.param(HELLO + header(10, q=0xffff) + b"x" * 10, "without data", id="the head is longer than the frame"),
    pytest.param(HELLO + header(20, q=16) + b's["retain":true,xxxx', "JSON|unexpected|expected", id="a bad head"),
    pytest.param(HELLO + message("s", b"1", retain=True).replace(b'"v":1', b'"v":0'), "version", id="version 0"),
    pytest.param(
        HELLO + bus.message_frame(b"\xff", head(True, None, False), b"1"), "utf-8", id="a retained name is no UTF-8"),
    pytest.param(HELLO + bus.frame(bus.COUNTS, b"\0"), "inside an entry", id="COUNTS of a byte"),
    pytest.param(HELLO + bus.frame(bus.COUNTS, b"\0\1\0\0\0"), "inside an entry", id="COUNTS end in a number"),
    pytest.param(HELLO + bus.frame(bus.COUNTS, b"\0\1\0\0\0\1"), "inside a name", id="COUNTS without the name"),
    pytest.param(HELLO + bus.frame(bus.CONTROL, b"1"), "objects", id="CONTROL is a number"),
    pytest.param(HELLO + bus.frame(bus.CONTROL, b"{"), "JSON|unexpected|expected|EOF", id="CONTROL is cut off"),
])
def test_a_member_that_breaks_the_form_fails_and_the_others_go_on(
    switch: Switch, sent: bytes, problem: str
) -> None:
    switch.join(4)
    switch.feed(4, sent)
    ((failed, reason),) = switch.take_failed()
    assert failed == 4
    assert reason.startswith("broken frame: ")
    assert "\n" not in reason
    assert re.search(problem, reason), reason
    switch.feed(4, message("s", b"1"))
    switch.leave(4)
    switch.feed(1, message("s", b"2"))
    assert heard(switch, 2) == [(bus.MESSAGE, b"s 2")]


def test_a_frame_may_be_as_large_as_max_frame(switch: Switch) -> None:
    switch.feed(1, header(bus.MAX_FRAME) + b"s" + encode(b"1"))
    assert switch.take_failed() == []


# Over an exec


def test_all_of_the_state_goes_over_an_exec(clock: Clock) -> None:
    switch = Switch(Retained(0, 0, clock), max_queue=1000)
    joined(switch, 1, 2, 3)
    switch.join(4)  # which has not greeted yet
    switch.feed(1, counts(s=1, t=2) + message("r", b"1", retain=True))
    switch.feed(2, counts(s=5))
    whole = message("s", b'"partly read"')
    switch.feed(1, whole[:13])
    switch.feed(3, message("s", b'"%b"' % (b"x" * 1000)))
    switch.feed(3, message("m", b'"missed"', retain=True))
    before = taken(switch, 2, most=333)
    clock.now += 3
    state = b"".join(switch.export())

    successor = Switch(Retained(0, 0, clock), max_queue=1000)
    successor.restore(state + bus.frame(200, b"of a later version"))
    assert sorted(successor) == [1, 2, 3, 4]
    assert successor.waiting == switch.waiting
    assert before + taken(successor, 2) == before + taken(switch, 2)
    assert [taken(successor, member) for member in (1, 3, 4)] == [taken(switch, member) for member in (1, 3, 4)]
    successor.feed(1, whole[13:])
    successor.feed(4, HELLO + bus.frame(bus.COUNT, b"s"))
    assert heard(successor, 3) == [(bus.MESSAGE, b's "partly read"')]
    assert heard(successor, 4) == [(bus.MESSAGE, b's "partly read"'), (bus.COUNTED, b"\0\0\0\6")]
    successor.leave(1)
    assert (successor.count("s"), successor.count("t")) == (5, 0)
    successor.join(5)
    assert heard(successor, 5)[1:3] == [(bus.RETAINED, b"r 1 3"), (bus.RETAINED, b'm "missed" 3')]


def test_what_is_no_state_of_a_switch_is_refused() -> None:
    switch = Switch()
    joined(switch, 1)
    switch.feed(1, counts(s=1))
    state = b"".join(switch.export())
    records = {0}
    for record in switch.export():
        records.add(max(records) + len(record))
    for end in range(len(state)):
        if end not in records:
            with pytest.raises(ValueError, match="cut off"):
                Switch().restore(state[:end])
    with pytest.raises(ValueError, match="is none"):
        Switch().restore(counts(s=1))


# Everything at once


class Worker:
    """A member, and what it should see."""

    def __init__(self, number: int, since: int) -> None:
        self.number = number
        self.since = since  # how many messages there had been when it joined
        self.unsent: list[tuple[bytes, Callable[[], None]]] = []  # frames, and what each does when its end has come
        self.unread = b""
        self.own: list[bytes] = []  # published and not accepted
        self.subscribers = 0  # as reported
        self.seen: list[bytes] = []
        self.elsewhere: list[int] = []  # subscribers, as told with what was accepted
        self.expected_elsewhere: list[int] = []


class Bus(RuleBasedStateMachine):
    """Whatever members send and read, in whatever pieces, whoever comes and goes, exec or not: all see one order, each
    message once, their own included, and are told the counts of that moment."""

    workers = Bundle("workers")

    @initialize()
    def begin(self) -> None:
        self.switch = Switch(Retained(0, 0, Clock()))
        self.present: list[Worker] = []
        self.joins = 0
        self.published = 0
        self.order: list[bytes] = []

    @rule(target=workers)
    def join(self) -> Worker:
        self.joins += 1
        worker = Worker(self.joins, len(self.order))
        self.switch.join(worker.number)
        worker.unsent.append((HELLO, lambda: None))
        self.present.append(worker)
        return worker

    @rule(worker=consumes(workers))
    def leave(self, worker: Worker) -> None:
        self.present.remove(worker)
        self.switch.leave(worker.number)

    @rule(worker=workers, size=st.integers(0, 40), retain=st.booleans())
    def publish(self, worker: Worker, size: int, retain: bool) -> None:
        self.published += 1
        data = b'"%d %b"' % (self.published, b"x" * size)

        def ordered() -> None:
            self.order.append(data)
            worker.own.append(data)
            elsewhere = sum(other.subscribers for other in self.present if other is not worker)
            worker.expected_elsewhere.append(elsewhere)

        worker.unsent.append((message("s", data, retain), ordered))

    @rule(worker=workers, count=st.integers(0, 3))
    def report(self, worker: Worker, count: int) -> None:
        worker.unsent.append((counts(s=count), lambda: setattr(worker, "subscribers", count)))

    @rule(worker=workers, size=st.integers(1, 200))
    def send(self, worker: Worker, size: int) -> None:
        data = b""
        while worker.unsent and size:
            frame, effect = worker.unsent.pop(0)
            data += frame[:size]
            if len(frame) > size:
                worker.unsent.insert(0, (frame[size:], effect))
                break
            size -= len(frame)
            effect()
        if data:
            self.switch.feed(worker.number, data)

    @rule(worker=workers, size=st.integers(1, 200))
    def read(self, worker: Worker, size: int) -> None:
        self.take_in(worker, taken(self.switch, worker.number, most=size))

    @rule()
    def exec(self) -> None:
        state = b"".join(self.switch.export())
        self.switch = Switch(Retained(0, 0, Clock()))
        self.switch.restore(state)

    @invariant()
    def nobody_failed(self) -> None:
        assert self.switch.take_failed() == []

    def take_in(self, worker: Worker, data: bytes) -> None:
        worker.unread += data
        whole = 0
        while len(worker.unread) - whole >= bus.HEADER.size:
            end = whole + bus.HEADER.size + bus.HEADER.unpack_from(worker.unread, whole)[0]
            if end > len(worker.unread):
                break
            whole = end
        for kind, body in frames(worker.unread[:whole]):
            if kind == bus.MESSAGE:
                worker.seen.append(body.removeprefix(b"s "))
            elif kind == bus.ACCEPTED:
                for (elsewhere,) in struct.iter_unpack(">I", body):
                    worker.seen.append(worker.own.pop(0))
                    worker.elsewhere.append(elsewhere)
        worker.unread = worker.unread[whole:]

    def teardown(self) -> None:
        for worker in self.present:
            self.send(worker, 1 << 30)
        for worker in self.present:
            self.take_in(worker, taken(self.switch, worker.number))
            assert worker.seen == self.order[worker.since :]
            assert worker.elsewhere == worker.expected_elsewhere
            assert (worker.own, worker.unread) == ([], b"")
        assert self.switch.count("s") == sum(worker.subscribers for worker in self.present)


TestBus = Bus.TestCase
TestBus.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
