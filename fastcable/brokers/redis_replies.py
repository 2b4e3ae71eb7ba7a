"""What Redis answers: its protocol (RESP3), sans-I/O, read by `hiredis`."""

from __future__ import annotations

from typing import Any

MOST_BYTES = 64 << 20
"""Of replies that are not there whole: twice what Redis lets wait for a subscriber by default."""

Reply = Any
"""Bytes of strings and big numbers, int, float, bool, None, list of an array or a set, dict of a map, `ReplyError`, and
tuple of a push."""

INCOMPLETE = object()


class ReplyError(Exception):
    """A reply that says why a command failed: `WRONGPASS invalid username-password pair`, say."""


class Replies:
    """`feed` answers the replies that are complete.

    What breaks the protocol is told in one line by `problem`, after the replies from before it; from then on all is
    ignored."""

    def __init__(self) -> None:
        import hiredis  # only here: `Endpoint` says so where it is missing

        self._reader = hiredis.Reader(replyError=ReplyError, notEnoughData=INCOMPLETE)
        self._errors = hiredis.ProtocolError, TypeError  # this of a map whose keys are maps
        self._push = hiredis.PushNotification
        self.problem: str | None = None

    def feed(self, data: bytes) -> list[Reply]:
        replies: list[Reply] = []
        if self.problem is not None:
            return replies
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not INCOMPLETE:
                replies.append(tuple(reply) if type(reply) is self._push else reply)
        except self._errors as error:
            self.problem = str(error)
        except MemoryError:
            self.problem = "a reply has too many items"
        if self._reader.len() > MOST_BYTES:
            self.problem = f"a reply has more than {MOST_BYTES >> 20} MiB"
        return replies
