"""Kinds of option: how a value is read from text and from TOML, and how it is shown.

`parse` reads a flag or variable, `accept` a TOML value, `show` writes what `parse` reads.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

_N = TypeVar("_N", int, float)

KIB, MIB, GIB = 2**10, 2**20, 2**30
DAY = 86_400
MASK = "********"


class Wrong(ValueError):
    """What is wrong with a value, without saying whose it is."""


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
            raise Wrong(f"expected a whole number{' or auto' if self.auto else ''}, got {quoted(text)}"
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
    auto: bool = False
    """Also takes the word `auto`, which becomes None."""
    unit: str = "SIZE"

    def parse(self, text: str) -> int | None:
        if self.auto and text == "auto":
            return None
        match = re.fullmatch(r"(-?[0-9]{1,18})(KiB|MiB|GiB)?", text)
        if not match:
            raise Wrong(f"expected bytes or a size such as 64KiB, 1MiB or 1GiB{' or auto' if self.auto else ''}, "
                        f"got {quoted(text)}")
        factor = {None: 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}[match[2]]
        return self._checked(int(match[1]) * factor)

    def accept(self, value: object) -> int | None:
        if isinstance(value, str):
            return self.parse(value)
        if type(value) is not int:
            raise Wrong(f"expected bytes or a size such as \"64KiB\", got {_type_name(value)}")
        return self._checked(value)

    def _checked(self, size: int) -> int:
        return _within(size, self.least, self.most, self.show)

    def show(self, value: object) -> str:
        if value is None:
            return "auto"
        size = cast(int, value)
        for factor, unit in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
            if size and size % factor == 0:
                return f"{size // factor}{unit}"
        return str(size)


@dataclass(frozen=True, slots=True)
class Seconds:
    """A time span."""

    least: float = 0
    most: int = DAY
    unit: str = "SECONDS"

    def parse(self, text: str) -> float:
        if not re.fullmatch(r"-?[0-9]{0,18}\.?[0-9]{1,18}", text):
            raise Wrong(f"expected seconds, such as 30 or 0.5, got {quoted(text)}")
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
            raise Wrong(f"expected {either(self.words)}, got {quoted(text)}{did_you_mean(text, self.words)}")
        return text

    def accept(self, value: object) -> str:
        if not isinstance(value, str):
            raise Wrong(f"expected {either(self.words)}, got {_type_name(value)}")
        return self.parse(value)

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Boolean:
    """Yes or no."""

    unit: str = "true|false"

    def parse(self, text: str) -> bool:
        if text not in ("true", "false"):
            raise Wrong(f"expected true or false, got {quoted(text)}")
        return text == "true"

    def accept(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise Wrong(f"expected true or false, got {_type_name(value)}")
        return value

    def show(self, value: object) -> str:
        return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class Text:
    """A string that `check` has found good; it may put it into its usual form."""

    unit: str
    check: Callable[[str], str]
    secret: bool = False
    shown: Callable[[str], str] = str
    """As people may see it, where only a part is secret."""

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
        return MASK if self.secret else self.shown(str(value))


@dataclass(frozen=True, slots=True)
class Texts:
    """Several strings: comma-separated in flags and variables, an array (or one string) in TOML."""

    unit: str
    check: Callable[[str], str]
    secret: bool = False
    shown: Callable[[str], str] = str

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
                raise Wrong(f"names {'a secret' if self.secret else quoted(good)} twice")
            checked.append(good)
        if not checked:
            raise Wrong("must not be empty (leave it out to have the default)")
        return tuple(checked)

    def show(self, value: object) -> str:
        entries = cast("tuple[str, ...]", value)
        return ",".join(MASK if self.secret else self.shown(entry) for entry in entries) or "-"


def masked_url(text: str) -> str:
    """A URL without its password."""
    text = re.sub(r"(?<=://)([^/@:]*):.*@", rf"\1:{MASK}@", text)  # a password may hold what it should have escaped
    return re.sub(r"(?<=[?&]password=)[^&]*", MASK, text)


# Checks of strings


def either(words: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join([*([", ".join(words[:-1])] if words[1:] else []), words[-1]])


def _within(number: _N, least: float, most: float, show: Callable[[object], str] = str) -> _N:
    if not least <= number <= most:
        raise Wrong(f"must be {show(least)} to {show(most)}, got {show(number)}")
    return number


def quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")


def _type_name(value: object) -> str:
    if isinstance(value, list) and value:
        return "an array with other things"
    names = {bool: "a boolean", int: "a whole number", str: "a string", list: "an empty array", dict: "a table"}
    kind = type(value)
    if kind.__module__ == "datetime":
        return "a date or time"
    return names.get(kind, f"{value}" if kind is float else f"a {kind.__name__}")


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """` (did you mean …?)` where one of `known` resembles `word`, besides the `prefix` of all; else nothing."""
    import difflib

    close = difflib.get_close_matches(word.removeprefix(prefix), [name.removeprefix(prefix) for name in known], 1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""


def is_ipv6(text: str) -> bool:
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
    if is_ipv6(bare) or re.fullmatch(r"[A-Za-z0-9._-]+", bare):
        return bare
    hint = " (0.0.0.0 and :: are all addresses)" if text == "*" else ""
    raise Wrong(f"expected host names or addresses without port, got {quoted(text)}{hint}")


def split_address(text: str) -> tuple[str, int]:
    """`127.0.0.1:3001` or `[::1]:3001` → host and port."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or is_ipv6(host) or (bracketed and not is_ipv6(host[1:-1])):
        raise Wrong(f"expected HOST:PORT, such as 127.0.0.1:3001 or [::1]:3001, got {quoted(text)}")
    return host_name(host), cast(int, Number(most=65535).parse(port))


def address(text: str) -> str:
    split_address(text)
    return text


def proxy(text: str) -> str:
    """An entry of trusted_proxies: an address, a network or `unix`, in its usual form."""
    if text == "unix":
        return text
    from ipaddress import ip_network

    try:
        network = ip_network(text, strict=False)
        mapped = getattr(network.network_address, "ipv4_mapped", None)
    except ValueError:
        raise Wrong(f"expected an address, a network such as 10.0.0.0/8, or unix, got {quoted(text)}") from None
    if mapped is not None:
        raise Wrong(f"expected IPv4 in its usual form ({mapped}), got {quoted(text)}")
    if "/" in text and str(network.network_address) != str(ip_network(text.partition("/")[0]).network_address):
        raise Wrong(f"{quoted(text)} is no network (did you mean {network}?)")
    return str(network) if "/" in text else str(network.network_address)


def url_path(text: str) -> str:
    if not text.startswith("/"):
        raise Wrong(f"must start with /, got {quoted(text)}")
    if not re.fullmatch(r"[!-~]+", text) or "?" in text or "#" in text:
        raise Wrong(f"must be a plain path without query, white space or unescaped characters, got {quoted(text)}")
    return text


def broker_url(text: str) -> str:
    if text != "memory" and not re.fullmatch(r"(rediss?|unix)://[!-~]+", text):
        raise Wrong("expected memory, or a URL such as redis://127.0.0.1:6379/0, rediss://… or unix:///run/redis.sock, "
                    f"got {quoted(masked_url(text))}")
    return text


def source_url(text: str) -> str:
    if not re.fullmatch(r"solid_cable:///[^\0-\x1f\x7f]+|(solid_cable\+)?postgresql://[!-~]*", text):
        raise Wrong(f"expected a URL such as solid_cable:///srv/app/storage/production_cable.sqlite3 or "
                    f"postgresql://user@host/database, got {quoted(masked_url(text))}")
    return text


def channel_prefix(text: str) -> str:
    if not text.isprintable():
        raise Wrong(f"must be printable, got {quoted(text)}")
    return text


def socket_path(text: str) -> str:
    if not text.isprintable() or len(text.encode(errors="surrogateescape")) > 107:  # sun_path holds 108 with its NUL
        raise Wrong(f"must be a printable path of at most 107 bytes, got {quoted(text)}")
    return text


def bearer_key(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise Wrong("must be printable ASCII without spaces or line ends")
    return text


def secret_text(text: str) -> str:
    """A secret whose UTF-8 is a key. What is wrong with it is told without any of it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Wrong("must be valid UTF-8") from None
    if re.search("-----BEGIN|^(ssh|ecdsa)-|\"kty\"", text):
        raise Wrong("is a key for asymmetric algorithms, which is no secret (for tokens, give the file of the public "
                    "key as jwt_public_key)")
    if re.search("[\0-\x1f\x7f]", text):
        raise Wrong("must not contain line ends or other control characters")
    return text


def file_path(text: str) -> str:
    if not text.isprintable():
        raise Wrong(f"must be a printable path, got {quoted(text)}")
    return text


def cookie_name(text: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", text):  # RFC 6265 §4.1.1
        raise Wrong(f"must be the name of a cookie, got {quoted(text)}")
    return text


def audience(text: str) -> str:
    if not text.isprintable():
        raise Wrong(f"must be printable, got {quoted(text)}")
    return text


def origin(text: str) -> str:
    """An entry of allowed_origins in the form in which browsers send it: lower case, no default port (RFC 6454)."""
    if text == "*":
        raise Wrong("'*' is not an origin (leave allowed_origins out to allow all)")
    host_form = r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]"
    match = re.fullmatch(rf"([a-z][a-z0-9+.-]*)://({host_form})(:[0-9]{{1,5}})?", text.lower())
    if not match or (match[2].startswith("[") and not is_ipv6(match[2][1:-1])):
        raise Wrong(f"expected SCHEME://HOST[:PORT] without path, such as https://example.com or "
                    f"https://*.example.com, got {quoted(text)}")
    scheme, host, port = match.groups()
    default = {"http": ":80", "https": ":443"}.get(scheme)
    return f"{scheme}://{host}{'' if port in (None, default) else port}"
