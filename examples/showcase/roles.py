"""The pages: the door, and one for each role."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from examples.showcase import access, ballots, commands, configuration, heats, scores
from examples.showcase.access import Person
from examples.showcase.pages import page
from examples.showcase.reports import COMMANDS


async def door(request: Request) -> Response:
    """Everybody's sign-in links. A real application sends each of them to its person alone."""
    database = request.app.state.database
    events = [
        (event, database.all("SELECT * FROM person WHERE event_id = ? ORDER BY id", event["id"]))
        for event in database.all("SELECT * FROM event ORDER BY id")
    ]
    return page(request, "door.html", events=events)


async def home(request: Request) -> Response:
    person = access.person(request)
    return page(request, f"{person.role}.html", person, **CONTENT[person.role](request, person))


async def big_screen(request: Request) -> Response:
    person = access.person(request)
    return page(request, "board.html", person, **what_everybody_sees(request, person))


def what_everybody_sees(request: Request, person: Person) -> dict[str, Any]:
    database = request.app.state.database
    return {
        "floor": heats.on_the_floor(database, person.event_id),
        "standings": scores.standings(database, person.event_id),
    }


def what_organisers_see(request: Request, person: Person) -> dict[str, Any]:
    database = request.app.state.database
    return {
        **what_everybody_sees(request, person),
        "draw": configuration.state_of(database, person),
        "sizes": configuration.SIZES,
        "couples_per_heat": configuration.couples_per_heat(database, person),
        "commands": COMMANDS,
        "jobs": commands.jobs_of(database, person),
    }


def what_judges_see(request: Request, person: Person) -> dict[str, Any]:
    database = request.app.state.database
    return {
        "floor": heats.on_the_floor(database, person.event_id),
        "ballot": ballots.ballot(database, person),
    }


CONTENT = {"organiser": what_organisers_see, "judge": what_judges_see, "viewer": what_everybody_sees}

routes = [
    Route("/", door),
    Route("/{token}", home),
    Route("/{token}/board", big_screen),
]
