"""What a server process leaves to the program that takes its place or begins beside it: a short description, and what
the description speaks of: descriptors, which are inherited, and bytes.

The program started is the one that this process is, by the same command line, so it reads the configuration anew. That
it is no fresh start it learns from an environment variable: its role, and the descriptor of a file in memory.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

VARIABLE = "_FASTCABLE_ROLE"

# Roles
CHECK = "check"  # only find out whether the server would start
WORKER = "worker"  # serve on sockets that are open
REPLACE = "replace"  # be the supervisor of these workers, and replace them
ADOPT = "adopt"  # be the supervisor of these workers, which are new


@dataclass(slots=True)
class Succession:
    """What this process is to be."""

    role: str
    description: dict[str, Any] = field(default_factory=dict)
    state: bytes = b""


def take() -> Succession | None:
    """What was left to this process; None: it is a fresh start. Nobody else is to find it."""
    value = os.environ.pop(VARIABLE, None)
    if value is None:
        return None
    role, colon, descriptor = value.partition(":")
    if not colon:
        return Succession(role)
    import orjson

    os.lseek(int(descriptor), 0, os.SEEK_SET)
    with open(int(descriptor), "rb") as file:
        return Succession(role, orjson.loads(file.readline()), file.read())


def command() -> list[str]:
    """The command line of this process."""
    return [sys.executable, *sys.orig_argv[1:]]


def environment(role: str, state: int | None) -> dict[str, str]:
    return {**os.environ, VARIABLE: role if state is None else f"{role}:{state}"}


def write(description: Mapping[str, object], pieces: Iterable[bytes] = ()) -> int:
    """The descriptor of a file in memory that holds both."""
    import orjson

    descriptor = os.memfd_create("fastcable")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(orjson.dumps(description) + b"\n")
        file.writelines(pieces)
    return descriptor


def become(role: str, state: int, descriptors: Sequence[int], *, nohup: bool) -> None:
    """Run the command line anew in this process, with these descriptors, and with SIGHUP as it was at our own start.
    Returns only by raising OSError."""
    handler = signal.getsignal(signal.SIGHUP)
    with inherited([state, *descriptors]):
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            os.execve(sys.executable, command(), environment(role, state))
        finally:
            signal.signal(signal.SIGHUP, handler)


def spawn(role: str, state: int | None = None, descriptors: Sequence[int] = (), output: int | None = None) -> int:
    """Run the command line in a child process with these descriptors, and return its pid. Where `output` is given, the
    child's stdout and stderr go there. Raises OSError."""
    actions = [] if output is None else [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    with inherited([*descriptors, *([] if state is None else [state])]):
        return os.posix_spawn(
            sys.executable, command(), environment(role, state), file_actions=actions, setsigmask=[])


@contextmanager
def inherited(descriptors: Sequence[int]) -> Iterator[None]:
    """A program that is started within the `with` has these descriptors."""
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    try:
        yield
    finally:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
