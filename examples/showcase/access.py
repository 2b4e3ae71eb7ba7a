"""Who is asking: every address of a person's pages begins with that person's token.

There is no cookie, so there is nothing that a foreign page could make a browser send along (CSRF): a link is a key.
What a real application adds: sign-in with a session, tokens that end, and limits to how often somebody may try.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request

from examples.showcase.database import Database


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a role at one event, and at no other."""

    id: int
    key: str
    token: str
    role: str
    name: str
    letter: str
    event_id: int
    slug: str
    event_key: str
    event_name: str
    place: str

    @property
    def home(self) -> str:
        return f"/{self.token}"


def find(database: Database, token: str) -> Person:
    """Whose token this is; LookupError if nobody's."""
    row = database.one(
        """SELECT person.id, person.key, token, role, person.name, letter,
                  event.id AS event_id, slug, event.key AS event_key, event.name AS event_name, place
           FROM person JOIN event ON event.id = event_id WHERE token = ?""",
        token,
    )
    return Person(**dict(row))


def person(request: Request, *roles: str) -> Person:
    """Whose link this is. 404 for a token that nobody has, 403 where the person's role is none of these."""
    try:
        found = find(request.app.state.database, request.path_params["token"])
    except LookupError:
        raise HTTPException(404) from None
    if roles and found.role not in roles:
        raise HTTPException(403, f"only for the {' or '.join(roles)}")
    return found
