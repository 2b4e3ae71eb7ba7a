"""Half a minute of clicks in the tempo of a dance, as a WAV file."""

from __future__ import annotations

import io
import math
import wave

SECONDS = 30
RATE = 8_000
BEATS = {  # a minute, and to a bar
    "Samba": (100, 2), "Cha-cha-cha": (124, 4), "Rumba": (104, 4), "Slow waltz": (87, 3), "Tango": (128, 4),
}


def click_track(dance: str) -> bytes:
    per_minute, per_bar = BEATS[dance]
    length = RATE * 60 // per_minute
    bar = click(1_400).ljust(length, b"\x80") + click(900).ljust(length, b"\x80") * (per_bar - 1)
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 1, RATE, 0, "NONE", ""))
        file.writeframes((bar * (SECONDS * RATE // len(bar) + 1))[: SECONDS * RATE])
    return content.getvalue()


def click(frequency: int) -> bytes:
    """Forty milliseconds of a tone that dies away; a sample is a byte, silence 128."""
    count = RATE // 25
    return bytes(
        round(128 + 110 * (1 - n / count) ** 2 * math.sin(2 * math.pi * frequency * n / RATE)) for n in range(count)
    )
