"""The options of fastcable: declared once, read from defaults < file < environment < flags, checked before use.

Each field of `Settings` is the one declaration of its option. Made from it are the flag `--max-message-size`, the
variable `FASTCABLE_MAX_MESSAGE_SIZE`, the key `max_message_size` of fastcable.toml, `--help` and the manual's table.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

CONFIG_FILE = "fastcable.toml"
PREFIX = "FASTCABLE_"
OTHER_VARIABLES = ("FASTCABLE_CONFIG", "FASTCABLE_BROADCAST_URL")  # not options, but ours
FIXED_PATHS = ("/health", "/fastcable.js")

_T = TypeVar("_T")
_N = TypeVar("_N", int, float)

KIB, MIB, GIB = 2**10, 2**20, 2**30
DAY = 86_400


class SettingsError(Exception):
    """One line for the user: where the option came from, its name, what is wrong with it."""


class Wrong(ValueError):
    """What is wrong with a value, without saying whose it is."""


# ---------------------------------------------------------------------------------------------------------------------
# Kinds of option: `parse` reads a flag or variable, `accept` a TOML value, `show` writes what `parse` reads.


class Kind(Protocol):
    @property
    def unit(self) -> str: ...
    def parse(self, text: str) -> object: ...
    def accept(self, value: object) -> object: ...
    def show(self, value: object) -> str: ...


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number of things."""

    least: int = 0
    most: int = 2**31 - 1
    auto: bool = False
    """Also takes the word `auto`, which becomes None."""
    unit: str = "N"

    def parse(self, text: str) -> int | None:
        if self.auto and text == "auto":
            return None
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            hint = " (set by Kubernetes for a service named fastcable: enableServiceLinks: false stops that)"
            raise Wrong(f"expected a whole number{' or auto' if self.auto else ''}, got {_quoted(text)}"
                        f"{hint if text.startswith('tcp://') else ''}")
        return _within(int(text), self.least, self.most)

    def accept(self, value: object) -> int | None:
        if self.auto and value == "auto":
            return None
        if type(value) is not int:
            raise Wrong(f"expected a whole number{' or auto' if self.auto else ''}, got {_type_name(value)}")
        return _within(value, self.least, self.most)

    def show(self, value: object) -> str:
        return "auto" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes, which may be written with a binary unit: 65536 or 64KiB."""

    least: int = 0
    most: int = GIB
    unit: str = "SIZE"

    def parse(self, text: str) -> int:
        match = re.fullmatch(r"(-?[0-9]{1,18})(KiB|MiB|GiB)?", text)
        if not match:
            raise Wrong(f"expected bytes or a size such as 64KiB, 1MiB or 1GiB, got {_quoted(text)}")
        factor = {None: 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}[match[2]]
        return self._checked(int(match[1]) * factor)

    def accept(self, value: object) -> int:
        if isinstance(value, str):
            return self.parse(value)
        if type(value) is not int:
            raise Wrong(f"expected bytes or a size such as \"64KiB\", got {_type_name(value)}")
        return self._checked(value)

    def _checked(self, size: int) -> int:
        return _within(size, self.least, self.most, self.show)

    def show(self, value: object) -> str:
        size = cast(int, value)
        for factor, unit in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
            if size and size % factor == 0:
                return f"{size // factor}{unit}"
        return str(size)


@dataclass(frozen=True, slots=True)
class Seconds:
    """A time span."""

    least: int = 0
    most: int = DAY
    unit: str = "SECONDS"

    def parse(self, text: str) -> float:
        if not re.fullmatch(r"-?[0-9]{0,18}\.?[0-9]{1,18}", text):
            raise Wrong(f"expected seconds, such as 30 or 0.5, got {_quoted(text)}")
        return _within(float(text), self.least, self.most)

    def accept(self, value: object) -> float:
        if type(value) not in (int, float) or not math.isfinite(cast(float, value)):
            raise Wrong(f"expected seconds, such as 30 or 0.5, got {_type_name(value)}")
        return _within(float(cast(float, value)), self.least, self.most)

    def show(self, value: object) -> str:
        return f"{value:.15g}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def unit(self) -> str:
        return "|".join(self.words)

    def parse(self, text: str) -> str:
        if text not in self.words:
            raise Wrong(f"expected {' or '.join(self.words)}, got {_quoted(text)}{did_you_mean(text, self.words)}")
        return text

    def accept(self, value: object) -> str:
        if not isinstance(value, str):
            raise Wrong(f"expected {' or '.join(self.words)}, got {_type_name(value)}")
        return self.parse(value)

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Text:
    """A string that `check` has found good; it may put it into its usual form."""

    unit: str
    check: Callable[[str], str]
    secret: bool = False

    def parse(self, text: str) -> str:
        if not text:
            raise Wrong("must not be empty (leave it out to have none)")
        return self.check(text)

    def accept(self, value: object) -> str:
        if not isinstance(value, str):
            raise Wrong(f"expected a string, got {_type_name(value)}")
        return self.parse(value)

    def show(self, value: object) -> str:
        if value is None:
            return "-"
        return "********" if self.secret else str(value)


@dataclass(frozen=True, slots=True)
class Texts:
    """Several strings: comma-separated in flags and variables, an array (or one string) in TOML."""

    unit: str
    check: Callable[[str], str]

    def parse(self, text: str) -> tuple[str, ...]:
        return self._checked(entry.strip() for entry in text.split(","))

    def accept(self, value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            return self._checked([value])
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise Wrong(f"expected an array of strings, got {_type_name(value)}")
        return self._checked(value)

    def _checked(self, entries: Iterable[str]) -> tuple[str, ...]:
        checked: list[str] = []
        for entry in entries:
            if not entry:
                raise Wrong("must not have an empty entry")
            good = self.check(entry)
            if good in checked:
                raise Wrong(f"names {_quoted(good)} twice")
            checked.append(good)
        if not checked:
            raise Wrong("must not be empty (leave it out to have the default)")
        return tuple(checked)

    def show(self, value: object) -> str:
        return ",".join(cast("tuple[str, ...]", value)) or "-"


# ---------------------------------------------------------------------------------------------------------------------
# Checks of strings


def _within(number: _N, least: int, most: int, show: Callable[[object], str] = str) -> _N:
    if not least <= number <= most:
        raise Wrong(f"must be {show(least)} to {show(most)}, got {show(number)}")
    return number


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")


def _type_name(value: object) -> str:
    if isinstance(value, list) and value:
        return "an array with other things"
    names = {bool: "a boolean", int: "a whole number", str: "a string", list: "an empty array", dict: "a table"}
    return names.get(type(value), f"{value}" if isinstance(value, float) else "a date or time")


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """` (did you mean …?)` where one of `known` resembles `word`, besides the `prefix` of all; else nothing."""
    import difflib

    close = difflib.get_close_matches(word.removeprefix(prefix), [name.removeprefix(prefix) for name in known], 1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""


def _is_ipv6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    except (OSError, ValueError):
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a host to listen on is reachable from this machine only."""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None


def host_name(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if _is_ipv6(bare) or re.fullmatch(r"[A-Za-z0-9._-]+", bare):
        return bare
    hint = " (0.0.0.0 and :: are all addresses)" if text == "*" else ""
    raise Wrong(f"expected host names or addresses without port, got {_quoted(text)}{hint}")


def split_address(text: str) -> tuple[str, int]:
    """`127.0.0.1:3001` or `[::1]:3001` → host and port."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or _is_ipv6(host) or (bracketed and not _is_ipv6(host[1:-1])):
        raise Wrong(f"expected HOST:PORT, such as 127.0.0.1:3001 or [::1]:3001, got {_quoted(text)}")
    return host_name(host), cast(int, Number(most=65535).parse(port))


def address(text: str) -> str:
    split_address(text)
    return text


def url_path(text: str) -> str:
    if not text.startswith("/"):
        raise Wrong(f"must start with /, got {_quoted(text)}")
    if not re.fullmatch(r"[!-~]+", text) or "?" in text or "#" in text:
        raise Wrong(f"must be a plain path without query, white space or unescaped characters, got {_quoted(text)}")
    return text


def socket_path(text: str) -> str:
    if not text.isprintable() or len(text.encode(errors="surrogateescape")) > 107:  # sun_path holds 108 with its NUL
        raise Wrong(f"must be a printable path of at most 107 bytes, got {_quoted(text)}")
    return text


def bearer_key(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise Wrong("must be printable ASCII without spaces or line ends")
    return text


def origin(text: str) -> str:
    """An entry of allowed_origins in the form in which browsers send it: lower case, no default port (RFC 6454)."""
    if text == "*":
        raise Wrong("'*' is not an origin (leave allowed_origins out to allow all)")
    host_form = r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]"
    match = re.fullmatch(rf"([a-z][a-z0-9+.-]*)://({host_form})(:[0-9]{{1,5}})?", text.lower())
    if not match or (match[2].startswith("[") and not _is_ipv6(match[2][1:-1])):
        raise Wrong(f"expected SCHEME://HOST[:PORT] without path, such as https://example.com or "
                    f"https://*.example.com, got {_quoted(text)}")
    scheme, host, port = match.groups()
    default = {"http": ":80", "https": ":443"}.get(scheme)
    return f"{scheme}://{host}{'' if port in (None, default) else port}"


# ---------------------------------------------------------------------------------------------------------------------
# The options

def _option(default: _T, kind: Kind, help: str, group: str = "") -> _T:
    """Declare an option. `group` opens a section of `--help`, which goes on until the next one."""
    secret = isinstance(kind, Text) and kind.secret
    return field(default=default, repr=not secret, metadata={"kind": kind, "help": help, "group": group})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The effective options: sizes in bytes, times in seconds; 0 switches a limit or a time off."""

    host: tuple[str, ...] = _option(
        ("localhost",), Texts("HOSTS", host_name),
        "addresses to listen on, comma-separated; localhost is both loopback addresses", group="Listening")
    port: int = _option(3000, Number(most=65535), "TCP port; 0 takes a free one")
    uds: str | None = _option(None, Text("PATH", socket_path), "listen on this Unix socket instead of host and port")
    backlog: int = _option(4096, Number(1, 65535), "connections that may wait to be accepted")
    cable_path: str = _option("/cable", Text("PATH", url_path), "where WebSocket clients connect")
    allowed_origins: tuple[str, ...] = _option(
        (), Texts("ORIGINS", origin),
        "pages that may connect: exact origins, https://*.example.com for any subdomain; all when left out")

    broadcast_path: str = _option(
        "/_broadcast", Text("PATH", url_path), "where applications post messages", group="Publishing")
    broadcast_listen: str | None = _option(
        None, Text("HOST:PORT", address), "give the broadcast endpoint a listener of its own, such as 127.0.0.1:3001")
    broadcast_key: str | None = _option(
        None, Text("KEY", bearer_key, secret=True),
        "publishers must send Authorization: Bearer KEY; without a key only this machine may publish")

    ping_interval: float = _option(30.0, Seconds(), "time between pings to each client", group="Times")
    idle_timeout: float = _option(60.0, Seconds(), "a client that sends nothing for this long is closed")
    write_timeout: float = _option(10.0, Seconds(), "a client that takes no bytes for this long is cut off")
    handshake_timeout: float = _option(10.0, Seconds(), "time for a request to arrive whole")
    keepalive_timeout: float = _option(75.0, Seconds(), "idle HTTP connections are closed after this")
    close_timeout: float = _option(5.0, Seconds(), "time for a client to answer a close frame")
    drain_timeout: float = _option(2.0, Seconds(), "on shutdown clients are closed evenly over this; 0: at once")

    max_message_size: int = _option(128 * KIB, Size(), "largest message taken from a client", group="Limits")
    max_broadcast_size: int = _option(MIB, Size(), "largest body of a broadcast")
    max_batch: int = _option(1000, Number(), "messages in one broadcast")
    max_header_bytes: int = _option(16 * KIB, Size(), "request line and headers of a request")
    max_headers: int = _option(100, Number(), "headers of a request")
    max_fragments: int = _option(4096, Number(), "frames of one message")
    max_errors: int = _option(32, Number(), "bad commands in a row before a client is closed")
    max_connections: int | None = _option(
        None, Number(auto=True), "WebSocket connections; auto is the open-files limit less 128")
    max_subscriptions: int = _option(1024, Number(), "streams of one connection")

    max_pending_messages: int = _option(
        256, Number(), "messages that may wait for one client's socket", group="Slow clients")
    max_pending_bytes: int = _option(MIB, Size(), "bytes that may wait for one client's socket")
    send_buffer: int = _option(64 * KIB, Size(), "the kernel's send buffer of each client; 0: the system's default")
    slow_consumer: str = _option(
        "drop", Choice(("drop", "close")),
        "over these limits: drop new messages for that client and tell it how many, or close it with 1013")

    log_level: str = _option(
        "info", Choice(("debug", "info", "warning", "error")), "least serious messages to log", group="Logging")
    log_format: str = _option("text", Choice(("text", "json")), "form of the log on stderr")


@dataclass(frozen=True, slots=True)
class Option:
    """One option as declared above, with the names derived from it."""

    name: str
    default: object
    kind: Kind
    help: str
    group: str

    @property
    def secret(self) -> bool:
        return isinstance(self.kind, Text) and self.kind.secret

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


def _declared() -> Iterable[Option]:
    group = ""
    for declared in fields(Settings):
        group = declared.metadata["group"] or group
        yield Option(declared.name, declared.default, declared.metadata["kind"], declared.metadata["help"], group)


OPTIONS: Mapping[str, Option] = {option.name: option for option in _declared()}


def options_table() -> str:
    """The manual's table of options, in Markdown."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for option in OPTIONS.values():
        default = option.kind.show(option.default) + (" s" if isinstance(option.kind, Seconds) else "")
        words = f"`{'` or `'.join(option.kind.words)}`: " if isinstance(option.kind, Choice) else ""
        rows.append(f"| `{option.name}` | {default} | {words}{option.help} |")
    return "\n".join(rows) + "\n"


# ---------------------------------------------------------------------------------------------------------------------
# Sources


@dataclass(frozen=True, slots=True)
class Loaded:
    """The effective settings, the origin of each ("default", "fastcable.toml", "PORT", "--port"), and warnings."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: list[str]


_FILE, _ENVIRONMENT, _FLAG = 1, 2, 3  # ranks; 0 is the default


class _Sources:
    """Collects values; a later source overrides an earlier one."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.origins = dict.fromkeys(OPTIONS, "default")
        self.ranks = dict.fromkeys(OPTIONS, 0)
        self.warnings: list[str] = []

    def take(self, rank: int, name: str, origin: str, read: Callable[[Any], object], raw: object) -> None:
        self.origins[name], self.ranks[name] = origin, rank
        try:
            self.values[name] = read(raw)
        except Wrong as error:
            raise self.error(name, str(error)) from None

    def error(self, name: str, complaint: str) -> SettingsError:
        """Flags and variables name their option already; a file does not."""
        origin = self.origins[name]
        names_option = origin in ("PORT", OPTIONS[name].flag, OPTIONS[name].variable)
        return SettingsError(f"{origin}: {complaint}" if names_option else f"{origin}: {name}: {complaint}")


def load(flags: Mapping[str, str], environ: Mapping[str, str], config: Path | None = None) -> Loaded:
    """Read all sources; `flags` maps option names to their text. Raises `SettingsError`.

    The file is `config`, else $FASTCABLE_CONFIG, else fastcable.toml where there is one.
    """
    sources = _Sources()
    _take_file(sources, environ, config)
    _take_environment(sources, environ)
    for name, text in flags.items():
        sources.take(_FLAG, name, OPTIONS[name].flag, OPTIONS[name].kind.parse, text)
    settings = Settings(**sources.values)  # type: ignore[arg-type]
    _check_paths(settings, sources)
    _check_socket(settings, sources)
    return Loaded(settings, sources.origins, [*sources.warnings, *_doubts(settings, sources)])


def _take_file(sources: _Sources, environ: Mapping[str, str], config: Path | None) -> None:
    named = config or environ.get("FASTCABLE_CONFIG")
    path = Path(named or CONFIG_FILE)
    if not named and not path.exists():
        return
    import tomllib

    try:
        entries = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None
    for name, value in entries.items():
        option = OPTIONS.get(name)
        if option is None:
            what = "table" if isinstance(value, dict) else "option"
            shown = name if name.isprintable() else _quoted(name)
            raise SettingsError(f"{path}: {shown}: unknown {what}{did_you_mean(name, OPTIONS)}")
        sources.take(_FILE, name, str(path), option.kind.accept, value)


def _take_environment(sources: _Sources, environ: Mapping[str, str]) -> None:
    if environ.get("PORT") and "FASTCABLE_PORT" not in environ:
        sources.take(_ENVIRONMENT, "port", "PORT", OPTIONS["port"].kind.parse, environ["PORT"])
    options = {option.variable: option for option in OPTIONS.values()}
    for variable in sorted(environ):
        option = options.get(variable)
        if option is not None:
            sources.take(_ENVIRONMENT, option.name, variable, option.kind.parse, environ[variable])
        elif variable.startswith(PREFIX) and variable not in OTHER_VARIABLES:
            shown = variable if variable.isprintable() else _quoted(variable)
            sources.warnings.append(f"{shown}: unknown variable{did_you_mean(variable, options, PREFIX)}")


# ---------------------------------------------------------------------------------------------------------------------
# What concerns more than one option


def _check_paths(settings: Settings, sources: _Sources) -> None:
    for name, path in (("cable_path", settings.cable_path), ("broadcast_path", settings.broadcast_path)):
        if path in FIXED_PATHS:
            raise sources.error(name, f"{path} is taken, fastcable serves something else there")
    if settings.cable_path == settings.broadcast_path:
        name = max("broadcast_path", "cable_path", key=lambda name: sources.ranks[name])
        raise sources.error(name, "cable_path and broadcast_path must differ")


def _check_socket(settings: Settings, sources: _Sources) -> None:
    """uds replaces the host and port of a lower source; beside those of its own or a higher one it is a contradiction.

    PORT is set by platforms for every process, so it contradicts nothing.
    """
    for name in ("host", "port"):
        if settings.uds and sources.ranks[name] >= sources.ranks["uds"] and sources.origins[name] != "PORT":
            raise sources.error(name, f"cannot be combined with uds (from {sources.origins['uds']})")


def _doubts(settings: Settings, sources: _Sources) -> Iterable[str]:
    """Warnings: what is allowed, but hardly meant."""
    local = settings.uds is not None or all(map(is_loopback, settings.host))
    if sources.origins["port"] == "PORT" and local and not settings.uds:
        yield (f"PORT is set, but host is {','.join(settings.host)}: nobody outside this machine can connect "
               "(host 0.0.0.0 is all IPv4 addresses, :: all IPv6 addresses)")
    if not local and not settings.allowed_origins:
        yield "allowed_origins is not set: pages of every site may connect"
    if settings.broadcast_listen and not settings.broadcast_key:
        host, _ = split_address(settings.broadcast_listen)
        if not is_loopback(host):
            yield "broadcast_listen is open to other machines, but without a broadcast_key only this one may publish"
    if settings.idle_timeout and not settings.ping_interval:
        yield (f"ping_interval is 0: clients that only listen are closed after the idle_timeout "
               f"of {settings.idle_timeout:g} s")
    elif settings.idle_timeout and settings.idle_timeout <= settings.ping_interval:
        yield (f"idle_timeout ({settings.idle_timeout:g} s) is not greater than ping_interval "
               f"({settings.ping_interval:g} s): clients that only listen are closed before they are pinged")
