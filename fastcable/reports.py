"""What a server tells of itself: metrics and status, of all its workers, whichever of them is asked."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from fastcable import __version__
from fastcable._request import Request
from fastcable.colleagues import Colleagues
from fastcable.response import Response, json_response
from fastcable.settings import Settings
from fastcable.statistics import TOP, Snapshot

if TYPE_CHECKING:
    from fastcable._hub import Hub
    from fastcable.live_status import LiveStatus

HEADERS = (
    b"Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
    b"Referrer-Policy: no-referrer\r\n"
    b"Content-Security-Policy: default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; "
    b"img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
)


Result = TypeVar("Result")


class Reports:
    """What the paths answer to GET."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: Settings, hub: Hub, statistics: Colleagues, status: Colleagues,
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._hub = hub
        self._statistics = statistics
        self._status = status
        self._live: LiveStatus | None = None

    def metrics(self, request: Request) -> asyncio.Future[Response]:
        from fastcable import metrics

        accept = b",".join(request.values(b"accept")).decode("latin-1")
        return self._later(self._statistics, lambda snapshots: metrics.response(snapshots, accept))

    def status(self, request: Request) -> asyncio.Future[Response]:
        """`?live` asks for the stream that it is posted to, too."""
        return self._tell(self._follow() if request.target.endswith(b"?live") else None)

    def status_apart(self, request: Request) -> asyncio.Future[Response]:
        """The same on a listener from which a page does not reach the cable."""
        return self._tell(None)

    def page(self, request: Request) -> Response:
        """What shows the status, which it fetches itself."""
        path = os.path.join(os.path.dirname(__file__), "client", "status.html")
        with open(path, "rb") as file:
            return Response(200, file.read(), HEADERS)

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _tell(self, live: dict[str, str] | None) -> asyncio.Future[Response]:
        return self._later(self._status, lambda snapshots: json_response(
            200, {**_status(snapshots), "live": live}, b"Cache-Control: no-store\r\n"))

    def _follow(self) -> dict[str, str]:
        """Where the page gets each new status from here on."""
        if self._live is None:
            from fastcable.live_status import LiveStatus

            self._live = LiveStatus(
                self._loop, self._hub, self._settings,
                lambda: self._later(self._status, lambda snapshots: orjson.dumps(_status(snapshots))))
        self._live.ask()
        return {"cable": self._settings.cable_path, "stream": self._live.name}

    def _later(
        self, colleagues: Colleagues, answer: Callable[[list[Snapshot]], Result],
    ) -> asyncio.Future[Result]:
        later: asyncio.Future[Result] = self._loop.create_future()

        def done(snapshots: asyncio.Future[list[Snapshot]]) -> None:
            try:
                later.set_result(answer(snapshots.result()))
            except Exception as problem:
                later.set_exception(problem)

        colleagues.all().add_done_callback(done)
        return later


def _status(snapshots: list[Snapshot]) -> dict[str, Any]:
    """All workers, and the largest streams of all of them."""
    streams: dict[str, int] = {}
    for each in snapshots:
        for name, count in each["top"]:
            streams[name] = streams.get(name, 0) + count
    top = sorted(streams.items(), key=lambda item: (-item[1], item[0]))[:TOP]
    # Copies: who asked at the same time has the same snapshots.
    workers = [{key: value for key, value in each.items() if key != "top"} for each in snapshots]
    return {
        "version": __version__, "time": time.time(), "workers": sorted(workers, key=lambda each: each["worker"]),
        "top_streams": [{"stream": name, "subscribers": count} for name, count in top],
    }
