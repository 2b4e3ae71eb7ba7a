"""What is running, how far it is, and how long it will still take."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO


class Progress:
    """One line that is written over on a terminal, a line for each step elsewhere."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._start = time.monotonic()
        self._line = ""
        self._step = 0
        self._steps = 0
        self._spent = 0.0
        self._expected: list[float] = []
        self._running = time.monotonic()

    def expect(self, seconds: list[float]) -> None:
        """A guess of what each of the steps will take."""
        self._expected = seconds
        self._steps = len(seconds)
        self._running = time.monotonic()

    def step(self, text: str) -> None:
        """The next step begins."""
        now = time.monotonic()
        if self._step:
            self._spent += self._expected[self._step - 1]
        left = sum(self._expected[self._step :])
        if self._spent:  # what was guessed is corrected by what it took so far
            left *= (now - self._running) / self._spent
        self._step += 1
        self._line = (
            f"[{self._step}/{self._steps}] {text} · {clock(now - self._start)} gone, about {clock(left)} left"
        )
        self._show(self._line)

    def note(self, text: str) -> None:
        """What is done before the first step."""
        self._show(text)

    def detail(self, text: str) -> None:
        """What the step is at; seen on a terminal only."""
        if self._terminal:
            self._show(f"{self._line} · {text}")

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._terminal:
            self._stream.write("\r\x1b[K")
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def _show(self, line: str) -> None:
        if self._terminal:
            columns = shutil.get_terminal_size().columns
            self._stream.write(f"\r\x1b[K{line[: columns - 1]}")
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()


def clock(seconds: float) -> str:
    """`4:05` is four minutes and five seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
