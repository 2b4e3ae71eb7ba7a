"""What the commands share: colours, arguments, and a pace that one can follow."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from examples.showcase.database import Database, Row

BOLD, DIM, RED, GREEN, GOLD, RESET = (f"\x1b[{code}m" for code in ("1", "2", "31", "32", "33", "0"))


def event(arguments: list[str]) -> tuple[Database, Row]:
    _, path, event_id = arguments
    database = Database(Path(path))
    return database, database.one("SELECT * FROM event WHERE id = ?", event_id)


def pause() -> None:
    sys.stdout.flush()
    time.sleep(float(os.environ.get("SHOWCASE_PACE", "0.15")))
