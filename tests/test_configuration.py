"""Where options come from, their bounds, and the one line that says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from fastcable.configuration import Loaded, load
from fastcable.options import GIB, KIB, MIB
from fastcable.settings import OPTIONS, Settings, SettingsError


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that no fastcable.toml is found by chance."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configured(
    toml: str | bytes | None = None, environ: Mapping[str, str] | None = None, /, **flags: str
) -> Loaded:
    if toml is not None:
        Path("fastcable.toml").write_bytes(toml.encode() if isinstance(toml, str) else toml)
    return load(flags, environ or {})


def complaint(toml: str | bytes | None = None, environ: Mapping[str, str] | None = None, /, **flags: str) -> str:
    with pytest.raises(SettingsError) as caught:
        configured(toml, environ, **flags)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- values -----------------------------------------------------------------------------------------------------------

def test_with_nothing_given_all_is_at_its_default() -> None:
    loaded = configured()
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.warnings == []


def test_the_key_is_not_in_the_repr() -> None:
    assert "hunter2" not in repr(configured(broadcast_key="hunter2"))


NUMBERS = [name for name, option in OPTIONS.items() if option.kind.unit == "N"]
SIZES = [name for name, option in OPTIONS.items() if option.kind.unit == "SIZE"]
TIMES = [name for name, option in OPTIONS.items() if option.kind.unit == "SECONDS"]
EDGES = (
    [(name, 0, 2**31 - 1) for name in NUMBERS if name not in ("port", "backlog", "workers", "fanout_threads")]
    + [("port", 0, 65_535), ("backlog", 1, 65_535), ("workers", 1, 256), ("fanout_threads", 1, 16)]
    + [(name, 0, 2**40 if name == "memory_limit" else GIB) for name in SIZES]
    + [(name, 0.01 if name in ("publish_timeout", "source_interval") else 0, 86_400) for name in TIMES]
)


@pytest.mark.parametrize(("name", "least", "most"), EDGES, ids=[name for name, *_ in EDGES])
def test_bounds(name: str, least: float, most: float) -> None:
    for edge in (least, most):
        assert getattr(configured(**{name: str(edge)}).settings, name) == edge
        assert getattr(configured(f"{name} = {edge}").settings, name) == edge
    Path("fastcable.toml").unlink()
    for beyond in (least - 1, most + 1):
        assert "must be" in complaint(**{name: str(beyond)})
        assert "must be" in complaint(f"{name} = {beyond}")
        Path("fastcable.toml").unlink()


def test_times_may_be_fractions() -> None:
    assert configured("ping_interval = 0.25", write_timeout=".5", close_timeout="1.5").settings == Settings(
        ping_interval=0.25, write_timeout=0.5, close_timeout=1.5)
    assert isinstance(configured("ping_interval = 20").settings.ping_interval, float)
    assert "86400.5" in complaint(drain_timeout="86400.5")


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1", 1), ("65536", 65_536), ("64KiB", 64 * KIB), ("1MiB", MIB), ("1GiB", GIB), ("0MiB", 0)])
def test_sizes(text: str, size: int) -> None:
    assert configured(max_message_size=text).settings.max_message_size == size
    assert configured(f'max_message_size = "{text}"').settings.max_message_size == size


@pytest.mark.parametrize("text", ["64KB", "64k", "64 KiB", "1.5MiB", "64kib", "KiB", "0x10", "1_000", "١", "1e3", ""])
def test_sizes_that_are_none(text: str) -> None:
    assert complaint(max_message_size=text).startswith(
        "--max-message-size: expected bytes or a size such as 64KiB, 1MiB or 1GiB, got ")


@pytest.mark.parametrize("text", ["30s", "inf", "nan", "1e3", "1_0", "1,5", "5.", "", " 1"])
def test_times_that_are_none(text: str) -> None:
    assert complaint(ping_interval=text).startswith("--ping-interval: expected seconds, such as 30 or 0.5, got ")


def test_max_connections_auto_or_a_number() -> None:
    assert configured('max_connections = "auto"').settings.max_connections is None
    assert configured(max_connections="auto").settings.max_connections is None
    assert configured("max_connections = 0").settings.max_connections == 0


def test_lists() -> None:
    assert configured(host="127.0.0.1, ::1,[fe80::1%eth0]").settings.host == ("127.0.0.1", "::1", "fe80::1%eth0")
    assert configured('host = ["127.0.0.1", "::1"]').settings.host == ("127.0.0.1", "::1")
    assert configured('host = "127.0.0.1"').settings.host == ("127.0.0.1",)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://example.com", "https://example.com"),
        ("https://*.example.com", "https://*.example.com"),
        ("HTTPS://Example.COM", "https://example.com"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("https://example.com:443", "https://example.com"),
        ("http://example.com:80", "http://example.com"),
        ("https://example.com:80", "https://example.com:80"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_origins_take_the_form_in_which_browsers_send_them(text: str, origin: str) -> None:
    assert configured(allowed_origins=text).settings.allowed_origins == (origin,)


@pytest.mark.parametrize("text", ["127.0.0.1:3001", "[::1]:3001", "localhost:0", "app.internal:65535"])
def test_broadcast_listen(text: str) -> None:
    assert configured(broadcast_listen=text, broadcast_key="k").settings.broadcast_listen == text


@pytest.mark.parametrize("length", [1, 106, 107])
def test_longest_socket_path(length: int) -> None:
    assert configured(uds="s" * length).settings.uds == "s" * length


# --- every error message ----------------------------------------------------------------------------------------------

T = "fastcable.toml: "
CONTROLS = "must not contain line ends or other control characters"
ASYMMETRIC = ("is a key for asymmetric algorithms, which is no secret (for tokens, give the file of the public key as "
              "jwt_public_key)")


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("max_message_sise = 1", T + "max_message_sise: unknown option (did you mean max_message_size?)"),
        ("max-batch = 1", T + "max-batch: unknown option (did you mean max_batch?)"),
        ("zzz = 1", T + "zzz: unknown option"),
        ('"a\\nb" = 1', T + "'a\\nb': unknown option"),
        ("[rooms]\nx = 1", T + "rooms: unknown table"),
        ("[port]\nx = 1", T + "port: expected a whole number, got a table"),
        ('port = "3000"', T + "port: expected a whole number, got a string"),
        ("port = true", T + "port: expected a whole number, got a boolean"),
        ("port = 3000.0", T + "port: expected a whole number, got 3000.0"),
        ("port = 65536", T + "port: must be 0 to 65535, got 65536"),
        ("max_connections = []", T + "max_connections: expected a whole number or auto, got an empty array"),
        ("max_message_size = 1.5", T + 'max_message_size: expected bytes or a size such as "64KiB", got 1.5'),
        ("max_message_size = true", T + 'max_message_size: expected bytes or a size such as "64KiB", got a boolean'),
        ("send_buffer = \"2GiB\"", T + "send_buffer: must be 0 to 1GiB, got 2GiB"),
        ('ping_interval = "30"', T + "ping_interval: expected seconds, such as 30 or 0.5, got a string"),
        ("ping_interval = nan", T + "ping_interval: expected seconds, such as 30 or 0.5, got nan"),
        ("ping_interval = inf", T + "ping_interval: expected seconds, such as 30 or 0.5, got inf"),
        ("ping_interval = 07:32:00", T + "ping_interval: expected seconds, such as 30 or 0.5, got a date or time"),
        ("ping_interval = -0.5", T + "ping_interval: must be 0 to 86400, got -0.5"),
        ("public_streams = 1", T + "public_streams: expected true or false, got a whole number"),
        ('jwt_require_exp = "true"', T + "jwt_require_exp: expected true or false, got a string"),
        ('turbo_secret = ["a", 1]', T + "turbo_secret: expected an array of strings, got an array with other things"),
        ("turbo_secret = []", T + "turbo_secret: must not be empty (leave it out to have the default)"),
        ('jwt_secret = ["hunter2", "hunter2"]', T + "jwt_secret: names a secret twice"),
        ('jwt_secret = "hunter2\\n"', T + f"jwt_secret: {CONTROLS}"),
        pytest.param('jwt_secret = """-----BEGIN PUBLIC KEY-----\nAAAA"""', T + f"jwt_secret: {ASYMMETRIC}",
                     id="A7-public-key-as-secret"),
        ("log_level = 1", T + "log_level: expected debug, info, warning or error, got a whole number"),
        ("host = 1", T + "host: expected an array of strings, got a whole number"),
        ("host = [1]", T + "host: expected an array of strings, got an array with other things"),
        ("host = []", T + "host: must not be empty (leave it out to have the default)"),
        ("broadcast_key = 1", T + "broadcast_key: expected a string, got a whole number"),
        ('broadcast_key = ""', T + "broadcast_key: must not be empty (leave it out to have none)"),
        ('cable_path = "/_broadcast"', T + "cable_path: cable_path and broadcast_path must differ"),
        ('broadcast_path = "/cable"', T + "broadcast_path: cable_path and broadcast_path must differ"),
        ('uds = "s"\nport = 1', T + "port: cannot be combined with uds (from fastcable.toml)"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_errors_of_a_file(toml: str | bytes, expected: str) -> None:
    assert complaint(toml) == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("port", "abc", "expected a whole number, got 'abc'"),
        ("port", "", "expected a whole number, got ''"),
        ("port", "1" * 5000, f"expected a whole number, got '{'1' * 60}…'"),
        ("port", "-1", "must be 0 to 65535, got -1"),
        ("port", "tcp://10.0.0.1:3000", "expected a whole number, got 'tcp://10.0.0.1:3000' (set by Kubernetes for a "
         "service named fastcable: enableServiceLinks: false stops that)"),
        ("max_connections", "many", "expected a whole number or auto, got 'many'"),
        ("slow_consumer", "dorp", "expected drop, latest or close, got 'dorp' (did you mean drop?)"),
        ("log_format", "xml", "expected text or json, got 'xml'"),
        ("host", "", "must not have an empty entry"),
        ("host", "a,,b", "must not have an empty entry"),
        ("host", "a,b,a", "names 'a' twice"),
        ("host", "a:80", "expected host names or addresses without port, got 'a:80'"),
        ("host", "http://a", "expected host names or addresses without port, got 'http://a'"),
        ("host", "*", "expected host names or addresses without port, got '*' (0.0.0.0 and :: are all addresses)"),
        ("uds", "", "must not be empty (leave it out to have none)"),
        ("uds", "s" * 108, f"must be a printable path of at most 107 bytes, got '{'s' * 60}…'"),
        ("uds", "a\nb", "must be a printable path of at most 107 bytes, got 'a\\nb'"),
        ("cable_path", "cable", "must start with /, got 'cable'"),
        ("cable_path", "/a?b", "must be a plain path without query, white space or unescaped characters, got '/a?b'"),
        ("cable_path", "/a#b", "must be a plain path without query, white space or unescaped characters, got '/a#b'"),
        ("cable_path", "/a b", "must be a plain path without query, white space or unescaped characters, got '/a b'"),
        ("cable_path", "/é", "must be a plain path without query, white space or unescaped characters, got '/é'"),
        ("cable_path", "/health", "/health is taken, fastcable serves something else there"),
        ("broadcast_path", "/fastcable.js", "/fastcable.js is taken, fastcable serves something else there"),
        ("cable_path", "/_streams", "/_streams is taken, fastcable serves something else there"),
        ("broadcast_path", "/cable", "cable_path and broadcast_path must differ"),
        ("broadcast_listen", "3001", "expected HOST:PORT, such as 127.0.0.1:3001 or [::1]:3001, got '3001'"),
        ("broadcast_listen", ":3001", "expected HOST:PORT, such as 127.0.0.1:3001 or [::1]:3001, got ':3001'"),
        ("broadcast_listen", "a:b", "expected a whole number, got 'b'"),
        ("broadcast_listen", "a:65536", "must be 0 to 65535, got 65536"),
        ("broadcast_listen", "::1:3001", "expected HOST:PORT, such as 127.0.0.1:3001 or [::1]:3001, got '::1:3001'"),
        ("broadcast_listen", "[a]:1", "expected HOST:PORT, such as 127.0.0.1:3001 or [::1]:3001, got '[a]:1'"),
        ("broker", "", "must not be empty (leave it out to have none)"),
        ("broker", "amqp://:secret@a", "expected memory, or a URL such as redis://127.0.0.1:6379/0, rediss://… or "
         "unix:///run/redis.sock, got 'amqp://:********@a'"),
        ("source", "mysql://u:secret@a/b", "expected a URL such as "
         "solid_cable:///srv/app/storage/production_cable.sqlite3 or postgresql://user@host/database, got 'mysql://u:********@a/b'"),
        ("workers", "0", "must be 1 to 256, got 0"),
        ("workers", "257", "must be 1 to 256, got 257"),
        ("publish_timeout", "0", "must be 0.01 to 86400, got 0.0"),
        ("redis_channels", "fast", "expected fastcable, rails or anycable, got 'fast' (did you mean fastcable?)"),
        ("channel_prefix", "a\nb", "must be printable, got 'a\\nb'"),
        ("default_protocol", "rails", "expected simple or actioncable, got 'rails'"),
        ("auth", "jtw", "expected none or jwt, got 'jtw' (did you mean jwt?)"),
        ("signed_streams", "on", "expected off or required, got 'on'"),
        ("secret_key_base_digest", "sha512", "expected sha256 or sha1, got 'sha512' (did you mean sha1?)"),
        *(("public_streams", bad, f"expected true or false, got '{bad}'") for bad in ("", "1", "True", "yes", " true")),
        ("secret", "", "must not be empty (leave it out to have none)"),
        *(
            (name, bad, expected)
            for name in ("secret", "turbo_secret", "secret_key_base", "jwt_secret")
            for bad, expected in (
                ("hunter2\n", CONTROLS), ("hunter\t2", CONTROLS), ("\x7f", CONTROLS), ("\0", CONTROLS),
                ("hunter2\udcff", "must be valid UTF-8"),
                ("-----BEGIN PUBLIC KEY-----", ASYMMETRIC), ("MIIB -----BEGIN RSA PRIVATE KEY-----", ASYMMETRIC),
                ("ssh-rsa AAAA", ASYMMETRIC), ("ecdsa-sha2-nistp256 AAAA", ASYMMETRIC), ('{"kty":"RSA"}', ASYMMETRIC),
            ) if not bad.endswith("\n") or name == "secret"  # white space around an entry of a list is none of it
        ),
        ("jwt_secret", "a,", "must not have an empty entry"),
        ("jwt_secret", "hunter2,hunter2", "names a secret twice"),
        ("jwt_public_key", "a\nb", "must be a printable path, got 'a\\nb'"),
        ("jwt_public_key", "a,a", "names 'a' twice"),
        ("jwt_audience", "a\nb", "must be printable, got 'a\\nb'"),
        ("jwt_cookie", "a b", "must be the name of a cookie, got 'a b'"),
        ("jwt_cookie", "a=b", "must be the name of a cookie, got 'a=b'"),
        ("jwt_cookie", "é", "must be the name of a cookie, got 'é'"),
        ("jwt_cookie", "", "must not be empty (leave it out to have none)"),
        ("broadcast_key", "", "must not be empty (leave it out to have none)"),
        ("broadcast_key", "secret\n", "must be printable ASCII without spaces or line ends"),
        ("broadcast_key", "two words", "must be printable ASCII without spaces or line ends"),
        ("broadcast_key", "schlüssel", "must be printable ASCII without spaces or line ends"),
        ("allowed_origins", "*", "'*' is not an origin (leave allowed_origins out to allow all)"),
        *(
            ("allowed_origins", bad, "expected SCHEME://HOST[:PORT] without path, such as https://example.com or "
             f"https://*.example.com, got '{bad}'")
            for bad in ("example.com", "https://example.com/", "https://", "https://*", "https://a.*.com", "null",
                        "https://a*.com", "https://a b", "https://u@a", "https://a:99999999", "https://[zz]",
                        "https://[1:2]", "https://é.com", "https://a:")
        ),
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_errors_of_flags_and_variables(name: str, text: str, expected: str) -> None:
    option = OPTIONS[name]
    assert complaint(**{name: text}) == f"{option.flag}: {expected}"
    assert complaint(None, {option.variable: text}) == f"{option.variable}: {expected}"


@pytest.mark.parametrize("toml", ["port =", "port = 1\nport = 2", b"\xff", "a = " + "[" * 10_000], ids=range(4))
def test_a_file_that_is_not_toml(toml: str | bytes) -> None:
    assert complaint(toml).startswith("fastcable.toml: not valid TOML: ")


def test_a_named_file_must_exist(directory: Path) -> None:
    for flag, environ in (("no.toml", {}), (None, {"FASTCABLE_CONFIG": "no.toml"})):
        with pytest.raises(SettingsError, match=r"^no\.toml: No such file or directory$"):
            load({}, environ, flag)
    with pytest.raises(SettingsError, match="Is a directory"):
        load({}, {}, str(directory))


# --- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "environ", "flags", "port", "origin"),
    [
        (None, {}, {}, 3000, "default"),
        ("port = 1", {}, {}, 1, "fastcable.toml"),
        (None, {"PORT": "2"}, {}, 2, "PORT"),
        (None, {"FASTCABLE_PORT": "3"}, {}, 3, "FASTCABLE_PORT"),
        (None, {}, {"port": "4"}, 4, "--port"),
        ("port = 1", {"PORT": "2"}, {}, 2, "PORT"),
        ("port = 1", {"FASTCABLE_PORT": "3"}, {}, 3, "FASTCABLE_PORT"),
        ("port = 1", {}, {"port": "4"}, 4, "--port"),
        (None, {"PORT": "2", "FASTCABLE_PORT": "3"}, {}, 3, "FASTCABLE_PORT"),
        (None, {"PORT": "junk", "FASTCABLE_PORT": "3"}, {}, 3, "FASTCABLE_PORT"),
        (None, {"PORT": "2"}, {"port": "4"}, 4, "--port"),
        (None, {"FASTCABLE_PORT": "3"}, {"port": "4"}, 4, "--port"),
        ("port = 1", {"PORT": "2", "FASTCABLE_PORT": "3"}, {"port": "4"}, 4, "--port"),
        (None, {"PORT": ""}, {}, 3000, "default"),
    ],
)
def test_precedence(
    toml: str | None, environ: dict[str, str], flags: dict[str, str], port: int, origin: str
) -> None:
    loaded = configured(toml, environ, **flags)
    assert (loaded.settings.port, loaded.origins["port"]) == (port, origin)
    assert loaded.origins["host"] == "default"


def test_file_given_by_flag_variable_or_place(directory: Path) -> None:
    for name, port in (("fastcable.toml", 1), ("variable.toml", 2), ("flag.toml", 3)):
        (directory / name).write_text(f"port = {port}")
    environ = {"FASTCABLE_CONFIG": "variable.toml"}
    assert load({}, {}).settings.port == 1
    assert load({}, {"FASTCABLE_CONFIG": ""}).settings.port == 1
    assert load({}, environ).settings.port == 2
    assert load({}, environ, "flag.toml").settings.port == 3
    assert load({}, environ, "flag.toml").origins["port"] == "flag.toml"


def test_a_wrong_value_is_an_error_even_where_it_is_overridden() -> None:
    assert complaint("port = 'x'", port="1").startswith("fastcable.toml: port:")


def test_bad_port_variable() -> None:
    assert complaint(None, {"PORT": "x"}) == "PORT: expected a whole number, got 'x'"


@pytest.mark.parametrize(
    ("toml", "environ", "flags", "fault"),
    [
        ("port = 1", {}, {"uds": "s"}, None),
        ("host = 'a'", {"FASTCABLE_UDS": "s"}, {}, None),
        (None, {"PORT": "1"}, {"uds": "s"}, None),
        (None, {"PORT": "1", "FASTCABLE_UDS": "s"}, {}, None),
        ("uds = 's'", {"PORT": "1"}, {}, None),
        ("uds = 's'", {}, {"port": "1"}, "--port: cannot be combined with uds (from fastcable.toml)"),
        ("uds = 's'", {"FASTCABLE_HOST": "a"}, {}, "FASTCABLE_HOST: cannot be combined with uds (from fastcable.toml)"),
        (None, {}, {"uds": "s", "host": "a"}, "--host: cannot be combined with uds (from --uds)"),
    ],
)
def test_uds_replaces_a_lower_host_and_port_and_contradicts_others(
    toml: str | None, environ: dict[str, str], flags: dict[str, str], fault: str | None
) -> None:
    if fault is None:
        assert configured(toml, environ, **flags).settings.uds == "s"
    else:
        assert complaint(toml, environ, **flags) == fault


# --- secrets ----------------------------------------------------------------------------------------------------------

SAFE = "0123456789abcdef" * 2
COOKIE = "needs allowed_origins: browsers send cookies with the connections of every site's pages"


def test_secrets_of_all_sources() -> None:
    for loaded in (
        configured(f'jwt_secret = ["{SAFE}", "a,b"]\npublic_streams = true', jwt_require_exp="false"),
        configured(f'jwt_secret = ["{SAFE}", "a,b"]', public_streams="true", jwt_require_exp="false"),
    ):
        settings = loaded.settings
        assert settings.jwt_secret == (SAFE, "a,b")
        assert (settings.public_streams, settings.jwt_require_exp) == (True, False)
    Path("fastcable.toml").unlink()
    assert configured(turbo_secret=f"{SAFE}, b").settings.turbo_secret == (SAFE, "b")
    assert configured('turbo_secret = "a, b"').settings.turbo_secret == ("a, b",)


def test_A16_no_secret_has_a_default() -> None:
    secrets = [option for option in OPTIONS.values() if getattr(option.kind, "secret", False)]
    assert {"secret", "turbo_secret", "secret_key_base", "jwt_secret", "broadcast_key"} <= {
        option.name for option in secrets}
    assert not any(getattr(Settings(), option.name) for option in secrets)


def test_what_comes_from_the_secret_of_anycable() -> None:
    loaded = configured(secret="qwerty")
    settings = loaded.settings
    assert (settings.turbo_secret, settings.jwt_secret) == (("qwerty",), ("qwerty",))
    assert settings.broadcast_key is None  # the keys of AnyCable's publishers are others
    for name in ("turbo_secret", "jwt_secret"):
        assert loaded.origins[name] == "secret of --secret"
    assert "qwerty" not in repr(loaded)


@pytest.mark.parametrize(("given", "not_derived"), [
    ({"turbo_secret": "k"}, "turbo_secret"),
    ({"secret_key_base": "k"}, "turbo_secret"), ({"jwt_secret": "k"}, "jwt_secret"),
    ({"jwt_public_key": "k.pem"}, "jwt_secret"),
])
def test_what_is_given_itself_does_not_come_from_the_secret(given: dict[str, str], not_derived: str) -> None:
    derived = {"turbo_secret": ("qwerty",), "jwt_secret": ("qwerty",)}
    loaded = configured(None, {"FASTCABLE_SECRET": "qwerty"}, **given)
    for name, value in derived.items():
        assert (getattr(loaded.settings, name) == value) == (name != not_derived)
        assert (loaded.origins[name] == "secret of FASTCABLE_SECRET") == (name != not_derived)


@pytest.mark.parametrize("name", ["cable_path", "broadcast_path"])
def test_with_a_secret_the_path_of_anycables_api_is_taken(name: str) -> None:
    assert getattr(configured(**{name: "/api/publish"}).settings, name) == "/api/publish"
    fault = f"--{name.replace('_', '-')}: /api/publish is taken, fastcable serves something else there"
    assert complaint(secret=SAFE, **{name: "/api/publish"}) == fault


@pytest.mark.parametrize(
    ("toml", "flags", "fault"),
    [
        pytest.param('auth = "jwt"', {}, T + "auth: jwt needs a jwt_secret or a jwt_public_key", id="A15-no-key-file"),
        pytest.param(None, {"auth": "jwt"}, "--auth: jwt needs a jwt_secret or a jwt_public_key", id="A15-no-key"),
        (None, {"auth": "jwt", "turbo_secret": "x"}, "--auth: jwt needs a jwt_secret or a jwt_public_key"),
        ('auth = "jwt"', {"jwt_secret": "x"}, None),
        ('auth = "jwt"', {"jwt_public_key": "x"}, None),
        ('auth = "jwt"', {"secret": "x"}, None),
        (None, {"signed_streams": "required"},
         "--signed-streams: required needs a turbo_secret or a secret_key_base"),
        (None, {"signed_streams": "required", "jwt_secret": "x"},
         "--signed-streams: required needs a turbo_secret or a secret_key_base"),
        (None, {"signed_streams": "required", "turbo_secret": "x"}, None),
        (None, {"signed_streams": "required", "secret_key_base": "x"}, None),
        (None, {"signed_streams": "required", "secret": "x"}, None),
        ("public_streams = true", {"signed_streams": "required", "secret": "x"},
         T + "public_streams: true cannot be combined with signed_streams = required"),
        ("public_streams = true", {"secret": "x"}, None),
        ('jwt_cookie = "jwt"', {}, T + f"jwt_cookie: {COOKIE}"),
        (None, {"jwt_cookie": "jwt", "auth": "jwt", "jwt_secret": "x"}, f"--jwt-cookie: {COOKIE}"),
        (None, {"jwt_cookie": "jwt", "allowed_origins": "https://example.com"}, None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_keys_that_are_needed(toml: str | None, flags: dict[str, str], fault: str | None) -> None:
    if fault is None:
        configured(toml, None, **flags)
    else:
        assert complaint(toml, None, **flags) == fault


# --- warnings ---------------------------------------------------------------------------------------------------------

ORIGINS = "allowed_origins is not set: pages of every site may connect"
UNASKED = "{} is set, but auth is none: nobody is asked for a token (auth = jwt does)"
SHORT = ("{} is shorter than 32 bytes: it can be guessed from what it signs (openssl rand -hex 32 makes a good one)")
FOREVER = "jwt_require_exp is false: whoever has a token without exp may connect for ever"
KEYLESS = "broadcast_listen is open to other machines, but without a broadcast_key only this one may publish"


@pytest.mark.parametrize(
    ("environ", "flags", "expected"),
    [
        ({}, {}, []),
        ({"FASTCABLE_CONFIG": "", "FASTCABLE_BROADCAST_URL": "x"}, {}, []),
        ({"FASTCABLE_PROT": "1"}, {}, ["FASTCABLE_PROT: unknown variable (did you mean FASTCABLE_PORT?)"]),
        ({"FASTCABLE_QQQ": "secret"}, {}, ["FASTCABLE_QQQ: unknown variable"]),
        ({"PORT": "80"}, {}, ["PORT is set, but host is localhost: nobody outside this machine can connect "
                              "(host 0.0.0.0 is all IPv4 addresses, :: all IPv6 addresses)"]),
        ({"PORT": "80"}, {"port": "81"}, []),
        ({"PORT": "80"}, {"uds": "s"}, []),
        ({"PORT": "80"}, {"host": "127.0.0.1,0.0.0.0", "allowed_origins": "https://a"}, []),
        ({}, {"host": "127.0.0.2,::1"}, []),
        ({}, {"host": "0.0.0.0"}, [ORIGINS]),
        ({}, {"host": "127.example.com"}, [ORIGINS]),
        ({}, {"broadcast_listen": "[::1]:1"}, []),
        ({}, {"broadcast_listen": "0.0.0.0:1"}, [KEYLESS]),
        ({}, {"broadcast_listen": "0.0.0.0:1", "broadcast_key": "k"}, []),
        ({}, {"broadcast_listen": "0.0.0.0:1", "secret": SAFE}, []),
        ({}, {"idle_timeout": "45.5"}, []),
        ({}, {"idle_timeout": "45"}, ["idle_timeout (45 s) is not greater than one and a half ping_interval (30 s): "
                                      "clients that only listen may be closed before they are pinged"]),
        ({}, {"idle_timeout": "0"}, []),
        ({}, {"ping_interval": "0"}, ["ping_interval is 0: clients that only listen are closed after the idle_timeout "
                                      "of 60 s"]),
        ({}, {"ping_interval": "0", "idle_timeout": "0"}, []),
        ({}, {"actioncable_ping_interval": "5.9"}, []),
        *(({}, {"actioncable_ping_interval": bad}, [f"actioncable_ping_interval is {bad}: Action Cable's clients give "
                                                    "a connection up after 6 s without a ping"]) for bad in ("6", "0")),
        ({}, {"jwt_secret": SAFE}, [UNASKED.format("jwt_secret")]),
        ({}, {"jwt_public_key": "x"}, [UNASKED.format("jwt_public_key")]),
        ({}, {"jwt_audience": "x"}, [UNASKED.format("jwt_audience")]),
        ({}, {"jwt_cookie": "x", "allowed_origins": "https://a"}, [UNASKED.format("jwt_cookie")]),
        ({}, {"auth": "jwt", "jwt_secret": SAFE}, []),
        pytest.param({}, {"auth": "jwt", "jwt_secret": SAFE, "jwt_require_exp": "false"}, [FOREVER], id="A15-no-exp"),
        ({}, {"jwt_require_exp": "false"}, []),
        pytest.param({}, {"auth": "jwt", "jwt_secret": SAFE[1:]}, [SHORT.format("jwt_secret")], id="A16-jwt_secret"),
        pytest.param(
            {}, {"auth": "jwt", "jwt_secret": SAFE + ",x"}, [SHORT.format("jwt_secret")], id="A16-jwt_secret-of-two"),
        ({}, {"auth": "jwt", "jwt_secret": "é" * 16}, []),
        ({}, {"turbo_secret": SAFE}, []),
        pytest.param({}, {"turbo_secret": SAFE[1:]}, [SHORT.format("turbo_secret")], id="A16-turbo_secret"),
        ({}, {"secret": SAFE}, []),
        pytest.param({}, {"secret": SAFE[1:]}, [SHORT.format("secret")], id="A16-secret"),
        ({}, {"secret_key_base": "x"}, []),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_warnings(environ: dict[str, str], flags: dict[str, str], expected: list[str]) -> None:
    assert configured(None, environ, **flags).warnings == expected
