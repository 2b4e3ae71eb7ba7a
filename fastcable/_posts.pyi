from typing import NamedTuple

class Refused(ValueError):
    """What is not taken as a broadcast: why, and the status to say so with."""

    def __init__(self, message: str, status: int = 400) -> None: ...
    status: int

class Post(NamedTuple):
    """A message in AnyCable's form; `data` is its text, and `embedded` tells that it is a string."""

    stream: str
    data: bytes
    exclude: str | None
    embedded: bool

class Disconnect(NamedTuple):
    """AnyCable's command."""

    identifier: str
    reconnect: bool

def anycable_posts(value: object, text: bytes, max_batch: int) -> list[Post] | Disconnect:
    """What is asked for in AnyCable's form: the messages, or the command. `text` is the JSON text of `value`; raises
    `Refused`."""
