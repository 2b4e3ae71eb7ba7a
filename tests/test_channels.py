"""Which stream an Action Cable subscription stands for: signed names, public names, and the configured channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastcable.channels import Authorizer, Channel, read_channels
from fastcable.configuration import load
from fastcable.options import Wrong
from fastcable.settings import SettingsError

TURBO = "Turbo::StreamsChannel"


class Signer:
    """`chat/7--signed` is the signed name of chat/7."""

    def verify(self, token: str) -> str | None:
        return token.removesuffix("--signed") if token.endswith("--signed") else None


SIGNED = {"signed_stream_name": "chat/7--signed"}
FORGED = {"signed_stream_name": "chat/7"}
NAMED = {"stream_name": "news"}


@pytest.mark.parametrize(("channel", "params", "closed", "public"), [
    (TURBO, SIGNED, "chat/7", "chat/7"),
    (TURBO, FORGED, None, None),
    (TURBO, NAMED, None, None),
    (TURBO, {"signed_stream_name": 7}, None, None),
    ("$pubsub", SIGNED, "chat/7", "chat/7"),
    ("$pubsub", {**SIGNED, **NAMED}, "chat/7", "chat/7"),
    ("$pubsub", {**FORGED, **NAMED}, None, None),
    ("$pubsub", {**NAMED, "signed_stream_name": None}, None, None),
    ("$pubsub", NAMED, None, "news"),
    ("$pubsub", {"stream_name": 7}, None, None),
    ("$pubsub", {}, None, None),
    ("turbo::streamschannel", SIGNED, None, None),
    ("Secret", {}, None, None),
    ("News", {}, "news", "news"),
    ("News", {"stream_name": "other"}, "news", "news"),
    ("", {}, None, None),
])
def test_what_an_identifier_stands_for(
    channel: str, params: dict[str, Any], closed: str | None, public: str | None
) -> None:
    channels = [Channel("News", "news", public=True), Channel("Secret", "secret")]
    assert Authorizer(channels, Signer())(channel, params) == closed
    assert Authorizer(channels, Signer(), public_streams=True)(channel, params) == public


@pytest.mark.parametrize("channel", [TURBO, "$pubsub"])
def test_without_a_key_no_signature_is_good(channel: str) -> None:
    assert Authorizer()(channel, SIGNED) is None
    assert Authorizer(public_streams=True)(channel, {**SIGNED, **NAMED}) is None


@pytest.mark.parametrize(("stream", "params", "name"), [
    ("scores:{game}", {"game": "final"}, "scores:final"),
    ("scores:{game}", {"game": 7}, "scores:7"),
    ("scores:{game}", {"game": -7}, "scores:-7"),
    ("scores:{game}", {"game": "0b6f1c9e-6d2c-4f5e-9a51-b6d4c1b6d5a0"}, "scores:0b6f1c9e-6d2c-4f5e-9a51-b6d4c1b6d5a0"),
    ("scores:{game}", {"game": "Köln_1"}, "scores:Köln_1"),
    ("live-scores-{game}", {"game": "a_b"}, "live-scores-a_b"),
    ("{a}:{b}", {"a": "x", "b": "y-z", "c": "more"}, "x:y-z"),
    ("{a}:{a}", {"a": "x"}, "x:x"),
    ("{a}", {"a": "x"}, "x"),
    # One of them would have the name read as another
    ("live-scores-{game}", {"game": "a-b"}, None),
    ("live-scores-{game}", {"game": -7}, None),
    ("{a}:{b}", {"a": "x:y", "b": "z"}, None),
    ("scores:{game}", {"game": "7:private"}, None),
    ("scores_{game}", {"game": "7_private"}, None),
    # No word or number
    ("scores:{game}", {}, None),
    ("scores:{game}", {"Game": "7"}, None),
    *(("scores:{game}", {"game": value}, None) for value in (
        "", " ", "a b", "a.b", "a/b", "{game}", "a\n", "\n", "a\0", "\x7f", "a\u2028", "😀", "\u200b", "x" * 201,
        None, True, False, 1.0, [7], {"game": 7})),
])
def test_parameters_take_their_places(stream: str, params: dict[str, Any], name: str | None) -> None:
    assert Channel("Scores", stream).stream_of(params) == name


@pytest.mark.parametrize(("table", "complaint"), [
    (7, "channels: expected tables such as [channels.Scores]"),
    ({"Scores": "scores"}, "channels.Scores: expected a table, such as [channels.Scores]"),
    ({"Scores": {}}, 'channels.Scores.stream: is missing: which stream is it, such as "scores:{game}"?'),
    ({"Scores": {"stream": 7}}, "channels.Scores.stream: expected a string"),
    ({"Scores": {"stream": "s", "public": "yes"}}, "channels.Scores.public: expected true or false"),
    ({"Scores": {"steam": "s"}}, "channels.Scores.steam: unknown key (did you mean stream?)"),
    ({"Live::Scores": {"stream": ""}}, "channels.'Live::Scores'.stream: must not be empty"),
    ({"": {"stream": "s"}}, "channels.'': a channel must have a name"),
    ({TURBO: {"stream": "s"}}, "channels.'Turbo::StreamsChannel': is served as it is, by signed_stream_name"),
    ({"$pubsub": {"stream": "s"}}, "channels.'$pubsub': is served as it is, by signed_stream_name"),
    *(({"S": {"stream": stream}}, "channels.S.stream: " + complaint) for stream, complaint in (
        ("s\n", "must not contain control characters"),
        ("s" * 256, "must be at most 255 bytes of UTF-8"),
        ("s:{}", "'{}' does not name a parameter"),
        ("s:{a b}", "'{a b}' does not name a parameter"),
        ("s:{1}", "'{1}' does not name a parameter"),
        ("s:{channel}", "{channel} is the channel's own name: write it out"),
        ("s:{a", "a brace without its counterpart"),
        ("s:a}", "a brace without its counterpart"),
        ("s:{{a}}", "a brace without its counterpart"),
        ("s{a}", "{a} must stand between separators such as :, got 's{a}'"),
        ("s:{a}s", "{a} must stand between separators such as :, got 's:{a}s'"),
        ("s:{a}{b}", "{b} must stand between separators such as :, got 's:{a}{b}'"),
    )),
])
def test_what_is_wrong_with_a_table_is_told_in_one_line(table: object, complaint: str) -> None:
    with pytest.raises(Wrong) as error:
        read_channels(table)
    assert str(error.value) == complaint


def test_channels_come_from_tables_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "fastcable.toml"
    file.write_text(
        '[channels.Scores]\nstream = "scores:{game}"\npublic = true\n[channels."Live::Chat"]\nstream = "c"\n')
    loaded = load({}, {}, str(file))
    assert loaded.settings.channels == (Channel("Scores", "scores:{game}", public=True), Channel("Live::Chat", "c"))
    assert loaded.warnings == [
        "channels.Live::Chat is not public: nobody may subscribe to it (those who have a token may)"]


def test_an_error_in_a_table_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "fastcable.toml"
    file.write_text('[channels.Scores]\nstream = 7\n')
    with pytest.raises(SettingsError) as error:
        load({}, {}, str(file))
    assert str(error.value) == f"{file}: channels.Scores.stream: expected a string"


def test_there_is_no_variable_for_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (warning,) = load({}, {"FASTCABLE_CHANNELS": "x"}).warnings
    assert warning.startswith("FASTCABLE_CHANNELS: unknown variable")
