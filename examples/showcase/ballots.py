"""A judge's ballot: the crosses of one judge for the couples on the floor."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from examples.showcase import access, heats, scores
from examples.showcase.access import Person
from examples.showcase.database import Database
from examples.showcase.pages import form, html


def ballot(database: Database, judge: Person) -> dict[str, Any]:
    floor = heats.on_the_floor(database, judge.event_id)
    round_ = scores.current_round(database, judge.event_id)
    crossed = {
        row["couple_id"]
        for row in database.all(
            "SELECT couple_id FROM mark WHERE round_id = ? AND judge_id = ?", round_["id"], judge.id
        )
    }
    return {"round": round_, "couples": floor["couples"], "crossed": crossed}


def cross(database: Database, judge: Person, round_id: int, couple: int, crossed: bool) -> int:
    """Set or take back a cross; the couple's id. LookupError where the couple does not dance in that round."""
    with database.transaction():
        couple_id: int = database.value(
            """SELECT couple.id FROM couple JOIN entry ON couple.id = couple_id JOIN heat ON heat.id = heat_id
               JOIN round ON round.id = round_id WHERE round.event_id = ? AND round.id = ? AND couple.number = ?""",
            judge.event_id, round_id, couple,
        )
        database.run(
            "INSERT OR IGNORE INTO mark (round_id, couple_id, judge_id) VALUES (?, ?, ?)" if crossed
            else "DELETE FROM mark WHERE round_id = ? AND couple_id = ? AND judge_id = ?",
            round_id, couple_id, judge.id,
        )
        database.run("UPDATE event SET scores_version = scores_version + 1 WHERE id = ?", judge.event_id)
    return couple_id


async def show(request: Request) -> Response:
    judge = access.person(request, "judge")
    return HTMLResponse(html("_ballot.html", ballot=ballot(request.app.state.database, judge)))


async def enter(request: Request) -> Response:
    judge = access.person(request, "judge")
    fields = await form(request)
    try:
        round_id, couple = int(fields["round"]), int(fields["couple"])
        couple_id = cross(request.app.state.database, judge, round_id, couple, fields["crossed"] == "true")
    except (KeyError, ValueError):
        raise HTTPException(400, "wanted: round, couple, crossed") from None
    except LookupError:
        raise HTTPException(409, "this couple does not dance in this round") from None
    socket = request.headers.get("x-cable-socket")
    await request.app.state.scores.changed(judge, couple_id, judge=judge.letter, exclude=socket)
    return Response(status_code=204)


routes = [
    Route("/{token}/ballot", show),
    Route("/{token}/ballot", enter, methods=["POST"]),
]
