from collections.abc import Callable
from typing import Final, final

Inflate = Callable[[bytes, int], bytes]

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

DEFLATED: Final = 0x40

NEED_DATA: Final = 0
FAILED: Final = -1

def encode_frame(opcode: int, payload: bytes, mask: bytes | None = None) -> bytes: ...
def encode_close(code: int, reason: str = "", mask: bytes | None = None) -> bytes: ...
def join_text_frames(before: bytes, payloads: list[bytes], after: bytes) -> bytes: ...

@final
class FrameParser:
    inflate: Inflate | None
    def __new__(
        cls,
        max_message_size: int,
        max_fragments: int,
        *,
        masked: bool = True,
        binary: bool = False,
        inflate: Inflate | None = None,
    ) -> FrameParser: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def code(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def idle(self) -> bool: ...
    def feed(self, data: bytes) -> None: ...
    def next(self) -> int: ...
