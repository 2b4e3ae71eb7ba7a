"""The application: its pages and the state they share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from examples.showcase import ballots, commands, configuration, heats, playlists, roles, scores
from examples.showcase.database import Database
from examples.showcase.pages import HERE
from examples.showcase.tasks import Tasks
from fastcable import AsyncPublisher


def create_app(folder: Path, cable: str, pace: float) -> Starlette:
    """`folder` holds the database and what jobs write. `cable` is where browsers connect: a path of this application,
    or a ws:// address of another server. `pace` is the seconds that each step of a long job takes."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.cable = cable
        app.state.pace = pace
        app.state.database = Database(folder / "showcase.db")
        # A cable server that is away costs a line in the log and not the request: the database has what happened, and
        # pages ask for it when they are connected again.
        app.state.publisher = AsyncPublisher(on_error="log")
        app.state.scores = scores.Scores(app)
        app.state.tasks = Tasks()
        await configuration.resume(app)
        await playlists.resume(app)
        yield
        await app.state.tasks.stop()
        await app.state.publisher.close()
        app.state.database.close()

    routes: list[BaseRoute] = [
        Mount("/static", StaticFiles(directory=HERE / "static")),
        # Served from here, so that a page opened while the cable server restarts is whole, and connects later.
        Mount("/fastcable", StaticFiles(packages=[("fastcable", "client")])),
        Mount("/npm", StaticFiles(directory=HERE / "node_modules")),
        *heats.routes,
        *scores.routes,
        *ballots.routes,
        *configuration.routes,
        *playlists.routes,
        *commands.routes,
        *roles.routes,
    ]
    return Starlette(routes=routes, lifespan=lifespan)
