from typing import Final

from fastcable._hub import Group, Hub, Subscriber
from fastcable.channels import Verifier
from fastcable.dialects import Encoding

KEY: Final = "simple"
"""The key of all subscribers: the envelope is the same for everybody on a stream."""

class SimpleDialect:
    """`max_errors` bad commands in a row are answered, one more closes the connection (1008); 0: any number.

    The answer to a command with a bad name repeats that, up to 4096 bytes.
    """

    ping: bytes
    timed_pings: bool
    loses_silently: bool
    def __init__(self, hub: Hub, encoding: Encoding, max_errors: int) -> None: ...
    def opened(self, subscriber: Subscriber) -> None: ...
    def received(self, subscriber: Subscriber, text: bytes) -> None: ...
    def confirmed(self, subscriber: Subscriber, stream: str, key: object) -> None: ...
    def gap(self, stream: str, key: object, missed: int | None) -> bytes: ...
    def farewell(self, code: int, reason: str) -> bytes | None: ...
    def open_group(self, stream: str, key: object) -> Group: ...

class GuardedDialect(SimpleDialect):
    """The same protocol where names are signed (`verifier`) or streams are kept to those whose token opens them
    (`claimed`: each subscriber has `claims`).

    A name that nobody has signed is a bad command, whatever is wrong with it; one of more than `max_identifier_size`
    bytes is, too (0: any length). A stream that the claims do not allow is refused, but is no bad command.
    """

    def __init__(
        self, hub: Hub, encoding: Encoding, max_errors: int,
        verifier: Verifier | None, max_identifier_size: int, claimed: bool,
    ) -> None: ...
