"""Channel 1, current-heat: what is on the floor, on every page at once.

The message is the HTML itself, rendered once for everybody, and retained: a page that was rendered just before a change
and subscribes just after it gets the newest as its first message. Messages can overtake each other on their way here,
so each carries a version, and a page shows no older one than it has.
"""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from examples.showcase import access, streams
from examples.showcase.access import Person
from examples.showcase.database import Database
from examples.showcase.pages import form, html


def on_the_floor(database: Database, event_id: int) -> dict[str, Any]:
    """The current heat, its couples and the heat that follows, for the template."""
    heat = database.one(
        """SELECT heat.id, heat.number, heat_version AS version, round.id AS round_id, title, dance, recall, position,
                  (SELECT count(*) FROM heat AS other WHERE other.round_id = round.id) AS heats
           FROM event JOIN heat ON heat.id = heat_id JOIN round ON round.id = heat.round_id WHERE event.id = ?""",
        event_id,
    )
    following = database.find(
        """SELECT heat.id, heat.number, dance FROM heat JOIN round ON round.id = round_id
           WHERE event_id = ? AND (position, heat.number) > (?, ?) ORDER BY position, heat.number LIMIT 1""",
        event_id, heat["position"], heat["number"],
    )
    return {
        "heat": heat,
        "couples": couples_of(database, heat["id"]),
        "following": following,
        "next_couples": couples_of(database, following["id"]) if following else [],
    }


def couples_of(database: Database, heat_id: int) -> list[Any]:
    return database.all(
        "SELECT couple.* FROM entry JOIN couple ON couple.id = couple_id WHERE heat_id = ? ORDER BY number", heat_id
    )


def fragment(database: Database, event_id: int) -> str:
    return html("_heat.html", floor=on_the_floor(database, event_id))


def step(database: Database, event_id: int, forward: bool) -> bool:
    """Put the next heat, or the one before, on the floor; False at either end."""
    order, than = ("ASC", ">") if forward else ("DESC", "<")
    with database.transaction():
        heat = on_the_floor(database, event_id)["heat"]
        neighbour = database.find(
            f"""SELECT heat.id FROM heat JOIN round ON round.id = round_id WHERE event_id = ?
                AND (position, heat.number) {than} (?, ?) ORDER BY position {order}, heat.number {order} LIMIT 1""",
            event_id, heat["position"], heat["number"],
        )
        if neighbour is None:
            return False
        database.run(
            """UPDATE event SET heat_id = ?, heat_version = heat_version + 1, scores_version = scores_version + 1
               WHERE id = ?""", neighbour["id"], event_id,
        )
    return True


async def publish(app: Starlette, person: Person) -> None:
    """Show what is on the floor to everybody."""
    content = fragment(app.state.database, person.event_id)
    await app.state.publisher.broadcast(streams.current_heat(person), content, retain=True)


async def show(request: Request) -> Response:
    """For pages whose connection was interrupted."""
    person = access.person(request)
    return HTMLResponse(fragment(request.app.state.database, person.event_id))


async def advance(request: Request) -> Response:
    person = access.person(request, "organiser")
    forward = (await form(request)).get("step") != "back"
    if step(request.app.state.database, person.event_id, forward):
        await publish(request.app, person)
        await request.app.state.scores.changed(person)
    return Response(status_code=204)


routes = [
    Route("/{token}/heat", show),
    Route("/{token}/heat", advance, methods=["POST"]),
]
