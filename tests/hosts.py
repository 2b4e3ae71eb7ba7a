"""Hosts with addresses of their own on a network of their own: network namespaces, joined by a cable (veth)."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Self

CLONE_NEWNET = 0x40000000

_numbers = count()


def _run(*command: str) -> str:
    """What a command prints. OSError: it did not succeed."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def why_none() -> str:
    """Why there can be no hosts here, in one line; "" if there can."""
    name = f"fastcable-{os.getpid()}-try"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "netns", "del", name)
    except OSError as error:
        return f"network namespaces cannot be made here: {error}"
    return ""


def leave_network(*rules: str) -> None:
    """Move this thread, and the processes that it starts from now on, to a network of its own that has nothing but
    loopback and these rules of a packet filter. It ends with them. OSError: that cannot be done here."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    _run("ip", "link", "set", "lo", "up")
    _run("nft", ";".join(rules))


class Host:
    """A network namespace. Unix sockets, files and processes are those of everybody."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.name = f"fastcable-{os.getpid()}-{next(_numbers)}"
        self.within = ("ip", "netns", "exec", self.name)
        _run("ip", "netns", "add", self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        _run("ip", "netns", "del", self.name)

    def run(self, *command: str) -> str:
        """What a command prints here. OSError: it did not succeed."""
        return _run(*self.within, *command)

    def connect(self, address: str, port: int, timeout: float) -> socket.socket:
        """A connection from here. (A socket belongs to the namespace of the thread that made it.)"""

        def make() -> socket.socket:
            with open(f"/run/netns/{self.name}") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0):
                    raise OSError(ctypes.get_errno(), "setns")
            return socket.create_connection((address, port), timeout)

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(make).result()

    @contextmanager
    def cut_off(self, percent: int = 100) -> Iterator[None]:
        """So many of the packets to and from it are dropped meanwhile, at random and without a word to anybody, by
        rules of its packet filter."""
        which = f"numgen random mod 100 < {percent}" if percent < 100 else ""
        chains = [
            f"add chain inet cut {hook} {{ type filter hook {hook} priority 0; }};"
            f"add rule inet cut {hook} {which} drop"
            for hook in ("input", "output")
        ]
        self.run("nft", ";".join(["add table inet cut", *chains]))
        try:
            yield
        finally:
            self.run("nft", "delete table inet cut")


@contextmanager
def joined(*addresses: str) -> Iterator[Sequence[Host]]:
    """Two hosts with these addresses of one /24, each at its end of a cable."""
    with ExitStack() as stack:
        here, there = (stack.enter_context(Host(address)) for address in addresses)
        ends = [("name", "cable", "netns", host.name) for host in (here, there)]
        _run("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for host in (here, there):
            _run("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                _run("ip", "-n", host.name, "link", "set", device, "up")
        yield here, there
