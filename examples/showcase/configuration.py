"""Channel 3, config-update: how far a long job is, for the one person who started it.

Each message is the whole state, `{"status", "progress", "message"}`, and retained: who misses one needs only the next,
and a page that is loaded again has the last one at once. The stream is the person's own.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.showcase import access, heats, streams
from examples.showcase.access import Person
from examples.showcase.database import Database, Row
from examples.showcase.pages import form
from examples.showcase.seed import draw_heats

SIZES = range(3, 9)


def state_of(database: Database, person: Person) -> dict[str, Any]:
    row = database.find("SELECT status, progress, message FROM draw WHERE person_id = ?", person.id)
    return dict(row) if row else {"status": "idle", "progress": 0, "message": ""}


async def report(app: Starlette, person: Person, status: str, progress: int, message: str) -> None:
    """Save how far it is, for the next page, then tell the pages that are open."""
    app.state.database.run(
        "INSERT OR REPLACE INTO draw (person_id, status, progress, message) VALUES (?, ?, ?, ?)",
        person.id, status, progress, message,
    )
    state = {"status": status, "progress": progress, "message": message}
    await app.state.publisher.broadcast(streams.config_update(person), state, retain=True)


async def draw(app: Starlette, person: Person, size: int) -> None:
    """Draw the heats of all rounds to come with `size` couples each. The rounds under way or past stay as they are."""
    database: Database = app.state.database
    couples = database.all("SELECT id, number FROM couple WHERE event_id = ? ORDER BY number", person.event_id)
    steps = [(round_["dance"], couple["number"]) for round_ in rounds_to_come(database, person) for couple in couples]
    for done, (dance, number) in enumerate(steps):
        await report(app, person, "running", 100 * done // len(steps), f"{dance}: a place for couple {number}")
        await asyncio.sleep(app.state.pace)  # the work that makes this a long job
    with database.transaction():
        rounds = rounds_to_come(database, person)  # once more: the event went on meanwhile
        for round_ in rounds:
            database.run("DELETE FROM heat WHERE round_id = ?", round_["id"])
            draw_heats(database, round_["id"], [couple["id"] for couple in couples], size)
        database.run(
            "UPDATE event SET couples_per_heat = ?, heat_version = heat_version + 1 WHERE id = ?", size, person.event_id
        )
    await report(app, person, "done", 100, f"{len(rounds)} rounds drawn, up to {size} couples in a heat")
    await heats.publish(app, person)  # what comes next has changed


def couples_per_heat(database: Database, person: Person) -> int:
    return int(database.value("SELECT couples_per_heat FROM event WHERE id = ?", person.event_id))


def rounds_to_come(database: Database, person: Person) -> list[Row]:
    return database.all(
        """SELECT later.* FROM event JOIN heat ON heat.id = heat_id JOIN round ON round.id = heat.round_id
           JOIN round AS later ON later.event_id = event.id AND later.position > round.position
           WHERE event.id = ? ORDER BY later.position""",
        person.event_id,
    )


async def start(request: Request) -> Response:
    person = access.person(request, "organiser")
    database = request.app.state.database
    size = (await form(request)).get("size", "")
    if size not in map(str, SIZES):
        raise HTTPException(400, f"wanted: a size of {SIZES[0]} to {SIZES[-1]} couples")
    if state_of(database, person)["status"] == "running":
        raise HTTPException(409, "a draw is under way")
    await report(request.app, person, "running", 0, "Starting")
    request.app.state.tasks.start(draw(request.app, person, int(size)))
    return Response(status_code=202)


async def show(request: Request) -> Response:
    person = access.person(request, "organiser")
    return JSONResponse(state_of(request.app.state.database, person))


async def resume(app: Starlette) -> None:
    """After a start: what ran when the application was stopped does not run any more, and its page should know."""
    for row in app.state.database.all("SELECT token FROM draw JOIN person ON id = person_id WHERE status = 'running'"):
        await report(app, access.find(app.state.database, row["token"]), "failed", 0, "Interrupted: please start again")


routes = [
    Route("/{token}/draw", show),
    Route("/{token}/draw", start, methods=["POST"]),
]
