"""Whether the process comes close to the memory that it may have: then it takes nobody new, so that those who are
connected stay."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable

from fastcable._heartbeat import give_back
from fastcable.control_groups import folders
from fastcable.log import Throttle
from fastcable.options import MIB
from fastcable.settings import Settings

SHARE = 85
"""Percent of the limit that it may use before it refuses new clients."""
GIVE_BACK_SECONDS = 10.0
UNLIMITED = 1 << 62
"""And above: what v1 has where there is no limit."""


def control_group_limit(root: str = "/") -> int:
    """The least limit of this process's control groups, v1 or v2; 0: there is none."""
    limits = []
    for controller, names in ("memory", ("memory.limit_in_bytes",)), ("", ("memory.max", "memory.high")):
        for folder in folders(root, controller):
            for name in names:
                with contextlib.suppress(OSError, ValueError), open(os.path.join(folder, name)) as file:
                    limits.append(int(file.read()))  # no limit: no file, or the word max
    return min((limit for limit in limits if 0 < limit < UNLIMITED), default=0)


def memory_limit(settings: Settings) -> int:
    """`memory_limit`, or that of the control group; 0: none."""
    return control_group_limit() if settings.memory_limit is None else settings.memory_limit


def resident() -> int:
    """Bytes of this process's memory that are there (RSS)."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def proportional() -> int:
    """The same, what several processes share being divided among them; looking takes a millisecond and more."""
    with open("/proc/self/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    raise ValueError("/proc/self/smaps_rollup has no Pss")


class MemoryWatch:
    """Looks at it with each beat of the clock. `kernel` tells the bytes of the sockets' buffers."""

    def __init__(
        self, limit: int, kernel: Callable[[], int], tell: Callable[[str | None], None],
        measure: Callable[[], int] = resident, exact: Callable[[], int] = proportional,
    ) -> None:
        self.limit = limit
        self.most = limit * SHARE // 100
        self.problem: str | None = None
        """Why nobody new is let in, in one line."""
        self._kernel = kernel
        self._tell = tell
        self._measure = measure
        self._exact = exact
        self._gave_back = float("-inf")
        self._throttle = Throttle()

    def __call__(self, now: float) -> None:
        used = self._used()
        if used > self.most and now - self._gave_back >= GIVE_BACK_SECONDS:
            self._gave_back = now
            give_back()
            used = self._used()
        problem = None
        if used > self.most:
            problem = f"memory: {used / MIB:.0f} MiB of {self.limit / MIB:.0f} MiB are in use (memory_limit)"
            if self.problem is None:
                self._throttle.log(logging.WARNING, "no new clients are taken: %s", problem)
        self.problem = problem
        self._tell(problem)

    def _used(self) -> int:
        kernel = self._kernel()
        used = self._measure() + kernel
        if used > self.most:
            with contextlib.suppress(OSError, ValueError):  # no such file, or not for us
                used = self._exact() + kernel
        return used
