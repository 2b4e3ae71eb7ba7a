"""Channel 4, offline-playlist: an archive made on request, followed on a page of its own.

The request's random id is part of the page's address and of the stream's name: reloading finds both again, and nobody
else does. Progress is published once a second at most, whatever the pace of the work; the end, with the key of the
download, always is, and retained: it may come before the page has subscribed.
"""

from __future__ import annotations

import asyncio
import time
import zipfile
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from examples.showcase import access, streams
from examples.showcase.access import Person
from examples.showcase.click_track import click_track
from examples.showcase.database import Database
from examples.showcase.heats import couples_of
from examples.showcase.keys import new_key
from examples.showcase.pages import page

PROGRESS_SECONDS = 1.0


def state_of(database: Database, person: Person, request_key: str) -> dict[str, Any]:
    """LookupError for a request of another event, or none."""
    return dict(
        database.one(
            "SELECT status, progress, message, download_key FROM playlist WHERE request = ? AND event_id = ?",
            request_key, person.event_id,
        )
    )


async def publish(app: Starlette, person: Person, key: str) -> None:
    state = state_of(app.state.database, person, key)
    await app.state.publisher.broadcast(streams.offline_playlist(person, key), state, retain=True)


async def make(app: Starlette, person: Person, key: str) -> None:
    """Write the archive: a click track in the dance's tempo for each heat, and the order of heats."""
    database: Database = app.state.database
    heats = database.all(
        """SELECT heat.id, heat.number, title, dance FROM heat JOIN round ON round.id = round_id
           WHERE event_id = ? ORDER BY position, heat.number""", person.event_id,
    )
    published = -PROGRESS_SECONDS
    playlist, order = ["#EXTM3U"], ["file,dance,round,heat,couples"]
    with zipfile.ZipFile(archive(app, key), "w", zipfile.ZIP_DEFLATED) as file:
        for nth, heat in enumerate(heats):
            name = f"{nth + 1:02} {heat['dance']} {heat['number']}.wav"
            database.run(
                "UPDATE playlist SET progress = ?, message = ? WHERE request = ?", 100 * nth // len(heats), name, key
            )
            if time.monotonic() - published >= PROGRESS_SECONDS:
                published = time.monotonic()
                await publish(app, person, key)
            file.writestr(name, await asyncio.to_thread(click_track, heat["dance"]))
            playlist += [f"#EXTINF:30,{heat['title']}: {heat['dance']}, heat {heat['number']}", name]
            numbers = " ".join(str(couple["number"]) for couple in couples_of(database, heat["id"]))
            order.append(f'"{name}",{heat["dance"]},"{heat["title"]}",{heat["number"]},{numbers}')
            await asyncio.sleep(4 * app.state.pace)  # real music takes longer
        file.writestr("playlist.m3u8", "\n".join([*playlist, ""]))
        file.writestr("heats.csv", "\n".join([*order, ""]))
    database.run(
        "UPDATE playlist SET status = 'ready', progress = 100, message = ?, download_key = ? WHERE request = ?",
        f"{len(heats)} tracks", new_key(), key,
    )
    await publish(app, person, key)


def archive(app: Starlette, key: str) -> Path:
    folder: Path = app.state.database.folder / "playlists"
    folder.mkdir(exist_ok=True)
    return folder / f"{key}.zip"


async def start(request: Request) -> Response:
    person = access.person(request)
    key = new_key()
    request.app.state.database.run(
        "INSERT INTO playlist (request, event_id, person_id, status, progress, message) VALUES (?, ?, ?, ?, ?, ?)",
        key, person.event_id, person.id, "running", 0, "Starting",
    )
    request.app.state.tasks.start(make(request.app, person, key))
    return RedirectResponse(f"{person.home}/playlists/{key}", 303)


def requested(request: Request) -> tuple[Person, str, dict[str, Any]]:
    person = access.person(request)
    key = request.path_params["request"]
    try:
        return person, key, state_of(request.app.state.database, person, key)
    except LookupError:
        raise HTTPException(404) from None


async def follow(request: Request) -> Response:
    person, key, state = requested(request)
    return page(request, "playlist.html", person, request_key=key, playlist=state)


async def show(request: Request) -> Response:
    return JSONResponse(requested(request)[2])


async def download(request: Request) -> Response:
    person, key, state = requested(request)
    if state["download_key"] is None or request.path_params["download_key"] != state["download_key"]:
        raise HTTPException(404)
    return FileResponse(archive(request.app, key), filename=f"{person.slug}-playlist.zip")


async def resume(app: Starlette) -> None:
    """As configuration.resume."""
    database: Database = app.state.database
    unfinished = database.all(
        "SELECT request, token FROM playlist JOIN person ON person.id = person_id WHERE status = 'running'"
    )
    for row in unfinished:
        database.run(
            "UPDATE playlist SET status = 'failed', message = 'Interrupted: please ask again' WHERE request = ?",
            row["request"],
        )
        await publish(app, access.find(database, row["token"]), row["request"])


routes = [
    Route("/{token}/playlists", start, methods=["POST"]),
    Route("/{token}/playlists/{request}", follow),
    Route("/{token}/playlists/{request}/state", show),
    Route("/{token}/playlists/{request}/{download_key}", download),
]
