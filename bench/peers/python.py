"""Python's servers, run by the interpreter that runs the benchmark, and Python's two yardsticks."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from bench.peers.peer import PEERS, Missing, Peer, Target


def _install(packages: Sequence[str]) -> None:
    for package in packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise Missing(f"the Python package {package} is not installed: pip install '.[bench]'") from None


def _commands(program: str, port: int) -> list[list[str]]:
    return [[sys.executable, str(PEERS / program), str(port)]]


def _versions(packages: Sequence[str]) -> dict[str, str]:
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python} | {package: importlib.metadata.version(package) for package in packages}


def _post_apart(port: int) -> Target:
    return Target(port, publish_port=port + 1)


def _peer(
    key: str,
    name: str,
    program: str,
    packages: Sequence[str],
    note: str,
    target: Callable[[int], Target] = Target,
    skips: Mapping[str, str] | None = None,
) -> Peer:
    return Peer(
        key=key,
        name=name,
        install=partial(_install, packages),
        commands=partial(_commands, program),
        versions=partial(_versions, packages),
        target=target,
        note=note,
        skips=skips or {},
    )


UVLOOP_PROTOCOL = _peer(
    "uvloop",
    "bare uvloop protocol",
    "uvloop_protocol.py",
    ("uvloop", "orjson"),
    "a yardstick: the least that Python can do, one transport.write per subscriber; no checks, no limits, no pings",
)

HTTPTOOLS_PROTOCOL = _peer(
    "httptools",
    "bare httptools protocol",
    "httptools_protocol.py",
    ("uvloop", "httptools", "orjson"),
    "a yardstick for posts: httptools, orjson and one frame; no checks, no limits, no pings",
)

WEBSOCKETS = _peer(
    "websockets",
    "Python, websockets",
    "websockets_server.py",
    ("websockets", "uvloop", "httptools", "orjson"),
    "broadcast() on uvloop; compression off, its default is on; posts taken by a listener of our own",
    _post_apart,
)

PICOWS = _peer(
    "picows",
    "Python, picows",
    "picows_server.py",
    ("picows", "aiofastnet", "uvloop", "httptools", "orjson"),
    "on uvloop; its defaults: its own transports, no pings; posts taken by a listener of our own",
    _post_apart,
)

STARLETTE = _peer(
    "starlette",
    "Python, Starlette on uvicorn",
    "starlette_app.py",
    ("starlette", "uvicorn", "websockets", "uvloop", "httptools", "orjson"),
    "an in-memory set, send_text for one after the other; compresses by default, which the load client does not offer",
)
