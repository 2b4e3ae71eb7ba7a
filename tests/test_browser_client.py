"""fastcable.js under Node: its own tests, and the types that come with it."""

from __future__ import annotations

import base64
import hmac
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastcable.signing import MAX_TOKEN
from fastcable.tokens import issue
from tests.harness import LocalServer, Serve

FOLDER = Path(__file__).parent / "js"


@pytest.fixture(autouse=True)
def _installed() -> None:
    assert shutil.which("node"), "the browser client's tests need Node.js 20 or later"
    assert (FOLDER / "node_modules" / "ws").is_dir(), "their packages are missing: run `npm ci` in tests/js"


def run(*command: str) -> str:
    result = subprocess.run(
        command, cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
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


def test_a_page_whose_token_is_refused_stays_away_until_it_has_another(serve: Serve) -> None:
    server = serve(auth="jwt", jwt_secret=(SECRET,))
    tokens = [issue({"exp": time.time() + seconds}, secret)
              for seconds, secret in ((60, "x" * 32), (-1, SECRET), (60, SECRET))]
    script = """
        import WebSocket from "ws";
        import { createConsumer } from "../../fastcable/client/fastcable.js";
        const [url, ...tokens] = process.argv.slice(1);
        const next = () => `${url}?jid=${tokens.shift()}`;
        const told = [];
        const consumer = createConsumer(next(), {
          WebSocket,
          onstatechange({ state, reason }) {
            told.push([state, reason]);
            if (reason !== null) consumer.connect(next());
          },
        });
        consumer.subscribe("s", {
          connected() {
            console.log(JSON.stringify(told));
            consumer.disconnect();
          },
        });
    """
    told = json.loads(run("node", "--no-warnings", "--input-type=module", "--eval", script,
                          f"ws://127.0.0.1:{server.port}/cable", *tokens).splitlines()[-1])
    assert [step for step in told if step != ["waiting", None]] == [
        ["connecting", None], ["open", None], ["closed", "unauthorized"],
        ["connecting", None], ["open", None], ["waiting", "token expired"],
        ["connecting", None], ["open", None]]


# Names

SECRET = "s" * 32
TOO_LONG = "stream must be at most 255 bytes of UTF-8"
UNSIGNED = "stream must be a signed name"
NEITHER = "TypeError: fastcable: a stream name is 1 to 4096 bytes of text without control characters"


def signed(content: str) -> str:
    """A name as JSON, signed."""
    payload = base64.b64encode(content.encode()).decode().rstrip("=")
    return f"{payload}--{hmac.digest(SECRET.encode(), payload.encode(), 'sha256').hex()}"


Tell = Callable[[LocalServer, list[str]], Any]


@pytest.fixture(params=["node", "browser"])
def tell(request: pytest.FixtureRequest) -> Tell:
    """What a consumer is told of these names: names.mjs."""
    if request.param == "node":
        script = """
            import WebSocket from "ws";
            import { createConsumer } from "../../fastcable/client/fastcable.js";
            import { tellOf } from "./peers/names.mjs";
            const [url, names] = process.argv.slice(1);
            console.log(JSON.stringify(await tellOf(createConsumer, WebSocket, url, JSON.parse(names))));
        """
        return lambda server, names: json.loads(run(
            "node", "--input-type=module", "--eval", script, f"ws://127.0.0.1:{server.port}/cable", json.dumps(names)))
    page = request.getfixturevalue("context").new_page()
    page.route("**/page", lambda route: route.fulfill(content_type="text/html", body="<!doctype html>"))
    page.route("**/names.mjs", lambda route: route.fulfill(path=FOLDER / "peers" / "names.mjs"))

    def tell(server: LocalServer, names: list[str]) -> Any:
        page.goto(f"http://127.0.0.1:{server.port}/page")
        return page.evaluate("""async (names) => {
            const [{ createConsumer }, { tellOf }] = await Promise.all([import("/fastcable.js"), import("/names.mjs")]);
            return await tellOf(createConsumer, WebSocket, "/cable", names);
        }""", names)

    return tell


def check(tell: Tell, server: LocalServer, names: dict[str, list[str]]) -> None:
    result = tell(server, list(names))
    served = [name for name, (what, _) in names.items() if what == "received"]
    expected = [
        [["connected", False], told, ["connected", True], told] if told[0] == "received" else [told]
        for told in names.values()]
    assert [told[:4] for told in result["told"]] == expected
    # What was refused is not asked for again.
    assert result["asked"] == [[name for name, (what, _) in names.items() if what != "thrown"], [*served, "end"]]


def test_names_that_are_too_long_for_a_stream_are_rejected_for_good(serve: Serve, tell: Tell) -> None:
    server = serve()
    for name in ("x" * 254, "x" * 255):
        server.post({"stream": name, "data": "kept", "retain": True})
    check(tell, server, {
        "x" * 254: ["received", "kept"], "x" * 255: ["received", "kept"],
        **{"x" * size: ["rejected", TOO_LONG] for size in (256, 300, 4095, 4096)}, "é" * 2048: ["rejected", TOO_LONG],
        "x" * 4097: ["thrown", NEITHER],
    })


def test_signed_names_of_all_lengths_are_subscribed_to(serve: Serve, tell: Tell) -> None:
    server = serve(signed_streams="required", turbo_secret=(SECRET,), max_errors=0)
    contents = [json.dumps("x" * size) for size in (139, 140, 173, 255)]
    contents.append('"%s"' % ("\\u0041" * 255))
    names = [signed(content) for content in contents]
    assert [len(name) for name in names] == [254, 256, 300, 409, MAX_TOKEN - 1]
    for content in contents:
        server.post({"stream": json.loads(content), "data": "kept", "retain": True})
    check(tell, server, {
        **{name: ["received", "kept"] for name in names},
        **{"x" * size: ["rejected", UNSIGNED] for size in (255, 256, 300, 4095, 4096)},
        "é" * 2048: ["rejected", UNSIGNED],
        "x" * 4097: ["thrown", NEITHER],
    })
