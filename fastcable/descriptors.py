"""How many open files a process may have, and what they are for."""

from __future__ import annotations

import contextlib
import resource
import sys

from fastcable.settings import Settings, SettingsError

RESERVED_DESCRIPTORS = 128
"""Open files that are not for WebSockets: listeners, the loop's own, and plain HTTP."""

HTTP_DESCRIPTORS = 96
"""Of these, for connections that are not WebSockets (yet); more are cut off at once, so that accepting never runs out
of descriptors: libuv would then close the whole backlog unheard."""


def connection_limit(settings: Settings) -> int:
    """`max_connections`, or what the open-files limit allows. Raises `SettingsError`."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    room = sys.maxsize if limit == resource.RLIM_INFINITY else limit - RESERVED_DESCRIPTORS
    wanted = settings.max_connections
    if wanted is None:
        if room <= 0:
            raise SettingsError(f"the open-files limit ({limit}) must be above {RESERVED_DESCRIPTORS}: see ulimit -n")
        return room
    if wanted > room:
        raise SettingsError(
            f"max_connections: {wanted} connections need {wanted + RESERVED_DESCRIPTORS} open files, "
            f"and the limit is {limit}: see ulimit -n")
    return wanted or room


def raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # some systems promise more than they grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
