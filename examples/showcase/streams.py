"""The names of the streams.

Whoever knows a stream's name can subscribe to it: fastcable asks nothing else. So a name is a secret shared with the
pages that may follow it, and each has a random part: the event's key, the person's, the request's, the job's. Such keys
are made for stream names only, are shown to those who may know them, and say nothing about any other.
"""

from __future__ import annotations

from examples.showcase.access import Person
from examples.showcase.database import Row


def event_part(event: Row | Person) -> str:
    """The slug is for people who read logs; the key behind it is what counts."""
    if isinstance(event, Person):
        return f"{event.slug}-{event.event_key}"
    return f"{event['slug']}-{event['key']}"


def current_heat(event: Row | Person) -> str:
    return f"current-heat-{event_part(event)}"


def live_scores(event: Row | Person) -> str:
    return f"live-scores-{event_part(event)}"


def live_board(event: Row | Person) -> str:
    """The second way to show scores: the message is the change to the page itself."""
    return f"live-board-{event_part(event)}"


def config_update(person: Person) -> str:
    return f"config-update-{event_part(person)}-{person.key}"


def offline_playlist(person: Person, request: str) -> str:
    return f"offline-playlist-{event_part(person)}-{request}"


def output(person: Person, job: str) -> str:
    """As fastcable.toml says, so that Action Cable's clients may name it by its parts."""
    return f"output:{event_part(person)}:{person.key}:{job}"


def output_parts(stream: str) -> dict[str, str]:
    """The attributes from which terminal_actioncable.js makes its identifier."""
    return dict(zip(("data-event", "data-user", "data-job"), stream.split(":")[1:], strict=False))
