"""Which stream an Action Cable subscription stands for, where no Rails is asked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fastcable.options import Wrong, did_you_mean, quoted
from fastcable.stream_name import stream_name_error

TURBO = "Turbo::StreamsChannel"
PUBSUB = "$pubsub"

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_is_name = re.compile(r"[A-Za-z_][A-Za-z0-9_]*").fullmatch
_is_value = re.compile(r"[\w-]{1,200}").fullmatch  # letters and digits of any script, _ and -


class Verifier(Protocol):
    def verify(self, token: str) -> str | None:
        """The stream name that was signed, if it was."""
        ...


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel of the configuration: `stream` has the parameters that it takes from the identifier in braces.

    No value may make one stream's name read as another's: each stands between separators, which are all characters of
    `stream` but letters and digits, and is a word that holds none of these. Raises `Wrong` if that cannot be.
    """

    name: str
    stream: str
    public: bool = False

    def __post_init__(self) -> None:
        texts = _PLACEHOLDER.split(self.stream)
        literals, names = texts[::2], texts[1::2]
        for name in names:
            if not _is_name(name):
                raise Wrong(f"stream: {quoted('{' + name + '}')} does not name a parameter")
            if name == "channel":
                raise Wrong("stream: {channel} is the channel's own name: write it out")
        if any("{" in literal or "}" in literal for literal in literals):
            raise Wrong("stream: a brace without its counterpart")
        for index, name in enumerate(names):
            before, after = literals[index], literals[index + 1]
            if before[-1:].isalnum() or after[:1].isalnum() or (index and not before):
                raise Wrong(f"stream: {{{name}}} must stand between separators such as :, got {quoted(self.stream)}")
        problem = stream_name_error(_PLACEHOLDER.sub("1", self.stream))
        if problem:
            raise Wrong(f"stream: {problem}")

    def stream_of(self, params: Mapping[str, Any]) -> str | None:
        """The stream for these parameters; None: one is missing or is no word or number."""
        separators = {character for character in _PLACEHOLDER.sub("", self.stream) if not character.isalnum()}
        values = {}
        for name in _PLACEHOLDER.findall(self.stream):
            value = params.get(name)
            if type(value) is int:
                value = str(value)
            if type(value) is not str or not _is_value(value) or not separators.isdisjoint(value):
                return None
            values[name] = value
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.stream)


def read_channels(table: object) -> tuple[Channel, ...]:
    """The table `channels` of the configuration. Raises `Wrong`."""
    if not isinstance(table, dict):
        raise Wrong("channels: expected tables such as [channels.Scores]")
    return tuple(_read_channel(name, entry) for name, entry in table.items())


def _read_channel(name: str, entry: object) -> Channel:
    shown = "channels." + (name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else quoted(name))
    if not isinstance(entry, dict):
        raise Wrong(f"{shown}: expected a table, such as [channels.Scores]")
    if not name:
        raise Wrong(f"{shown}: a channel must have a name")
    if name in (TURBO, PUBSUB):
        raise Wrong(f"{shown}: is served as it is, by signed_stream_name")
    for key in entry:
        if key not in ("stream", "public"):
            raise Wrong(f"{shown}.{key if key.isprintable() else quoted(key)}: unknown key"
                        f"{did_you_mean(key, ('stream', 'public'))}")
    if "stream" not in entry:
        raise Wrong(f'{shown}.stream: is missing: which stream is it, such as "scores:{{game}}"?')
    if not isinstance(entry["stream"], str):
        raise Wrong(f"{shown}.stream: expected a string")
    if not isinstance(entry.get("public", False), bool):
        raise Wrong(f"{shown}.public: expected true or false")
    try:
        return Channel(name, entry["stream"], entry.get("public", False))
    except Wrong as error:
        raise Wrong(f"{shown}.{error}") from None


class Authorizer:
    """Answers from the identifier alone: signed names by `verifier`, if there is one; any name of `$pubsub` if
    `public_streams`; and the public ones of `channels`, or all of them (`every_channel`)."""

    __slots__ = ("_channels", "_public_streams", "_verifier")

    def __init__(
        self, channels: Iterable[Channel] = (), verifier: Verifier | None = None, public_streams: bool = False,
        *, every_channel: bool = False,
    ) -> None:
        self._channels = {channel.name: channel for channel in channels if channel.public or every_channel}
        self._verifier = verifier
        self._public_streams = public_streams

    def __call__(self, channel: str, params: Mapping[str, Any]) -> str | None:
        """The stream of a subscription; None: it is rejected."""
        if channel == TURBO or (channel == PUBSUB and "signed_stream_name" in params):
            token = params.get("signed_stream_name")
            if self._verifier is None or type(token) is not str:
                return None
            return self._verifier.verify(token)
        if channel == PUBSUB:
            name = params.get("stream_name")
            return name if self._public_streams and type(name) is str else None
        known = self._channels.get(channel)
        return None if known is None else known.stream_of(params)
