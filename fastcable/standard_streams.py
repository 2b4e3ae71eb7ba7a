"""stdin, stdout and stderr, any of which the process may have been started without."""

from __future__ import annotations

import contextlib
import os
import sys


def occupy() -> None:
    """Put /dev/null where one is closed: else the next socket would get its number, and a client what the C library,
    or a child process, writes to it."""
    with contextlib.suppress(OSError):  # a root directory without it
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)


def complain(line: str) -> None:
    """Tell on stderr in one line, or, if that is closed, full or without a reader, nobody."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(line.replace("\n", "\\n") + "\n")
            sys.stderr.flush()
