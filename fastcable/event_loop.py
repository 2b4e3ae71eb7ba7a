"""Imports asyncio and uvloop without modules that they name and a server of plain connections never uses: `ssl` alone
takes 4 MB.

In `sys.modules` such a module is replaced for the time of that import only; anybody may import and use it later.
What asyncio gets in its place passes on to the real module what is asked of it, so asyncio lacks nothing. uvloop takes
classes out of `ssl` right away, among them exceptions to catch, for which nothing else can stand: what it gets refuses
TLS. Whoever needs TLS on a uvloop loop imports `ssl` before that, and then uvloop gets the real one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import ModuleType


class Later(ModuleType):
    """Stands in for a module that is imported when something of it is asked for."""

    def __getattr__(self, name: str) -> object:
        self.step_aside()
        return getattr(import_module(self.__name__), name)

    def step_aside(self) -> None:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


class Refused(type):
    """A class of `ssl` that nobody can call, and whose real instances nobody can use."""

    def __call__(cls, *_: object, **__: object) -> object:
        raise cls.refusal()

    def __instancecheck__(cls, instance: object) -> bool:
        real = sys.modules.get("ssl")  # while nobody has loaded it there are no instances
        if real is not None and isinstance(instance, getattr(real, cls.__name__)):
            raise cls.refusal()
        return False

    def refusal(cls) -> RuntimeError:
        return RuntimeError(f"no TLS on this event loop: uvloop was imported before ssl ({cls.__name__})")


class WithoutTLS(Later):
    """`ssl`, as far as uvloop takes something out of it when it is imported."""

    SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_ERROR_SYSCALL = 2, 3, 5

    def __init__(self) -> None:
        super().__init__("ssl")
        for name in (
            "SSLContext", "MemoryBIO", "create_default_context",
            "SSLError", "SSLWantReadError", "SSLSyscallError", "SSLZeroReturnError", "CertificateError",
        ):
            setattr(self, name, Refused(name, (Exception,), {}))


@contextmanager
def standing_in(*modules: Later) -> Iterator[None]:
    """Within the `with`, these are what others import, unless the real ones are there already."""
    for module in modules:
        sys.modules.setdefault(module.__name__, module)
    try:
        yield
    finally:
        for module in modules:
            module.step_aside()


def import_event_loop() -> None:
    """Import asyncio and uvloop, and of `ssl`, `asyncio.sslproto` and `locale` only what is loaded already."""
    with standing_in(Later("asyncio.sslproto"), Later("locale")):
        with standing_in(Later("ssl")):
            import asyncio  # noqa: F401
        # A uvloop that fails for want of more is imported once more by who uses it, with the real ssl.
        with suppress(Exception), standing_in(WithoutTLS()):
            import uvloop  # noqa: F401
