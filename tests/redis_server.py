"""Debian's `redis-server` for the tests, on a port of its own."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

PORTS = range(20_000, 32_000)
"""Below those that the kernel gives to whoever asks for any: who was away for a while finds its port free."""


def free_port() -> int:
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


class RedisServer:
    """`start` it, with options of redis-server; what it keeps is in a directory of its own. `port` stays the same.
    `within` is a command that runs others where `host` is an address."""

    def __init__(self, host: str = "127.0.0.1", within: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.url = f"redis://{host}:{self.port}"
        self.password: str | None = None
        self._host = host
        self._within = within
        self._directory = tempfile.mkdtemp(prefix="fastcable-redis-")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        shutil.rmtree(self._directory)

    def start(self, *options: str, line: bytes = b"Ready to accept connections") -> Self:
        """Returns when it takes connections, or has logged another line."""
        assert self._process is None
        # Whatever becomes of the tests, the kernel ends it with the thread that started it.
        command = ["setpriv", "--pdeathsig", "KILL", "redis-server", "--bind", self._host, "--port", str(self.port),
                   "--protected-mode", "no", "--dir", self._directory, "--save", "", *options]  # fmt: skip
        self._process = subprocess.Popen([*self._within, *command], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        for said in self._process.stdout:
            if line in said:
                return self
        self.kill()
        raise RuntimeError(f"it did not start: {' '.join(command)}")

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Meanwhile it answers nothing, though the kernel takes connections and bytes for it."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    @contextlib.contextmanager
    def listening(self, pattern: str) -> Iterator[Listening]:
        """redis-cli, subscribed to all channels of this pattern."""
        command = [*self._within, "redis-cli", "-h", self._host, "-p", str(self.port), "psubscribe", pattern]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                listening = Listening(process)
                assert listening.lines(3) == ["psubscribe", pattern, "1"]
                yield listening
            finally:
                process.kill()

    def __call__(self, *command: str | bytes | int) -> Any:
        """Carry out a command."""
        import redis  # takes long, and most tests do without

        with redis.Redis(port=self.port, password=self.password) as client:
            return client.execute_command(*command)

    def file(self, name: str) -> Path:
        return Path(self._directory, name)


class Listening:
    """What redis-cli prints of the messages it gets."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def lines(self, count: int) -> list[str]:
        assert self._process.stdout is not None
        return [self._process.stdout.readline().removesuffix("\n") for _ in range(count)]

    def receive(self) -> tuple[str, str]:
        """Channel and payload of the next message."""
        kind, _, channel, payload = self.lines(4)
        assert kind == "pmessage"
        return channel, payload


def self_signed(directory: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1, and its key."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "redis")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256()))
    paths = directory / "certificate.pem", directory / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return str(paths[0]), str(paths[1])
