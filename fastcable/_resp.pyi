class ReplyError(Exception):
    """A reply that says why a command failed: `WRONGPASS invalid username-password pair`, say."""

Reply = bytes | int | float | None | ReplyError | list[Reply] | tuple[Reply, ...]

class ReplyParser:
    """`feed` answers the replies that are complete: bytes of strings and big numbers, int, float, bool, None, list of
    an array or a set, list of keys and values in turn of a map, `ReplyError`, and tuple of a push."""

    def __init__(self) -> None: ...
    problem: str | None
    """What broke the protocol, in one line; from then on everything is ignored."""
    def feed(self, data: bytes) -> list[Reply]: ...
