"""`exit_when_idle`: a server that systemd starts with the first connection ends when it has had none for a while.

    busy ──nobody is there──► quiet since T ──T + seconds──► ask to leave ──somebody came──► busy
                                                                  └──still nobody──► exit 0

The server leaves in an order in which no connection is lost. It stops accepting first; what it had accepted until then
becomes a connection in the next turns of the loop, and if there is one, it stays and accepts again. Who comes later
waits in the queue of a socket that systemd keeps, and which makes it start the next server once this one has ended.

Several workers leave together or not at all. Each says when it has been quiet for so long, and again after the same
time as long as it is. When all are, the supervisor asks all to leave; who leaves has stopped accepting, and waits. If
all do, that is the end; if one does not, or has ended, or does not answer, the others are told to return.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

ANSWER_SECONDS = 2.0
"""Time for a worker to say whether it leaves."""
SLACK = 2.0
"""Seconds by which a worker may be late in saying that it is quiet."""


class IdleWatch:
    """Looks with each beat of the clock whether the server is `busy`, and calls `leave` when it was not for `seconds`.

    A connection that comes and goes between two beats counts through `touch`."""

    __slots__ = ("_asked", "_busy", "_leave", "_seconds", "_since")

    def __init__(self, seconds: float, now: float, busy: Callable[[], bool], leave: Callable[[], None]) -> None:
        # Settings
        self._seconds = seconds
        self._busy = busy
        self._leave = leave
        # State
        self._since = now  # nobody was there from then on
        self._asked = now

    def touch(self, now: float) -> None:
        self._since = self._asked = now

    def __call__(self, now: float) -> None:
        if self._busy():
            self.touch(now)
        elif now - self._asked >= self._seconds:
            self._asked = now
            self._leave()

    def is_over(self, now: float) -> bool:
        """Whether it has been quiet for so long."""
        return not self._busy() and now - self._since >= self._seconds


class Departure:
    """The supervisor's part. `tell` sends a message to a worker, `leave` ends the server."""

    __slots__ = ("_leave", "_left", "_quiet", "_seconds", "_tell", "deadline")

    def __init__(
        self, seconds: float, tell: Callable[[int, Mapping[str, object]], None], leave: Callable[[], None]
    ) -> None:
        # Settings
        self._seconds = seconds
        self._tell = tell
        self._leave = leave
        # State
        self._quiet: dict[int, float] = {}  # worker -> when it said that it is
        self._left: dict[int, bool] = {}  # whom was asked, and whether it has left
        self.deadline: float | None = None
        """When all must have answered who were asked."""

    def told(self, worker: int, what: object, workers: Collection[int], now: float) -> None:
        """One of the `workers` says "idle", "left" or "busy" (or something else)."""
        if what == "idle" and self._seconds:
            self._quiet[worker] = now
            limit = now - self._seconds - SLACK
            if not self._left and all(self._quiet.get(each, limit - 1) >= limit for each in workers):
                self._left = dict.fromkeys(workers, False)
                self.deadline = now + ANSWER_SECONDS
                for each in workers:
                    self._tell(each, {"do": "leave"})
        elif what == "left" and worker in self._left:
            self._left[worker] = True
            if all(self._left.values()):
                self._left = {}
                self.deadline = None
                self._leave()
        elif what == "busy":
            self._quiet.pop(worker, None)
            self.stay()

    def ended(self, worker: int) -> None:
        self._quiet.pop(worker, None)
        if self._left.pop(worker, None) is not None:
            self.stay()

    def stay(self) -> None:
        """Tell all who were asked to return."""
        asked, self._left = self._left, {}
        self.deadline = None
        self._quiet.clear()
        for each in asked:
            self._tell(each, {"do": "return"})
