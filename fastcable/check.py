"""Whether the server could start anew: with the configuration as it is now, and the code that is installed now.

A child process tries it, up to the point of listening, and prints those options that cannot be changed by a reload.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

from fastcable import succession
from fastcable.settings import Settings

SECONDS = 30
"""Time for a check."""
FIXED = ("host", "port", "uds", "broadcast_listen", "metrics_listen")
"""Options that need a restart."""


def fixed(settings: Settings) -> bytes:
    """What the child prints."""
    import orjson

    return orjson.dumps({name: getattr(settings, name) for name in FIXED})


@dataclass(slots=True)
class Check:
    """A check that goes on."""

    pid: int
    output: int
    """Descriptor to read from, until EOF."""
    deadline: float
    """When it has taken too long, in seconds of the monotonic clock."""
    said: bytes = b""

    @classmethod
    def begin(cls) -> Check:
        """Raises OSError."""
        reading, writing = os.pipe()
        try:
            pid = succession.spawn(succession.CHECK, output=writing)
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return cls(pid, reading, time.monotonic() + SECONDS)

    def read(self) -> bool:
        """Whether there may be more."""
        data = os.read(self.output, 65536)
        self.said = (self.said + data)[-65536:]
        return bool(data)

    def give_up(self) -> None:
        """It has taken too long; its end will be read."""
        os.kill(self.pid, signal.SIGKILL)
        self.said += b"\nthe check took longer than %d s\n" % SECONDS

    def end(self, settings: Settings) -> str | None:
        """What is wrong, in one line; None: nothing. Called after the last `read`."""
        os.close(self.output)
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        lines = [line for line in self.said.decode("utf-8", "replace").splitlines() if line.strip()]
        last = lines[-1] if lines else ""
        if code < 0 and not last.startswith("the check took"):
            return f"the check was ended by {signal.Signals(-code).name}"
        if code:
            return last.removeprefix("fastcable: ") or f"the check ended with {code}"
        import orjson

        try:
            then, now = orjson.loads(last), orjson.loads(fixed(settings))
            changed = [name for name in FIXED if then[name] != now[name]]
        except (ValueError, KeyError, TypeError):
            return "the check did not say what it found"
        if changed:
            return f"{' and '.join(changed)}: changing {'it' if len(changed) == 1 else 'them'} needs a restart"
        return None

