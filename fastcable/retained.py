"""The last value of each stream whose messages are a state."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

OVERHEAD = 256
"""Bytes that an entry is counted with besides its name and value: about what Python needs for it."""


class Retained:
    """Values by stream, in the order in which they were kept: at most `max_bytes` in all, each for `seconds`; 0 = no
    limit. What is oldest goes first. `clock` tells the time in seconds."""

    __slots__ = ("_clock", "_entries", "_max_bytes", "_seconds", "size")

    def __init__(self, max_bytes: int, seconds: float, clock: Callable[[], float]) -> None:
        # Settings
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._clock = clock
        # State
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()  # stream -> value, when it was kept
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def holds_any(self) -> bool:
        """Whether any value may still be asked for."""
        newest = next(reversed(self._entries.values()), None)
        return newest is not None and not (self._seconds and self._clock() - newest[1] >= self._seconds)

    def fits(self, stream: str, data: bytes) -> bool:
        """Whether a value is small enough to be kept at all."""
        return not self._max_bytes or retained_size(stream, data) <= self._max_bytes

    def keep(self, stream: str, data: bytes, age: float = 0.0) -> None:
        """Keep this value instead of the one before; `null`, or one that does not fit: keep none. `age`: for so many
        seconds somebody else has kept it already."""
        self.forget(stream)
        if data == b"null" or not self.fits(stream, data):
            return
        now = self._clock()
        self._entries[stream] = (data, now - age)
        self.size += retained_size(stream, data)
        while (oldest := next(iter(self._entries))) != stream and self._must_go(oldest, now):
            self.forget(oldest)

    def get(self, stream: str) -> bytes | None:
        entry = self._entries.get(stream)
        if entry is None:
            return None
        data, kept = entry
        if self._seconds and self._clock() - kept >= self._seconds:
            self.forget(stream)
            return None
        return data

    def age(self, stream: str) -> float:
        """For how many seconds the value of this stream, of which there is one, has been kept."""
        return self._clock() - self._entries[stream][1]

    def items(self) -> Iterator[tuple[str, bytes, float]]:
        """Streams, their values and for how many seconds these have been kept, the oldest first."""
        now = self._clock()
        for stream, (data, kept) in self._entries.items():
            if not self._seconds or now - kept < self._seconds:
                yield stream, data, now - kept

    def _must_go(self, oldest: str, now: float) -> bool:
        if self._max_bytes and self.size > self._max_bytes:
            return True
        return bool(self._seconds) and now - self._entries[oldest][1] >= self._seconds

    def forget(self, stream: str) -> None:
        entry = self._entries.pop(stream, None)
        if entry is not None:
            self.size -= retained_size(stream, entry[0])


def retained_size(stream: str, data: bytes) -> int:
    """What an entry counts for `max_retained_bytes`."""
    return len(stream.encode()) + len(data) + OVERHEAD
