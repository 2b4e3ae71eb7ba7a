"""The command line: `fastcable serve | publish | listen | config | sign | token`.

The arguments are read by hand, not with argparse: flags of the server come from the table of options, every error is
one line that names the flag, and nothing of it stays in the memory of a serving process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fastcable import __version__
from fastcable.configuration import Loaded, load
from fastcable.options import MASK, Seconds, did_you_mean
from fastcable.settings import OPTIONS, Settings, SettingsError
from fastcable.standard_streams import complain, occupy

PUBLISH_URL = f"http://127.0.0.1:{Settings().port}{Settings().broadcast_path}"
LISTEN_URL = f"ws://127.0.0.1:{Settings().port}{Settings().cable_path}"

HELP = f"""\
usage: fastcable COMMAND [options]

A small WebSocket publish/subscribe server: applications post messages to it over HTTP,
browsers subscribed to a stream get them.

commands:
  serve     run the server
  publish   send a message, or each line of stdin, to the subscribers of a stream
  listen    print the messages of streams as they come, one JSON line each
  config    print the options in effect and where each came from, or only check them
  sign      print the signed name of a stream
  token     print a token for a client

  fastcable COMMAND --help tells more; fastcable --version prints the version.

examples:
  fastcable serve
  fastcable listen news
  fastcable publish news '{{"title":"Hello"}}'

Delivery is at most once, in the order in which messages to a stream were accepted.
fastcable {__version__}
"""

SERVE_HELP = """\
usage: fastcable serve [--config FILE] [options]

Run the server until SIGTERM or SIGINT. It listens on both loopback addresses unless told otherwise.
"""

CONFIG_HELP = """\
usage: fastcable config [--check] [--config FILE] [options]

Print the options in effect as TOML, each with its origin; secrets are masked. The options are those of
fastcable serve --help.

  --check                      only check them: prints ok, or one line about the first error and exits with 2
  --config FILE                read this file; otherwise $FASTCABLE_CONFIG, or fastcable.toml where there is one
"""

OPTIONS_HELP = """
Every option below may also stand in fastcable.toml (max_message_size = "64KiB") or in the environment
(FASTCABLE_MAX_MESSAGE_SIZE=64KiB); defaults < file < environment < flags. PORT is honoured for the port.
SIZE is in bytes, or with KiB, MiB or GiB. Lists are comma-separated here and arrays in the file.
0 switches a limit or a time off.

  --config FILE                read this file; otherwise $FASTCABLE_CONFIG, or fastcable.toml where there is one
  --demo                       serve a page to try it at /
"""

SERVE_EXAMPLES = """
examples:
  fastcable serve --demo                                     try it: http://localhost:3000/
  fastcable serve --host 0.0.0.0 --allowed-origins https://example.com,https://*.example.com
  fastcable serve --uds /run/fastcable/socket                behind a proxy on this machine
  FASTCABLE_BROADCAST_KEY=... fastcable serve --host ::      applications on other machines may publish

A key is better given in the environment or the file than with a flag, which other users can see.
"""

PUBLISH_HELP = f"""\
usage: fastcable publish STREAM DATA [--url URL] [--key KEY]

Send DATA to the subscribers of STREAM and print how many there are. DATA that is JSON is sent as it is,
byte for byte; anything else is sent as a string. With - for DATA each line of stdin is a message.

  --url URL    broadcast endpoint [$FASTCABLE_BROADCAST_URL, or {PUBLISH_URL}]
  --key KEY    its broadcast_key [$FASTCABLE_BROADCAST_KEY, which other users of this machine cannot see]

examples:
  fastcable publish news '{{"title":"Hello"}}'
  tail -f app.log | fastcable publish logs -

Exits with 0 when accepted, 1 when refused or unreachable, 2 for wrong usage, 130 after Ctrl-C.
"""

LISTEN_HELP = f"""\
usage: fastcable listen STREAM... [--url URL] [--token TOKEN] [--protocol PROTOCOL] [--signed NAMES]

Print {{"stream":...,"data":...}} for each message, one line each; data is as it was published, digit for digit.
Lost connections are made again. Everything else is said on stderr: connections lost, messages missed, errors.

  --url URL              WebSocket endpoint, ws: or wss: [{LISTEN_URL}]
  --token TOKEN          who listens, for servers with auth = jwt [$FASTCABLE_TOKEN, which other users of this
                         machine cannot see]
  --protocol PROTOCOL    simple or actioncable, which subscribes through the channel $pubsub [simple]
  --signed NAMES         with actioncable: signed names of streams, comma-separated, besides or instead of STREAM; with
                         simple, where the server takes signed names only, they are what STREAM is

examples:
  fastcable listen news
  fastcable listen orders alerts --url wss://example.com/cable | jq .data
  fastcable listen --protocol actioncable --signed "$(fastcable sign chat/7)"

Exits with 1 when the first connection fails, 2 for wrong usage, 130 after Ctrl-C,
0 when nobody reads its output any more.
"""


class UsageError(Exception):
    """One line about wrong arguments."""


@dataclass(slots=True)
class Arguments:
    """Flags with their values, flags without, and the rest."""

    values: dict[str, str] = field(default_factory=dict)
    switches: set[str] = field(default_factory=set)
    words: list[str] = field(default_factory=list)


def parse(arguments: Sequence[str], flags: Iterable[str], switches: Iterable[str] = ()) -> Arguments:
    """Sort out `--flag VALUE`, `--flag=VALUE`, `--switch`; `-`, negative numbers and what follows `--` are words."""
    flags, switches = frozenset(flags), frozenset((*switches, "--help"))
    parsed = Arguments()
    waiting = iter(arguments)
    for argument in waiting:
        flag, equals, value = argument.partition("=")
        if argument == "--":
            parsed.words += waiting
        elif argument in switches or argument == "-h":
            parsed.switches.add("--help" if argument == "-h" else argument)
        elif flag in flags:
            if not equals:
                value = next(waiting, "--")
                if value.startswith("--"):
                    raise UsageError(f"{flag}: expected a value ({flag}=VALUE takes any)")
            parsed.values[flag] = value
        elif flag in switches:
            raise UsageError(f"{flag}: takes no value")
        elif argument.startswith("-") and argument != "-" and not argument[1:2].isdigit():
            shown = flag if flag.isprintable() else repr(flag)
            raise UsageError(f"{shown}: unknown option{did_you_mean(flag, flags | switches, '--')}")
        else:
            parsed.words.append(argument)
    return parsed


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 2 for wrong usage or options, with one line on stderr."""
    occupy()
    try:
        return _command(sys.argv[1:] if argv is None else argv)
    except (UsageError, SettingsError) as error:
        complain(str(error))
        return 2
    except BrokenPipeError:  # whoever read our output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # and the interpreter must not stumble over it once more
        return 0
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as a shell reports it


def _command(arguments: Sequence[str]) -> int:
    if not arguments:
        raise UsageError(f"expected a command: {', '.join(COMMANDS)} (fastcable --help tells more)")
    name, *rest = arguments
    if name in ("--help", "-h", "help"):
        return say(HELP)
    if name == "--version":
        return say(f"fastcable {__version__}\n")
    command = COMMANDS.get(name)
    if command is None:
        what = "unknown option or before its command" if name.startswith("-") else "unknown command"
        raise UsageError(f"{name if name.isprintable() else repr(name)}: {what}{did_you_mean(name, COMMANDS)}")
    return command(rest)


def say(text: str) -> int:
    if sys.stdout is not None:
        sys.stdout.write(text)
        sys.stdout.flush()
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# serve and config


def _serve(arguments: Sequence[str]) -> int:
    parsed = _parse_options(arguments, "--demo")
    if "--help" in parsed.switches:
        return say(SERVE_HELP + OPTIONS_HELP + options_help() + SERVE_EXAMPLES)

    from fastcable.succession import ADOPT, CHECK, take

    succession = take()
    loaded = _load(parsed)
    settings, demo = loaded.settings, "--demo" in parsed.switches
    if demo and "/" in (settings.cable_path, settings.broadcast_path):
        raise UsageError("--demo: its page is served at /, which cable_path or broadcast_path takes")

    from fastcable import log

    log.configure(settings.log_level, settings.log_format)
    if succession is None or succession.role not in (CHECK, ADOPT):  # who has started these tells the same
        for warning in loaded.warnings:
            log.log.warning("%s", warning)
    del parsed, loaded

    from fastcable.launch import launch

    return launch(settings, succession, demo=demo)


def _config(arguments: Sequence[str]) -> int:
    parsed = _parse_options(arguments, "--check")
    if "--help" in parsed.switches:
        return say(CONFIG_HELP)
    loaded = _load(parsed)
    for warning in loaded.warnings:
        complain(f"warning: {warning}")
    if loaded.settings.auth == "jwt":
        from fastcable.tokens import TokenVerifier

        TokenVerifier.configured(loaded.settings)  # its key files, too, must be good
    return say("ok\n" if "--check" in parsed.switches else effective(loaded))


def _parse_options(arguments: Sequence[str], switch: str) -> Arguments:
    parsed = parse(arguments, ["--config", *(option.flag for option in OPTIONS.values())], [switch])
    if parsed.words:
        raise UsageError(f"{parsed.words[0]!r}: unexpected argument")
    return parsed


def _load(parsed: Arguments) -> Loaded:
    flags = {option.name: parsed.values[option.flag] for option in OPTIONS.values() if option.flag in parsed.values}
    config = parsed.values.get("--config")
    if config == "":
        raise UsageError("--config: must not be empty")
    return load(flags, os.environ, config or None)


def effective(loaded: Loaded) -> str:
    """The options as TOML; those that are not set, and secrets, as comments."""
    import orjson

    lines: list[tuple[str, str]] = []
    for option in OPTIONS.values():
        value: object = getattr(loaded.settings, option.name)
        shown = option.kind.show(value)
        if isinstance(value, tuple):
            toml = f"[{', '.join(orjson.dumps(entry).decode() for entry in value)}]"
        elif isinstance(value, float | bool) or (isinstance(value, int) and shown.isdigit()):
            toml = shown
        else:
            toml = orjson.dumps(shown).decode()
        if shown == "-":
            line = f"# {option.name} is not set"
        else:
            line = f"# {option.name} = {shown}" if MASK in shown else f"{option.name} = {toml}"
        lines.append((line, loaded.origins[option.name]))
    width = max(len(line) for line, _ in lines)
    return "".join(
        [f"{line:<{width}}  # {origin}\n" for line, origin in lines]
        + [
            f"\n[channels.{orjson.dumps(channel.name).decode()}]\nstream = {orjson.dumps(channel.stream).decode()}\n"
            f"public = {str(channel.public).lower()}\n"
            for channel in loaded.settings.channels
        ])


def options_help() -> str:
    """The options in their groups, each with unit, meaning and default."""
    import textwrap

    lines: list[str] = []
    group = ""
    for option in OPTIONS.values():
        if option.group != group:
            group = option.group
            lines.append(f"\n{group}:")
        default = option.kind.show(option.default) + (" s" if isinstance(option.kind, Seconds) else "")
        text = option.help if default == "-" else f"{option.help} [{default}]"
        head = f"  {option.flag} {option.kind.unit}"
        if len(head) > 29:
            lines.append(head)
            head = ""
        lines += textwrap.wrap(text, 110, initial_indent=f"{head:<31}", subsequent_indent=" " * 31)
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------------------------------------
# publish and listen


def _publish(arguments: Sequence[str]) -> int:
    parsed = parse(arguments, ("--url", "--key"))
    if "--help" in parsed.switches:
        return say(PUBLISH_HELP)
    if len(parsed.words) != 2:
        raise UsageError(f"publish: expected STREAM and DATA, got {len(parsed.words)} arguments")
    stream, data = (_utf8(name, word) for name, word in zip(("STREAM", "DATA"), parsed.words, strict=True))

    from fastcable.client import publish
    from fastcable.client.endpoint import BadKey, Endpoint
    from fastcable.client.errors import PublishError
    from fastcable.client.publisher import Publisher

    url_from, url = _flag_or_variable(parsed, "--url", "FASTCABLE_BROADCAST_URL")
    key_from, key = _flag_or_variable(parsed, "--key", "FASTCABLE_BROADCAST_KEY")
    url, key = url or PUBLISH_URL, key or ""
    try:
        Endpoint.parse(url, key)
    except BadKey as error:
        raise UsageError(f"{key_from}: {error}") from None
    except ValueError as error:
        raise UsageError(f"{url_from}: {error}") from None
    timeout = publish.TIMEOUT
    try:
        with Publisher(url, key, connect_timeout=timeout, timeout=timeout) as publisher:
            if data == "-":
                publish.publish_lines(publisher, stream, 0)
            else:
                say(f'{{"subscribers":{publish.publish_one(publisher, stream, data.encode())}}}\n')
    except PublishError as error:
        complain(str(error))
        return 1
    return 0


def _listen(arguments: Sequence[str]) -> int:
    parsed = parse(arguments, ("--url", "--token", "--protocol", "--signed"))
    if "--help" in parsed.switches:
        return say(LISTEN_HELP)
    protocol = parsed.values.get("--protocol", "simple")
    if protocol not in ("simple", "actioncable"):
        raise UsageError(f"--protocol: expected simple or actioncable, got {protocol!r}")
    if protocol == "simple" and "--signed" in parsed.values:
        raise UsageError("--signed: needs --protocol actioncable (with simple, a signed name is a STREAM)")
    signed = [_utf8("--signed", name.strip()) for name in parsed.values.get("--signed", "").split(",") if name.strip()]
    if not (parsed.words or signed):
        raise UsageError("listen: expected at least one STREAM")
    streams = [_utf8("STREAM", word) for word in parsed.words]
    token_from, token = _flag_or_variable(parsed, "--token", "FASTCABLE_TOKEN")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(f"{token_from}: expected a token in printable ASCII without spaces")

    from functools import partial

    from fastcable.client import listen
    from fastcable.client.listener import CableListener, Listener
    from fastcable.client.websocket import Target

    try:
        target = Target.parse(parsed.values.get("--url", LISTEN_URL))
    except ValueError as error:
        raise UsageError(f"--url: {error}") from None
    streams, signed = list(dict.fromkeys(streams)), list(dict.fromkeys(signed))
    listener = partial(Listener, streams) if protocol == "simple" else partial(CableListener, streams, signed)
    return listen.run(listener, target, token or None)


def _flag_or_variable(parsed: Arguments, flag: str, variable: str) -> tuple[str, str]:
    """The name and the value of the one that is given; an empty value counts as none."""
    if flag in parsed.values:
        return flag, parsed.values[flag]
    return variable, os.environ.get(variable, "")


def _utf8(name: str, word: str) -> str:
    try:
        word.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name}: not valid UTF-8") from None
    return word


# ---------------------------------------------------------------------------------------------------------------------
# sign and token


def _sign(arguments: Sequence[str]) -> int:
    from fastcable import credentials

    flags = [OPTIONS[name].flag for name in credentials.SIGNING_OPTIONS]
    parsed = parse(arguments, ("--config", *flags))
    if "--help" in parsed.switches:
        return say(credentials.SIGN_HELP)
    if len(parsed.words) != 1:
        raise UsageError(f"sign: expected one STREAM, got {len(parsed.words)} arguments")
    try:
        return say(credentials.signed_name(_load(parsed).settings, parsed.words[0]) + "\n")
    except ValueError as error:
        raise UsageError(str(error)) from None


def _token(arguments: Sequence[str]) -> int:
    from fastcable import credentials

    flags = [OPTIONS[name].flag for name in credentials.TOKEN_OPTIONS]
    parsed = parse(arguments, ("--config", "--claims", "--ttl", "--streams", *flags))
    if "--help" in parsed.switches:
        return say(credentials.TOKEN_HELP)
    if parsed.words:
        raise UsageError(f"{parsed.words[0]!r}: unexpected argument")
    claims, ttl, streams = (parsed.values.get(flag) for flag in ("--claims", "--ttl", "--streams"))
    try:
        return say(credentials.token(_load(parsed).settings, claims, ttl, streams) + "\n")
    except ValueError as error:
        raise UsageError(str(error)) from None


COMMANDS = {
    "serve": _serve, "publish": _publish, "listen": _listen, "config": _config, "sign": _sign, "token": _token,
}
