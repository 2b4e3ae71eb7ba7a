class Meter:
    """Messages that clients sent, against the `rate` (messages per second) that each may send."""

    def __init__(self, rate: float) -> None: ...
    @property
    def throttled(self) -> dict[object, None]:
        """Those that are not read."""

    def refill(self, seconds: float) -> None: ...
    def forget(self, connection: object) -> None: ...
