"""A command's output as it is kept: text in UTF-8, where a position is a number of bytes from the start.

Whoever has everything up to a position can be given the rest, from a message or from here, and knows by the position
which part of it is new.
"""

from __future__ import annotations

import codecs
from pathlib import Path


class Output:
    """Appends what a terminal says. Bytes come in pieces that end anywhere, in the middle of a character too: such a
    piece waits for its rest. So what is kept is valid UTF-8 at all times, with U+FFFD for what never was."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def append(self, data: bytes, final: bool = False) -> None:
        if text := self._decode(data, final):
            self._file.write(text.encode())

    def close(self) -> None:
        self.append(b"", final=True)
        self._file.close()


def read_text(path: Path, position: int, limit: int) -> bytes:
    """At most `limit` bytes (4 or more) from a position on, whole characters only."""
    with path.open("rb") as file:
        file.seek(position)
        return whole_characters(file.read(limit))


def whole_characters(data: bytes) -> bytes:
    """UTF-8 without a last character that is cut off: its first byte has both upper bits set, and tells how many."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        return data[:-back] if length > back else data
    return data


def output_path(folder: Path, key: str) -> Path:
    """Where a job's output is kept."""
    jobs = folder / "jobs"
    jobs.mkdir(exist_ok=True)
    return jobs / f"{key}.output"
