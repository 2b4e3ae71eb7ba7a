"""What SIGHUP means: that somebody wants a reload, or that the terminal is gone from which the server was started.

A terminal that is closed takes with it what runs in it, unless that was started with nohup.
"""

from __future__ import annotations

import os
import signal
from enum import Enum


class Meaning(Enum):
    RELOAD = "reload"
    STOP = "stop"
    NOTHING = "nothing"


class Terminal:
    """The controlling terminal, if there is one; to be made before SIGHUP is handled."""

    def __init__(self) -> None:
        self.nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._there = _is_there()

    def sighup(self) -> Meaning:
        """What one SIGHUP means."""
        if not self._there or _is_there():
            return Meaning.RELOAD
        self._there = False
        return Meaning.NOTHING if self.nohup else Meaning.STOP


def _is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
