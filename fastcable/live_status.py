"""The status page's own stream.

Theory of operation. What the page shows is not for everybody who may subscribe, so the stream has a name that nobody
can guess: whoever may see the status is told it, by a worker that from then on posts the status of all workers to it,
through the broker, as if an application did. Nothing is posted unless somebody has asked within the last `LEASE`
seconds; a page that is looked at asks again in time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from fastcable.brokers import HandoverError
from fastcable.settings import Settings
from fastcable.statistics import STATUS

if TYPE_CHECKING:
    from fastcable._hub import Hub

INTERVAL = 2.0
"""Seconds from one status to the next."""
LEASE = 60.0

Status = Callable[[], "asyncio.Future[bytes]"]


class LiveStatus:
    """Of one worker; `status` gives the JSON of all of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hub: Hub, settings: Settings, status: Status) -> None:
        self.stream = STATUS + os.urandom(16).hex()
        self.name = _signed(settings, self.stream) if settings.signed_streams == "required" else self.stream
        """As which it is subscribed to."""
        self._loop = loop
        self._hub = hub
        self._status = status
        self._end = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def ask(self) -> None:
        """Post from now on, for `LEASE` seconds."""
        self._end = self._loop.time() + LEASE
        if self._timer is None:
            self._timer = self._loop.call_later(INTERVAL, self._post)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _post(self) -> None:
        self._timer = None
        if self._loop.time() < self._end:
            self._status().add_done_callback(partial(_publish, self._hub, self.stream))
            self._timer = self._loop.call_later(INTERVAL, self._post)


def _publish(hub: Hub, stream: str, status: asyncio.Future[bytes]) -> None:
    handover = hub.publish(stream, status.result())
    if handover is not None:
        handover.add_done_callback(_handed_over)


def _handed_over(handover: asyncio.Future[int]) -> None:
    """The page notices by itself when nothing comes."""
    problem = handover.exception()
    if problem is not None and not isinstance(problem, HandoverError):
        raise problem


def _signed(settings: Settings, stream: str) -> str:
    from fastcable.signing import sign, stream_keys

    keys = stream_keys(settings.turbo_secret, settings.secret_key_base, settings.secret_key_base_digest)
    return sign(stream, keys[0])
