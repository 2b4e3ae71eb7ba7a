"""Servers in Go: a program of our own and Centrifugo, both built here, and AnyCable-Go where it is installed.

AnyCable-Go's module replaces others, which Go allows in a main module only: it is taken from the PATH.
"""

from __future__ import annotations

import shutil
from functools import partial

from bench.peers.peer import BUILD, PEERS, Missing, Peer, Target, run

ONE_CORE = {"GOMAXPROCS": "1"}


def find_go() -> str:
    """The toolchain on the PATH, or where Go's own installation puts it."""
    found = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if not found:
        raise Missing("there is no Go toolchain to build it with")
    return found


def build(name: str, package: str = ".") -> None:
    """Build a package with the module in the folder of that name, which pins the versions."""
    source, binary = PEERS / name, BUILD / name
    if binary.exists() and binary.stat().st_mtime > max(file.stat().st_mtime for file in source.iterdir()):
        return
    print(f"building {name} and the Go modules that it needs …", flush=True)
    BUILD.mkdir(exist_ok=True)
    go = ["nice", "-n", "10", find_go(), "build", "-p", "2", "-buildvcs=false"]
    run([*go, "-o", binary, package], name, cwd=source)


def built_commands(name: str, port: int) -> list[list[str]]:
    return [[str(BUILD / name), str(port)]]


def built_versions(name: str, module: str) -> dict[str, str]:
    """Go's version and the module's, as the binary has them."""
    lines = run([find_go(), "version", "-m", BUILD / name], name).splitlines()
    version = next(line.split()[2] for line in lines if line.split()[:2] in (["dep", module], ["mod", module]))
    return {"go": lines[0].split()[-1].removeprefix("go"), module.removeprefix("github.com/"): version}


def find(program: str) -> str:
    found = shutil.which(program)
    if not found:
        raise Missing(f"{program} is not on the PATH")
    return found


def require(program: str) -> None:
    find(program)


GORILLA = Peer(
    key="gorilla",
    name="Go, gorilla/websocket",
    install=partial(build, "gorilla"),
    commands=partial(built_commands, "gorilla"),
    versions=partial(built_versions, "gorilla", "github.com/gorilla/websocket"),
    environment=ONE_CORE,
    skips={"batch": "a client that has 256 messages waiting is dropped, and batches overrun that"},
    note="a client that has 256 messages waiting is dropped",
)


_CENTRIFUGO = "github.com/centrifugal/centrifugo/v5"


def centrifugo_commands(port: int) -> list[list[str]]:
    return [[str(BUILD / "centrifugo"), "--config", str(PEERS / "centrifugo/config.json"), "--port", str(port)]]


def centrifugo_target(port: int) -> Target:
    return Target(
        port,
        wire="centrifugo",
        path="/connection/websocket",
        publish="centrifugo",
        publish_path="/api/publish",
        publish_headers=("X-API-Key: benchmark",),
    )


CENTRIFUGO = Peer(
    key="centrifugo",
    name="Centrifugo",
    install=partial(build, "centrifugo", _CENTRIFUGO),
    commands=centrifugo_commands,
    versions=partial(built_versions, "centrifugo", _CENTRIFUGO),
    target=centrifugo_target,
    environment=ONE_CORE,
    skips={"batch": "publishes one message at a time"},
)


def anycable_commands(port: int) -> list[list[str]]:
    """Without RPC and open to all, as its manual's stand-alone mode has it."""
    options = ["--public", "--norpc", "--broadcast_adapter=http", "--log_level=warn", "--host=127.0.0.1"]
    return [[find("anycable-go"), *options, f"--port={port}", f"--http_broadcast_port={port + 1}"]]


def anycable_target(port: int) -> Target:
    return Target(
        port,
        wire="action_cable",
        identifier='{"channel":"$pubsub","stream_name":"%s"}',
        publish="anycable",
        publish_port=port + 1,
    )


ANYCABLE = Peer(
    key="anycable",
    name="AnyCable-Go",
    install=partial(require, "anycable-go"),
    commands=anycable_commands,
    versions=lambda: {"anycable-go": run([find("anycable-go"), "--version"], "AnyCable-Go").split()[-1]},
    target=anycable_target,
    environment=ONE_CORE | {"ANYCABLE_DISABLE_TELEMETRY": "true"},
)
