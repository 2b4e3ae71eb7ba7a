"""How many cores this process may use."""

from __future__ import annotations

import contextlib
import os

from fastcable.control_groups import folders


def available_cores(root: str = "/") -> int:
    """By affinity, and by the CPU quotas of its control groups (cgroup v2, `cpu.max`), rounded down, at least 1.

    More threads than a quota lasts for would use it up early in each period, and then the whole process has to wait.
    """
    cores = len(os.sched_getaffinity(0))
    for folder in folders(root):
        with contextlib.suppress(OSError, ValueError), open(os.path.join(folder, "cpu.max")) as file:
            quota, period = file.read().split()  # no limit: no file, or the word max
            cores = min(cores, int(quota) // int(period))
    return max(cores, 1)
