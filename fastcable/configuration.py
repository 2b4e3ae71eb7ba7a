"""Where the options come from: defaults < file < environment < flags, checked before use."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastcable.channels import read_channels
from fastcable.options import Wrong, did_you_mean, is_loopback, quoted, split_address
from fastcable.settings import OPTIONS, PREFIX, Settings, SettingsError

CONFIG_FILE = "fastcable.toml"
OTHER_VARIABLES = ("FASTCABLE_CONFIG", "FASTCABLE_BROADCAST_URL", "FASTCABLE_TOKEN")  # not options, but ours
FIXED_PATHS = ("/health", "/health/live", "/health/ready", "/fastcable.js", "/fastcable-stream.js", "/_streams")
REPORT_PATHS = ("/metrics", "/_status", "/_status.json")
API_PATH = "/api/publish"  # of AnyCable, for broadcasts; it is there with a secret
STALE = 6  # seconds, of @rails/actioncable and @anycable/core
SAFE_SECRET = 32  # bytes, those of an HMAC-SHA256 (RFC 7518 §3.2)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The effective settings, the origin of each ("default", "fastcable.toml", "PORT", "--port"), and warnings."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: list[str]


_FILE, _ENVIRONMENT, _FLAG = 1, 2, 3  # ranks; 0 is the default
_KEYWORD = _FLAG


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

    def take_channels(self, origin: str, tables: object) -> None:
        try:
            self.values["channels"] = read_channels(tables)
        except Wrong as error:
            raise SettingsError(f"{origin}: {error}") from None

    def error(self, name: str, complaint: str) -> SettingsError:
        """Flags and variables name their option already; a file does not."""
        origin = self.origins[name]
        names_option = origin in ("PORT", OPTIONS[name].flag, OPTIONS[name].variable)
        return SettingsError(f"{origin}: {complaint}" if names_option else f"{origin}: {name}: {complaint}")


def load(flags: Mapping[str, str], environ: Mapping[str, str], config: str | None = None) -> Loaded:
    """Read all sources; `flags` maps option names to their text. Raises `SettingsError`.

    The file is `config`, else $FASTCABLE_CONFIG, else fastcable.toml where there is one.
    """
    sources = _Sources()
    _take_file(sources, environ, config)
    _take_environment(sources, environ)
    for name, text in flags.items():
        sources.take(_FLAG, name, OPTIONS[name].flag, OPTIONS[name].kind.parse, text)
    _derive_keys(sources)
    settings = Settings(**sources.values)  # type: ignore[arg-type]
    _check_paths(settings, sources)
    _check_socket(settings, sources)
    _check_keys(settings, sources)
    return Loaded(settings, sources.origins, [*sources.warnings, *_doubts(settings, sources)])


def load_keywords(
    keywords: Mapping[str, object], names: Collection[str], environ: Mapping[str, str], caller: str
) -> Loaded:
    """Settings of a `caller` in an application's process that has the options `names` only, and `channels` if they are
    among them: keyword arguments (None: not given) before the environment. Raises `SettingsError`."""
    sources = _Sources()
    others = {"PORT", *(option.variable for option in OPTIONS.values() if option.name not in names)}
    _take_environment(sources, {variable: text for variable, text in environ.items() if variable not in others})
    for name, value in keywords.items():
        if name not in names:
            hint = " (only fastcable serve has it)" if name in OPTIONS else did_you_mean(name, names)
            raise SettingsError(f"{caller}: {name}: unknown option{hint}")
        if value is None:
            continue
        if name == "channels":
            sources.take_channels(caller, value)
        else:
            raw = list(value) if isinstance(value, tuple) else value
            sources.take(_KEYWORD, name, caller, OPTIONS[name].kind.accept, raw)
    _derive_keys(sources)
    settings = Settings(**sources.values)  # type: ignore[arg-type]
    _check_paths(settings, sources)
    _check_keys(settings, sources)
    return Loaded(settings, sources.origins, [*sources.warnings, *_closed_channels(settings)])


def _take_file(sources: _Sources, environ: Mapping[str, str], config: str | None) -> None:
    named = config or environ.get("FASTCABLE_CONFIG")
    path = named or CONFIG_FILE
    if not named and not os.path.exists(path):
        return
    import tomllib

    try:
        with open(path, encoding="utf-8") as file:
            entries = tomllib.loads(file.read())
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None
    for name, value in entries.items():
        if name == "channels":
            sources.take_channels(path, value)
            continue
        option = OPTIONS.get(name)
        if option is None:
            what = "table" if isinstance(value, dict) else "option"
            shown = name if name.isprintable() else quoted(name)
            raise SettingsError(f"{path}: {shown}: unknown {what}{did_you_mean(name, OPTIONS)}")
        sources.take(_FILE, name, path, option.kind.accept, value)


def _take_environment(sources: _Sources, environ: Mapping[str, str]) -> None:
    if environ.get("PORT") and "FASTCABLE_PORT" not in environ:
        sources.take(_ENVIRONMENT, "port", "PORT", OPTIONS["port"].kind.parse, environ["PORT"])
    options = {option.variable: option for option in OPTIONS.values()}
    for variable in sorted(environ):
        option = options.get(variable)
        if option is not None:
            sources.take(_ENVIRONMENT, option.name, variable, option.kind.parse, environ[variable])
        elif variable.startswith(PREFIX) and variable not in OTHER_VARIABLES:
            shown = variable if variable.isprintable() else quoted(variable)
            sources.warnings.append(f"{shown}: unknown variable{did_you_mean(variable, options, PREFIX)}")


def _derive_keys(sources: _Sources) -> None:
    """What `secret` stands for where nothing else is given, as with AnyCable."""
    secret = sources.values.get("secret")
    if not isinstance(secret, str):
        return
    derived: dict[str, tuple[object, tuple[str, ...]]] = {
        "turbo_secret": ((secret,), ("turbo_secret", "secret_key_base")),
        "jwt_secret": ((secret,), ("jwt_secret", "jwt_public_key")),
    }
    for name, (value, instead) in derived.items():
        if sources.values.keys().isdisjoint(instead):
            sources.values[name] = value
            sources.origins[name] = f"secret of {sources.origins['secret']}"


# ---------------------------------------------------------------------------------------------------------------------
# What concerns more than one option


def _check_paths(settings: Settings, sources: _Sources) -> None:
    for name, path in (("cable_path", settings.cable_path), ("broadcast_path", settings.broadcast_path)):
        if path in FIXED_PATHS or path in REPORT_PATHS or (settings.secret and path == API_PATH):
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


def _check_keys(settings: Settings, sources: _Sources) -> None:
    """What is asked of clients must be possible to give, and what opens a way must not open it for everybody."""
    if settings.auth == "jwt" and not (settings.jwt_secret or settings.jwt_public_key):
        raise sources.error("auth", "jwt needs a jwt_secret or a jwt_public_key")
    if settings.signed_streams == "required":
        if not (settings.turbo_secret or settings.secret_key_base):
            raise sources.error("signed_streams", "required needs a turbo_secret or a secret_key_base")
        if settings.public_streams:
            raise sources.error("public_streams", "true cannot be combined with signed_streams = required")
    if settings.jwt_cookie and not settings.allowed_origins:
        raise sources.error("jwt_cookie", "needs allowed_origins: browsers send cookies with the connections of every "
                                          "site's pages")


def _doubts(settings: Settings, sources: _Sources) -> Iterable[str]:
    """Warnings: what is allowed, but hardly meant."""
    local = settings.uds is not None or all(map(is_loopback, settings.host))
    if sources.origins["port"] == "PORT" and local and not settings.uds:
        yield (f"PORT is set, but host is {','.join(settings.host)}: nobody outside this machine can connect "
               "(host 0.0.0.0 is all IPv4 addresses, :: all IPv6 addresses)")
    if not local and not settings.allowed_origins:
        yield "allowed_origins is not set: pages of every site may connect"
    if settings.broadcast_listen and not (settings.broadcast_key or settings.secret):
        host, _ = split_address(settings.broadcast_listen)
        if not is_loopback(host):
            yield "broadcast_listen is open to other machines, but without a broadcast_key only this one may publish"
    if settings.metrics_listen and not is_loopback(split_address(settings.metrics_listen)[0]):
        yield "metrics_listen is open to other machines: everybody there may read the metrics"
    for name in ("jwt_secret", "jwt_public_key", "jwt_audience", "jwt_cookie"):
        if settings.auth == "none" and sources.ranks[name]:
            yield f"{name} is set, but auth is none: nobody is asked for a token (auth = jwt does)"
    if settings.auth == "jwt" and not settings.jwt_require_exp:
        yield "jwt_require_exp is false: whoever has a token without exp may connect for ever"
    for name in ("secret", "turbo_secret", "jwt_secret"):
        secrets = getattr(settings, name) or ()
        if sources.ranks[name] and any(len(secret.encode()) < SAFE_SECRET
                                       for secret in ([secrets] if isinstance(secrets, str) else secrets)):
            yield (f"{name} is shorter than {SAFE_SECRET} bytes: it can be guessed from what it signs "
                   "(openssl rand -hex 32 makes a good one)")
    yield from _closed_channels(settings)
    if settings.idle_timeout and not settings.ping_interval:
        yield (f"ping_interval is 0: clients that only listen are closed after the idle_timeout "
               f"of {settings.idle_timeout:g} s")
    elif settings.idle_timeout and settings.idle_timeout <= 1.5 * settings.ping_interval:
        yield (f"idle_timeout ({settings.idle_timeout:g} s) is not greater than one and a half ping_interval "
               f"({settings.ping_interval:g} s): clients that only listen may be closed before they are pinged")
    if not 0 < settings.actioncable_ping_interval < STALE:
        yield (f"actioncable_ping_interval is {settings.actioncable_ping_interval:g}: Action Cable's clients give a "
               f"connection up after {STALE} s without a ping")


def _closed_channels(settings: Settings) -> Iterable[str]:
    for channel in settings.channels:
        if not channel.public and settings.auth == "none":
            yield f"channels.{channel.name} is not public: nobody may subscribe to it (those who have a token may)"
