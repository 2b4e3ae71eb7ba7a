"""Commands that an organiser may run. Each is a program: `python -m MODULE DATABASE EVENT`."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    title: str
    says: str
    module: str


COMMANDS = {
    "check": Command("Check the marks", "Counts every judge's crosses twice.", "examples.showcase.reports.check"),
    "certificates": Command(
        "Typeset certificates", "One for each couple, with a progress bar.", "examples.showcase.reports.certificates"
    ),
}
"""What is not here cannot be run: never let a form say what the command is."""
