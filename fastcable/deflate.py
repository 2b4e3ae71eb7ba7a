"""What permessage-deflate makes of a message (RFC 7692 §7.2), without a context: each message is deflated and inflated
by itself, so whoever has the same message to send to many deflates it once, and nothing is kept between messages.

The choices were measured (bench/compression.py). A new compressor costs a microsecond, less than a copy of one that is
kept. A window of 4 KiB costs large messages a tenth in size; peers that ask for a small one ask for this. Level 6 would
take twice as long for a tenth less.
"""

from __future__ import annotations

from zlib import DEFLATED, Z_SYNC_FLUSH, compressobj, decompressobj, error

WINDOW_BITS = 12
"""Of what is deflated here: the least that a peer may ask for."""
SMALLEST = 128
"""Bytes of a message that is deflated; of smaller ones too little would be saved."""
TRIED = 65_536
"""Bytes of a large message that are deflated to see whether half of them is left. If not, the rest is not worth its
time: 33 ms for a megabyte of hexadecimal digits, where HTML takes 5."""

_LEVEL = 1
_MEMORY = 5
_LARGEST_WINDOW_BITS = 15

_FLUSHED = b"\x00\x00\xff\xff"
"""What ends a flush, and is left out of each payload."""
_FINAL_BLOCK = b"\x01\x00\x00\xff\xff"
"""Found behind a payload exactly if that ends where a block ends."""
_BEHIND_THE_END = (b"", _FLUSHED, b"\x00" + _FLUSHED)
"""What may stand behind a final block that a peer has made itself: nothing, if that was an empty one whose last octets
it left out, else what ends a flush, with the octet that belongs before it (§7.2.3.4) or, as some do, without."""


def deflate(message: bytes) -> bytes | None:
    """The payload of a compressed message; None: it is better sent as it is."""
    if len(message) < SMALLEST:
        return None
    compressor = compressobj(_LEVEL, DEFLATED, -WINDOW_BITS, _MEMORY)
    deflated = compressor.compress(message[:TRIED]) + compressor.flush(Z_SYNC_FLUSH)
    if len(message) > TRIED:
        if len(deflated) > TRIED // 2:
            return None
        deflated += compressor.compress(memoryview(message)[TRIED:]) + compressor.flush(Z_SYNC_FLUSH)
    deflated = deflated.removesuffix(_FLUSHED)
    return deflated if len(deflated) < len(message) else None


def inflate(payload: bytes, limit: int) -> bytes:
    """The message that a compressed payload holds, of which at most `limit` + 1 bytes are made: one that is longer than
    `limit` is too large. Raises ValueError where it is not deflated data, or not all of it."""
    decompressor = decompressobj(-_LARGEST_WINDOW_BITS)
    try:
        message = decompressor.decompress(payload + _FLUSHED, limit + 1)
        if len(message) > limit:
            return message
        if decompressor.eof:
            whole = decompressor.unused_data in _BEHIND_THE_END
        else:
            whole = not decompressor.decompress(_FINAL_BLOCK) and decompressor.eof and not decompressor.unused_data
    except error as problem:
        raise ValueError(str(problem)) from None
    if not whole:
        raise ValueError("deflated data without an end, or with something behind it")
    return message
