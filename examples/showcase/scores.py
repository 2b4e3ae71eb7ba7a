"""Channel 2, live-scores: judges' crosses, many in a second, on boards that may be a thousand.

Two ways to show them. The ranking is sorted anew by every cross, so its message is a mere signal, `{"version": 7}`:
each board fetches its own HTML, some time later, and one fetch covers all signals until then (refresher.js). The grid
of all judges' crosses changes in one row at a time, so its message is that change: a <turbo-stream> that replaces the
row, with all rows of a quarter of a second in one message.
"""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from examples.showcase import access, streams
from examples.showcase.access import Person
from examples.showcase.database import Database, Row
from examples.showcase.gather import Gatherer
from examples.showcase.pages import html, templates

WHOLE_GRID = 0  # in place of a couple's id
BOARD_SECONDS = 0.25

templates.globals["WHOLE_GRID"] = WHOLE_GRID


class Scores:
    """What the application keeps for all events: HTML rendered for one board is good for the next thousand."""

    def __init__(self, app: Starlette) -> None:
        self._state = app.state
        self._rankings: dict[int, tuple[int, str]] = {}  # event -> version, HTML
        self._boards: dict[int, Gatherer[int]] = {}

    def ranking(self, person: Person) -> str:
        version = current_round(self._state.database, person.event_id)["version"]
        kept, content = self._rankings.get(person.event_id, (0, ""))
        if kept != version:
            content = html("_ranking.html", standings=standings(self._state.database, person.event_id))
            self._rankings[person.event_id] = version, content
        return content

    async def changed(
        self, person: Person, couple_id: int = WHOLE_GRID, *, judge: str = "", exclude: str | None = None
    ) -> None:
        """Tell everybody: of one couple's new cross, or that another round begins. `exclude`: a judge's own tablet
        shows the cross already, and must not have it taken back by an answer that was under way before."""
        if person.event_id not in self._boards:
            self._boards[person.event_id] = Gatherer(BOARD_SECONDS, lambda couples: self._publish_rows(person, couples))
        self._boards[person.event_id].add(couple_id)
        version = current_round(self._state.database, person.event_id)["version"]
        signal = {"version": version, "judge": judge}
        # Retained: who subscribes learns whether the page is still the newest, and fetches nothing if it is.
        await self._state.publisher.broadcast(streams.live_scores(person), signal, retain=True, exclude=exclude)

    async def _publish_rows(self, person: Person, couples: set[int]) -> None:
        content = html(
            "_changes.html", changed=couples, standings=standings(self._state.database, person.event_id)
        )
        await self._state.publisher.broadcast(streams.live_board(person), content)


def current_round(database: Database, event_id: int) -> Row:
    return database.one(
        """SELECT round.*, scores_version AS version FROM event JOIN heat ON heat.id = heat_id
           JOIN round ON round.id = heat.round_id WHERE event.id = ?""",
        event_id,
    )


def standings(database: Database, event_id: int) -> dict[str, Any]:
    """The current round's couples by number, and ranked by their crosses. Who has as many as the last one that is
    recalled is recalled, too."""
    round_ = current_round(database, event_id)
    couples = [
        dict(row)
        for row in database.all(
            """SELECT couple.id, couple.number, leader, follower, count(judge_id) AS crosses,
                      coalesce(group_concat(letter, ''), '') AS letters
               FROM heat JOIN entry ON heat.id = heat_id JOIN couple ON couple.id = entry.couple_id
               LEFT JOIN mark ON mark.couple_id = couple.id AND mark.round_id = heat.round_id
               LEFT JOIN person ON person.id = judge_id
               WHERE heat.round_id = ? GROUP BY couple.id ORDER BY couple.number""",
            round_["id"],
        )
    ]
    ranked = sorted(couples, key=lambda couple: -couple["crosses"])
    enough = max(1, ranked[: round_["recall"]][-1]["crosses"])
    for couple in couples:
        couple["recalled"] = couple["crosses"] >= enough
        couple["place"] = 1 + sum(other["crosses"] > couple["crosses"] for other in couples)
    judges = database.all("SELECT letter FROM person WHERE event_id = ? AND role = 'judge' ORDER BY letter", event_id)
    return {"round": round_, "couples": couples, "ranked": ranked, "judges": [judge["letter"] for judge in judges]}


async def ranking(request: Request) -> Response:
    person = access.person(request)
    return HTMLResponse(request.app.state.scores.ranking(person))


async def grid(request: Request) -> Response:
    """For a board that was just connected: its messages are changes, of which none may be missing."""
    person = access.person(request)
    return HTMLResponse(html("_grid.html", standings=standings(request.app.state.database, person.event_id)))


routes = [
    Route("/{token}/ranking", ranking),
    Route("/{token}/grid", grid),
]
