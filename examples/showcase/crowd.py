"""python -m examples.showcase.crowd: play the judges of an event, many marks in a second.

It does what the judges' tablets do, through the same requests, and puts the next heat on the floor from time to time.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlencode, urlsplit


class Event:
    def __init__(self, url: str, slug: str) -> None:
        parts = urlsplit(url)
        self._connection = HTTPConnection(parts.hostname or "localhost", parts.port, timeout=10)
        door = dict(re.findall(r'data-event="([\w-]+)">(.*?)</section>', self.get("/"), re.DOTALL))
        if slug not in door:
            raise SystemExit(f"there is no event {slug!r}, but {', '.join(door)}")
        links = re.findall(r'data-role="(\w+)" href="([^"]+)"', door[slug])
        self.judges = [href for role, href in links if role == "judge"]
        self.organiser = dict(links)["organiser"]

    def get(self, path: str) -> str:
        return self._request("GET", path, None)

    def post(self, path: str, **fields: object) -> None:
        self._request("POST", path, urlencode(fields))

    def _request(self, method: str, path: str, body: str | None) -> str:
        self._connection.request(method, path, body)
        return self._connection.getresponse().read().decode()


class Judge:
    """Agrees with the others on the whole about whom to see again, and changes this mind now and then."""

    def __init__(self) -> None:
        self._likings: dict[int, float] = {}

    def liking(self, couple: int) -> float:
        if couple not in self._likings or random.random() < 0.04:
            self._likings[couple] = couple * 7919 % 13 + random.gauss(0, 3)
        return self._likings[couple]


class Ballot:
    """What a judge sees now."""

    def __init__(self, event: Event, judge: str) -> None:
        self._event = event
        self._path = f"{judge}/ballot"
        html = event.get(self._path)
        (self._round,) = re.findall(r'data-round="(\d+)"', html)
        self._tiles = {
            int(number): pressed == "true"
            for number, pressed in re.findall(r'value="(\d+)" aria-pressed="(\w+)"', html)
        }

    def mark(self, judge: Judge) -> None:
        """Set a cross, or take one back, as the judge would have it just now."""
        wanted = sorted(self._tiles, key=judge.liking)[: len(self._tiles) // 2]
        differing = [couple for couple, crossed in self._tiles.items() if crossed != (couple in wanted)]
        if not differing:
            return
        couple = random.choice(differing)
        crossed = "false" if self._tiles[couple] else "true"
        self._event.post(self._path, round=self._round, couple=couple, crossed=crossed)


def main() -> None:
    parser = argparse.ArgumentParser("python -m examples.showcase.crowd", description="Play the judges of an event.")
    parser.add_argument("--url", default="http://localhost:8000", help="the showcase (default: %(default)s)")
    parser.add_argument("--event", default="spring-gala", help="its slug (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=20, help="marks a second (default: %(default)s)")
    parser.add_argument("--heat", type=float, default=15, help="seconds for a heat; 0: stay (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long (default: until interrupted)")
    options = parser.parse_args()
    event = Event(options.url, options.event)
    judges = {link: Judge() for link in event.judges}
    end = time.monotonic() + options.seconds
    next_heat = time.monotonic() + (options.heat or float("inf"))
    while (now := time.monotonic()) < end:
        if now >= next_heat:
            next_heat += options.heat
            event.post(f"{event.organiser}/heat", step="next")
        link, judge = random.choice(list(judges.items()))
        Ballot(event, link).mark(judge)
        time.sleep(max(0.0, 1 / options.rate - (time.monotonic() - now)))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except (OSError, HTTPException) as error:
        sys.exit(f"the showcase cannot be reached: {error}")
