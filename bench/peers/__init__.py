"""The servers of the comparison, in the order of the tables."""

from __future__ import annotations

from bench.peers.action_cable import ACTION_CABLE, ACTION_CABLE_REDIS
from bench.peers.bun import BUN
from bench.peers.fastcable import FASTCABLE, FASTCABLE2, FASTCABLE_ACTION_CABLE
from bench.peers.floor import FLOOR, FLOOR2
from bench.peers.go import ANYCABLE, CENTRIFUGO, GORILLA
from bench.peers.peer import Peer
from bench.peers.python import HTTPTOOLS_PROTOCOL, PICOWS, STARLETTE, UVLOOP_PROTOCOL, WEBSOCKETS

PEERS: tuple[Peer, ...] = (
    FASTCABLE,
    FASTCABLE2,
    FASTCABLE_ACTION_CABLE,
    FLOOR,
    FLOOR2,
    UVLOOP_PROTOCOL,
    HTTPTOOLS_PROTOCOL,
    BUN,
    GORILLA,
    CENTRIFUGO,
    ANYCABLE,
    PICOWS,
    WEBSOCKETS,
    STARLETTE,
    ACTION_CABLE,
    ACTION_CABLE_REDIS,
)

__all__ = ["FLOOR", "PEERS"]
