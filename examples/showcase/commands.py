"""Channel 5, output: what a command prints, character by character, in a terminal on the page.

Here nothing may be lost or doubled, so the stream alone is not enough: the output is kept, and each message says at
which position its text begins. A page subscribes first, then fetches what there is, and joins the two by position
(splice.js); after a reconnect, a gap, or a hole between two messages it fetches again, from where it is. So it does not
matter whether the command began before the page was there, nor who was restarted meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from examples.showcase import access, streams
from examples.showcase.access import Person
from examples.showcase.database import Database, Row
from examples.showcase.keys import new_key
from examples.showcase.output import output_path
from examples.showcase.pages import HERE, form, page
from examples.showcase.reports import COMMANDS

CLIENTS = {"fastcable": "terminal", "actioncable": "terminal_actioncable"}
"""What the page may listen with, and which script does it."""


def launch(app: Starlette, key: str) -> None:
    """Start job.py, which goes its own way."""
    database: Database = app.state.database
    with (database.folder / "jobs.log").open("ab") as log:
        subprocess.run(
            [sys.executable, "-m", "examples.showcase.job", str(database.path.absolute()), key],
            cwd=HERE.parent.parent, env={**os.environ, "SHOWCASE_PACE": str(app.state.pace)},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True,
        )


def jobs_of(database: Database, person: Person) -> list[Row]:
    return database.all(
        "SELECT * FROM job WHERE person_id = ? ORDER BY started_at DESC, rowid DESC LIMIT 5", person.id
    )


async def start(request: Request) -> Response:
    person = access.person(request, "organiser")
    command = (await form(request)).get("command", "")
    if command not in COMMANDS:
        raise HTTPException(400, f"wanted: a command, one of {', '.join(COMMANDS)}")
    key = new_key()
    request.app.state.database.run(
        "INSERT INTO job (key, person_id, command, stream) VALUES (?, ?, ?, ?)",
        key, person.id, command, streams.output(person, key),
    )
    output_path(request.app.state.database.folder, key).touch()
    await asyncio.to_thread(launch, request.app, key)
    return RedirectResponse(f"{person.home}/jobs/{key}", 303)


def job_of(request: Request) -> tuple[Person, Row]:
    person = access.person(request, "organiser")
    job = request.app.state.database.find(
        "SELECT * FROM job WHERE key = ? AND person_id = ?", request.path_params["job"], person.id
    )
    if job is None:
        raise HTTPException(404)
    return person, job


async def follow(request: Request) -> Response:
    person, job = job_of(request)
    client = request.query_params.get("client", "fastcable")
    if client not in CLIENTS:
        raise HTTPException(400, f"wanted: a client, one of {', '.join(CLIENTS)}")
    command = COMMANDS[job["command"]]
    return page(request, "job.html", person, job=job, command=command, client=client, script=CLIENTS[client])


async def output(request: Request) -> Response:
    """The output from a position on, and the exit status once there is one."""
    _, job = job_of(request)  # with its status, before the output is read: see job.py
    try:
        position = int(request.query_params.get("position", "0"))
    except ValueError:
        position = -1
    if position < 0:
        raise HTTPException(400, "wanted: a position, in bytes")
    with output_path(request.app.state.database.folder, job["key"]).open("rb") as file:
        file.seek(position)
        content = file.read()
    status = {} if job["exit_status"] is None else {"Exit-Status": str(job["exit_status"])}
    return Response(content, headers=status, media_type="application/octet-stream")


routes = [
    Route("/{token}/jobs", start, methods=["POST"]),
    Route("/{token}/jobs/{job}", follow),
    Route("/{token}/jobs/{job}/output", output),
]
