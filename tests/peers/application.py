"""A small ASGI application with the cable in front of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from fastcable import AsyncPublisher, Publisher
from fastcable.asgi import CableMiddleware

started = False


@contextlib.asynccontextmanager
async def lifespan(application: Starlette) -> AsyncIterator[None]:
    global started
    started = True
    yield


async def home(request: Request) -> Response:
    return PlainTextResponse(f"{request.method} {request.url.path}, started: {started}")


async def page(request: Request) -> Response:
    """What a developer writes to try it."""
    return HTMLResponse("""<!doctype html><title>live</title><link rel="icon" href="data:,">
        <p id="state"></p><p id="data"></p>
        <script type="module">
          import { createConsumer } from "/fastcable.js"
          const show = (id, text) => { document.getElementById(id).textContent = text }
          createConsumer().subscribe("page", {
            connected: () => show("state", "live"),
            received: (data) => show("data", data),
            disconnected: () => show("state", "down"),
          })
        </script>""")


async def publish(request: Request) -> Response:
    """Publish from within, on the event loop's thread."""
    return JSONResponse({"subscribers": app.broadcast(request.path_params["stream"], await request.json())})


def publish_from_a_thread(request: Request) -> Response:
    return JSONResponse({"subscribers": app.broadcast(request.path_params["stream"], "from a thread")})


async def publish_over_http(request: Request) -> Response:
    """As in production, only to this process itself."""
    async with AsyncPublisher(f"{request.base_url}_broadcast") as publisher:
        return JSONResponse({"subscribers": await publisher.broadcast(request.path_params["stream"], "over HTTP")})


def publish_over_http_from_a_thread(request: Request) -> Response:
    with Publisher(f"{request.base_url}_broadcast") as publisher:
        subscribers = publisher.broadcast(request.path_params["stream"], "over HTTP, from a thread")
        return JSONResponse({"subscribers": subscribers})


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(await socket.receive_text())
    await socket.close()


app = CableMiddleware(
    Starlette(lifespan=lifespan, routes=[
        Route("/", home, methods=["GET", "POST"]),
        Route("/health", home),
        Route("/page", page),
        Route("/publish/{stream}", publish, methods=["POST"]),
        Route("/thread/{stream}", publish_from_a_thread),
        Route("/http/{stream}", publish_over_http),
        Route("/http-in-a-thread/{stream}", publish_over_http_from_a_thread),
        WebSocketRoute("/echo", echo),
    ])
)
