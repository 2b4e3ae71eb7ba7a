"""A server under everything at once, for as long as one likes: `python -m tests.soak SECONDS [--clients N] [--seed N]`.

Most of a crowd stays and keeps accounts; the others connect, subscribe, stall, leave in every way, vanish without a FIN
and send garbage, while messages are posted and the server's metrics are read. Then everybody leaves, and what must hold
is looked at: nothing may be left, and each message that was promised to a subscriber was delivered or counted as
dropped, by the server's account and by the clients'.

Server and clients share a network of their own, in which nothing answers for a client that has vanished. That takes
root; for others those who vanish are closed by RST.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable

from tests.crowd import PATIENCE, VANISHING, Asker, Client, Crowd, Plan
from tests.harness import ServerProcess
from tests.hosts import leave_network
from tests.swarm import Swarm

FILTER = (
    "add table inet soak", "add chain inet soak out { type filter hook output priority 0; }",
    f"add rule inet soak out ip saddr {VANISHING} tcp flags & rst == rst drop",
)
OPTIONS = (
    "--metrics", "true", "--public-streams", "true", "--max-pending-messages", "64", "--send-buffer", "16KiB",
    "--max-pending-total", "16MiB", "--log-level", "info",
)
TIMEOUTS = {
    "ping-interval": 3.0, "actioncable-ping-interval": 3.0, "idle-timeout": 15.0, "write-timeout": 10.0,
    "handshake-timeout": 5.0, "close-timeout": 3.0,
}
LEFT = ("connections", "slow_connections", "streams", "subscriptions", "pending_bytes", "backlog_bytes")
FAILURE = re.compile("Traceback|ERROR|CRITICAL|failed")
PUBLISHERS = 4
POSTS_PER_SECOND = 60
SETTLED = 60.0
"""Seconds after which the memory in use must not grow any more."""
WINDOW = 15
"""Seconds of which it is the median."""
GROWTH = 0.05
SHOWN = 10
"""Complaints of one kind that are printed."""


class Soak:
    def __init__(
        self, server: ServerProcess, swarm: Swarm, crowd: Crowd, clients: int, out: Callable[[str], None],
    ) -> None:
        self._server = server
        self._swarm = swarm
        self._crowd = crowd
        self._clients = clients
        self._out = out
        self._pid = server.process.pid
        self._began = time.monotonic()
        self._rss: list[tuple[float, int]] = []
        self._posting = True
        self._publishing = 0
        self._refused = 0
        self._scrapes = 0
        self._complaints: list[str] = []
        self._account = ""
        self._failed = 0

    def run(self, seconds: float) -> bool:
        """Whether everything held."""
        crowd = self._crowd
        chance = crowd.chance
        files = self._files()
        self._scrape()  # so that what is imported for it is there
        self._began = time.monotonic()
        end = self._began + seconds
        crowd.invite(self._clients, min(seconds / 4, 20))
        for number in range(PUBLISHERS):
            crowd.start(self._publish([*crowd.ledgers][number::PUBLISHERS]), chance.uniform(0, 0.1))
        crowd.start(self._watch(seconds))
        crowd.start(self._look_in())
        crowd.run_until(lambda: False, end)
        self._come_to_rest()
        self._judge_end(files, seconds)
        return not self._failed

    # What goes on meanwhile

    def _publish(self, streams: list[str]) -> Plan:
        """One of several publishers, with streams of its own."""
        self._publishing += 1
        asker = Asker(self._swarm)
        chance = self._crowd.chance
        bursts = min(0.04 * 5000 / self._clients, 0.2)
        while self._posting:
            stream = chance.choice(streams)
            size, count = min(int(chance.lognormvariate(5, 1)), 4000), 1
            if stream in self._crowd.bursting and chance.random() < bursts:
                size, count = chance.choice(((1000, 100), (1000, 100), (100_000, 1)))
            yield from asker.post(self._crowd.ledgers[stream], stream, count, size)
            yield chance.uniform(0, 2 * PUBLISHERS / POSTS_PER_SECOND)
        asker.close()
        self._publishing -= 1
        self._refused += asker.refused

    def _look_in(self) -> Plan:
        """Read the metrics and everything else that tells of the server, over and over."""
        asker = Asker(self._swarm)
        while self._posting:
            for path in "/metrics", "/_status.json", "/health", "/health/ready":
                yield from asker.ask("GET", path)
                assert asker.answer is not None
                if asker.answer[0] != 200:
                    self._complaints.append(f"GET {path} was answered {asker.answer[0]} {asker.answer[1].decode()}")
                self._scrapes += 1
            yield self._crowd.chance.uniform(0, 1)
        asker.close()

    def _watch(self, seconds: float) -> Plan:
        """Note each second what memory the server takes, and tell now and then how it goes."""
        crowd = self._crowd
        told = last = self._began
        got = 0
        while True:
            now = time.monotonic()
            self._rss.append((now - self._began, self._resident()))
            if now - told >= min(10.0, seconds / 5):
                told = now
                posted = sum(ledger.posted for ledger in crowd.ledgers.values())
                connected = sum(client.connected for client in crowd.clients)
                self._out(
                    f"{now - self._began:6.0f} s  {connected:5,} clients, {self._files():5,} files of the server, "
                    f"{posted:9,} posted, {(crowd.got - got) / (now - last):7,.0f} deliveries/s, "
                    f"{crowd.missed:7,} missed, RSS {self._rss[-1][1] / 1e6:6.2f} MB")
                got, last = crowd.got, now
            yield 1.0

    # The end

    def _come_to_rest(self) -> None:
        """Who stays gets what was posted, a last message of each stream included; then all leave."""
        crowd = self._crowd
        crowd.calm_down()
        self._posting = False
        end = time.monotonic() + PATIENCE
        crowd.run_until(lambda: not self._publishing, end)
        asker = Asker(self._swarm)
        for stream, ledger in crowd.ledgers.items():
            crowd.carry_out(asker.post(ledger, stream, 1, 10))
        asker.close()
        steady = [client for client in crowd.clients if client.kind in ("steady", "pausing")]
        crowd.run_until(lambda: all(
            subscription.complete for client in steady if client.connected
            for subscription in client.subscriptions.values()), end)
        self._judge_steady(steady)
        while self._unaccounted() and time.monotonic() < end:
            crowd.run_until(lambda: False, time.monotonic() + 0.2)
        self._judge(not (lost := self._unaccounted()), "sent = delivered + dropped, with all connected",
                    self._account if not lost else f"{self._account}: {lost:+,} unaccounted for")
        for client in crowd.clients:
            client.leave("vanish" if client.kind == "vanishing" else crowd.chance.choice(("close", "FIN", "RST")))

    def _unaccounted(self) -> int:
        counted = self._scrape()
        promised = sum(ledger.promised for ledger in self._crowd.ledgers.values())
        delivered, dropped = int(counted["fastcable_deliveries_total"]), int(counted["fastcable_drops_total"])
        self._account = f"{promised:,} sent, {delivered:,} delivered, {dropped:,} dropped"
        return promised - delivered - dropped

    def _judge_steady(self, steady: list[Client]) -> None:
        crowd = self._crowd
        self._out(f"    the clients themselves were held up for {crowd.held_up:.1f} s at most")
        gone = Counter(
            f"{client.kind} ({client.dialect}) {client.close_code or (client.member and client.member.ended)}"
            for client in steady if not client.connected)
        self._judge(not gone, "clients that read and answer stay connected",
                    f"{gone.total():,} of {len(steady):,} were closed {dict(gone) or ''}")
        short = [stream for client in steady for stream, each in client.subscriptions.items() if not each.complete]
        self._judge(not short, "and have got everything at the end", f"{len(short):,} subscriptions have not")
        self._judge(not crowd.wrong, "each message came once, in order, or its loss was told", "; ".join(
            [f"{crowd.got:,} messages, {crowd.missed:,} told to be lost", *crowd.wrong[:SHOWN]]))
        mine = [crowd.ledgers[stream] for stream in crowd.steady]
        promised, got, missed = (sum(getattr(each, name) for each in mine) for name in ("promised", "got", "missed"))
        exact = all(each.promised == each.got + each.missed for each in mine)
        self._judge(exact, "sent = got + told to be lost, in each stream of those who stay",
                    f"{promised:,} sent, {got:,} got, {missed:,} told to be lost")

    def _judge_end(self, files: int, seconds: float) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            counted = self._scrape()
            left = {name: int(counted[f"fastcable_{name}"]) for name in LEFT}
            if (not any(left.values()) and self._files() == files) or time.monotonic() > end:
                break
            self._crowd.run_until(lambda: False, time.monotonic() + 0.5)
        self._judge(not any(left.values()), "nothing is left when all have gone",
                    ", ".join(f"{name} {count:,}" for name, count in left.items()))
        self._judge(self._files() == files, "nor any descriptor", f"{self._files()} are open, {files} were before")
        opened, closed = counted["fastcable_connections_opened_total"], counted["fastcable_closes_total"]
        self._judge(opened == closed, "each connection that was opened has ended once", f"{opened:,.0f}, {closed:,.0f}")
        lost = self._unaccounted()
        self._judge(not lost, "sent = delivered + dropped, when all have gone", f"{self._account}: {lost:+,}")
        self._judge_memory(seconds)
        self._judge(not self._complaints, "broadcasts were taken and metrics answered", "; ".join([
            f"{self._scrapes:,} looks, {self._refused:,} broadcasts had to come again", *self._complaints[:SHOWN]]))
        failures = [line.strip() for line in self._server.log if FAILURE.search(line)]
        self._judge(not failures, "the log tells of no failure", "; ".join(failures[:SHOWN]) or
                    f"{len(self._server.log):,} lines")
        code = self._server.stop()
        self._judge(code == 0, "the server ends in good order", f"exit code {code}")

    def _judge_memory(self, seconds: float) -> None:
        """The memory in use towards the end and when all have gone, against what it was once everybody was there."""
        if seconds < SETTLED + 2 * WINDOW:
            self._out("    RSS is not judged: that takes more time")
            return
        early = self._middle(SETTLED)
        for what, value in ("at the end of the load", self._middle(seconds)), ("when all have gone", self._resident()):
            self._judge(value <= early * (1 + GROWTH), f"RSS {what} is within 5 % of what it was after a minute",
                        f"{value / 1e6:.2f} MB, {early / 1e6:.2f} MB: {value / early - 1:+.1%}")

    def _middle(self, end: float) -> float:
        return statistics.median(size for at, size in self._rss if end - WINDOW <= at <= end)

    def _judge(self, right: bool, promise: str, evidence: str) -> None:
        self._failed += not right
        self._out(f"{'ok  ' if right else 'FAIL'} {promise}: {evidence}")

    def _scrape(self) -> dict[str, float]:
        """The metrics, by their names: what has labels is added up."""
        asker = Asker(self._swarm)
        self._crowd.carry_out(asker.ask("GET", "/metrics"))
        assert asker.answer is not None
        found: dict[str, float] = {}
        for name, value in re.findall(r"^(\w+)(?:\{.*\})? (\S+)$", asker.answer[1].decode(), re.MULTILINE):
            found[name] = found.get(name, 0.0) + float(value)
        asker.close()
        return found

    def _files(self) -> int:
        return len(os.listdir(f"/proc/{self._pid}/fd"))

    def _resident(self) -> int:
        with open(f"/proc/{self._pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("seconds", type=float, nargs="?", default=600.0, metavar="SECONDS")
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the server, too

    def out(text: str) -> None:
        print(text, flush=True)

    try:
        leave_network(*FILTER)
    except OSError as error:
        out(f"nobody can vanish without a word: {error}")
    hurry = 1.0 if given.seconds >= SETTLED else 0.25
    timeouts = [f"--{name}={seconds * hurry:g}" for name, seconds in TIMEOUTS.items()]
    out(f"seed {given.seed}, {given.clients:,} clients, {given.seconds:g} s")
    with ServerProcess(*OPTIONS, *timeouts) as server, Swarm(server.port) as swarm:
        streams, patience = min(20, 2 + given.clients // 100), TIMEOUTS["write-timeout"] * hurry
        crowd = Crowd(swarm, random.Random(given.seed), streams, patience)
        if not Soak(server, swarm, crowd, given.clients, out).run(given.seconds):
            out("".join(server.log[-100:]))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
