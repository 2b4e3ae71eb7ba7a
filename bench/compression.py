"""`python -m bench.compression`: what compression costs the server and saves on the wire.

One server with `compression = true` serves two streams: the subscribers of one have negotiated compression, those of
the other have not. Broadcasts go to one and the other by turns, and the CPU time is the kernel's own accounting of the
server's process, so the ratios hold, and the rest is this machine's. A broadcast is over when all have read it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from fastcable._frames import TEXT, encode_frame
from fastcable.deflate import deflate

SUBSCRIBERS = (1, 10, 100, 1000)
BROADCASTS = 40  # in a round
PATIENCE = 30.0
REQUEST = (
    b"GET /cable HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"

SENTENCES = (
    "The second heat starts ten minutes late, please stay near the floor until your number is called.",
    "Has anybody seen the list with the results of yesterday? I cannot find it where it used to be.",
    "We have moved the meeting to the large room on the first floor because so many of you are coming.",
    "Thank you all for a wonderful afternoon, and see you again next year at the same place!",
    "The order left our house this morning and should be with you before the end of the week.",
    "I would rather change the colour of the button than its size, but let us ask those who use it.",
    "It works again: a cable had come loose behind the desk, which nobody could see from the front.",
)


def turbo_stream(messages: int) -> str:
    """A Turbo Stream as a chat sends it, with so many messages."""
    return "".join(
        f"""<turbo-stream action="append" target="messages"><template>
  <div id="message_{1000 + 7 * i}" class="message flex gap-2 p-4 border-b border-gray-200">
    <img class="avatar w-10 h-10 rounded-full" src="/avatars/{(i + 1) * 2654435761 % 2**61:x}.png" alt="">
    <div class="message-body">
      <p class="message-author font-semibold text-gray-900"><a href="/users/{31 * i % 97}">Reader {31 * i % 97}</a>
        <time datetime="2026-03-01T10:{i % 60:02}:00Z" class="text-sm text-gray-500">just now</time></p>
      <p class="message-text text-gray-700">{SENTENCES[i * i % len(SENTENCES)]}</p>
    </div>
  </div></template></turbo-stream>
""" for i in range(messages))


MESSAGES = {
    "a small JSON object": {"id": 4711, "state": "shipped", "at": "2026-03-01T10:00:00Z", "by": "anna", "items": 3},
    "a Turbo Stream": turbo_stream(1),
    "a Turbo Stream of 25 messages": turbo_stream(25),
}


@contextmanager
def server() -> Iterator[tuple[int, int]]:
    """Its process id and port."""
    command = [sys.executable, "-m", "fastcable", "serve", "--host", "127.0.0.1", "--port", "0",
               "--compression", "true", "--ping-interval", "0", "--idle-timeout", "0", "--max-broadcast-size", "16MiB"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            found = None
            while not (found := re.search(r"listens on http://127\.0\.0\.1:(\d+)", process.stderr.readline())):
                if process.poll() is not None:
                    raise SystemExit("the server did not start")
            yield process.pid, int(found[1])
        finally:
            process.kill()


def subscriber(port: int, stream: str, offer: bytes) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    command = b'{"type":"subscribe","stream":"%b"}' % stream.encode()
    sock.sendall(REQUEST + offer + b"\r\n" + encode_frame(TEXT, command, bytes(4)))
    received = b""
    while b'"subscribed"' not in received:
        received += sock.recv(4096)
    assert (b"permessage-deflate" in received) == bool(offer)
    return sock


def cpu(pid: int) -> float:
    """Seconds of a process (the clock behind clock_getcpuclockid)."""
    return time.clock_gettime(~pid << 3 | 2)


def spend(pid: int, publisher: http.client.HTTPConnection, stream: str, data: object,
          clients: list[socket.socket], size: int) -> float:
    """CPU seconds of the server for one broadcast, when its size on the wire is known."""
    body = json.dumps({"stream": stream, "data": data})
    start = cpu(pid)
    for _ in range(BROADCASTS):
        publisher.request("POST", "/_broadcast", body, {"Content-Type": "application/json"})
        assert publisher.getresponse().read() == b'{"subscribers":%d}' % len(clients)
        for client in clients:
            rest = size
            while rest:
                rest -= len(client.recv(rest))
    return (cpu(pid) - start) / BROADCASTS


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.compression", description=(__doc__ or "").partition("\n")[2])
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is told (default: 5)")
    rounds = parser.parse_args().rounds
    print("| message | bytes | compressed | subscribers | CPU µs per delivery | compressed | ratio |")
    print("|---|---|---|---|---|---|---|")
    for count in SUBSCRIBERS:
        with server() as (pid, port), ExitStack() as stack:
            publisher = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            stack.callback(publisher.close)
            clients = {
                stream: [stack.enter_context(subscriber(port, stream, offer)) for _ in range(count)]
                for stream, offer in (("as-it-is", b""), ("deflated", OFFER))
            }
            for name, data in MESSAGES.items():
                sizes = {}
                for stream in clients:
                    text = b'{"type":"message","stream":"%b","data":%b}' % (stream.encode(), json.dumps(data).encode())
                    payload = deflate(text) if stream == "deflated" else None
                    sizes[stream] = len(encode_frame(TEXT, text if payload is None else payload))
                spent: dict[str, list[float]] = {stream: [] for stream in clients}
                for number in range(rounds + 1):
                    for stream, members in clients.items():
                        each = spend(pid, publisher, stream, data, members, sizes[stream])
                        if number:  # the first warms up
                            spent[stream].append(each)
                plain, compressed = (statistics.median(spent[stream]) * 1e6 / count for stream in clients)
                print(f"| {name} | {sizes['as-it-is']:,} | {sizes['deflated']:,} | {count:,} | {plain:.1f} | "
                      f"{compressed:.1f} | {compressed / plain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
