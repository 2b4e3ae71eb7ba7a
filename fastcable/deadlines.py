"""Who has to be looked at by when, without a timer per connection."""

from __future__ import annotations

from typing import Protocol


class Waiting(Protocol):
    """What may wait in a queue; it is told once, after it left the queue."""

    def deadline_passed(self, queue: Deadlines) -> None: ...


class Deadlines:
    """Items that all have the same allowance of `seconds` from when they were added; 0 means for ever.

    With one allowance the order of arrival is the order of deadlines, so a dict is the queue and only its head is ever
    looked at. A dict keeps the holes of removed entries, which a look at the head would cross each time: they are
    counted, and the dict is made anew when they outnumber what it holds.
    """

    __slots__ = ("_deadlines", "_holes", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._deadlines: dict[Waiting, float] = {}
        self._holes = 0

    def __len__(self) -> int:
        return len(self._deadlines)

    def __contains__(self, item: Waiting) -> bool:
        return item in self._deadlines

    def add(self, item: Waiting, now: float) -> None:
        """Give `item` the whole allowance from `now` (monotonic seconds), also when it waits here already."""
        if self.seconds:
            if self._deadlines.pop(item, None) is not None:
                self._holes += 1
            self._deadlines[item] = now + self.seconds

    def discard(self, item: Waiting) -> None:
        if self._deadlines.pop(item, None) is not None:
            self._holes += 1

    def expired(self, now: float) -> list[Waiting]:
        """Take out the items whose allowance ended at or before `now`, the longest waiting first."""
        passed = []
        for item, deadline in self._deadlines.items():
            if deadline > now:
                break
            passed.append(item)
        for item in passed:
            del self._deadlines[item]
        self._holes += len(passed)
        if self._holes > len(self._deadlines):
            self._deadlines = dict(self._deadlines)
            self._holes = 0
        return passed
