"""The options of fastcable, each declared once.

Each field of `Settings` is the one declaration of its option. Made from it are the flag `--max-message-size`, the
variable `FASTCABLE_MAX_MESSAGE_SIZE`, the key `max_message_size` of fastcable.toml, `--help` and the manual's table.
Only `channels` is no option but tables of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TypeVar

from fastcable.channels import Channel
from fastcable.options import (
    KIB,
    MIB,
    Boolean,
    Choice,
    Kind,
    Number,
    Seconds,
    Size,
    Text,
    Texts,
    address,
    audience,
    bearer_key,
    broker_url,
    channel_prefix,
    cookie_name,
    either,
    file_path,
    host_name,
    masked_url,
    origin,
    proxy,
    secret_text,
    socket_path,
    source_url,
    url_path,
)

PREFIX = "FASTCABLE_"

_T = TypeVar("_T")


class SettingsError(Exception):
    """One line for the user: where the option came from, its name, what is wrong with it."""


def _secret(kind: Kind) -> bool:
    return isinstance(kind, Text | Texts) and (kind.secret or kind.shown is not str)


def _option(default: _T, kind: Kind, help: str, group: str = "") -> _T:
    """Declare an option. `group` opens a section of `--help`, which goes on until the next one."""
    return field(default=default, repr=not _secret(kind), metadata={"kind": kind, "help": help, "group": group})


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
    compression: bool = _option(
        False, Boolean(), "compress messages for clients that offer permessage-deflate, as browsers do")

    default_protocol: str = _option(
        "simple", Choice(("simple", "actioncable")), "what is spoken with clients that offer no subprotocol")

    broadcast_path: str = _option(
        "/_broadcast", Text("PATH", url_path), "where applications post messages", group="Publishing")
    broadcast_listen: str | None = _option(
        None, Text("HOST:PORT", address), "give the broadcast endpoint a listener of its own, such as 127.0.0.1:3001")
    broadcast_key: str | None = _option(
        None, Text("KEY", bearer_key, secret=True),
        "publishers must send Authorization: Bearer KEY; without a key or secret only this machine may publish")
    secret: str | None = _option(
        None, Text("SECRET", secret_text, secret=True),
        "AnyCable's secret: its publishers post with the keys that they make of it, and turbo_secret and jwt_secret "
        "come from it where they are not set")

    workers: int | None = _option(
        1, Number(1, 256, auto=True),
        "processes that share the port; auto is one for each core. 1: the process that was started is the server",
        group="More cores and machines")
    fanout_threads: int = _option(
        2, Number(1, 16),
        "threads of a worker that share a broadcast to thousands of clients, at most one for each core that there is "
        "for it; 1: none but the loop's")
    reload_drain: float = _option(
        30.0, Seconds(), "on SIGHUP the clients of the workers that are replaced are closed evenly over this")
    broker: str = _option(
        "memory", Text("URL", broker_url, shown=masked_url),
        "what carries messages between servers: memory is for one server, redis://, rediss:// and unix:// are Redis")
    publish_timeout: float = _option(
        2.0, Seconds(least=0.01), "time for the broker to take a message; then its publisher is answered 503")
    redis_channels: str = _option(
        "fastcable", Choice(("fastcable", "rails", "anycable")),
        "rails and anycable: hear also what Rails' redis adapter or AnyCable's broadcasters publish in that Redis")
    source: tuple[str, ...] = _option(
        (), Texts("URLS", source_url, shown=masked_url),
        "databases whose Solid Cable tables are read, such as solid_cable:///srv/app/storage/production_cable.sqlite3 "
        "or postgresql://user@host/database")
    source_interval: float = _option(0.1, Seconds(least=0.01), "time between two looks into a source")
    channel_prefix: str | None = _option(
        None, Text("TEXT", channel_prefix),
        "Rails' channel_prefix in cable.yml, for redis_channels = rails and for sources")

    turbo_secret: tuple[str, ...] = _option(
        (), Texts("SECRETS", secret_text, secret=True),
        "Turbo's signed_stream_verifier_key, or AnyCable's streams secret; of several the first signs and all verify",
        group="Signed streams")
    secret_key_base: tuple[str, ...] = _option(
        (), Texts("SECRETS", secret_text, secret=True),
        "the Rails application's secret_key_base, from which Turbo makes its key where it is given no other")
    secret_key_base_digest: str = _option(
        "sha256", Choice(("sha256", "sha1")), "how Rails makes keys from it; sha1 before load_defaults 7.0")
    signed_streams: str = _option(
        "off", Choice(("off", "required")), "required: clients of the simple protocol subscribe by signed names only")
    public_streams: bool = _option(
        False, Boolean(), "Action Cable's clients may subscribe to any stream by its name, with the channel $pubsub")

    auth: str = _option("none", Choice(("none", "jwt")), "jwt: clients must bring a valid token", group="Tokens")
    jwt_secret: tuple[str, ...] = _option(
        (), Texts("SECRETS", secret_text, secret=True), "takes tokens signed with it by HS256, HS384 or HS512")
    jwt_public_key: tuple[str, ...] = _option(
        (), Texts("FILES", file_path), "takes tokens whose RS256 or ES256 signatures this public key (PEM) verifies")
    jwt_audience: tuple[str, ...] = _option(
        (), Texts("NAMES", audience),
        "takes tokens for one of these only (aud); when left out, tokens for any audience are refused")
    jwt_require_exp: bool = _option(True, Boolean(), "refuses tokens that never expire (exp)")
    jwt_cookie: str | None = _option(
        None, Text("NAME", cookie_name), "takes a token from this cookie, too; needs allowed_origins")

    ping_interval: float = _option(30.0, Seconds(), "time between pings to each client", group="Times")
    actioncable_ping_interval: float = _option(
        3.0, Seconds(), "time between pings to each client of Action Cable, which waits 6 s for one")
    idle_timeout: float = _option(60.0, Seconds(), "a client that sends nothing for this long is closed")
    write_timeout: float = _option(10.0, Seconds(), "a client that takes no bytes for this long is cut off")
    handshake_timeout: float = _option(10.0, Seconds(), "time for a request to arrive whole")
    keepalive_timeout: float = _option(75.0, Seconds(), "idle HTTP connections are closed after this")
    close_timeout: float = _option(5.0, Seconds(), "time for a client to answer a close frame")
    drain_timeout: float = _option(2.0, Seconds(), "on shutdown clients are closed evenly over this; 0: at once")
    exit_when_idle: float = _option(
        0.0, Seconds(), "on sockets of systemd, exit when nobody was connected for this long; 0: never")

    max_message_size: int = _option(128 * KIB, Size(), "largest message taken from a client", group="Limits")
    max_broadcast_size: int = _option(MIB, Size(), "largest body of a broadcast")
    max_batch: int = _option(1000, Number(), "messages in one broadcast")
    max_header_bytes: int = _option(16 * KIB, Size(), "request line and headers of a request")
    max_headers: int = _option(100, Number(), "headers of a request")
    max_fragments: int = _option(4096, Number(), "frames of one message")
    max_errors: int = _option(32, Number(), "bad commands in a row before a client is closed")
    max_connections: int | None = _option(
        None, Number(auto=True),
        "WebSocket connections, divided among the workers; auto is the open-files limit less 128 for each of them")
    max_connections_per_address: int = _option(
        0, Number(), "WebSocket connections of one client address (of one /64 with IPv6), for each worker")
    trusted_proxies: tuple[str, ...] = _option(
        (), Texts("ADDRESSES", proxy),
        "proxies whose X-Forwarded-For says where clients are: addresses, networks such as 10.0.0.0/8, or unix for all "
        "on a Unix socket")
    max_handshakes_per_second: int = _option(
        0, Number(), "new WebSocket connections in a second, for each worker; the others are told to come back")
    max_messages_per_second: int = _option(
        0, Number(), "messages that one client may send, and ten times as many at once; who sends more is read slowly")
    memory_limit: int | None = _option(
        None, Size(most=2**20 * MIB, auto=True),
        "memory, divided among the workers; above 85 % of it new clients are refused. auto is that of the control "
        "group, if it has one")
    max_subscriptions: int = _option(1024, Number(), "streams of one connection")
    max_identifier_size: int = _option(
        4 * KIB, Size(), "identifier of an Action Cable subscription; larger ones are rejected")

    max_pending_messages: int = _option(
        256, Number(), "messages that may wait for one client's socket", group="Slow clients")
    max_pending_bytes: int = _option(MIB, Size(), "bytes that may wait for one client's socket")
    max_pending_total: int = _option(
        64 * MIB, Size(),
        "bytes that may wait for all clients' sockets, what several wait for counted once; above it those with most "
        "are closed. Broadcasts are refused while half as much waits for its turn")
    send_buffer: int = _option(64 * KIB, Size(), "the kernel's send buffer of each client; 0: the system's default")
    slow_consumer: str = _option(
        "drop", Choice(("drop", "latest", "close")),
        "over these limits: drop new messages for that client and tell it how many, keep only the newest message of "
        "each stream for it, or close it with 1013")

    max_retained_bytes: int = _option(
        16 * MIB, Size(), "last values kept for those who subscribe later, of all streams; the oldest go first",
        group="Retained values")
    retain_seconds: float = _option(3600.0, Seconds(), "time for which a last value is kept")

    metrics_listen: str | None = _option(
        None, Text("HOST:PORT", address),
        "give GET /metrics, for Prometheus, a listener of its own, such as 127.0.0.1:9310; who reaches it may read it",
        group="Watching")
    metrics: bool = _option(
        False, Boolean(), "answer GET /metrics beside the cable, too, to those who may publish")

    log_level: str = _option(
        "info", Choice(("debug", "info", "warning", "error")), "least serious messages to log", group="Logging")
    log_format: str = _option("text", Choice(("text", "json")), "form of the log on stderr")

    channels: tuple[Channel, ...] = ()


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
        return _secret(self.kind)

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


def _declared() -> Iterable[Option]:
    group = ""
    for declared in fields(Settings):
        if declared.name == "channels":
            continue
        group = declared.metadata["group"] or group
        yield Option(declared.name, declared.default, declared.metadata["kind"], declared.metadata["help"], group)


OPTIONS: Mapping[str, Option] = {option.name: option for option in _declared()}


def options_table() -> str:
    """The manual's table of options, in Markdown."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for option in OPTIONS.values():
        default = option.kind.show(option.default) + (" s" if isinstance(option.kind, Seconds) else "")
        words = ""
        if isinstance(option.kind, Choice):
            words = either([f"`{word}`" for word in option.kind.words]) + ": "
        rows.append(f"| `{option.name}` | {default} | {words}{option.help} |")
    return "\n".join(rows) + "\n"
