"""The statistics of all workers, asked for by one of them.

Theory of operation. The worker that is asked by somebody says so to whoever runs the switch (CONTROL), who keeps no
state of it and only passes things on:

    worker          {"ask":"statistics"}                                → supervisor
    supervisor      {"asked":[the other workers],"about":"statistics"}  → worker
    supervisor      {"ask":"statistics","for":pid}                      → each of the others
    another worker  {"answer":{…},"about":"statistics","for":pid}       → supervisor
    supervisor      {"answer":{…},"about":"statistics"}                 → worker

What has not come within `PATIENCE` is left out: that worker is stopped, or has ended. Who asks while a round is under
way gets what that brings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from fastcable.statistics import Snapshot

PATIENCE = 1.0
"""Seconds for all the others to answer."""

Control = Callable[[Mapping[str, object]], None]


class Colleagues:
    """`own` is what this worker tells of itself when it is asked about this."""

    def __init__(self, loop: asyncio.AbstractEventLoop, about: str, own: Callable[[], Snapshot]) -> None:
        self._loop = loop
        self._about = about
        self._own = own
        self.control: Control | None = None
        """Tells something to whoever runs the switch; None: there are no other workers."""
        self._answer: asyncio.Future[list[Snapshot]] | None = None
        self._expected = 0
        self._told: list[Snapshot] = []
        self._timer: asyncio.TimerHandle | None = None

    def all(self) -> asyncio.Future[list[Snapshot]]:
        """What all workers tell, this one first."""
        if self._answer is not None:
            return self._answer
        answer: asyncio.Future[list[Snapshot]] = self._loop.create_future()
        if self.control is None:
            answer.set_result([self._own()])
            return answer
        self._answer = answer
        self._told = []
        self._expected = -1
        self._timer = self._loop.call_later(PATIENCE, self._finish)
        self.control({"ask": self._about})
        return answer

    def told(self, message: Mapping[str, object]) -> None:
        """What whoever runs the switch says; other things are ignored."""
        if message.get("ask") == self._about and self.control is not None:
            self.control({"answer": self._own(), "about": self._about, "for": message.get("for")})
        if self._answer is None or message.get("about") != self._about:
            return
        asked, answer = message.get("asked"), message.get("answer")
        if isinstance(asked, list):
            self._expected = len(asked)
        elif isinstance(answer, dict):
            self._told.append(answer)
        if len(self._told) == self._expected:
            self._finish()

    def _finish(self) -> None:
        answer, self._answer = self._answer, None
        if self._timer is not None:
            self._timer.cancel()
        if answer is not None and not answer.done():
            answer.set_result([self._own(), *self._told])


def relay(
    sender: int, message: Mapping[str, object], workers: Iterable[int],
    tell: Callable[[int, Mapping[str, object]], None],
) -> None:
    """What whoever runs the switch does with what a worker said; `workers` are those that can answer."""
    ask, receiver = message.get("ask"), message.get("for")
    if isinstance(ask, str):
        others = [worker for worker in workers if worker != sender]
        tell(sender, {"asked": others, "about": ask})
        for worker in others:
            tell(worker, {"ask": ask, "for": sender})
    elif "answer" in message and isinstance(receiver, int) and receiver in workers:
        tell(receiver, {"answer": message["answer"], "about": message.get("about")})
