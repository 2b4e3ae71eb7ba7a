from fastcable._hub import Group, Hub, Subscriber
from fastcable._outbox import Limits, Outbox
from fastcable.dialects import Dialect

class TextSubscriber(Subscriber):
    """One whose answers and messages wait in its `outbox` until its writer takes them."""

    blocked: bool
    """The transport makes the writer wait, so the outbox has limits."""
    closing: bool
    """Nothing more is put into the outbox."""
    def __init__(self, hub: Hub, dialect: Dialect, limits: Limits) -> None: ...
    @property
    def hub(self) -> Hub: ...
    @property
    def outbox(self) -> Outbox: ...
    def fail(self, code: int, reason: str) -> None:
        """Close without what waits in the outbox."""
    # To be defined
    def wake(self) -> None:
        """Something has been put into the outbox."""

    def end(self, code: int, reason: str) -> None:
        """Send what waits in the outbox, then close."""

class TextGroup(Group):
    """Subscribers whose text for a message is `before`, the message, `after`."""

    def __init__(self, before: bytes, after: bytes) -> None: ...
