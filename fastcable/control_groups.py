"""The control groups of this process, v2 and v1: where their limits stand."""

from __future__ import annotations

import contextlib
import os


def folders(root: str = "/", controller: str = "") -> list[str]:
    """Those of this process's group and of the groups around it: of v2, or those in which v1 has this controller.

    In a container the path may be that of the host, and does not exist; the group is then the topmost one there.
    """
    top = os.path.join(root, "sys/fs/cgroup", controller)
    with contextlib.suppress(OSError), open(os.path.join(root, "proc/self/cgroup")) as file:
        for line in file:
            _, _, rest = line.rstrip("\n").partition(":")
            controllers, _, path = rest.partition(":")
            if controller in controllers.split(","):
                names = path.strip("/").split("/")
                return [os.path.join(top, *names[:depth]) for depth in range(len(names) + 1)]
    return []
