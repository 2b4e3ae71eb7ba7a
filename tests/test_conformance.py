"""The WebSocket protocol as others understand it: Autobahn's test suite and client libraries talk to the echo server.

The numbers are the suite's: 1 framing, 2 pings, 3 reserved bits, 4 opcodes, 5 fragmentation, 6 UTF-8, 7 closing,
9 sizes and round trips, 10 fragments of an odd size, 12 compression of different data, 13 its parameters.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage
from wsproto.frame_protocol import CloseReason

from fastcable._frames import BINARY, CONTINUATION, TEXT
from tests import autobahn
from tests.harness import PATIENCE, Client, frame

LARGEST = 16 << 20
MOST_FRAGMENTS = 65536
COMMAND = [sys.executable, "-m", "tests.echo_server"]

SUITE = importlib.util.find_spec("autobahntestsuite")
assert SUITE is not None
assert SUITE.origin is not None
EVERY_CASE = autobahn.load(Path(SUITE.origin).parent / "case")
CASES = [case for case in EVERY_CASE if not autobahn.of_compression(case)]
COMPRESSION_CASES = [case for case in EVERY_CASE if autobahn.of_compression(case)]
ECHOES = 2
"""Of each case of compression; the suite has a thousand, which takes twenty minutes."""

NOT_STRICT = {
    # A text is judged when it is complete. The suite would like to see it refused at its first bad byte, which the
    # protocol leaves open.
    **dict.fromkeys(("6.4.1", "6.4.2", "6.4.3", "6.4.4"), "NON-STRICT"),
    # What the protocol leaves open altogether: a message just before a close frame, and the codes 5000 and 65535.
    **dict.fromkeys(("7.1.6", "7.13.1", "7.13.2"), "INFORMATIONAL"),
}


@contextlib.contextmanager
def echo_server(*options: str) -> Iterator[int]:
    with subprocess.Popen([*COMMAND, "0", *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("echoes on ws://127.0.0.1:"), line
            yield int(line.split(":")[2].strip("/\n"))
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with echo_server() as port:
        yield port


@pytest.fixture(scope="module")
def compressing() -> Iterator[int]:
    with echo_server("--compression") as port:
        yield port


# --- Autobahn's suite -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes(port: int) -> dict[str, tuple[str, str]]:
    return asyncio.run(autobahn.run_cases(CASES, port))


@pytest.mark.parametrize("number", [autobahn.number(case) for case in CASES])
def test_autobahn(outcomes: dict[str, tuple[str, str]], number: str) -> None:
    outcome, why = outcomes[number]
    assert outcome == NOT_STRICT.get(number, "OK"), why


@pytest.fixture(scope="module")
def compressed(compressing: int) -> dict[str, tuple[str, str]]:
    for case in COMPRESSION_CASES:
        case.COUNT = ECHOES
    return asyncio.run(autobahn.run_cases(COMPRESSION_CASES, compressing))


@pytest.mark.parametrize("group", list(dict.fromkeys(autobahn.group(case) for case in COMPRESSION_CASES)))
def test_autobahn_compressed(compressed: dict[str, tuple[str, str]], group: str) -> None:
    """13.3 and 13.5 offer nothing but a server's window of 512 bytes, which is declined."""
    outcomes = {compressed[autobahn.number(case)] for case in COMPRESSION_CASES if autobahn.group(case) == group}
    expected = "UNIMPLEMENTED" if group in ("13.3", "13.5") else "OK"
    assert {outcome for outcome, _ in outcomes} == {expected}, outcomes


def test_autobahn_has_every_category() -> None:
    categories = {autobahn.number(case).split(".")[0] for case in EVERY_CASE}
    assert categories == {"1", "2", "3", "4", "5", "6", "7", "9", "10", "12", "13"}
    assert (len(CASES), len(COMPRESSION_CASES)) == (301, 216)


# --- client libraries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 65536, 65537, LARGEST - 1, LARGEST])
def test_websockets_gets_back_compressed_what_it_sent(compressing: int, size: int, binary: bool) -> None:
    message = bytes(range(256)) * (size // 256 + 1) if binary else "fast cable" * (size // 10 + 1)
    with connect(f"ws://127.0.0.1:{compressing}/", max_size=None) as client:
        assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
        client.send(message[:size])
        assert client.recv(PATIENCE) == message[:size]


def test_a_compressed_message_too_large(compressing: int) -> None:
    with connect(f"ws://127.0.0.1:{compressing}/", max_size=None) as client:
        client.send(bytes(LARGEST + 1))
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


@pytest.mark.parametrize("size", [LARGEST - 1, LARGEST], ids=["largest-1", "largest"])
@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_websockets_gets_back_what_it_sent(port: int, size: int, binary: bool) -> None:
    message = bytes(range(256)) * (size // 256 + 1) if binary else "€uro" * (size // 6 + 1)
    message = message[:size] if isinstance(message, bytes) else message.encode()[:size].decode(errors="ignore")
    with connect(f"ws://127.0.0.1:{port}/any/path?x=y", max_size=None, compression=None) as client:
        client.send(message)
        assert client.recv(PATIENCE) == message


def test_a_message_too_large(port: int) -> None:
    with connect(f"ws://127.0.0.1:{port}/", max_size=None, compression=None) as client:
        with contextlib.suppress(ConnectionClosedError):
            client.send(bytes(LARGEST + 1))
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


@pytest.mark.parametrize("count", [MOST_FRAGMENTS - 1, MOST_FRAGMENTS], ids=["most-1", "most"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_as_many_fragments_as_are_taken(port: int, count: int, opcode: int) -> None:
    with Client(port) as client:
        client.upgrade()
        client.send(frame(opcode, b"x", fin=False) + frame(CONTINUATION, b"x", fin=False) * (count - 2))
        client.send(frame(CONTINUATION, b"x"))
        assert client.read_frame() == (opcode, b"x" * count)


def test_too_many_fragments(port: int) -> None:
    with Client(port) as client:
        client.upgrade()
        client.send(frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", fin=False) * MOST_FRAGMENTS)
        assert client.read_end() == (1008, "too many fragments")


def test_wsproto_agrees_on_a_whole_conversation(port: int) -> None:
    """Fragments with a ping between them, empty and binary messages, and the closing with a code and a reason."""
    peer = WSConnection(ConnectionType.CLIENT)
    with Client(port) as client:
        client.send(peer.send(Request(host="localhost", target="/echo")))
        peer.receive_data(client.read_until(b"\r\n\r\n"))
        events = [*peer.events()]
        assert [type(event) for event in events] == [AcceptConnection]
        sent = (
            TextMessage("a", message_finished=False), Ping(b"now"), TextMessage("\N{SNOWMAN}"),
            TextMessage(""), BytesMessage(b"\x00\xff"), BytesMessage(b""), CloseConnection(4321, "enough"),
        )
        client.send(b"".join(peer.send(event) for event in sent))
        events.clear()
        while data := client.socket.recv(1 << 16):
            peer.receive_data(data)
            events += peer.events()
    assert events == [
        Pong(b"now"), TextMessage("a\N{SNOWMAN}"), TextMessage(""), BytesMessage(bytearray(b"\x00\xff")),
        BytesMessage(bytearray()), CloseConnection(4321, ""),
    ]


@pytest.mark.parametrize("code", [*(code for code in CloseReason if code not in (1005, 1006, 1015)), 3000, 4999])
def test_every_close_code_of_the_registry_is_answered(port: int, code: int) -> None:
    with Client(port) as client:
        client.upgrade()
        client.send_frame(8, code.to_bytes(2, "big") + b"reason")
        assert client.read_end() == (code, "")


# --- the echo server itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "usage: "),
        (("port",), "usage: "),
        (("1", "2"), "usage: "),
        (("0", "--binary"), "usage: "),
    ],
    ids=["no port", "no number", "two ports", "unknown option"],
)
def test_what_the_echo_server_cannot_do_is_told_in_one_line(arguments: tuple[str, ...], complaint: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr.startswith(complaint), done.stderr.count("\n")) == (1, True, 1)


def test_the_echo_server_needs_the_runtime_dependencies_only() -> None:
    program = "import sys, tests.echo_server; print(*[getattr(m, '__file__', None) for m in [*sys.modules.values()]])"
    files = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    foreign = {Path(file.partition("site-packages/")[2]).parts[0] for file in files if "site-packages/" in file}
    assert {name for name in foreign if not name.startswith("__editable__")} <= {
        "uvloop", "httptools", "orjson", "_distutils_hack"}
