"""`exit_when_idle`: a server that systemd starts with the first connection ends when it has had none for a while.

    busy ──nobody is there──► quiet since T ──T + seconds──► ask to leave ──somebody came──► busy
                                                                  └──still nobody──► exit 0

The server leaves in an order in which no connection is lost. It stops accepting first; what it had accepted until then
becomes a connection in the next turns of the loop, and if there is one, it stays and accepts again. Who comes later
waits in the queue of a socket that systemd keeps, and which makes it start the next server once this one has ended.
"""

from __future__ import annotations

from collections.abc import Callable


class IdleWatch:
    """Looks with each beat of the clock whether the server is `busy`, and calls `leave` when it was not for `seconds`.

    A connection that comes and goes between two beats counts through `touch`."""

    __slots__ = ("_busy", "_leave", "_seconds", "_since")

    def __init__(self, seconds: float, now: float, busy: Callable[[], bool], leave: Callable[[], None]) -> None:
        self._seconds = seconds
        self._busy = busy
        self._leave = leave
        self._since = now  # nobody was there from then on

    def touch(self, now: float) -> None:
        self._since = now

    def __call__(self, now: float) -> None:
        if self._busy():
            self._since = now
        elif now - self._since >= self._seconds:
            self._since = now
            self._leave()
