"""picows, a WebSocket library in Cython: `python picows_server.py PORT`. Posts go to PORT + 1.

As its broadcast example does it: a listener object per connection, sets of connections, and `transport.send` for one
after the other; it offers no frame made once. uvloop runs it. Its defaults: its own transports (aiofastnet), a read
buffer of 16 KB per connection, no pings, no compression. picows takes no posts, so they have a listener of their own.
"""

from __future__ import annotations

import sys
from typing import Any

import orjson
import uvloop
from listener import BACKLOG, raise_open_files, serve  # type: ignore[import-not-found]
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server
from post_listener import Posts  # type: ignore[import-not-found]

_members: dict[str, set[WSTransport]] = {}


class Cable(WSListener):
    def __init__(self) -> None:
        self._streams: set[str] = set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            command = orjson.loads(frame.get_payload_as_memoryview())
            stream = command["stream"]
            if command["type"] == "subscribe":
                self._streams.add(stream)
                _members.setdefault(stream, set()).add(transport)
                transport.send(WSMsgType.TEXT, orjson.dumps({"type": "subscribed", "stream": stream}))
            elif command["type"] == "unsubscribe" and stream in self._streams:
                self._streams.remove(stream)
                leave(transport, stream)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        for stream in self._streams:
            leave(transport, stream)


def leave(transport: WSTransport, stream: str) -> None:
    members = _members[stream]
    members.remove(transport)
    if not members:
        del _members[stream]


def publish(stream: str, data: Any) -> int:
    members = _members.get(stream, ())
    message = orjson.dumps({"type": "message", "stream": stream, "data": data})
    for transport in members:
        transport.send(WSMsgType.TEXT, message)
    return len(members)


async def main(port: int) -> None:
    await ws_create_server(lambda request: Cable(), "127.0.0.1", port, backlog=BACKLOG)
    await serve(lambda: Posts(publish), port + 1)


if __name__ == "__main__":
    raise_open_files()
    uvloop.run(main(int(sys.argv[1])))
