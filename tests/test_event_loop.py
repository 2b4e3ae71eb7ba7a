"""What a server of plain connections does not load, and that TLS is to be had all the same. Each of these tests has an
interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import PATIENCE, ServerProcess
from tests.peers.certificate import CERTIFICATE

ROOT = str(Path(__file__).parent.parent)

IMPORT = """
from fastcable.event_loop import import_event_loop
import_event_loop()
import asyncio, sys, uvloop
"""

ECHO = """
async def echo(reader, writer):
    writer.write(await reader.readline())
    writer.close()

async def served(context):
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
    return server, *server.sockets[0].getsockname()

async def echoed(reader, writer):
    writer.write(b"hello\\n")
    assert await reader.read() == b"hello\\n"
    writer.close()

FACTORIES = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}

def run(loop, main):
    with asyncio.Runner(loop_factory=FACTORIES[loop]) as runner:
        runner.run(main)
"""

TLS = """
import ssl

accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
accepting.load_cert_chain(sys.argv[1])
connecting = ssl.create_default_context(cafile=sys.argv[1])

async def connect(host, port):
    return await asyncio.open_connection(host, port, ssl=connecting)

async def start_tls(host, port, context=connecting):
    reader, writer = await asyncio.open_connection(host, port)
    try:
        await writer.start_tls(context, server_hostname=host)
    except BaseException:
        writer.close()
        raise
    return reader, writer

async def start_tls_without_context(host, port):
    await start_tls(host, port, None)

async def connect_with_defaults(host, port):
    return await asyncio.open_connection(host, port, ssl=True)

async def accept(host, port):
    await served(accepting)

async def accept_with_nonsense(host, port):
    await served(object())
"""

WORKS = """
async def main(way):
    server, host, port = await served(accepting)
    await echoed(*await way(host, port))
    try:
        await connect_with_defaults(host, port)
    except ssl.SSLCertVerificationError:
        pass
    else:
        raise AssertionError("an unknown certificate is taken")
    server.close()

for way in (connect, start_tls):
    run(sys.argv[2], main(way))
"""

REFUSES = """
async def main(way):
    server, host, port = await served(None)
    try:
        await way(host, port)
    except RuntimeError as error:
        assert str(error).startswith("no TLS on this event loop: uvloop was imported before ssl"), error
    else:
        raise AssertionError(f"{way} worked")
    await echoed(*await asyncio.open_connection(host, port))  # and all else goes on
    server.close()

for way in (connect, connect_with_defaults, start_tls, accept):
    run("uvloop", main(way))
"""


def run(program: str, *arguments: object) -> None:
    """Run it in an interpreter where warnings are errors; it must end well and say nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "pem"
    path.write_text(CERTIFICATE)
    return path


def test_a_serving_process_has_no_tls_library(spawn: Callable[..., ServerProcess]) -> None:
    server = spawn()
    with server.connect("s") as client:
        assert server.post({"stream": "s", "data": 1}) == (200, {"subscribers": 1})
        client.expect({"type": "message", "stream": "s", "data": 1})
        maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    files = {Path(line.split()[-1]).name.partition(".")[0] for line in maps.splitlines()}
    assert "_socket" in files
    assert not {"_ssl", "libssl", "libcrypto"} & files


def test_the_stand_ins_leave_no_trace() -> None:
    run(IMPORT + "assert not {'ssl', '_ssl', 'asyncio.sslproto', 'locale'} & set(sys.modules)")


def test_plain_connections_do_without_ssl() -> None:
    run(IMPORT + ECHO + """
async def main():
    server, host, port = await served(None)
    await echoed(*await asyncio.open_connection(host, port))
    server.close()

run("uvloop", main())
assert not {"ssl", "_ssl"} & set(sys.modules)
""")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_tls_works_where_ssl_was_imported_before(loop: str, certificate: Path) -> None:
    run("import ssl\n" + IMPORT + ECHO + TLS + WORKS, certificate, loop)


def test_tls_works_on_asyncio_loops_afterwards(certificate: Path) -> None:
    run(IMPORT + ECHO + TLS + WORKS, certificate, "asyncio")


def test_tls_on_uvloop_loops_is_refused_afterwards_in_words(certificate: Path) -> None:
    run(IMPORT + ECHO + TLS + REFUSES, certificate)


@pytest.mark.parametrize("way", ["start_tls_without_context", "accept_with_nonsense"])
def test_what_is_no_context_is_the_usual_error(way: str, certificate: Path) -> None:
    run(IMPORT + ECHO + TLS + """
async def main(way):
    server, host, port = await served(None)
    try:
        await way(host, port)
    except TypeError as error:
        assert "SSLContext" in str(error)
    else:
        raise AssertionError("taken for a context")
    server.close()

run("uvloop", main(globals()[sys.argv[2]]))
""", certificate, way)


def test_blocking_tls_works_afterwards(certificate: Path) -> None:
    run(IMPORT + ECHO + TLS + """
import socket, threading

ours, theirs = socket.socketpair()

def answer():
    with accepting.wrap_socket(theirs, server_side=True) as sock:
        sock.sendall(sock.recv(100))

thread = threading.Thread(target=answer)
thread.start()
with connecting.wrap_socket(ours, server_hostname="127.0.0.1") as sock:
    sock.sendall(b"hello")
    assert sock.recv(100) == b"hello"
thread.join()
""", certificate)


def test_subprocess_finds_locale_when_it_asks_for_it() -> None:
    run(IMPORT + """
import subprocess

assert subprocess.run(["echo", "hello"], stdout=subprocess.PIPE, text=True).stdout == "hello\\n"
assert subprocess.locale.getlocale
assert type(sys.modules["locale"]) is type(sys)
""")


def test_an_asyncio_that_asks_at_once_gets_the_real_module() -> None:
    run("""
import sys
from fastcable.event_loop import Later, standing_in

with standing_in(Later("locale")):
    assert isinstance(sys.modules["locale"], Later)
    import locale
    real = locale.getlocale
    import locale
    assert locale.getlocale is real
    assert type(locale) is type(sys)
assert sys.modules["locale"] is locale
""")


def test_a_uvloop_that_fails_with_the_stand_in_gets_the_real_module(certificate: Path) -> None:
    run("""
from fastcable.event_loop import WithoutTLS
WithoutTLS.SSL_ERROR_SYSCALL = "not a number"
""" + IMPORT + ECHO + TLS + WORKS, certificate, "uvloop")
