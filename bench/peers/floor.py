"""The floor: a bare C loop of `send`, on one core and split over two. Every other figure is a multiple of it."""

from __future__ import annotations

from functools import partial

from bench.peers.peer import BUILD, PEERS, Peer, run

SOURCE = PEERS / "floor.c"
BINARY = BUILD / "floor"


def install() -> None:
    if BINARY.exists() and BINARY.stat().st_mtime > SOURCE.stat().st_mtime:
        return
    BUILD.mkdir(exist_ok=True)
    run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", SOURCE, "-o", BINARY], "floor")


def command(port: int, *, threads: int) -> list[list[str]]:
    return [[str(BINARY), str(port), "--threads", str(threads)]]


def versions() -> dict[str, str]:
    return {"cc": run(["cc", "-dumpfullversion"], "floor").strip()}


SKIPS = {"slow": "it has no queues: what a full socket does not take is lost"}

FLOOR = Peer("floor", "floor: C, one send each", install, partial(command, threads=1), versions, skips=SKIPS)
FLOOR2 = Peer("floor2", "floor on two threads", install, partial(command, threads=2), versions, cores=2, skips=SKIPS)
