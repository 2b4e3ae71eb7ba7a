"""python -m examples.showcase: start the application, beside a cable server or with the cable in its own process."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tomllib
from pathlib import Path
from urllib.parse import urljoin

import uvicorn
from starlette.types import ASGIApp

from examples.showcase.app import create_app
from examples.showcase.pages import HERE


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.showcase", description="A ballroom-dance event, live.")
    parser.add_argument("--host", default="localhost", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=HERE / "var", help="folder of the database and of what jobs write")
    parser.add_argument("--pace", type=float, default=0.15, help="seconds for a step of a long job (default: 0.15)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--cable", default="ws://localhost:3000/cable", help="where browsers connect (default: %(default)s)"
    )
    where.add_argument("--one-process", action="store_true", help="serve the cable, too: no other server is needed")
    options = parser.parse_args()
    if not (HERE / "node_modules" / "@xterm").is_dir():
        print("packages for the pages are missing: npm ci --prefix examples/showcase", file=sys.stderr)
        return 1
    try:
        listener = socket.create_server((options.host, options.port))
    except OSError as error:
        print(f"cannot listen on {options.host}, port {options.port}: {os.strerror(error.errno or 0)}", file=sys.stderr)
        return 1
    port = listener.getsockname()[1]

    cable = "/cable" if options.one_process else options.cable
    # Where the application and its jobs publish, unless the environment says so already.
    server = f"http://127.0.0.1:{port}" if options.one_process else cable.replace("ws", "http", 1)
    os.environ.setdefault("FASTCABLE_BROADCAST_URL", urljoin(server, "/_broadcast"))
    app: ASGIApp = create_app(options.data, cable, options.pace)
    if options.one_process:
        from fastcable.asgi import CableMiddleware

        app = CableMiddleware(app, **tomllib.loads((HERE / "fastcable.toml").read_text()))
    print(f"The showcase is on http://{options.host}:{port}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
