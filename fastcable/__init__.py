"""fastcable: a WebSocket publish/subscribe server, and what applications publish with:

    from fastcable import Publisher

    Publisher().broadcast("scores", {"heat": 4})
"""

__version__ = "0.1.0"

__all__ = [
    "AsyncPublisher",
    "BadData",
    "BadStream",
    "PublishError",
    "Publisher",
    "Refused",
    "TooLarge",
    "Unanswered",
    "Unreachable",
]

TYPE_CHECKING = False  # as typing's, without loading it

if TYPE_CHECKING:
    from fastcable.client.async_publisher import AsyncPublisher
    from fastcable.client.errors import (
        BadData,
        BadStream,
        PublishError,
        Refused,
        TooLarge,
        Unanswered,
        Unreachable,
    )
    from fastcable.client.publisher import Publisher
else:
    _HOMES = {"AsyncPublisher": "async_publisher", "Publisher": "publisher"}

    def __getattr__(name):
        """Publishing is loaded when it is used: the server has no need of it, nor has an application of the server."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"fastcable.client.{_HOMES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
