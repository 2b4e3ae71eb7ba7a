BOUNDS: tuple[float, ...]
"""The upper bounds of the buckets, in seconds."""

class Histogram:
    """Counts of durations in fixed buckets, which costs the same however many there are."""

    def observe(self, seconds: float) -> None: ...
    @property
    def counts(self) -> list[int]:
        """For each of `BOUNDS` how many were longer than the one before it and not longer than it; the last: longer."""

    @property
    def seconds(self) -> float:
        """All of them together."""
