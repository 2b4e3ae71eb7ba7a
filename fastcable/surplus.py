"""When memory that the C library keeps after it was freed is worth giving back to the system."""

from __future__ import annotations


class Surplus:
    """Follows a number, of bytes or of objects, whose memory is worth giving back when at least `worth` of them are
    gone.

    What is still going is waited for, as the next look would find the same to do again. When some were left the last
    time, it is worth it once more when they are gone, too, however few they were.
    """

    def __init__(self, worth: int) -> None:
        self._worth = worth
        self._little = worth // 8
        self._most = 0  # since memory was given back
        self._last = 0
        self._rest = False  # some were left at that time

    def look(self, now: int, most: int) -> bool:
        """Whether to give memory back, at regular times: there are `now`, and were `most` at a time since the last
        look."""
        going = max(most, self._last) - now > self._little
        self._last = now
        self._most = max(self._most, most)
        gone = self._most - now
        if going or not (gone > max(now, self._worth) or (self._rest and now <= self._little < gone)):
            return False
        self._most = now
        self._rest = now > self._little
        return True
