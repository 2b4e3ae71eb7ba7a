from collections.abc import Callable

from fastcable._hub import Group
from fastcable._threads import ThreadPool

class WebSocketGroup(Group):
    @property
    def before(self) -> bytes: ...
    @property
    def after(self) -> bytes: ...
    def __init__(self, before: bytes, after: bytes, threads: ThreadPool | None = None) -> None: ...

class DeflatedGroup(WebSocketGroup):
    def __init__(
        self, before: bytes, after: bytes, threads: ThreadPool | None, deflate: Callable[[bytes], bytes | None]
    ) -> None: ...

class NegotiatedGroup(WebSocketGroup):
    def __init__(
        self, before: bytes, after: bytes, deflate: Callable[[bytes], bytes | None], threads: ThreadPool | None = None
    ) -> None: ...
