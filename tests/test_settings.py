"""The options as they are declared."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from fastcable.settings import OPTIONS, Settings, options_table

README = Path(__file__).parent.parent / "README.md"


def test_defaults_are_those_of_the_manual() -> None:
    settings = Settings()
    assert {field.name: getattr(settings, field.name) for field in fields(settings)} == {
        "host": ("localhost",), "port": 3000, "uds": None, "backlog": 4096,
        "compression": False,
        "cable_path": "/cable", "broadcast_path": "/_broadcast", "broadcast_listen": None, "broadcast_key": None,
        "allowed_origins": (), "default_protocol": "simple", "secret": None,
        "workers": 1, "fanout_threads": 2, "reload_drain": 30, "broker": "memory", "publish_timeout": 2,
        "redis_channels": "fastcable", "source": (), "source_interval": 0.1, "channel_prefix": None,
        "turbo_secret": (), "secret_key_base": (), "secret_key_base_digest": "sha256",
        "signed_streams": "off", "public_streams": False,
        "auth": "none", "jwt_secret": (), "jwt_public_key": (), "jwt_audience": (), "jwt_require_exp": True,
        "jwt_cookie": None,
        "ping_interval": 30, "actioncable_ping_interval": 3,
        "idle_timeout": 60, "write_timeout": 10, "handshake_timeout": 10,
        "keepalive_timeout": 75, "close_timeout": 5, "drain_timeout": 2, "exit_when_idle": 0,
        "max_message_size": 131_072, "max_broadcast_size": 1_048_576, "max_batch": 1000,
        "max_header_bytes": 16_384, "max_headers": 100, "max_fragments": 4096, "max_errors": 32,
        "max_connections": None, "max_connections_per_address": 0, "trusted_proxies": (),
        "max_handshakes_per_second": 0, "max_messages_per_second": 0, "memory_limit": None,
        "max_subscriptions": 1024, "max_identifier_size": 4096,
        "max_pending_messages": 256, "max_pending_bytes": 1_048_576, "max_pending_total": 67_108_864,
        "send_buffer": 65_536,
        "slow_consumer": "drop",
        "max_retained_bytes": 16_777_216, "retain_seconds": 3600.0, "metrics_listen": None, "metrics": False,
            "log_level": "info", "log_format": "text",
        "channels": (),
    }  # fmt: skip


def test_every_default_passes_its_own_check_and_stays_the_same() -> None:
    for option in OPTIONS.values():
        shown = option.kind.show(option.default)
        if shown != "-":
            assert option.kind.parse(shown) == option.default


def test_settings_are_frozen_and_without_dict() -> None:
    settings = Settings()
    assert not hasattr(settings, "__dict__")
    with pytest.raises(FrozenInstanceError):
        settings.port = 1  # type: ignore[misc]


SECRETS = {"broadcast_key", "secret", "turbo_secret", "secret_key_base", "jwt_secret"}
WITH_SECRETS = {"broker", "source"}
"""URLs that may have a password in them."""


def test_secrets_are_not_in_the_repr_nor_shown() -> None:
    assert {option.name for option in OPTIONS.values() if option.secret} == SECRETS | WITH_SECRETS
    text = repr(Settings(broadcast_key="hunter2", secret="hunter2", turbo_secret=("hunter2",),
                         secret_key_base=("hunter2",), jwt_secret=("hunter2", "hunter2"), broker="redis://:hunter2@a",
                         source=("postgresql://u:hunter2@a/b",)))
    assert "hunter2" not in text
    assert not any(name + "=" in text for name in SECRETS)
    assert OPTIONS["jwt_secret"].kind.show(("hunter2", "hunter2")) == "********,********"
    assert OPTIONS["source"].kind.show(("postgresql://u:hunter2@a/b", "solid_cable:///x")) == (
        "postgresql://u:********@a/b,solid_cable:///x")


@pytest.mark.parametrize(("url", "shown"), [
    ("memory", "memory"), ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
    ("redis://:hunter2@a:1/0", "redis://:********@a:1/0"), ("rediss://u:hunter2@a", "rediss://u:********@a"),
    ("redis://u:hunt@er:2@a", "redis://u:********@a"), ("redis://u:hunter2/@a", "redis://u:********@a"),
    ("redis://u@a:1", "redis://u@a:1"), ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ("unix:///run/redis.sock?password=hunter2&db=1", "unix:///run/redis.sock?password=********&db=1"),
])
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert OPTIONS["broker"].kind.show(url) == shown


def test_names_derived_from_an_option() -> None:
    option = OPTIONS["max_message_size"]
    assert (option.flag, option.variable) == ("--max-message-size", "FASTCABLE_MAX_MESSAGE_SIZE")


def test_table_of_the_manual() -> None:
    rows = options_table().splitlines()
    assert rows[:2] == ["| option | default | meaning |", "|---|---|---|"]
    assert len(rows) == 2 + len(OPTIONS)
    assert all(row.count("|") == 4 for row in rows)
    for row in (
        "| `host` | localhost | addresses to listen on, comma-separated; localhost is both loopback addresses |",
        "| `uds` | - | listen on this Unix socket instead of host and port |",
        "| `ping_interval` | 30 s | time between pings to each client |",
        "| `max_message_size` | 128KiB | largest message taken from a client |",
        "| `max_subscriptions` | 1024 | streams of one connection |",
        "| `log_format` | text | `text` or `json`: form of the log on stderr |",
    ):
        assert row in rows


def test_the_readme_has_the_table_as_it_is() -> None:
    """If not: put what `python -c 'from fastcable.settings import *; print(options_table())'` prints there."""
    start, end = "<!-- options -->\n", "<!-- /options -->"
    assert README.read_text().partition(start)[2].partition(end)[0] == options_table()
