"""The bare httptools protocol: `python httptools_protocol.py PORT`. A yardstick for posts, not a server to use.

A post is parsed by httptools, its body by orjson; one frame is made and written to the few who subscribed, and the post
is answered. No path, header, size or type is looked at. It is what fastcable's posts per second are held against.
"""

from __future__ import annotations

import sys

import uvloop
from listener import raise_open_files, serve  # type: ignore[import-not-found]
from post_listener import Posts  # type: ignore[import-not-found]
from uvloop_protocol import publish, upgrade  # type: ignore[import-not-found]

if __name__ == "__main__":
    raise_open_files()
    uvloop.run(serve(lambda: Posts(publish, upgrade), int(sys.argv[1])))
