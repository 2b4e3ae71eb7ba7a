from typing import Protocol

class Waiting(Protocol):
    """What may wait in a queue; it is told once, after it left the queue."""

    def deadline_passed(self, queue: Deadlines) -> None: ...

class Deadlines:
    """A queue for all items with the same allowance of `seconds`; 0 means for ever."""

    seconds: float
    deadlines: dict[Waiting, float]
    def __init__(self, seconds: float) -> None: ...
    def __len__(self) -> int: ...
    def __contains__(self, item: Waiting) -> bool: ...
    def add(self, item: Waiting, now: float) -> None:
        """Give `item` the whole allowance from `now` (monotonic seconds), also when it waits here already."""

    def discard(self, item: Waiting) -> None: ...
    def expired(self, now: float) -> list[Waiting]:
        """Take out the items whose allowance ended at or before `now`, the longest waiting first."""
