"""What the options let clients of Action Cable subscribe to."""

from __future__ import annotations

from typing import Any

import pytest

from fastcable.authorization import authorizer
from fastcable.channels import Channel
from fastcable.settings import Settings
from fastcable.signing import sign

SECRET = "0123456789abcdef" * 8
TOKEN = sign("chat/7", b"turbo's")
# From secret_key_base, with each digest: part of the format, so written out.
SHA256 = "ImNoYXQvMjAyMyI=--85c47b03bb7be5ac8afbca74e36e07eac665b3e97ac92b1086177265e232c75a"
SHA1 = "ImNoYXQvMjAyMyI=--a0f38e3d57c7ed5bd26f17bba89957ac13295677a4c7517c2173e0d85d7a885d"


@pytest.mark.parametrize(("options", "channel", "params", "stream"), [
    ({}, "Turbo::StreamsChannel", {"signed_stream_name": TOKEN}, None),
    ({"turbo_secret": ("turbo's",)}, "Turbo::StreamsChannel", {"signed_stream_name": TOKEN}, "chat/7"),
    ({"turbo_secret": ("new", "turbo's")}, "$pubsub", {"signed_stream_name": TOKEN}, "chat/7"),
    ({"turbo_secret": ("another",)}, "Turbo::StreamsChannel", {"signed_stream_name": TOKEN}, None),
    ({"secret_key_base": (SECRET,)}, "Turbo::StreamsChannel", {"signed_stream_name": SHA256}, "chat/2023"),
    ({"secret_key_base": (SECRET,)}, "Turbo::StreamsChannel", {"signed_stream_name": SHA1}, None),
    ({"secret_key_base": (SECRET,), "secret_key_base_digest": "sha1"}, "Turbo::StreamsChannel",
     {"signed_stream_name": SHA1}, "chat/2023"),
    ({}, "$pubsub", {"stream_name": "s"}, None),
    ({"public_streams": True}, "$pubsub", {"stream_name": "s"}, "s"),
    ({"public_streams": True}, "$pubsub", {"stream_name": "s", "signed_stream_name": TOKEN}, None),
    ({"public_streams": True}, "Turbo::StreamsChannel", {"stream_name": "s"}, None),
    ({"channels": (Channel("Scores", "scores:{id}", public=True),)}, "Scores", {"id": 7}, "scores:7"),
    ({"channels": (Channel("Scores", "scores:{id}"),)}, "Scores", {"id": 7}, None),
])
def test_streams_of_channels(options: dict[str, Any], channel: str, params: dict[str, Any], stream: str | None) -> None:
    assert authorizer(Settings(**options))(channel, params) == stream
