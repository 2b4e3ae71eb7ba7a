"""`python -m tests.autobahn CASES PORT [NUMBER…]`: the cases of the Autobahn test suite against an echo server.

CASES is the folder `autobahntestsuite/case` of the package of that name, which is written for Python 2. Its cases are
run as they are by the `Fuzzer` below, which stands for the suite's own protocol object: a case calls it to send, and is
called with what comes back. They are loaded as Python 3 with each character standing for a byte (Python 2's strings),
so payloads are decoded and encoded as Latin-1. Numbers name cases ("6.4.1") or groups of them ("6"). The cases of
compression (12 and 13) need an echo server with `--compression` and twenty minutes, and are run only if they are named.
The exit code is 1 if a case failed.

Theory of operation, of the closing as the suite judges it: a side that sends the first close frame has closed. After
the fuzzer's close frame, or its answer to one, the server has a while to close the connection, else the fuzzer drops
it, which is a failure.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import random
import re
import sys
import types
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

UPGRADE = (
    b"GET /runCase HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
ANSWERED = 10.0  # seconds for the answer to a close frame, and for the end of the connection
PATIENCE = 10  # times as long as the suite waits before it gives a server up, on a busy machine
TOGETHER = 16  # cases at a time; most of them wait for a second or two
PASSED = ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED")
COMPRESSION = ("12", "13")
DEFLATED = 4  # of the reserved bits


class Fuzzer(asyncio.Protocol):
    """One connection, on which one case is run."""

    STATE_CLOSED, STATE_CONNECTING, STATE_CLOSING, STATE_OPEN = range(4)
    CLOSE_STATUS_CODE_NORMAL = 1000
    CLOSE_STATUS_CODE_GOING_AWAY = 1001
    CLOSE_STATUS_CODE_PROTOCOL_ERROR = 1002
    CLOSE_STATUS_CODE_INVALID_PAYLOAD = 1007
    factory = types.SimpleNamespace(isServer=False)
    createWirelog = False
    trafficStats = None

    def __init__(self, case: Callable[[Fuzzer], Any]) -> None:
        self.autoFragmentSize = 0
        self.state = self.STATE_CONNECTING
        self.connectionWasOpen = self.wasClean = False
        self.closedByMe = self.failedByMe = self.droppedByMe = False
        self.remoteCloseCode: int | None = None
        self.localCloseReason: str | None = None
        self.remoteCloseReason: str | None = None
        self.txFrameStats: Counter[int] = Counter()
        self.lost = asyncio.get_running_loop().create_future()
        self._timers: list[asyncio.TimerHandle] = []
        self._received = b""
        self._frame: tuple[bytes, int] = b"", 0  # mask and length so far of a frame that is sent in parts
        self.perMessageCompressionOffers: list[Offer] = []
        self.perMessageCompressionAccept: object = None
        self._perMessageCompress: int | None = None  # the bits of the server's window
        self.compressed = 0  # messages that came so
        self.case = case(self)

    # What cases call

    def sendFrame(
        self,
        opcode: int,
        payload: str | bytes = "",
        fin: bool = True,
        rsv: int = 0,
        mask: bytes | None = None,
        payload_len: int | None = None,
        chopsize: int | None = None,
        sync: bool = False,
    ) -> None:
        data = octets(payload)
        if payload_len:
            data = (data * (payload_len // len(data) + 1))[:payload_len]
        elif payload_len == 0:
            data = b""
        key = mask or random.randbytes(4)
        frame = head(opcode, len(data), fin=fin, rsv=rsv) + key + masked(data, key)
        self.txFrameStats[opcode] += 1
        for start in range(0, len(frame), chopsize or len(frame)):
            self.transport.write(frame[start : start + (chopsize or len(frame))])

    def sendMessage(self, payload: str | bytes, isBinary: bool = False, fragmentSize: int | None = None) -> None:
        data = octets(payload)
        rsv = 0
        if self._perMessageCompress:
            compressor = zlib.compressobj(wbits=-15)
            data = (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
            rsv = DEFLATED
        size = fragmentSize or self.autoFragmentSize or max(len(data), 1)
        last = max(len(data) - 1, 0) // size * size
        for start in range(0, last + 1, size):
            opcode = CONTINUATION if start else BINARY if isBinary else TEXT
            self.sendFrame(opcode, data[start : start + size], fin=start == last, rsv=0 if start else rsv)

    def beginMessage(self) -> None:
        pass

    def beginMessageFrame(self, length: int) -> None:
        self._frame = random.randbytes(4), 0
        self.transport.write(head(TEXT, length) + self._frame[0])

    def sendMessageFrameData(self, payload: str | bytes) -> None:
        key, sent = self._frame
        data = octets(payload)
        self._frame = key, sent + len(data)
        turned = key[sent % 4 :] + key[: sent % 4]
        self.transport.write(masked(data, turned))

    def endMessage(self) -> None:
        self.sendFrame(CONTINUATION)

    def sendClose(self, code: int | None = None, reason: str | None = None) -> None:
        self.sendCloseFrame(code, reason)

    def sendCloseFrame(
        self, code: int | None = None, reasonUtf8: str | bytes | None = None, reply: bool = False
    ) -> None:
        if self.state != self.STATE_OPEN:
            return
        payload = b"" if code is None else code.to_bytes(2, "big") + octets(reasonUtf8 or "")
        self.sendFrame(CLOSE, payload)
        self.state = self.STATE_CLOSING
        self.closedByMe = not reply
        self._later(ANSWERED, self._drop)

    def continueLater(self, delay: float, function: Callable[[], None], tag: str | None = None) -> None:
        self._later(delay, function)

    def killAfter(self, delay: float) -> None:
        self._later(delay * PATIENCE, self._fail)

    def closeAfter(self, delay: float) -> None:
        self._later(delay, self.sendClose)

    def enableWirelog(self, enable: bool) -> None:
        pass

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(UPGRADE)
        for offer in self.perMessageCompressionOffers:
            transport.write(b"Sec-WebSocket-Extensions: %b\r\n" % offer.header().encode())
        transport.write(b"\r\n")

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self.state == self.STATE_CONNECTING:
            answer, end, self._received = self._received.partition(b"\r\n\r\n")
            if not end:
                self._received = answer
                return
            assert answer.startswith(b"HTTP/1.1 101 "), answer
            self._negotiated(answer.decode("latin-1"))
            self.state = self.STATE_OPEN
            self.connectionWasOpen = True
            self.case.onOpen()
        for opcode, payload in self._frames():
            self._read(opcode, payload)

    def connection_lost(self, exception: Exception | None) -> None:
        self.state = self.STATE_CLOSED
        for timer in self._timers:
            timer.cancel()
        self.case.onConnectionLost(self.failedByMe)
        self.lost.set_result(None)

    # The rest

    def _negotiated(self, answer: str) -> None:
        if extension := re.search("\r\nSec-WebSocket-Extensions: permessage-deflate(.*)", answer):
            parameters = extension[1].strip().split("; ")[1:]
            assert {"server_no_context_takeover", "client_no_context_takeover"} <= {*parameters}, parameters
            bits = [int(each.partition("=")[2]) for each in parameters if each.startswith("server_max_window_bits=")]
            self._perMessageCompress = bits[0] if bits else 15

    def _later(self, delay: float, function: Callable[[], None]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(delay, self._on_time, function))

    def _on_time(self, function: Callable[[], None]) -> None:
        if self.state != self.STATE_CLOSED:
            function()

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        """The frames that have come whole; a server's are in one piece and without a mask."""
        while len(self._received) >= 2:
            first, length = self._received[:2]
            deflated = self._perMessageCompress is not None and first & 0xF0 == 0xC0
            assert deflated or first & 0xF0 == 0x80, "a fragment or reserved bits from the server"
            assert length < 128, "a masked frame from the server"
            start = {126: 4, 127: 10}.get(length, 2)
            if start > 2:
                length = int.from_bytes(self._received[2:start], "big")
            if len(self._received) < start + length:
                return
            payload = self._received[start : start + length]
            self._received = self._received[start + length :]
            if deflated:
                assert self._perMessageCompress is not None
                self.compressed += 1
                payload = zlib.decompressobj(-self._perMessageCompress).decompress(payload + b"\0\0\xff\xff")
            yield first & 15, payload

    def _read(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            self._closed(payload)
        elif opcode in (TEXT, BINARY) and self.perMessageCompressionOffers:
            self.case.onMessage(payload, opcode == BINARY)  # these cases are written for Python 3, too
        elif opcode in (TEXT, BINARY):
            self.case.onMessage(payload.decode("latin-1"), opcode == BINARY)
        elif opcode == PONG:
            self.case.onPong(payload.decode("latin-1"))
        else:
            assert opcode == PING, opcode
            self.case.onPing(payload.decode("latin-1"))

    def _closed(self, payload: bytes) -> None:
        if payload:
            self.remoteCloseCode = int.from_bytes(payload[:2], "big")
            self.remoteCloseReason = payload[2:].decode()
        self.wasClean = True
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(self.remoteCloseCode, reply=True)

    def _fail(self) -> None:
        self.failedByMe = True
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(self.CLOSE_STATUS_CODE_GOING_AWAY)
        else:
            self._drop()

    def _drop(self) -> None:
        self.wasClean = False
        self.droppedByMe = True
        self.transport.abort()


def octets(payload: str | bytes) -> bytes:
    return payload.encode("latin-1") if isinstance(payload, str) else payload


def head(opcode: int, length: int, *, fin: bool = True, rsv: int = 0) -> bytes:
    """A masked frame's header, without the mask."""
    first = bytes([fin << 7 | rsv << 4 | opcode])
    if length < 126:
        return first + bytes([128 | length])
    if length < 65536:
        return first + bytes([128 | 126]) + length.to_bytes(2, "big")
    return first + bytes([128 | 127]) + length.to_bytes(8, "big")


def masked(data: bytes, key: bytes) -> bytes:
    pattern = int.from_bytes((key * (len(data) // 4 + 1))[: len(data)], "big")
    return (int.from_bytes(data, "big") ^ pattern).to_bytes(len(data), "big")


# --- loading the cases ------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Offer:
    requestNoContextTakeover: bool = False
    requestMaxWindowBits: int = 0
    acceptNoContextTakeover = acceptMaxWindowBits = True

    def header(self) -> str:
        bits = f"; server_max_window_bits={self.requestMaxWindowBits}" if self.requestMaxWindowBits else ""
        takeover = "; server_no_context_takeover" if self.requestNoContextTakeover else ""
        return f"permessage-deflate; client_no_context_takeover; client_max_window_bits{takeover}{bits}"


class Utf8Validator:
    """What one case file makes its sequences with."""

    def reset(self) -> None:
        pass

    def validate(self, text: str) -> tuple[bool, bool]:
        """Whether it is valid so far, and whether it ends with a whole character."""
        try:
            octets(text).decode()
        except UnicodeDecodeError as error:
            return error.reason == "unexpected end of data", False
        return True, True


def load(folder: Path) -> list[Any]:
    """The classes of all cases."""
    stubs: dict[str, dict[str, object]] = {
        "autobahn.websocket.compress": {
            "PerMessageDeflateOffer": Offer, "PerMessageDeflateOfferAccept": None, "PerMessageDeflateResponse": None,
            "PerMessageDeflateResponseAccept": None},
        "pkg_resources": {"resource_filename": lambda package, name: str(folder.parent / name)},
        "autobahn.websocket.protocol": {"WebSocketProtocol": Fuzzer},
        "autobahn.websocket.utf8validator": {"Utf8Validator": Utf8Validator},
        "binascii": {"b2a_hex": lambda text: octets(text).hex(), "hexlify": bytes.hex},
    }
    modules: dict[str, dict[str, object]] = {}

    def load_module(name: str) -> dict[str, object]:
        if name not in modules:
            modules[name] = {}
            run(name, (folder / f"{name}.py").read_text("latin-1"), modules[name])
        return modules[name]

    def import_name(name: str, *arguments: Any) -> object:
        if name in stubs:
            return types.SimpleNamespace(**stubs[name])
        return types.SimpleNamespace(**load_module(name)) if name.startswith("case") else __import__(name, *arguments)

    def import_all(name: str, names: dict[str, object]) -> None:
        names.update({each: value for each, value in load_module(name).items() if not each.startswith("_")})

    def run(name: str, source: str, names: dict[str, object]) -> None:
        # What Python 2 means, said for Python 3: relative imports of everything, old classes, whole quotients; what is
        # printed is no case's but the files' own tests'.
        source = re.sub(r"^( +)print\b.*$", r"\1pass", source, flags=re.MULTILINE)
        source = re.sub(r"^from (case\w+) import \*$", r"import_all('\1', globals())", source, flags=re.MULTILINE)
        source = source.replace("(object, Case, )", "(Case, )").replace(" / ", " // ")
        source = source.replace("open(fn, 'rb').read()", "read(fn)")  # and closed
        builtins = {
            **vars(__import__("builtins")), "__import__": import_name, "xrange": range, "import_all": import_all,
            "read": functools.cache(lambda name: Path(name).read_bytes())}
        names.update({"__builtins__": builtins, "__name__": name})
        exec(compile(source, f"{name}.py", "exec"), names)

    source = (folder / "__init__.py").read_text("latin-1")
    source = re.sub(r"^.*[Cc]ase9_9_1.*$", "", source, flags=re.MULTILINE)
    names: dict[str, object] = {}
    load_module("case")["Case"].compare = staticmethod(lambda one, other: one == other)  # type: ignore[attr-defined]
    run("cases", source, names)
    cases = names["Cases"]
    assert isinstance(cases, list)
    return cases


def number(case: type) -> str:
    return case.__name__.removeprefix("Case").replace("_", ".")


def group(case: type) -> str:
    return number(case).rpartition(".")[0]


def of_compression(case: type) -> bool:
    return number(case).split(".")[0] in COMPRESSION


# --- running them -----------------------------------------------------------------------------------------------------


async def run_case(case: Any, port: int) -> tuple[str, str]:
    """The outcome, and why."""
    _, fuzzer = await asyncio.get_running_loop().create_connection(lambda: Fuzzer(case), "127.0.0.1", port)
    await fuzzer.lost
    result = fuzzer.case
    if result.behavior not in PASSED:
        return result.behavior, result.result
    if result.behaviorClose not in PASSED:
        return f"CLOSE {result.behaviorClose}", result.resultClose
    return result.behavior, result.result


async def run_cases(cases: Sequence[type], port: int) -> dict[str, tuple[str, str]]:
    """The outcomes by number."""
    room, compressing = asyncio.Semaphore(TOGETHER), asyncio.Semaphore(1)  # which waits for nothing but the processor
    outcomes: dict[str, tuple[str, str]] = {}

    async def run(case: type) -> None:
        async with compressing if of_compression(case) else room:
            outcomes[number(case)] = await run_case(case, port)

    async with asyncio.TaskGroup() as group:
        for case in cases:
            group.create_task(run(case))
    return {number(case): outcomes[number(case)] for case in cases}


def main(arguments: Sequence[str]) -> int:
    folder, port, *wanted = arguments
    cases = [
        case for case in load(Path(folder))
        if (not wanted and not of_compression(case))
        or any(f"{number(case)}.".startswith(f"{group}.") for group in wanted)
    ]
    outcomes = asyncio.run(run_cases(cases, int(port)))
    for name, (outcome, why) in outcomes.items():
        if outcome != "OK":
            print(f"{name:8} {outcome}: {why}")
    counts = Counter(outcome for outcome, _ in outcomes.values())
    print(f"{len(outcomes)} cases:", ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    return int(any(outcome not in PASSED for outcome in counts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
