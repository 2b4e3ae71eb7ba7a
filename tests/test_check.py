"""Whether the server could start anew, as far as the process that asks for it is concerned."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from fastcable.check import Check, fixed
from fastcable.settings import Settings

SETTINGS = Settings(port=3210)


def started(code: str) -> Check:
    """A check by another program."""
    reading, writing = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, writing, 1), (os.POSIX_SPAWN_DUP2, writing, 2)]
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ, file_actions=actions)
    os.close(writing)
    return Check(pid, reading, time.monotonic())


def ended(check: Check) -> str | None:
    while check.read():
        pass
    return check.end(SETTINGS)


@pytest.mark.parametrize(("code", "problem"), [
    (f"print({fixed(SETTINGS).decode()!r})", None),
    (f"import sys; print('warning', file=sys.stderr, flush=True); print({fixed(SETTINGS).decode()!r})", None),
    ("import sys; sys.exit('fastcable: port: no')", "port: no"),
    ("raise ImportError('no such module')", "ImportError: no such module"),
    ("import sys; sys.exit(3)", "the check ended with 3"),
    (f"import os; os.kill(os.getpid(), {signal.SIGKILL:d})", "the check was ended by SIGKILL"),
    ("", "the check did not say what it found"),
    ("print('[]')", "the check did not say what it found"),
    ("print('{}')", "the check did not say what it found"),
    (f"print({fixed(Settings(port=3211)).decode()!r})", "port: changing it needs a restart"),
    (f"print({fixed(Settings(port=1, uds='/run/x')).decode()!r})", "port and uds: changing them needs a restart"),
], ids=["good", "warned", "refused", "crashed", "failed", "killed", "silent", "list", "object", "port", "two"])
def test_what_the_check_ends_with(code: str, problem: str | None) -> None:
    assert ended(started(code)) == problem


def test_a_check_that_takes_too_long_is_given_up() -> None:
    check = started("import time; print('started', flush=True); time.sleep(1000)")
    assert check.read()
    check.give_up()
    assert ended(check) == "the check took longer than 30 s"
