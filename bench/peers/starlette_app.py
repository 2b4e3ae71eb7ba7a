"""The usual answer in Python: Starlette on uvicorn, connections in memory: `python starlette_app.py PORT`.

As FastAPI's documentation shows it: a manager of connections that awaits `send_text` for one after the other. uvicorn
has what its `standard` extra brings (uvloop, httptools, websockets), its defaults (a ping every 20 seconds) and no
access log. Its default of compressing messages does not matter, since the load client does not offer that.
"""

from __future__ import annotations

import sys

import orjson
import uvicorn
from listener import raise_open_files  # type: ignore[import-not-found]
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect


class ConnectionManager:
    def __init__(self) -> None:
        self._members: dict[str, set[WebSocket]] = {}

    def subscribe(self, connection: WebSocket, stream: str) -> None:
        self._members.setdefault(stream, set()).add(connection)

    def unsubscribe(self, connection: WebSocket, stream: str) -> None:
        members = self._members[stream]
        members.remove(connection)
        if not members:
            del self._members[stream]

    async def broadcast(self, stream: str, text: str) -> int:
        members = list(self._members.get(stream, ()))  # others come and go while this one waits
        for connection in members:
            try:
                await connection.send_text(text)
            except (WebSocketDisconnect, RuntimeError):  # gone; its own coroutine takes it out
                continue
        return len(members)


manager = ConnectionManager()


async def cable(connection: WebSocket) -> None:
    await connection.accept()
    streams = set()
    try:
        while True:
            command = orjson.loads(await connection.receive_text())
            stream = command["stream"]
            if command["type"] == "subscribe":
                streams.add(stream)
                manager.subscribe(connection, stream)
                await connection.send_text(orjson.dumps({"type": "subscribed", "stream": stream}).decode())
            elif command["type"] == "unsubscribe" and stream in streams:
                streams.remove(stream)
                manager.unsubscribe(connection, stream)
    except WebSocketDisconnect:
        pass
    finally:
        for stream in streams:
            manager.unsubscribe(connection, stream)


async def broadcast(request: Request) -> JSONResponse:
    content = orjson.loads(await request.body())
    subscribers = 0
    for message in content if isinstance(content, list) else [content]:
        text = orjson.dumps({"type": "message", "stream": message["stream"], "data": message["data"]}).decode()
        subscribers += await manager.broadcast(message["stream"], text)
    return JSONResponse({"subscribers": subscribers})


app = Starlette(routes=[WebSocketRoute("/cable", cable), Route("/_broadcast", broadcast, methods=["POST"])])

if __name__ == "__main__":
    raise_open_files()
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
