"""The command line, run as users run it: help, one-line errors, the options in effect."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fastcable import __version__
from fastcable.configuration import load
from fastcable.settings import OPTIONS
from tests.harness import PATIENCE, ServerProcess

ROOT = str(Path(__file__).parent.parent)
CLEAN = {name: value for name, value in os.environ.items() if name != "PORT" and not name.startswith("FASTCABLE_")}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that no fastcable.toml is found by chance."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fastcable(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastcable", *arguments], env={**CLEAN, "PYTHONPATH": ROOT, **(env or {})},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip


# --- help and version -------------------------------------------------------------------------------------------------


def test_version() -> None:
    done = fastcable("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"fastcable {__version__}\n", "")


@pytest.mark.parametrize(
    "command", [[], ["serve"], ["config"], ["publish"], ["listen"], ["sign"], ["token"]], ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(command: list[str], flag: str) -> None:
    done = fastcable(*command, flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: fastcable {' '.join(command)}")
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert done.stdout.isascii()


def test_help_of_serve_has_every_option_with_its_unit_and_default_in_its_group() -> None:
    text = fastcable("serve", "--help").stdout
    for option in OPTIONS.values():
        assert f"  {option.flag} {option.kind.unit}" in text
        assert f"\n{option.group}:\n" in text
    assert "  --max-message-size SIZE      largest message taken from a client [128KiB]\n" in text
    assert "  --drain-timeout SECONDS      on shutdown clients are closed evenly over this; 0: at once [2 s]\n" in text


def test_help_into_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fastcable", "serve", "--help"], env={**CLEAN, "PYTHONPATH": ROOT},
            stdout=writer, stderr=subprocess.PIPE, timeout=PATIENCE)  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    heavy = ("argparse ssl http.client tomllib asyncio uvloop json difflib textwrap hashlib hmac fastcable.server "
             "fastcable.client fastcable.credentials fastcable.tokens")
    program = f"import sys, fastcable.cli; sys.exit(' '.join(sorted(set({heavy.split()}) & set(sys.modules))) or 0)"
    done = subprocess.run([sys.executable, "-c", program], env={**CLEAN, "PYTHONPATH": ROOT}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


# --- wrong usage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "expected a command: serve, publish, listen, config, sign, token (fastcable --help tells more)"),
        ("srve", "srve: unknown command (did you mean serve?)"),
        ("xyz", "xyz: unknown command"),
        ("--port 3000 serve", "--port: unknown option or before its command"),
        ("serve --prot 1", "--prot: unknown option (did you mean --port?)"),
        ("serve --max_message_size=1", "--max_message_size: unknown option (did you mean --max-message-size?)"),
        ("serve --demp", "--demp: unknown option (did you mean --demo?)"),
        ("serve --broadcast-kye=hunter2", "--broadcast-kye: unknown option (did you mean --broadcast-key?)"),
        ("serve -p 1", "-p: unknown option"),
        ("serve --check", "--check: unknown option"),
        ("serve --port", "--port: expected a value (--port=VALUE takes any)"),
        ("serve --port --demo", "--port: expected a value (--port=VALUE takes any)"),
        ("serve --demo=yes", "--demo: takes no value"),
        ("serve now", "'now': unexpected argument"),
        ("serve --port abc", "--port: expected a whole number, got 'abc'"),
        ("serve --port -1", "--port: must be 0 to 65535, got -1"),
        ("serve --port=", "--port: expected a whole number, got ''"),
        ("serve --config no.toml", "no.toml: No such file or directory"),
        ("serve --config=", "--config: must not be empty"),
        ("serve --demo --cable-path /", "--demo: its page is served at /, which cable_path or broadcast_path takes"),
        ("serve --uds s --port 1", "--port: cannot be combined with uds (from --uds)"),
        ("config --demo", "--demo: unknown option"),
        ("config --check --log-level loud", "--log-level: expected debug, info, warning or error, got 'loud'"),
        ("publish news", "publish: expected STREAM and DATA, got 1 arguments"),
        ("publish news a b", "publish: expected STREAM and DATA, got 3 arguments"),
        ("publish news 1 --ulr x", "--ulr: unknown option (did you mean --url?)"),
        ("publish news 1 --url ftp://x", "--url: expected http://HOST:PORT/PATH, got 'ftp://x'"),
        ("publish news 1 --url http://x:y/", "--url: Port could not be cast to integer value as 'y'"),
        ("publish news 1 --url http://me:hunter2@x/", "--url: must not hold a user name or password"),
        ("publish news 1 --key=a\tb", "--key: must be printable ASCII without spaces or line ends"),
        ("listen", "listen: expected at least one STREAM"),
        ("listen a --url http://x", "--url: expected ws://HOST:PORT/PATH, got 'http://x'"),
        ("listen a --url ws://me:hunter2@x/", "--url: must not hold a user name or password"),
        ("listen a --url ws://x/#f", "--url: expected ws://HOST:PORT/PATH, got 'ws://x/#f'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(arguments: str, expected: str) -> None:
    done = fastcable(*arguments.split(" ") if arguments else [])
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected + "\n")


@pytest.mark.parametrize("command", ["serve", "config"])
def test_errors_of_file_and_environment_are_one_line_and_exit_2(command: str) -> None:
    done = fastcable(command, env={"FASTCABLE_MAX_BATCH": "many"})
    assert (done.returncode, done.stderr) == (2, "FASTCABLE_MAX_BATCH: expected a whole number, got 'many'\n")
    Path("fastcable.toml").write_text("max_message_sise = 1")
    done = fastcable(command)
    assert (done.returncode, done.stderr) == (
        2, "fastcable.toml: max_message_sise: unknown option (did you mean max_message_size?)\n")


@pytest.mark.parametrize("command", ["publish", "listen"])
def test_words_that_are_not_utf_8(command: str) -> None:
    done = subprocess.run([sys.executable, "-m", "fastcable", command, b"\xff", b"1"], capture_output=True,
                          env={**CLEAN, "PYTHONPATH": ROOT}, timeout=PATIENCE)  # fmt: skip
    assert (done.returncode, done.stderr) == (2, b"STREAM: not valid UTF-8\n")


def test_errors_of_variables_of_publish_name_them() -> None:
    assert fastcable("publish", "a", "1", env={"FASTCABLE_BROADCAST_URL": "x"}).stderr == (
        "FASTCABLE_BROADCAST_URL: expected http://HOST:PORT/PATH, got 'x'\n")
    assert fastcable("publish", "a", "1", env={"FASTCABLE_BROADCAST_KEY": "hunter 2"}).stderr == (
        "FASTCABLE_BROADCAST_KEY: must be printable ASCII without spaces or line ends\n")


# --- config -----------------------------------------------------------------------------------------------------------


def test_config_prints_each_option_and_its_origin_aligned() -> None:
    Path("fastcable.toml").write_text('max_message_size = "64KiB"\nhost = ["127.0.0.1", "::1"]')
    done = fastcable("config", "--max-batch=7", "--max-batch=8", env={"PORT": "81", "FASTCABLE_WRITE_TIMEOUT": "0.5"})
    lines = done.stdout.splitlines()
    assert len({line.rindex("  # ") for line in lines}) == 1
    squeezed = [" ".join(line.split()) for line in lines]
    assert len(squeezed) == len(OPTIONS)
    for line in (
        'host = ["127.0.0.1", "::1"] # fastcable.toml',
        "port = 81 # PORT",
        "# uds is not set # default",
        'max_message_size = "64KiB" # fastcable.toml',
        "write_timeout = 0.5 # FASTCABLE_WRITE_TIMEOUT",
        "max_batch = 8 # --max-batch",
        'max_connections = "auto" # default',
    ):
        assert line in squeezed
    assert done.returncode == 0
    assert done.stderr.startswith("warning: PORT is set, but host is 127.0.0.1,::1: ")


def test_config_prints_a_file_that_gives_the_same_options() -> None:
    flags = {
        "host": "::", "port": "0", "allowed_origins": "https://a,https://*.b.c", "max_connections": "5",
        "broadcast_listen": "[::1]:3001", "ping_interval": "0.25", "max_message_size": "100",
        "public_streams": "true", "jwt_require_exp": "false",
    }  # fmt: skip
    printed = fastcable("config", *(f"{OPTIONS[name].flag}={text}" for name, text in flags.items())).stdout
    unset = printed.count(" is not set ")
    assert unset == 13  # uds, proxies, sources, a prefix, a listener, and keys
    assert len(tomllib.loads(printed)) == len(OPTIONS) - unset
    Path("printed.toml").write_text(printed)
    assert load({}, {}, "printed.toml").settings == load(flags, {}).settings


def test_config_prints_the_channels_of_the_file() -> None:
    table = '[channels."Live::Scores"]\nstream = "scores:{game}"\npublic = true\n\n[channels."a\\"b"]\nstream = "ab"\n'
    Path("fastcable.toml").write_text(table)
    printed = fastcable("config").stdout
    assert printed.endswith(f"\n{table}public = false\n")
    Path("printed.toml").write_text(printed)
    assert load({}, {}, "printed.toml").settings == load({}, {}, "fastcable.toml").settings


@pytest.mark.parametrize("source", ["flag", "variable", "file"])
def test_config_masks_the_key(source: str) -> None:
    if source == "file":
        Path("fastcable.toml").write_text('broadcast_key = "hunter2"')
    done = fastcable(
        "config", *(["--broadcast-key", "hunter2"] if source == "flag" else []),
        env={"FASTCABLE_BROADCAST_KEY": "hunter2"} if source == "variable" else None)  # fmt: skip
    assert "# broadcast_key = ********" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["secret", "turbo_secret", "secret_key_base", "jwt_secret"])
def test_config_masks_secrets_and_what_comes_from_them(name: str) -> None:
    Path("fastcable.toml").write_text(f'{name} = "hunter2"')
    done = fastcable("config")
    assert f"# {name} = ********" in done.stdout
    if name == "secret":
        assert re.search(r"^# turbo_secret = \*{8} +# secret of fastcable\.toml$", done.stdout, re.MULTILINE)
    assert "hunter2" not in done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == len(OPTIONS)


def test_config_looks_into_key_files() -> None:
    flags = ["--auth=jwt", "--jwt-public-key=key.pem"]
    for done in (fastcable("config", "--check", *flags), fastcable("config", *flags)):
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "jwt_public_key: key.pem: No such file or directory\n"


def test_config_check() -> None:
    done = fastcable("config", "--check", env={"FASTCABLE_PROT": "1"})
    assert (done.returncode, done.stdout) == (0, "ok\n")
    assert done.stderr == "warning: FASTCABLE_PROT: unknown variable (did you mean FASTCABLE_PORT?)\n"
    done = fastcable("config", "--check", "--port=x")
    assert (done.returncode, done.stdout) == (2, "")


# --- serve ------------------------------------------------------------------------------------------------------------


def test_serve_takes_its_options_and_logs_warnings(
    spawn: Callable[..., ServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", ROOT)
    Path("fastcable.toml").write_text('cable_path = "/socket"')
    server = spawn("--log-format=json", "--demo", env={"FASTCABLE_PROT": "1"})
    warning = json.loads(server.log[0])
    assert (warning["level"], warning["message"]) == (
        "warning", "FASTCABLE_PROT: unknown variable (did you mean FASTCABLE_PORT?)")
    assert [status(server, path) for path in ("/socket", "/cable", "/")] == [426, 404, 200]


def test_serve_without_demo_has_no_page(spawn: Callable[..., ServerProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ROOT)
    assert status(spawn(), "/") == 404


def status(server: ServerProcess, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()
