"""What can go wrong with publishing. Every message is one line for people, and holds no key."""

from __future__ import annotations


class PublishError(Exception):
    """A message was not published, or it is not known whether it was (`Unanswered`)."""

    status = 0
    """The HTTP status of the server's answer, 0 where there is none."""


class BadStream(PublishError, ValueError):
    """The name cannot be that of a stream. Nothing was sent."""


class BadData(PublishError, TypeError):
    """The data cannot be written as JSON. Nothing was sent."""


class Unreachable(PublishError):
    """The server did not get the whole request, so it published nothing: trying again is safe."""


class Unanswered(PublishError):
    """The server got the request, but gave no answer that can be understood: it may have published the messages or
    not, and whoever tries again may publish them twice."""


class Refused(PublishError):
    """The server answered with another `status` than 200, and gave `reason`."""

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message, status, reason)  # all of them, so that it can be pickled
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


class TooLarge(Refused):
    """413: more than `max_broadcast_size` bytes or `max_batch` messages at once."""
