"""What a server tells of itself: metrics and status, of all its workers, whichever of them is asked."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from fastcable import __version__
from fastcable._request import Request
from fastcable.colleagues import Colleagues
from fastcable.response import Response, json_response
from fastcable.statistics import TOP, Snapshot

HEADERS = (
    b"Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
    b"Referrer-Policy: no-referrer\r\n"
    b"Content-Security-Policy: default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    b"img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
)


class Reports:
    """What the paths answer to GET."""

    def __init__(self, loop: asyncio.AbstractEventLoop, statistics: Colleagues, status: Colleagues) -> None:
        self._loop = loop
        self._statistics = statistics
        self._status = status

    def metrics(self, request: Request) -> asyncio.Future[Response]:
        from fastcable import metrics

        accept = b",".join(request.values(b"accept")).decode("latin-1")
        return self._later(self._statistics, lambda snapshots: metrics.response(snapshots, accept))

    def status(self, request: Request) -> asyncio.Future[Response]:
        return self._later(self._status, _status)

    def page(self, request: Request) -> Response:
        """What shows the status, which it fetches itself."""
        path = os.path.join(os.path.dirname(__file__), "client", "status.html")
        with open(path, "rb") as file:
            return Response(200, file.read(), HEADERS)

    def _later(
        self, colleagues: Colleagues, answer: Callable[[list[Snapshot]], Response],
    ) -> asyncio.Future[Response]:
        later: asyncio.Future[Response] = self._loop.create_future()

        def done(snapshots: asyncio.Future[list[Snapshot]]) -> None:
            try:
                later.set_result(answer(snapshots.result()))
            except Exception as problem:
                later.set_exception(problem)

        colleagues.all().add_done_callback(done)
        return later


def _status(snapshots: list[Snapshot]) -> Response:
    """All workers, and the largest streams of all of them."""
    streams: dict[str, int] = {}
    for each in snapshots:
        for name, count in each.pop("top"):
            streams[name] = streams.get(name, 0) + count
    top = sorted(streams.items(), key=lambda item: (-item[1], item[0]))[:TOP]
    value = {
        "version": __version__, "time": time.time(), "workers": sorted(snapshots, key=lambda each: each["worker"]),
        "top_streams": [{"stream": name, "subscribers": count} for name, count in top],
    }
    return json_response(200, value, b"Cache-Control: no-store\r\n")
