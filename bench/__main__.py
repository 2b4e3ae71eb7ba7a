"""`python -m bench`: run the comparison and render it; `--render` renders what was measured before."""

from __future__ import annotations

import argparse
import datetime
import platform
import signal
import sys
import time
from pathlib import Path

from bench.machine import most_connections, raise_descriptor_limit, this_machine
from bench.peers import FLOOR, PEERS
from bench.peers.peer import BUILD, Missing, Peer, run
from bench.progress import Progress, clock
from bench.results import FASTCABLE, Results
from bench.workloads import WORKLOADS, Workload, plan

HERE = Path(__file__).parent
LARGEST = 19_000
QUICK_PEERS = ("fastcable", "fastcable-action-cable", "floor", "uvloop", "httptools", "bun", "gorilla", "action-cable")
"""The others take long and say little more: a quick run is to see where fastcable stands."""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.render:
        _show(Results.load(options.render), options.output or options.render.parent)
        return 0
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    try:
        results = _measure(options)
    except Missing as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbench: stopped; --render bench/.build/so-far.json shows what there is", file=sys.stderr)
        return 130
    own = [failure for failure in results.failures if failure.peer == FASTCABLE]
    output = options.output or (HERE if _whole(options) else BUILD / "results")
    if options.again:
        newer, results, output = results, Results.load(HERE / "results.json"), HERE
        results.replace([workload.key for workload in options.workloads], newer)
    output.mkdir(parents=True, exist_ok=True)
    results.save(output / "results.json")
    _show(results, output)
    for failure in own:
        print(f"bench: fastcable failed in {failure.workload}: {failure.reason}", file=sys.stderr)
    return 1 if own else 0


def _show(results: Results, output: Path) -> None:
    """Write the report; if it is the one that everybody reads, README.md gets its table, too."""
    from bench.report import render, update_readme  # with matplotlib, which nothing else needs

    render(results, output)
    if output.resolve() == HERE:
        update_readme(results, HERE.parent / "README.md")
    print(output / "RESULTS.md")


def _measure(options: argparse.Namespace) -> Results:
    from bench.run import Run  # not needed for rendering

    start = time.monotonic()
    raise_descriptor_limit()
    progress = Progress()
    results = Results(
        machine=this_machine(),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        quick=options.quick,
        versions=_versions(),
    )
    FLOOR.install()
    comparison = Run(
        plan(options.quick, options.rounds, most_connections(LARGEST)), _chosen(options), FLOOR, results, progress
    )
    comparison.install()
    comparison.measure(options.workloads)
    results.seconds = time.monotonic() - start
    progress.say(f"measured in {clock(results.seconds)}")
    return results


def _whole(options: argparse.Namespace) -> bool:
    """Only what was measured of all servers in full is put in the place of what everybody reads."""
    return not options.quick and not options.peers and options.workloads == WORKLOADS


def _chosen(options: argparse.Namespace) -> list[Peer]:
    return options.peers or [peer for peer in PEERS if not options.quick or peer.key in QUICK_PEERS]


def _versions() -> dict[str, str]:
    """Of what the benchmark itself is made of."""
    return {"python": platform.python_version(), "cc": run(["cc", "-dumpfullversion"], "the load client").strip()}


def _stop(number: int, frame: object) -> None:
    """The servers are ended on the way out, and nothing is to come between."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about two minutes: fewer servers, repeats, connections")
    parser.add_argument("--peers", type=_peers, help=f"of {', '.join(peer.key for peer in PEERS)}")
    parser.add_argument("--workloads", type=_workloads, default=WORKLOADS,
                        help=f"of {', '.join(workload.key for workload in WORKLOADS)}")
    parser.add_argument("--again", action="store_true",
                        help="put what is measured in place of the same workloads of the last whole run")
    parser.add_argument("--rounds", type=_positive, help="how often everything is repeated")
    parser.add_argument("--output", type=Path, help="folder for RESULTS.md, results.json and the pictures")
    parser.add_argument("--render", type=Path, metavar="RESULTS.JSON", help="render an earlier run's results again")
    return parser


def _peers(text: str) -> list[Peer]:
    return [{peer.key: peer for peer in PEERS}[key] for key in _known(text, [peer.key for peer in PEERS])]


def _workloads(text: str) -> list[Workload]:
    known = {workload.key: workload for workload in WORKLOADS}
    return [known[key] for key in _known(text, list(known))]


def _known(text: str, known: list[str]) -> list[str]:
    words = text.split(",")
    for word in words:
        if word not in known:
            raise argparse.ArgumentTypeError(f"unknown: {word}; there are {', '.join(known)}")
    return words


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number from 1 on, not {text}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
