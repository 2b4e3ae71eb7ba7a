"""Ruby programs and Rails applications for the tests."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.harness import PATIENCE
from tests.snippets import ROOT

GEM = ROOT / "clients" / "ruby"
APPLICATION = GEM / "test" / "application.rb"

_OURS = re.compile(r"FASTCABLE_|(NAVIGATOR|TURBO_CABLE)_BROADCAST_URL$|RAILS_ENV$|RACK_ENV$|RUBY|SECRET_KEY_BASE$")
_CLEAN = {name: value for name, value in os.environ.items() if not _OURS.match(name)}


def run(folder: Path, *command: str | Path, stdin: str = "", **environment: str) -> str:
    """Runs a command in a folder; what it prints. It must succeed, and Ruby must warn of nothing of ours."""
    done = subprocess.run(
        command, cwd=folder, env={**_CLEAN, "HOME": str(folder), **environment},
        input=stdin, capture_output=True, text=True, timeout=4 * PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    # Debian's Rails has warnings of its own.
    lines = done.stderr.splitlines()
    assert [line for line in lines if "warning: " in line and line.startswith((str(ROOT), str(folder)))] == []
    return done.stdout


def ruby(*arguments: str | Path) -> list[str | Path]:
    return ["ruby", "-w", "-I", GEM / "lib", *arguments]


class Application:
    """A Rails application, in an empty folder, that has this config/cable.yml."""

    def __init__(self, folder: Path, cable_yml: str) -> None:
        self._folder = folder
        self.write("cable.yml", cable_yml)

    def write(self, name: str, source: str) -> None:
        """A file below its config/."""
        file = self._folder / "config" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)

    def run(self, program: str, *, file: Path = APPLICATION, stdin: str = "", **environment: str) -> str:
        """What a program prints in the production environment, when `file` has started the application."""
        environment = {"RAILS_ENV": "production", **environment}
        return run(self._folder, *ruby("-r", file, "-e", program), stdin=stdin, **environment)
