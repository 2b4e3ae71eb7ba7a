"""Which process `fastcable serve` is: the server itself, the supervisor of workers, or what an old one has started in
order to be replaced."""

from __future__ import annotations

from fastcable import listeners
from fastcable.cores import available_cores
from fastcable.descriptors import raise_descriptor_limit
from fastcable.settings import Settings, SettingsError
from fastcable.standard_streams import complain
from fastcable.succession import ADOPT, CHECK, REPLACE, Succession


def launch(settings: Settings, succession: Succession | None = None, *, demo: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Errors are told in one line on stderr. The `succession` is
    what this process was started for, where it is no fresh start."""
    try:
        return _launch(settings, succession, demo)
    except SettingsError as error:
        complain(f"fastcable: {error}")
        return 2
    except listeners.CannotListen as error:
        complain(f"fastcable: {error}")
        return 1


def _launch(settings: Settings, succession: Succession | None, demo: bool) -> int:
    raise_descriptor_limit()
    if settings.broker.startswith("rediss:"):
        import ssl  # noqa: F401 (before uvloop, which does without it else)
    if succession is not None and succession.role in (ADOPT, REPLACE):
        from fastcable import supervisor

        return supervisor.adopt(settings, succession, demo=demo)

    from fastcable.event_loop import import_event_loop

    import_event_loop()  # before all those who import asyncio or uvloop themselves
    if succession is None:
        if settings.workers == 1:
            from fastcable import process

            return process.run(settings, demo=demo)
        from fastcable import supervisor

        return supervisor.run(settings, demo=demo)
    if succession.role == CHECK:
        return _check(settings, demo)
    from fastcable import worker

    return worker.succeed(settings, succession.description, demo=demo)


def _check(settings: Settings, demo: bool) -> int:
    """Find out whether the server would start; a message to whoever asks for it is the last line on stdout."""
    import uvloop

    from fastcable import check, process, supervisor, worker  # noqa: F401 (whether they can be imported)
    from fastcable.server import Server

    loop = uvloop.new_event_loop()
    try:
        server = Server(worker.share(settings, 0, settings.workers or available_cores()), loop, demo=demo)
        loop.run_until_complete(server.stop())
    finally:
        loop.close()
    print(check.fixed(settings).decode(), flush=True)
    return 0
