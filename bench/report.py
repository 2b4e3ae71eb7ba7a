"""RESULTS.md, and the table in README.md: written from the results and from nothing else, figures in sentences too."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import charts
from bench.progress import clock
from bench.results import (
    ACTION_CABLE,
    FASTCABLE,
    FLOOR,
    Failure,
    Figure,
    PeerRecord,
    Results,
    case_name,
    case_words,
    number,
)
from bench.targets import KB, MB, YARDSTICKS, Target, largest, targets
from bench.workloads import ONLY

START, END = "<!-- bench -->", "<!-- /bench -->"
FAULT = "†"
_MILLI, _MICRO = 1e-3, 1e-6
_KEY = "Small: × the floor's · × Action Cable's. ≈: the runs disagree by more than 20 %. _Italic_: yardsticks."


@dataclass(frozen=True)
class Column:
    title: str
    figure: str
    unit: float
    """What a value is divided by."""


@dataclass(frozen=True)
class Section:
    workload: str
    title: str
    text: str
    columns: tuple[Column, ...]


SECTIONS = (
    Section(
        "idle", "Memory",
        "Of the server without connections, and what each connection with one subscription adds to it. RSS counts what "
        "is shared with other processes in full, PSS in part; private dirty is what ends with the process. Socket "
        "buffers are what the kernel holds for the server's sockets. The kernel's objects for a socket (with its file, "
        "inode, directory entry and epoll entry) are the same for every program: they were measured on bare sockets. "
        "The host's memory of a connection is PSS, buffers and these objects, for the server's end only.",
        (
            Column("RSS", "rss", 1), Column("PSS", "pss", 1), Column("private dirty", "private_dirty", 1),
            Column("socket buffers", "buffers", 1), Column("kernel objects", "objects", 1),
            Column("host", "host", 1),
        ),
    ),
    Section(
        "fanout", "Fan-out",
        "One stream; the next broadcast is posted when the last subscriber has the one before. Each server was up "
        "beside the floor, and short segments alternated between the two: × the floor is the median of these pairs.",
        (
            Column("CPU µs per delivery", "cpu", _MICRO), Column("deliveries/s", "rate", 1),
            Column("last subscriber p50, ms", "last_p50", _MILLI), Column("p99, ms", "last_p99", _MILLI),
            Column("every delivery p50, ms", "each_p50", _MILLI), Column("p99, ms", "each_p99", _MILLI),
        ),
    ),
    Section(
        "instructions", "Instructions in user mode",
        "Counted by callgrind; what the kernel does is not in them. A delivery is what each further subscriber adds to "
        "a broadcast of 100 B.",
        (
            Column("per delivery", "deliver", 1), Column("per post", "post", 1),
            Column("per connect and subscribe", "connect", 1),
        ),
    ),
    Section(
        "burst", "Burst",
        "A hundred broadcasts of 100 B posted back to back; the share is that of the CPU per delivery which the same "
        "server needs for single messages.",
        (
            Column("CPU µs per delivery", "cpu", _MICRO), Column("share of a single one's", "share", 1),
            Column("deliveries/s", "rate", 1), Column("until all are delivered, ms", "seconds", _MILLI),
        ),
    ),
    Section(
        "streams", "Many small streams",
        "Random posts of 100 B on 16 publishing connections, each waiting for its answer.",
        (
            Column("posts/s", "rate", 1), Column("CPU µs per post", "cpu", _MICRO),
            Column("delivery p50, ms", "each_p50", _MILLI), Column("p99, ms", "each_p99", _MILLI),
        ),
    ),
    Section(
        "posts", "Posts",
        "Messages of 100 B to one subscriber: one per post on 16 publishing connections, or 100 per post on two, each "
        "connection waiting for its answer.",
        (
            Column("messages/s", "rate", 1), Column("CPU µs per message", "cpu", _MICRO),
            Column("answer p50, ms", "answer_p50", _MILLI), Column("p99, ms", "answer_p99", _MILLI),
        ),
    ),
    Section(
        "storm", "Reconnect storm",
        "Everybody connects and subscribes at once. Meanwhile a client that was there before is sent a message every "
        "20 ms; the last two columns are its latency.",
        (
            Column("CPU µs per connect", "cpu", _MICRO), Column("until all are subscribed, s", "seconds", 1),
            Column("other client p50, ms", "present_p50", _MILLI), Column("max, ms", "present_max", _MILLI),
        ),
    ),
    Section(
        "slow", "Slow readers",
        "One subscriber in ten stops reading, and 4 KB is broadcast each time that the others have the message before. "
        "The growth is divided by the number of readers that stalled; buffers are those of both ends.",
        (
            Column("healthy p99 before, ms", "before_p99", _MILLI), Column("beside, ms", "last_p99", _MILLI),
            Column("broadcasts", "messages", 1), Column("process, KB", "process", KB),
            Column("socket buffers, KB", "buffers", KB), Column("both, KB", "host", KB),
        ),
    ),
    Section(
        "fairness", "Fairness",
        "A stream with one subscriber is posted to every 20 ms, while a large one is broadcast to without pause.",
        (
            Column("small stream p50, ms", "each_p50", _MILLI), Column("p99, ms", "each_p99", _MILLI),
            Column("max, ms", "each_max", _MILLI), Column("deliveries/s of the large one", "rate", 1),
        ),
    ),
    Section(
        "heartbeat", "Idle connections",
        "CPU of connections on which nothing happens but the server's pings, as its defaults have them: some ping "
        "every 3 s, some every 30 s, the yardsticks never. All servers side by side.",
        (Column("% of a core", "cpu", 0.01),),
    ),
    Section(
        "pings", "Action Cable's pings",
        "Connections on which nothing happens but a ping every 3 s. The floor was up beside the server, with as many "
        "connections, and sent frames as small in the same pattern: to a sixth of them each half second. The server's "
        "WebSocket pings, every 30 s, and the answers to them count in.",
        (
            Column("CPU µs per ping", "cpu", _MICRO), Column("pings/s", "rate", 1), Column("% of a core", "core", 0.01),
        ),
    ),
)


def render(results: Results, folder: Path) -> None:
    """Write RESULTS.md and the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "RESULTS.md").write_text(document(results, charts.draw(results, folder)))


def document(results: Results, pictures: Sequence[tuple[str, str]]) -> str:
    """The text of RESULTS.md, with these pictures: (file, what it shows)."""
    return "\n".join(_document(results, pictures)) + "\n"


def update_readme(results: Results, readme: Path) -> None:
    """Put the headline table between the markers. Raises ValueError where they are missing."""
    text = readme.read_text()
    start, end = text.find(START), text.find(END)
    if not 0 <= start < end:
        raise ValueError(f"{readme} has no {START} … {END}")
    table = "\n".join([*headline(results), "", _where(results)])
    readme.write_text(f"{text[: start + len(START)]}\n{table}\n{text[end:]}")


def headline(results: Results) -> list[str]:
    """The table that says it all, at most eight columns wide."""
    return _table(list(_headline_columns(results)), [peer for peer in results.peers if peer.key not in ONLY])


def case_title(case: str) -> str:
    """`subscribers=1000 size=100` as people write it."""
    said = []
    for key, value in case_words(case).items():
        if key == "size":
            said.append(f"{number(int(value) / KB)} KB" if int(value) >= KB else f"{value} B")
        elif key == "batch":
            said.append("one message per post" if value == "1" else f"{value} messages per post")
        else:
            said.append(f"{int(value):,} {key}")
    return ", ".join(said).replace("0 connections", "no connections") if case == "connections=0" else ", ".join(said)


Cell = Callable[[PeerRecord], str]


def _headline_columns(results: Results) -> Iterator[tuple[str, Cell]]:
    case = largest(results, ACTION_CABLE) or largest(results)
    if case:
        count = f"{int(case_words(case)['connections']):,}"
        yield "idle, MB", _value(results, "idle", "connections=0", "rss", MB)
        yield f"KB per connection of {count}", _value(results, "idle", case, "rss", KB)
    for subscribers in (5000,):
        fanout = case_name(subscribers=subscribers, size=100)
        if fanout in results.cases("fanout"):
            yield "CPU µs per delivery", _value(results, "fanout", fanout, "cpu", _MICRO)
            yield "× the floor", _to_floor(results, "fanout", fanout, "cpu")
            yield f"last of {subscribers:,} p99, ms", _value(results, "fanout", fanout, "last_p99", _MILLI)
    single = case_name(batch=1)
    if single in results.cases("posts"):
        yield "posts/s", _value(results, "posts", single, "rate", 1)
    for storm in results.cases("storm"):
        yield "CPU µs per connect", _value(results, "storm", storm, "cpu", _MICRO)


def _document(results: Results, pictures: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield "# fastcable beside others"
    yield ""
    yield _where(results)
    if results.quick:
        yield ""
        yield "> This was a quick run: few and short measurements, of some of the servers. It shows where things stand."
    yield ""
    yield from headline(results)
    yield ""
    yield "RSS; fan-out to 5,000 subscribers of messages of 100 B; posts of one message; everybody connecting at once."
    yield "KB and MB are 1,024 and 1,048,576 bytes. ≈: the runs disagree by more than 20 %. _Italic_ are yardsticks"
    yield "that check nothing; the floor is a bare C loop of epoll and `send`."
    if results.failures:
        yield f"{FAULT}: not without fault, or not to the end; its section says what."
    yield ""
    yield from (f"- {sentence}" for sentence in _sentences(results))
    for file, text in pictures:
        yield ""
        yield f"![{text}]({file})"
    yield from _targets(list(targets(results)))
    for section in SECTIONS:
        yield from _section(results, section)
    yield from _method(results)


def _where(results: Results) -> str:
    machine = results.machine
    return (
        f"{results.date} UTC, {machine.cores} core{'s' if machine.cores > 1 else ''} of {machine.cpu}, "
        f"Linux {machine.kernel}; `make bench{' QUICK=1' if results.quick else ''}` makes these figures anew, "
        f"here in {clock(results.seconds)} minutes."
    )


def _sentences(results: Results) -> Iterator[str]:
    """What the figures say of fastcable, as far as there are any."""
    case = case_name(subscribers=5000, size=100)
    if cpu := results.to_floor("fanout", case, FASTCABLE, "cpu"):
        text = f"To 5,000 subscribers fastcable needs {number(cpu.median)} × the floor's CPU per delivery"
        if other := results.ratio("fanout", case, ACTION_CABLE, FASTCABLE, "cpu"):
            text += f"; Action Cable needs {number(other.median)} × fastcable's"
        yield text + "."
    idle = largest(results)
    if (each := results.median("idle", idle, FASTCABLE, "rss")) is not None:
        count = f"{int(case_words(idle)['connections']):,}"
        text = f"Each of {count} connections takes {number(each / KB)} KB of fastcable's memory"
        both = largest(results, ACTION_CABLE)
        if other := results.ratio("idle", both, ACTION_CABLE, FASTCABLE, "rss"):
            count = f"{int(case_words(both)['connections']):,}"
            text += f", and of {count} {number(other.median)} × as much of Action Cable's"
        if (host := results.median("idle", idle, FASTCABLE, "host")) is not None:
            text += f"; with what the kernel keeps for the server's end, {number(host / KB)} KB of the host's"
        yield text + "."
    for case in results.cases("fairness"):
        if (p99 := results.median("fairness", case, FASTCABLE, "each_p99")) is not None:
            count = f"{int(case_words(case)['subscribers']):,}"
            yield (
                f"While {count} subscribers are broadcast to without pause, another stream's message takes "
                f"{number(p99 / _MILLI)} ms at the 99th percentile."
            )


def _targets(found: Sequence[Target]) -> Iterator[str]:
    if not found:
        return
    yield from ("", "## What fastcable asks of itself", "", "| | asked | measured | |", "|---|--:|--:|---|")
    for target in found:
        asked = f"{'at least' if target.least else 'at most'} {target.limit:g} {target.unit}"
        remark = f" ({target.remark})" if target.remark else ""
        met = "met" if target.met else "**missed**"
        yield f"| {target.what}{remark} | {asked} | {number(target.measured)} {target.unit} | {met} |"


def _section(results: Results, section: Section) -> Iterator[str]:
    cases = results.cases(section.workload)
    if not cases:
        return
    yield from ("", f"## {section.title}", "", section.text)
    for case in cases:
        if case:
            yield from ("", f"**{_capital(case_title(case))}**")
        unit = _memory_unit(case) if section.workload == "idle" else None
        there = {s.figure for s in results.series if (s.workload, s.case) == (section.workload, case)}
        columns: list[tuple[str, Cell]] = [
            (
                f"{column.title}, {unit[0]}" if unit else column.title,
                _compared(results, section.workload, case, column.figure, unit[1] if unit else column.unit),
            )
            for column in section.columns
            if column.figure in there
        ]
        columns.append(("spread", _spread(results, section.workload, case, section.columns[0].figure)))
        shown = {s.peer for s in results.series if (s.workload, s.case) == (section.workload, case)}
        shown |= {failure.peer for failure in results.failures if failure.workload == section.workload}
        yield ""
        yield from _table(columns, [peer for peer in results.peers if peer.key in shown])
    yield ""
    yield _KEY + f" Spread: (largest − smallest) / median of “{section.columns[0].title}”."
    names = {peer.key: peer.name for peer in results.peers}
    for failure in _of(results.failures, section.workload):
        yield from ("", f"{FAULT} {names[failure.peer]}: {_escape(failure.reason)}.")
    for skip in _of(results.skips, section.workload):
        yield from ("", f"{names[skip.peer]} has no part in it: {_escape(skip.reason)}.")


def _of(failures: Sequence[Failure], workload: str) -> list[Failure]:
    workloads = (workload, "batch") if workload == "posts" else (workload,)
    return [failure for failure in failures if failure.workload in workloads]


def _memory_unit(case: str) -> tuple[str, float]:
    return ("MB", MB) if case == "connections=0" else ("KB", KB)


def _method(results: Results) -> Iterator[str]:
    machine = results.machine
    cores = (
        "the servers on the last core, the load client on the first" if machine.cores > 1
        else "servers and load client on the same core, the only one"
    )
    wide = [peer.name for peer in results.peers if peer.cores > 1]
    yield from ("", "## How it was measured", "")
    yield f"- Over loopback, {cores}. Loopback charges the sender with much of the receiver's work."
    if wide:
        shared = ", one of them the load client's" if machine.cores <= 2 else ""
        yield f"- {' and '.join(wide)}: two cores{shared}."
    yield "- The load client is a C program on epoll. It checks every byte and the order of every delivery; a message"
    yield "  that is lost, doubled or out of order fails the server."
    yield "- CPU time is the kernel's accounting of all the server's processes, in nanoseconds. The load client's is"
    yield "  not in it; pings that a server sends by its defaults are."
    yield "- Medians of several runs, the spread beside them. All servers take their turn in every round. A ratio is"
    yield "  the median of the ratios of the runs made side by side, so it can differ from that of two medians. The"
    yield "  picture of the CPU has each server's ratio times the floor's median over the whole run."
    yield f"- One process may have {machine.descriptors:,} open files here, which bounds the number of connections."
    if results.again:
        said = ", ".join(f"{workload} ({date} UTC)" for workload, date in results.again.items())
        yield f"- Measured once more, of all servers, after the others: {said}."
    yield "- Everything has its defaults unless noted below."
    yield from ("", "| | |", "|---|---|")
    yield f"| CPU | {machine.cpu}, {machine.cores} cores |"
    yield f"| memory | {number(machine.memory / MB / KB)} GB |"
    yield f"| virtualisation | {machine.virtualisation} |"
    yield f"| system | {machine.system}, Linux {machine.kernel} |"
    yield f"| benchmark | {_versions(results.versions)} |"
    yield from ("", "| server | made of | |", "|---|---|---|")
    for peer in results.peers:
        yield f"| {_name(peer)} | {_versions(peer.versions)} | {peer.note} |"
    for name, reason in results.missing.items():
        yield f"| {name} | – | not measured: {_escape(reason)} |"


def _table(columns: Sequence[tuple[str, Cell]], peers: Sequence[PeerRecord]) -> list[str]:
    rows = sorted(peers, key=lambda peer: (peer.key in YARDSTICKS, peer.key != FASTCABLE))
    return [
        f"| server | {' | '.join(title for title, _ in columns)} |",
        f"|---|{'--:|' * len(columns)}",
        *(f"| {_name(peer)} | {' | '.join(cell(peer) for _, cell in columns)} |" for peer in rows),
    ]


def _value(results: Results, workload: str, case: str, figure: str, unit: float) -> Cell:
    return _said(results, workload, lambda peer: results.figure(workload, case, peer.key, figure), unit)


def _to_floor(results: Results, workload: str, case: str, figure: str) -> Cell:
    return _said(results, workload, lambda peer: results.to_floor(workload, case, peer.key, figure), 1)


def _said(results: Results, workload: str, figure: Callable[[PeerRecord], Figure | None], unit: float) -> Cell:
    """The figure, marked where its runs disagree and where the server had faults."""
    faulty = {failure.peer for failure in results.failures if failure.workload == workload}

    def cell(peer: PeerRecord) -> str:
        said = figure(peer)
        fault = FAULT if peer.key in faulty else ""
        if said is None:
            return f"–{fault}"
        text = number(said.median / unit) if said.steady else f"≈ {number(said.median / unit)}"
        return f"**{text}**{fault}" if peer.key == FASTCABLE else text + fault

    return cell


def _compared(results: Results, workload: str, case: str, figure: str, unit: float) -> Cell:
    """The value, and small beside it what it is to the floor's and to Action Cable's."""
    value = _value(results, workload, case, figure, unit)

    def cell(peer: PeerRecord) -> str:
        ratios = [
            number(ratio.median) if (ratio := results.ratio(workload, case, peer.key, other, figure)) else "–"
            for other in (FLOOR, ACTION_CABLE)
        ]
        beside = "" if ratios == ["–", "–"] else f" <sub>{' · '.join(ratios)}</sub>"
        return value(peer) + beside

    return cell


def _spread(results: Results, workload: str, case: str, figure: str) -> Cell:
    def cell(peer: PeerRecord) -> str:
        said = results.figure(workload, case, peer.key, figure)
        return f"{said.spread * 100:.0f} % of {said.runs}" if said and said.runs > 1 else "–"

    return cell


def _name(peer: PeerRecord) -> str:
    if peer.key == FASTCABLE:
        return f"**{peer.name}**"
    return f"_{peer.name}_" if peer.key in YARDSTICKS else peer.name


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _escape(text: str) -> str:
    return re.sub(r"([|<>*_`\[\]])", r"\\\1", text)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
