"""fastcable.js under Node: its own tests, and the types that come with it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "js"


@pytest.fixture(autouse=True)
def _installed() -> None:
    assert shutil.which("node"), "the browser client's tests need Node.js 20 or later"
    assert (FOLDER / "node_modules" / "ws").is_dir(), "their packages are missing: run `npm ci` in tests/js"


def run(*command: str) -> str:
    result = subprocess.run(
        command, cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}"
    return result.stdout


def test_the_client_passes_its_tests_in_node() -> None:
    output = run("node", "--test", "--test-reporter=tap")
    counts = {name: int(count) for name, count in re.findall(r"^# (tests|pass|skipped|todo) (\d+)$", output, re.M)}
    assert counts["tests"] > 0, output
    assert counts["pass"] == counts["tests"], output


def test_the_types_fit_the_module_and_its_uses() -> None:
    run(str(FOLDER / "node_modules" / ".bin" / "tsc"), "--project", "tsconfig.json")
