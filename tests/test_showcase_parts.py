"""What the showcase is made of, without a browser or a server. (tests/js has that of the pages.)"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from examples.showcase.gather import Gatherer
from examples.showcase.output import Output, read_text, whole_characters


@pytest.mark.parametrize("cut", range(len("aé♫𝄞z".encode()) + 1))
def test_output_cut_anywhere_is_kept_whole(tmp_path: Path, cut: int) -> None:
    data = "aé♫𝄞z".encode()
    output = Output(tmp_path / "output")
    output.append(data[:cut])
    kept = (tmp_path / "output").read_bytes()
    assert data.startswith(kept)
    kept.decode()
    output.append(data[cut:])
    output.close()
    assert (tmp_path / "output").read_bytes() == data


@pytest.mark.parametrize(
    ("data", "kept"),
    [(b"a\xffb", "a\ufffdb"), (b"a\xc3", "a\ufffd"), (b"\xe2\x99", "\ufffd"), (b"\x80\x80", "\ufffd\ufffd"), (b"", "")],
)
def test_what_is_no_utf_8_is_kept_as_replacement_characters(tmp_path: Path, data: bytes, kept: str) -> None:
    output = Output(tmp_path / "output")
    for byte in data:
        output.append(bytes([byte]))
    output.close()
    assert (tmp_path / "output").read_text() == kept


@pytest.mark.parametrize("limit", range(4, 12))
def test_pieces_of_any_size_are_whole_characters_and_join(tmp_path: Path, limit: int) -> None:
    data = "aé♫𝄞z𝄞𝄞éé♫a".encode()
    (tmp_path / "output").write_bytes(data)
    joined = b""
    while piece := read_text(tmp_path / "output", len(joined), limit):
        piece.decode()
        joined += piece
    assert joined == data


@pytest.mark.parametrize(
    ("data", "whole"),
    [(b"", b""), (b"a", b"a"), (b"\xc3", b""), ("é".encode(), "é".encode()), (b"a\xe2\x99", b"a"),
     ("♫".encode(), "♫".encode()), (b"\xf0\x9d\x84", b""), ("𝄞".encode(), "𝄞".encode())],
)
def test_a_character_that_is_cut_off_is_left_for_later(data: bytes, whole: bytes) -> None:
    assert whole_characters(data) == whole


def test_changes_are_gathered_while_a_message_is_under_way() -> None:
    async def main() -> list[set[int]]:
        sent: list[set[int]] = []
        under_way, go_on = asyncio.Event(), asyncio.Event()

        async def send(items: set[int]) -> None:
            sent.append(items)
            under_way.set()
            await go_on.wait()

        gatherer = Gatherer(0, send)
        gatherer.add(1)
        await under_way.wait()
        gatherer.add(2)
        gatherer.add(3, 2)
        under_way.clear()
        go_on.set()
        await under_way.wait()
        await asyncio.sleep(0.01)
        gatherer.add(4)
        await asyncio.sleep(0.01)
        return sent

    assert asyncio.run(main()) == [{1}, {2, 3}, {4}]
