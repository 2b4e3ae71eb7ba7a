"""Python's `websockets` with its broadcast(): `python websockets_server.py PORT`. Posts go to PORT + 1.

As its documentation shows it: one handler coroutine per connection, sets of connections, `broadcast()`, which makes the
frame once and never waits for a slow reader. uvloop runs it, as anyone after speed would have it. Pings every 20
seconds are its default. Compression, its default, is off: the load client does not offer it, so messages would not be
compressed anyway. websockets takes no posts, so they have a listener of their own.
"""

from __future__ import annotations

import sys
from typing import Any

import orjson
import uvloop
from listener import BACKLOG, raise_open_files, serve  # type: ignore[import-not-found]
from post_listener import Posts  # type: ignore[import-not-found]
from websockets.asyncio import server
from websockets.exceptions import ConnectionClosed

_members: dict[str, set[server.ServerConnection]] = {}


async def handle(connection: server.ServerConnection) -> None:
    streams = set()
    try:
        async for text in connection:
            command = orjson.loads(text)
            stream = command["stream"]
            if command["type"] == "subscribe":
                streams.add(stream)
                _members.setdefault(stream, set()).add(connection)
                await connection.send(orjson.dumps({"type": "subscribed", "stream": stream}).decode())
            elif command["type"] == "unsubscribe" and stream in streams:
                leave(connection, stream)
                streams.remove(stream)
    except ConnectionClosed:
        pass
    finally:
        for stream in streams:
            leave(connection, stream)


def leave(connection: server.ServerConnection, stream: str) -> None:
    members = _members[stream]
    members.remove(connection)
    if not members:
        del _members[stream]


def publish(stream: str, data: Any) -> int:
    members = _members.get(stream, ())
    server.broadcast(members, orjson.dumps({"type": "message", "stream": stream, "data": data}).decode())
    return len(members)


async def main(port: int) -> None:
    async with server.serve(handle, "127.0.0.1", port, compression=None, backlog=BACKLOG):
        await serve(lambda: Posts(publish), port + 1)


if __name__ == "__main__":
    raise_open_files()
    uvloop.run(main(int(sys.argv[1])))
