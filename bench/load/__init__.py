"""The load client: a C program that opens connections, posts broadcasts, checks every byte and takes the time.

Its commands are a verb and words; a result is a dict. Subscribers live in groups that the commands name; the i-th of a
group is subscribed to the stream `<group>-<i mod streams>`. Words in brackets have the default shown.

    connect group count [streams=1] [window=256] [rcvbuf=0] [timeout=120]
        open `count` more connections, at most `window` of them at once; rcvbuf is SO_RCVBUF, 0 the kernel's default
        → count, seconds, latency (from connecting to being subscribed)
    fanout group size [stream=0] [seconds=0.5] [min=3] [max=0] [window=1] [histogram=0]
        broadcast to one stream, the next when fewer than `window` are not yet delivered to all, until there were `min`
        and the seconds are over, or there were `max` (0: no limit); after a loss no more → broadcasts, deliveries,
        seconds, last (of each broadcast, until its last subscriber had it), each (of every delivery)
    burst group size [messages=100] [repeat=1] [connections=0]
        post so many to stream 0 in one write, pipelined; or, where a server cannot take that, one after the other on
        each of some connections → deliveries, seconds, last (from the first write to the last delivery), answer
    posts group size [seconds=2] [connections=16] [batch=0]
        post to stream 0 on each connection, the next when the last is answered; with `batch`, arrays of so many
        → posts, messages, seconds (to the last answer), delivered_seconds, deliveries, answer, each
    random group size streams [seconds=2] [connections=16] [seed=1]
        as `posts`, each time to a random stream of those whose number modulo `connections` is the connection's
    probe group size [every=20] [streams=1]
        post to stream 0, or to the first so many in turn, every so many ms in the background, until
    probe_stop [histogram=0] → posts, deliveries, unanswered (when it stopped, posts that were overdue included), last,
        each; a post that had to wait for the answer to the one before counts from when it was due
    stall group [percent=100]   stop reading from that share of the connections, evenly spread; they are not counted on
    read group [quiet=1]        read them again until nothing came for so long; they are counted on again
        → readers, closed, received, missed, told (of the missed, how many the server told us of)
    close group [count=all] [abort=0]   close the newest `count` connections; with `abort`, by a reset
    stats → connections, messages, pings (that are text), bytes, reads, cpu (seconds), rss (bytes, at most)
    quit

Each posting verb also takes [timeout=60], after which it fails, and [quiet=10]: what has not arrived when nothing did
for so long is lost. Their results have `retries` (posts answered by 503 with Retry-After, and posted again) and
`missed` (deliveries that the server said it left out; they are lost, and not waited for). All results have `lost`,
`duplicates` and `reordered`. Latencies are {"count", "min", "p50", "p90", "p99", "max", "mean"} in microseconds, from
just before a post is written to just after the recv of the frame, with "histogram": [[upper bound, count], …] if asked.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from bench.peers.peer import BUILD, Target

SOURCE = Path(__file__).parent
COMPILE = ("cc", "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror")


class LoadError(Exception):
    """What went wrong, in one line: a command that was not understood, or a server that did not do its job."""


def build() -> Path:
    """Compile the load client unless it is newer than its sources; returns the program."""
    program = BUILD / "load"
    sources = sorted(SOURCE.glob("*.c"))
    newest = max(path.stat().st_mtime for path in [*sources, *SOURCE.glob("*.h"), Path(__file__)])
    BUILD.mkdir(exist_ok=True)
    with open(BUILD / "load.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.exists() and program.stat().st_mtime > newest:
            return program
        made = program.with_suffix(".new")
        try:
            done = subprocess.run([*COMPILE, "-o", made, *sources], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise LoadError("the load client needs a C compiler: cc is not installed") from None
        if done.returncode:
            raise LoadError(f"the load client does not compile:\n{done.stderr}")
        made.replace(program)
    return program


class Load:
    """One load client, for one server. Several may run at once.

    It is pinned to `core` if one is given. `on_progress` is called with what a long command says of itself, at most
    twice a second: its verb, how much is done, and of how much.
    """

    def __init__(
        self, server: Target, *, core: int | None = None, on_progress: Callable[[str, int, int], object] | None = None
    ) -> None:
        self._command = [
            os.fspath(build()), f"127.0.0.1:{server.port}",
            "--wire", server.wire, "--path", server.path, "--identifier", server.identifier,
            "--publish", server.publish, "--publish-path", server.publish_path,
            "--publish-port", str(server.publish_port or server.port),
        ]
        for header in server.publish_headers:
            self._command += ["--publish-header", header]
        self._core = core
        self._on_progress = on_progress

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        if self._core is not None:
            os.sched_setaffinity(self._process.pid, {self._core})
        return self

    def __exit__(self, *exception: object) -> None:
        """End it at once; its connections are closed by the kernel."""
        self._process.kill()
        self._process.wait()
        for stream in (self._stdin, self._stdout, self._stderr):
            with suppress(BrokenPipeError):
                stream.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def _stderr(self) -> IO[str]:
        assert self._process.stderr is not None
        return self._process.stderr

    def command(self, verb: str, **words: str | float) -> dict[str, Any]:
        """Carry out a command and return its result. Raises `LoadError`; after one that is not about the words of the
        command the client has ended."""
        line = " ".join([verb, *(f"{key}={int(value) if isinstance(value, bool) else value}"
                                 for key, value in words.items())])
        with suppress(BrokenPipeError):  # when it has ended, it has said why
            self._stdin.write(line + "\n")
            self._stdin.flush()
        for text in self._stdout:
            answer: dict[str, Any] = json.loads(text)
            if "progress" in answer:
                if self._on_progress:
                    self._on_progress(answer["progress"], answer["done"], answer["of"])
            elif answer.pop("ok"):
                return answer
            else:
                raise LoadError(answer["error"])
        raise LoadError(f"the load client has ended: {self._stderr.read().strip() or 'it says nothing'}")
