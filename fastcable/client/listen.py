"""`fastcable listen`: prints the messages of streams, one JSON line each."""

# Theory of operation
#
# Three layers, each ignorant of the one after it:
#   WebSocket   one connection of RFC 6455 from the client's side: bytes in, text messages out; what has to be sent
#               (request, commands, pongs, close frames) gathers in it until it is taken. It knows no socket.
#   Listener    what the text messages of the protocol mean: lines for stdout, notes for stderr, answers.
#   Session     sockets, time and output: one connection after another.
#
# The first connection must come to a confirmed stream, else the session ends with 1: there is probably a mistake in
# the arguments. Later a connection that is lost is made again, after a random share of a span that doubles up to 30 s,
# so that the clients of a server that comes back do not come all at once; but not where the server says that there is
# no use, because of the token: that ends the session with 1, too. SIGINT and SIGTERM (128 + number) and a
# stdout that nobody reads any more (0) end the session with a close frame.
#
# A connection on which nothing arrives for PATIENCE is asked with a ping of ours, which every server answers, and
# given up after as long again. At the server's usual settings its own pings come earlier.

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import select
import signal
import stat
import sys
from collections.abc import Callable
from typing import NoReturn

import orjson

from fastcable.client.listener import Listener
from fastcable.client.websocket import Lost, Target, WebSocket
from fastcable.log import escape

CONNECT_TIMEOUT = 10.0
PATIENCE = 37.5  # twice this, 75 s, is more than two of the server's 30 s pings
GOODBYE_TIMEOUT = 1.0
MAX_DELAY = 30.0
STEADY = 30.0  # a connection that held this long starts the delays afresh
READ_LIMIT = 64 * 1024  # of the answer's head too
MAX_REFUSAL = 4096
STDOUT = 1

_USELESS = ("1008 unauthorized", "1008 token expired")  # endings after which the same token is of no use


class Unwritable(Exception):
    """stdout takes no more. BrokenPipeError is the usual reason: whoever read it has enough."""

    def __init__(self, error: OSError) -> None:
        self.error = error


class Session:
    """Connections to `target`, one after another; `listener` makes each one's."""

    def __init__(self, listener: Callable[[], Listener], target: Target, token: str | None) -> None:
        self._listener = listener
        self._target = target
        self._token = token
        self._url = target.url.partition("?")[0]  # the query may hold a token
        self._final = False
        self._settled = False
        self._stdout = select.poll()
        self._stdout.register(STDOUT, select.POLLOUT)

    async def run(self) -> int:
        """Listen until the first connection fails (returns 1) or an exception, `Unwritable` or CancelledError."""
        clock = asyncio.get_running_loop().time
        losses = 0
        while True:
            started = clock()
            try:
                await self._connect()
            except Lost as loss:
                if not self._settled or self._final:
                    note(f"{self._url}: {loss}")
                    return 1
                losses = 0 if clock() - started > STEADY else losses + 1
                delay = random.uniform(0, min(MAX_DELAY, 2.0 ** min(losses, 10)))
                note(f"{self._url}: {loss}; trying again in {delay:.1f} s")
                await asyncio.sleep(delay)

    async def _connect(self) -> NoReturn:
        """One connection, to its end. Raises `Lost`, `Unwritable` or CancelledError."""
        target = self._target
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                reader, writer = await asyncio.open_connection(
                    target.host, target.port, ssl=target.secure or None, limit=READ_LIMIT)
        except TimeoutError:
            raise Lost(f"no connection within {CONNECT_TIMEOUT:g} s") from None
        except OSError as error:
            raise Lost(reason(error)) from None
        listener = self._listener()
        websocket = WebSocket(target, listener.protocol, self._token)
        try:
            await handshake(websocket, reader, writer)
            try:
                await self._listen(listener, websocket, reader, writer)
            except (asyncio.CancelledError, Unwritable):
                await goodbye(websocket, reader, writer)
                raise
        except OSError as error:
            raise Lost(f"connection lost ({reason(error)})") from None
        finally:
            writer.close()

    async def _listen(
        self, listener: Listener, websocket: WebSocket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> NoReturn:
        for command in listener.commands():
            websocket.send(command)
        asked = False
        while True:
            writer.write(websocket.outgoing())
            if websocket.ended:
                self._final = listener.final or websocket.ended.endswith(_USELESS)
                raise Lost(websocket.ended)
            try:
                async with asyncio.timeout(PATIENCE):
                    await writer.drain()
                    data = await reader.read(READ_LIMIT)
            except TimeoutError:
                if asked:
                    raise Lost(f"nothing came for {2 * PATIENCE:g} s") from None
                asked = True
                websocket.ping()
                continue
            if not data:
                raise Lost("connection lost")
            asked = False
            for text in websocket.receive(data):
                answer = listener.take(text)
                if answer:
                    websocket.send(answer)
            await self._put_out(listener)
            self._settled = self._settled or listener.listening
            if listener.hopeless:
                raise Lost("every stream was refused")

    async def _put_out(self, listener: Listener) -> None:
        """Write lines and notes. Waits for a slow reader of stdout, so that the server sees a slow client."""
        for text in listener.notes:
            note(text)
        rest = memoryview(b"".join(listener.lines))
        listener.notes.clear()
        listener.lines.clear()
        while rest:
            if not self._stdout.poll(0):
                await writable(STDOUT)
            try:
                rest = rest[os.write(STDOUT, rest[: select.PIPE_BUF]) :]  # a writable pipe has room for so much
            except OSError as error:
                raise Unwritable(error) from None


async def handshake(websocket: WebSocket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Raises `Lost`, with the status and the error text of a server that refuses."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            writer.write(websocket.outgoing())
            status, phrase, headers = parse_head(await reader.readuntil(b"\r\n\r\n"))
            if status != 101:
                raise Lost(f"refused with {status} {await refusal(reader, headers) or escape(phrase)}")
    except TimeoutError:
        raise Lost(f"no answer within {CONNECT_TIMEOUT:g} s") from None
    except asyncio.IncompleteReadError:
        raise Lost("the connection was closed without an answer") from None
    except asyncio.LimitOverrunError:
        raise Lost("the answer is too long") from None
    websocket.accept(headers)


def parse_head(head: bytes) -> tuple[int, str, dict[str, str]]:
    """Status, reason phrase and headers, names in lower case, of an HTTP response. Raises `Lost`."""
    first, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    version, _, rest = first.partition(" ")
    status, _, phrase = rest.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (status.isdecimal() and len(status) == 3):
        raise Lost("the answer is not HTTP")
    headers: dict[str, str] = {}
    for name, _, value in (field.partition(":") for field in fields):
        known = headers.get(name.lower())
        headers[name.lower()] = value.strip() if known is None else f"{known}, {value.strip()}"
    return int(status), phrase, headers


async def refusal(reader: asyncio.StreamReader, headers: dict[str, str]) -> str:
    """The error text of a refusal's JSON body; empty where there is none."""
    length = headers.get("content-length", "")
    try:
        known = length.isdecimal() and len(length) < 10
        body = await reader.readexactly(min(int(length), MAX_REFUSAL) if known else MAX_REFUSAL)
        return escape(str(orjson.loads(body)["error"]))
    except (asyncio.IncompleteReadError, orjson.JSONDecodeError, TypeError, KeyError):
        return ""


async def goodbye(websocket: WebSocket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close properly: our close frame, and the peer's within a short time."""
    websocket.close()
    writer.write(websocket.outgoing())
    with contextlib.suppress(OSError):  # TimeoutError is one too
        async with asyncio.timeout(GOODBYE_TIMEOUT):
            while not websocket.ended and (data := await reader.read(READ_LIMIT)):
                for _ in websocket.receive(data):
                    pass


async def writable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(descriptor, ready.set_result, None)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


def reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (error.strerror or str(error)).lower()


def note(text: str) -> None:
    with contextlib.suppress(OSError):  # a closed stderr is no reason to stop
        if sys.stderr is not None:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def run(listener: Callable[[], Listener], target: Target, token: str | None = None) -> int:
    """Print the messages that a listener understands on stdout until something ends it; returns the exit code."""
    if sys.stdout is None:  # then descriptor 1 would become our connection
        note("stdout is closed")
        return 1
    return asyncio.run(_run(Session(listener, target, token)))


async def _run(session: Session) -> int:
    loop = asyncio.get_running_loop()
    running = asyncio.ensure_future(session.run())
    exit_code = 0

    def interrupted(number: int) -> None:
        nonlocal exit_code
        exit_code = 128 + number
        loop.remove_signal_handler(number)  # a second one ends it at once
        running.cancel()

    def unread() -> None:
        loop.remove_reader(STDOUT)
        running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted, number)
    if stat.S_ISFIFO(os.fstat(STDOUT).st_mode):
        loop.add_reader(STDOUT, unread)  # the writing end counts as readable once the reading end is closed
    try:
        return await running
    except asyncio.CancelledError:
        return exit_code
    except Unwritable as unwritable:
        if isinstance(unwritable.error, BrokenPipeError):
            return 0
        note(f"stdout: {reason(unwritable.error)}")
        return 1
    finally:
        loop.remove_reader(STDOUT)
