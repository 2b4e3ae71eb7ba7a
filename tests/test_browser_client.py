"""fastcable.js under Node: its own tests, and the types that come with it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness import Serve

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


def test_the_client_and_the_server_agree_on_ids_exclusion_and_retained_values(serve: Serve) -> None:
    address = f"127.0.0.1:{serve().port}"
    told = json.loads(run("node", "peers/consumers.mjs", f"ws://{address}/cable", f"http://{address}/_broadcast"))
    assert told["ids"] == 3
    mine, theirs, late = told["logs"]
    kept, to_all, forgotten = (["received", "s", data] for data in ("kept", "to all", None))

    def connected(stream: str, reconnected: bool = False) -> list[object]:
        return ["connected", stream, {"reconnected": reconnected}]

    assert mine == [connected("s"), kept, to_all, forgotten]
    assert late == [connected("s"), to_all, forgotten]
    assert theirs == [
        connected("s"), kept, connected("t"), ["received", "s", "not to me"], to_all, forgotten,
        *(["disconnected", stream, {"willReconnect": False}] for stream in "st"),
        *(told for stream in "st" for told in (connected(stream, True), ["missed", stream, {"reason": "reconnect"}])),
    ]
