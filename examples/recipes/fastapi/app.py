"""A scoreboard: `POST /scores/4?points=17` saves the points of heat 4 and shows them to everybody who follows.

    uvicorn app:app
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import FastAPI, Request

from fastcable import AsyncPublisher


class State(TypedDict):
    publisher: AsyncPublisher


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[State]:
    async with AsyncPublisher(on_error="log") as publisher:
        yield {"publisher": publisher}


app = FastAPI(lifespan=lifespan)
saved: dict[int, int] = {}


@app.post("/scores/{heat}")
async def save(heat: int, points: int, request: Request) -> dict[str, int]:
    saved[heat] = points
    await request.state.publisher.broadcast("scores", {"heat": heat, "points": points})
    return {"heat": heat}
