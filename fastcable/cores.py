"""How many cores this process may use."""

from __future__ import annotations

import contextlib
import os


def available_cores(root: str = "/") -> int:
    """By affinity, and by the CPU quotas of its control groups (cgroup v2, `cpu.max`), rounded down, at least 1.

    More threads than a quota lasts for would use it up early in each period, and then the whole process has to wait.
    """
    cores = len(os.sched_getaffinity(0))
    for folder in _control_groups(root):
        with contextlib.suppress(OSError, ValueError), open(os.path.join(folder, "cpu.max")) as file:
            quota, period = file.read().split()  # no limit: no file, or the word max
            cores = min(cores, int(quota) // int(period))
    return max(cores, 1)


def _control_groups(root: str) -> list[str]:
    """The folders of this process's control group and of those around it."""
    top = os.path.join(root, "sys/fs/cgroup")
    with contextlib.suppress(OSError), open(os.path.join(root, "proc/self/cgroup")) as file:
        for line in file:
            if line.startswith("0::"):
                names = line[3:].split("\n")[0].strip("/").split("/")
                return [os.path.join(top, *names[:depth]) for depth in range(len(names) + 1)]
    return []
