"""Action Cable, which fastcable replaces: Debian's Rails on Debian's Puma, alone and with Debian's Redis."""

from __future__ import annotations

import re
from dataclasses import replace

from bench.peers.peer import PEERS, Peer, Target, run

APPLICATION = PEERS / "action_cable"


def _require(*libraries: str) -> None:
    for library in libraries:
        run(("ruby", "-e", f"require '{library}'"), f"Ruby's {library} (scripts/debian-packages bench installs it)")


def _install() -> None:
    _require("action_cable", "rails", "puma")


def _install_redis() -> None:
    _install()
    _require("redis")
    run(("redis-server", "--version"), "Redis (scripts/debian-packages bench installs it)")


def _puma(port: int, **environment: str) -> list[str]:
    """Puma with the application. `env` replaces itself by Puma: what is started is the server itself."""
    settings = [f"{name}={value}" for name, value in environment.items()]
    address = f"tcp://127.0.0.1:{port}"
    return ["env", *settings, "puma", "-C", str(APPLICATION / "puma.rb"), "-b", address, str(APPLICATION / "config.ru")]


def _commands(port: int) -> list[list[str]]:
    return [_puma(port, CABLE_ADAPTER="async")]


def _commands_redis(port: int) -> list[list[str]]:
    redis = f"--bind 127.0.0.1 --port {port + 2} --appendonly no --loglevel warning".split()
    return [
        ["redis-server", *redis, "--save", ""],
        _puma(port, CABLE_ADAPTER="redis", REDIS_URL=f"redis://127.0.0.1:{port + 2}/1"),
    ]


def _versions() -> dict[str, str]:
    script = "puts RUBY_VERSION, ActionCable.version, Puma::Const::VERSION"
    answer = run(("ruby", "-r", "action_cable", "-r", "puma/const", "-e", script), "Action Cable's version")
    ruby, action_cable, puma = answer.split()
    return {"ruby": ruby, "action cable": action_cable, "puma": puma}


def _versions_redis() -> dict[str, str]:
    answer = run(("redis-server", "--version"), "Redis's version")
    version = re.search(r"v=(\S+)", answer)
    return _versions() | {"redis": version[1] if version else answer.strip()}


def _target(port: int) -> Target:
    return Target(port, wire="action_cable", identifier='{"channel":"BenchChannel","stream":"%s"}')


_ENVIRONMENT = {"RAILS_ENV": "production", "RACK_ENV": "production"}
# Its pings of every connection every 3 s take half a core at 5,000, and the whole of it at 8,000.
_MOST = 5000
# A broadcast of 16 KB to 5,000 takes it 20 s.
_MOST_SENT = 20_000_000
# Puma 5.6 takes whatever arrives together with a post for part of its body, so bursts are not pipelined.
_BURST_CONNECTIONS = 5
_NOTE = (
    "one process with Rails' default of 5 threads and 4 cable workers, which reorder messages; its ping of every "
    "connection every 3 s counts in and takes a whole core at 8,000 connections; logs errors only"
)

ACTION_CABLE = Peer(
    key="action-cable",
    name="Action Cable on Puma",
    install=_install,
    commands=_commands,
    versions=_versions,
    target=_target,
    environment=_ENVIRONMENT,
    most=_MOST,
    most_sent=_MOST_SENT,
    burst_connections=_BURST_CONNECTIONS,
    note=f"async adapter; {_NOTE}",
)

ACTION_CABLE_REDIS = replace(
    ACTION_CABLE,
    key="action-cable-redis",
    name="Action Cable on Puma, Redis",
    install=_install_redis,
    commands=_commands_redis,
    versions=_versions_redis,
    note=f"redis adapter, Redis without persistence counted in; {_NOTE}",
)
