"""fastcable itself, with its defaults, run by the interpreter that runs the benchmark."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

import fastcable
from bench.peers.peer import Missing, Peer, Target


def _install() -> None:
    try:
        import fastcable._connection  # noqa: F401
    except ImportError as error:
        raise Missing(f"fastcable is not built ({error}): pip install -e .") from None


def _commands(port: int) -> list[list[str]]:
    return [[sys.executable, "-m", "fastcable", "serve", "--port", str(port), "--log-level", "warning"]]


def _commands_action_cable(port: int) -> list[list[str]]:
    (command,) = _commands(port)
    return [[*command, "--public-streams", "true"]]


def _target_action_cable(port: int) -> Target:
    return Target(port, wire="action_cable", identifier='{"channel":"$pubsub","stream_name":"%s"}')


def _versions() -> dict[str, str]:
    packages = {package: importlib.metadata.version(package) for package in ("uvloop", "httptools", "orjson")}
    return {"fastcable": fastcable.__version__, "python": platform.python_version(), **packages}


FASTCABLE = Peer("fastcable", "fastcable", _install, _commands, _versions)
FASTCABLE2 = Peer(
    "fastcable2", "fastcable on two cores", _install, _commands, _versions, cores=2,
    note="its `fanout_threads` help with large fan-outs, on a core that may be the load client's, too",
)
FASTCABLE_ACTION_CABLE = Peer(
    "fastcable-action-cable", "fastcable, Action Cable", _install, _commands_action_cable, _versions,
    target=_target_action_cable,
    note="the same server, spoken to as Action Cable is, with a ping to everybody every 3 s",
)
