"""The code in the manuals' pages, so that it can be run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def snippet(page: str, language: str, beginning: str = "") -> str:
    """The one block of a page in this language that begins so."""
    text = (ROOT / page).read_text()
    blocks: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (found,) = (block for kind, block in blocks if kind == language and block.startswith(beginning))
    return found


def at(port: int, text: str, written: int = 3100) -> str:
    """The block with this port in place of the one that is written there, once."""
    assert text.count(f":{written}") == 1, text
    return text.replace(f":{written}", f":{port}")
