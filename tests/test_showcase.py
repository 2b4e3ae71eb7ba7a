"""The showcase in a browser: its five channels, between people's pages, the application and the server."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, Route, expect

from examples.showcase.output import Output, whole_characters
from fastcable.channels import read_channels
from tests.harness import PATIENCE, LocalServer, ServerProcess
from tests.showcase import ROOT, A, B, People, Showcase


@pytest.fixture(scope="module")
def cable() -> Iterator[ServerProcess]:
    with ServerProcess() as server:
        yield server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, cable: ServerProcess) -> Iterator[Showcase]:
    """One application for all tests that leave its processes alone, with jobs that hurry."""
    with Showcase(tmp_path_factory.mktemp("showcase"), cable.port, "--pace", "0.04") as showcase:
        yield showcase
        assert showcase.log() == ""


@pytest.fixture
def people(browser: Browser) -> Iterator[People]:
    with ExitStack() as stack:
        people = People(browser, stack)
        yield people
        assert people.complaints == []


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "that did not happen"
        time.sleep(0.01)


def live(page: Page, cable: ServerProcess, stream: str, subscribers: int = 1) -> None:
    """Wait until a stream has so many subscribers."""
    wait_until(lambda: subscribers_of(cable, stream) == subscribers)


def subscribers_of(cable: ServerProcess, stream: str) -> int:
    connection = HTTPConnection("127.0.0.1", cable.port, timeout=PATIENCE)
    with closing(connection):
        connection.request("GET", "/_streams?" + urlencode({"stream": stream}))
        return int(json.loads(connection.getresponse().read())["subscribers"])


def stream_of(page: Page, element: str) -> str:
    return str(page.locator(element).get_attribute("stream"))


# Channel 1


def test_all_pages_show_what_the_organiser_puts_on_the_floor(people: People, shared: Showcase) -> None:
    organiser = people.open(shared, shared.link("organiser"))
    guest = people.context()
    pages = [people.open(shared, shared.link(role), guest) for role in ("viewer", "board", "judge")]
    elsewhere = people.open(shared, shared.link("viewer", B), guest)
    before = elsewhere.locator(".heat").inner_text()
    organiser.get_by_role("button", name="Next heat").click()
    for page in [organiser, *pages]:
        expect(page.locator(".eyebrow")).to_contain_text("Heat 2 of 2")
        assert page.locator(".couples .number").all_text_contents() == ["102", "104", "106", "108", "110", "112"]
    # The judge's ballot and the boards follow into another round.
    organiser.get_by_role("button", name="Next heat").click()
    for page in pages:
        expect(page.locator(".heat h2")).to_have_text("Cha-cha-cha")
    expect(pages[0].locator(".ranking caption")).to_contain_text("Cha-cha-cha")
    expect(pages[1].locator(".grid caption")).to_contain_text("Cha-cha-cha")
    expect(pages[2].locator(".tile .number").first).to_have_text("101")
    pages[0].reload()
    late = people.open(shared, shared.link("viewer"), guest)
    for page in (pages[0], late):
        expect(page.locator(".heat h2")).to_have_text("Cha-cha-cha")
    assert elsewhere.locator(".heat").inner_text() == before
    for _ in range(2):
        organiser.get_by_role("button", name="Back").click()
    expect(late.locator(".heat h2")).to_have_text("Samba")
    expect(late.locator(".eyebrow")).to_contain_text("Heat 1 of 2")


def test_a_change_between_a_page_and_its_subscription_is_on_the_page(people: People, shared: Showcase) -> None:
    """The scripts come only after the change; and what closes the gap is the retained message, not another request."""
    context = people.context()
    requests: list[str] = []
    context.on("request", lambda request: requests.append(request.url))
    held: list[Any] = []
    context.route("**/fastcable/fastcable.js", lambda route: held.append(route))
    page = people.page(context)
    page.goto(f"http://127.0.0.1:{shared.port}{shared.link('viewer')}", wait_until="commit")
    expect(page.locator(".eyebrow")).to_contain_text("Heat 1 of 2")
    while not held:
        page.wait_for_timeout(1)
    assert shared.post(f"{shared.link('organiser')}/heat", step="next") == 204
    expect(page.locator(".eyebrow")).to_contain_text("Heat 1 of 2")
    held[0].continue_()
    expect(page.locator(".eyebrow")).to_contain_text("Heat 2 of 2")
    assert not [url for url in requests if url.endswith("/heat")]
    assert shared.post(f"{shared.link('organiser')}/heat", step="back") == 204
    expect(page.locator(".eyebrow")).to_contain_text("Heat 1 of 2")


def test_an_older_message_that_was_overtaken_is_not_shown(
    people: People, shared: Showcase, cable: ServerProcess
) -> None:
    page = people.open(shared, shared.link("viewer"))
    stream = stream_of(page, "live-heat")
    live(page, cable, stream)
    version = int(page.locator(".heat").get_attribute("data-version") or 0)
    for number, text in ((version + 2, "new"), (version + 1, "old"), (version + 3, "newest")):
        cable.post({"stream": stream, "data": f'<section class="heat" data-version="{number}">{text}</section>'})
        if text == "new":
            page.evaluate(
                """() => (window.seen = [], addEventListener("heat", ({ target }) => seen.push(target.textContent)))"""
            )
    expect(page.locator(".heat")).to_have_text("newest")
    assert "old" not in page.evaluate("() => seen")


# Channel 2


def test_many_entries_are_few_requests_and_every_board_is_right_in_the_end(people: People, shared: Showcase) -> None:
    context = people.one
    boards = [people.open(shared, shared.link("viewer"), context) for _ in range(4)]
    grid = people.open(shared, shared.link("board"), context)
    requests = dict.fromkeys(boards, 0)
    frames: list[str] = []

    def count(request: Request) -> None:
        if request.url.endswith("/ranking"):
            requests[request.frame.page] += 1

    context.on("request", count)
    grid.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(str(frame))))
    grid.reload()
    expect(grid.locator("cable-state")).to_have_text("Live")
    entries = [(judge, couple, crossed) for crossed in ("true", "false", "true", "false", "true")
               for judge in range(7) for couple in range(101, 113, 2)][-200:]
    round_id = re.search(r'data-round="(\d+)"', shared.get(shared.link("judge") + "/ballot").decode())
    assert round_id

    def enter(entry: tuple[int, int, str]) -> None:
        judge, couple, crossed = entry
        path = shared.link("judge", nth=judge) + "/ballot"
        assert shared.post(path, round=round_id[1], couple=couple, crossed=crossed) == 204

    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:  # in order; the browser goes on meanwhile
        entering = [pool.submit(enter, entry) for entry in entries]
        while not entering[-1].done():
            grid.wait_for_timeout(10)
        for future in entering:
            future.result()
    took = time.monotonic() - began
    crosses = {str(couple): 0 for couple in range(101, 113)} | {str(couple): 7 for couple in range(101, 113, 2)}
    for board in boards:
        expect(board.locator(".ranking tbody tr").first.locator(".crosses")).to_contain_text("7")
        for couple, count_ in crosses.items():
            row = board.locator(".ranking tbody tr", has=board.get_by_text(couple, exact=True))
            expect(row.locator(".crosses span")).to_have_text(str(count_))
    for couple, count_ in crosses.items():
        row = grid.locator(".grid tbody tr", has=grid.get_by_text(couple, exact=True))
        expect(row.locator(".sum")).to_have_text(str(count_))
        expect(row.locator(".mark", has_text="×")).to_have_count(count_)
    for count_ in requests.values():
        assert 1 <= count_ <= took / 0.3 + 2
    changes = [frame for frame in frames if "turbo-stream" in frame]
    assert 1 <= len(changes) <= took / 0.25 + 2


def test_a_judges_tap_shows_at_once_and_on_the_judges_other_tablet(people: People, shared: Showcase) -> None:
    tablet = people.open(shared, shared.link("judge", nth=1))
    other = people.open(shared, shared.link("judge", nth=1), people.context())
    colleague = people.open(shared, shared.link("judge", nth=2))
    fetched: list[str] = []
    for page in (tablet, colleague):
        page.on("request", lambda request: fetched.append(f"{request.method} {request.url}"))
    tile = tablet.locator(".tile").nth(3)
    before = tile.get_attribute("aria-pressed")
    after = "false" if before == "true" else "true"
    given = int(tablet.locator(".tally b").inner_text())
    tile.click()
    assert tile.get_attribute("aria-pressed") == after
    expect(other.locator(".tile").nth(3)).to_have_attribute("aria-pressed", after)
    expect(other.locator(".tally b")).to_have_text(str(given + (1 if after == "true" else -1)))
    assert [request.split("/")[-1] for request in fetched] == ["ballot"]  # the tap
    assert fetched[0].startswith("POST ")
    tablet.reload()
    expect(tablet.locator(".tile").nth(3)).to_have_attribute("aria-pressed", after)


def test_a_tap_that_the_application_refuses_is_taken_back(people: People, shared: Showcase) -> None:
    context = people.context()
    context.route("**/ballot", lambda route: route.fulfill(status=409) if route.request.method == "POST"
                  else route.continue_())
    page = people.open(shared, shared.link("judge", nth=3), context)
    tile = page.locator(".tile").first
    before = tile.get_attribute("aria-pressed") or ""
    tile.click()
    expect(tile).not_to_have_attribute("aria-pressed", before)
    expect(tile).to_have_attribute("aria-pressed", before)
    assert all("409" in complaint for complaint in people.complaints)
    people.complaints.clear()


# Channel 3


def test_a_long_job_is_followed_by_its_person_alone_and_told_to_have_ended_with_the_application(
    people: People, cable: ServerProcess, tmp_path: Path
) -> None:
    with Showcase(tmp_path, cable.port, "--pace", "1000") as showcase:  # so slow that it stays where it is
        organiser = people.open(showcase, showcase.link("organiser"))
        second = people.open(showcase, showcase.link("organiser"), people.context())
        foreign = people.open(showcase, showcase.link("organiser", B))
        audience = people.open(showcase, showcase.link("viewer"))
        organiser.get_by_label("Couples a heat").select_option("4")
        organiser.get_by_role("button", name="Draw").click()
        for page in (organiser, second):
            expect(page.locator("live-progress")).to_have_attribute("data-status", "running")
            expect(page.locator("live-progress output")).to_have_text("Cha-cha-cha: a place for couple 101")
        path = f"{showcase.link('organiser')}/draw"
        assert showcase.post(path, size=5) == 409
        organiser.reload()
        expect(organiser.locator("live-progress output")).to_have_text("Cha-cha-cha: a place for couple 101")
        listener = people.open(showcase, showcase.link("viewer"))
        listener.get_by_role("button", name="Make a playlist").click()
        expect(listener.locator("live-progress")).to_have_attribute("data-status", "running")
    with Showcase(tmp_path, cable.port, port=showcase.port) as showcase:
        for page in (organiser, second, listener):
            expect(page.locator("live-progress")).to_have_attribute("data-status", "failed")
            expect(page.locator("live-progress output")).to_contain_text("Interrupted")
    with Showcase(tmp_path, cable.port, "--pace", "0", port=showcase.port) as showcase:
        assert showcase.post(path, size=4) == 202
        done = {"status": "done", "progress": 100, "message": "2 rounds drawn, up to 4 couples in a heat"}
        for page in (organiser, second):
            expect(page.locator("live-progress")).to_have_attribute("data-status", "done")
            expect(page.locator("live-progress output")).to_have_text(str(done["message"]))
            assert page.locator("live-progress progress").evaluate("it => it.value") == 100
        assert foreign.locator("live-progress").get_attribute("data-status") == "idle"
        stream = stream_of(organiser, "live-progress")
        with cable.connect(stream) as newcomer:
            newcomer.expect({"type": "message", "stream": stream, "data": done})
        # What comes next is drawn anew on everybody's page.
        assert showcase.post(f"{showcase.link('organiser')}/heat", step="next") == 204
        expect(audience.locator(".next")).to_contain_text("Cha-cha-cha, heat 1: 101, 104, 107, 110")
        assert showcase.log() == ""


@pytest.mark.parametrize("size", ["", "2", "9", "six", "5.0"])
def test_a_draw_of_another_size_is_refused(shared: Showcase, size: str) -> None:
    assert shared.request("POST", f"{shared.link('organiser')}/draw", size=size) == (
        400, b"wanted: a size of 3 to 8 couples"
    )


# Channel 4


def test_a_playlist_is_made_followed_and_downloaded(people: People, shared: Showcase, tmp_path: Path) -> None:
    page = people.open(shared, shared.link("viewer", B))
    frames: list[str] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(str(frame))))
    page.get_by_role("button", name="Make a playlist").click()
    page.wait_for_url(re.compile("/playlists/"))
    began = time.monotonic()
    page.reload()
    expect(page.locator("live-progress")).to_have_attribute("data-status", "ready")
    states = [frame for frame in frames if '"status"' in frame]
    assert len(states) <= time.monotonic() - began + 4  # and the retained one of each page, the first and the last
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    download.value.save_as(tmp_path / "playlist.zip")
    with zipfile.ZipFile(tmp_path / "playlist.zip") as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names == [*(f"{n:02} Slow waltz {n}.wav" for n in (1, 2, 3)),
                         *(f"{n + 3:02} Tango {n}.wav" for n in (1, 2, 3)), "playlist.m3u8", "heats.csv"]
        assert archive.read(names[0]).startswith(b"RIFF")
        assert b"305 308 311 314 317 320" in archive.read("heats.csv")
    again = people.open(shared, page.url.partition(str(shared.port))[2])
    expect(again.get_by_role("link", name="Download")).to_be_visible()
    href = again.get_by_role("link", name="Download").get_attribute("href") or ""
    path = href.removeprefix(shared.link("viewer", B))
    assert shared.request("GET", shared.link("viewer", B) + path)[0] == 200
    assert shared.request("GET", shared.link("viewer", A) + path)[0] == 404
    assert shared.request("GET", shared.link("viewer", B) + path + "x")[0] == 404


# Channel 5

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
LINES = """() => {
  const buffer = document.querySelector("command-output").terminal.buffer.active;
  const lines = [];
  for (let i = 0; i < buffer.length; i++) lines.push(buffer.getLine(i).translateToString(true));
  return lines.join("\\n").trimEnd();
}"""


def shown(page: Page) -> str:
    return str(page.evaluate(LINES))


def expect_lines(page: Page, text: str) -> None:
    """Wait until the terminal shows exactly this."""
    deadline = time.monotonic() + PATIENCE
    while (found := shown(page)) != text and time.monotonic() < deadline:
        page.wait_for_timeout(10)
    assert found == text


def plain(output: str) -> str:
    return "\n".join(line.rstrip() for line in ANSI.sub("", output).splitlines()).rstrip()


def insert_job(showcase: Showcase, key: str, stream: str) -> Path:
    """A job of the organiser's whose command is the test; where it is to write."""
    person = showcase.query("SELECT id FROM person WHERE token = ?", showcase.link("organiser")[1:])
    showcase.query("INSERT INTO job (key, person_id, command, stream) VALUES (?, ?, 'check', ?)", key, person, stream)
    path = showcase.folder / "jobs" / f"{key}.output"
    path.parent.mkdir(exist_ok=True)
    return path


def run_report(showcase: Showcase, module: str, event: int) -> str:
    """What the command prints, without anything in between."""
    database = str(showcase.folder / "showcase.db")
    done = subprocess.run(
        [sys.executable, "-m", f"examples.showcase.reports.{module}", database, str(event)],
        cwd=ROOT, env={"SHOWCASE_PACE": "0", "PYTHONUTF8": "1"}, stdout=subprocess.PIPE, check=False,
    )
    return done.stdout.decode()


def test_a_commands_output_is_whole_after_reloads_and_restarts_of_both_servers(
    browser: Browser, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        people = People(browser, stack)
        cable = stack.enter_context(ServerProcess())
        showcase = stack.enter_context(Showcase(tmp_path / "data", cable.port, "--pace", "0.25"))
        home = showcase.link("organiser")
        first = people.open(showcase, home)
        first.get_by_role("button", name="Run").first.click()
        first.wait_for_url(re.compile("/jobs/"))
        path = first.url.partition(str(showcase.port))[2]
        second = people.open(showcase, path, people.context())

        def wait_for_line(page: Page, text: str) -> None:
            page.wait_for_function(f"text => ({LINES})().includes(text)", arg=text)

        wait_for_line(first, "Ada Lindqvist")
        # The cable server goes, without a word, and comes back: both pages go on where they were.
        cable.stop(signal.SIGKILL)
        expect(second.locator("cable-state")).to_have_text("Reconnecting")
        stack.enter_context(ServerProcess(port=cable.port))
        for page in (first, second):
            expect(page.locator("cable-state")).to_have_text("Live")
        first.reload()
        # The application goes: the job does not notice, and neither does the page that is open.
        showcase.stop()
        wait_for_line(second, "Rumba")
        showcase = stack.enter_context(Showcase(tmp_path / "data", cable.port, port=showcase.port))
        assert showcase.link("organiser") == home
        late = people.open(showcase, path)
        for page in (first, second, late):
            expect(page.locator(".exit")).to_have_text("exit 1")
        expected = plain(run_report(showcase, "check", 1))
        assert expected.count("\n") > 25
        for page in (first, second, late):
            expect_lines(page, expected)
        late.reload()
        expect_lines(late, expected)
        assert (showcase.folder / "jobs.log").read_text() == ""
        # What pages say of servers that are away, but nothing else.
        assert [line for line in people.complaints if "ERR_" not in line] == []


TABLE = ROOT / "examples" / "showcase" / "fastcable.toml"
IMPATIENT = """async () => {
  const { ConnectionMonitor } = await import("@rails/actioncable");
  ConnectionMonitor.staleThreshold = 0.6; // seconds without a ping, not 6
  document.querySelector("command-output").subscription.consumer.connection.monitor.startPolling();
}"""


def open_with_action_cable(people: People, showcase: Showcase, path: str, context: BrowserContext) -> Page:
    page = people.open(showcase, f"{path}?client=actioncable", context)
    page.evaluate(IMPATIENT)
    return page


def test_a_commands_output_is_whole_with_action_cables_client_after_reloads_and_a_restart(
    browser: Browser, tmp_path: Path
) -> None:
    serve = ("--config", str(TABLE), "--actioncable-ping-interval", "0.1")
    with ExitStack() as stack:
        people = People(browser, stack)
        cable = stack.enter_context(ServerProcess(*serve))
        showcase = stack.enter_context(Showcase(tmp_path / "data", cable.port, "--pace", "0.1"))
        simple = people.open(showcase, showcase.link("organiser"))
        simple.get_by_role("button", name="Run").first.click()
        simple.wait_for_url(re.compile("/jobs/"))
        path = simple.url.partition(str(showcase.port))[2]
        first, second = (open_with_action_cable(people, showcase, path, people.context()) for _ in range(2))
        live(first, cable, stream_of(simple, "command-output"), 3)
        first.wait_for_function(f"() => ({LINES})().includes('Ada Lindqvist')")
        # The server goes without a word, and comes back: Action Cable's client finds that out for itself.
        cable.stop(signal.SIGKILL)
        for page in (first, second):
            expect(page.locator("cable-state")).to_have_text("Reconnecting")
        cable = stack.enter_context(ServerProcess(*serve, port=cable.port))
        first.reload()
        for page in (first, second):
            expect(page.locator("cable-state")).to_have_text("Live")
        second.reload()
        for page in (simple, first, second):
            expect(page.locator(".exit")).to_have_text("exit 1")
            expect_lines(page, plain(run_report(showcase, "check", 1)))
        assert (showcase.folder / "jobs.log").read_text() == ""
        # What pages say of servers that are away, but nothing else.
        assert [line for line in people.complaints if "ERR_" not in line] == []


def test_a_page_that_is_too_slow_for_action_cable_comes_back_and_has_missed_nothing(
    people: People, tmp_path: Path
) -> None:
    channels = read_channels(tomllib.loads(TABLE.read_text())["channels"])
    with (
        LocalServer(channels=channels, actioncable_ping_interval=0.1, max_pending_messages=2) as cable,
        Showcase(tmp_path, cable.port) as showcase,
    ):
        stream = "output:event:user:job"
        path = insert_job(showcase, "slow", stream)
        path.write_bytes(b"before\r\n")
        context = people.context()
        held: list[Route] = []
        context.route("**/held", lambda route: held.append(route))
        page = open_with_action_cable(people, showcase, f"{showcase.link('organiser')}/jobs/slow", context)
        expect_lines(page, "before")
        first = cable.connection()
        page.evaluate("""() => {
            setTimeout(() => { // while this waits, the page reads nothing
                const request = new XMLHttpRequest();
                request.open("GET", "/held", false);
                request.send();
            });
        }""")
        while not held:
            page.wait_for_timeout(1)
        known = {"position": 0, "text": "before\r\n", "padding": "x" * 900_000}
        wait_until(lambda: cable.post({"stream": stream, "data": known}) == (200, {"subscribers": 0}))
        path.write_bytes(b"before\r\nmissed\r\n")
        held[0].fulfill(body="")
        expect_lines(page, "before\nmissed")
        expect(page.locator("cable-state")).to_have_text("Live")
        assert cable.connection() is not first
        cable.post({"stream": stream, "data": {"position": 16, "text": "after\r\n"}})
        expect_lines(page, "before\nmissed\nafter")
        page.close()


def test_a_server_that_was_given_no_channels_is_told_on_action_cables_page(people: People, shared: Showcase) -> None:
    insert_job(shared, "rejected", "output:event:user:job")
    path = f"{shared.link('organiser')}/jobs/rejected"
    page = people.open(shared, f"{path}?client=actioncable", live=False)
    expect(page.locator("cable-state")).to_have_text("Rejected: the server knows no such channel")
    assert shared.request("GET", f"{path}?client=telnet") == (400, b"wanted: a client, one of fastcable, actioncable")


def test_a_terminal_shows_each_character_once_however_often_and_late_it_comes(
    people: People, shared: Showcase, cable: ServerProcess
) -> None:
    """The test is the job: its output is kept as it is written, and published with everything that can go wrong."""
    home = shared.link("organiser")
    key, text = "a-job-of-the-test", "".join(f"\x1b[3{n % 8}m{n:03} Élégant 𝄞 ♫ ça va\x1b[0m\r\n" for n in range(60))
    path = insert_job(shared, key, "torture")
    output, data = Output(path), text.encode()

    def message(start: int, end: int) -> dict[str, object]:
        content = whole_characters(path.read_bytes()[start:end])
        return {"stream": "torture", "data": {"position": start, "text": content.decode()}}

    output.append(data[:501])
    page = people.open(shared, f"{home}/jobs/{key}")
    live(page, cable, "torture")
    kept = len(path.read_bytes())
    output.append(data[501:1_002])
    cable.post([message(0, kept), message(kept, 5_000), message(kept, 5_000)])  # known, new, doubled
    lost = len(path.read_bytes())
    output.append(data[1_002:1_503])  # never published: a hole
    after = len(path.read_bytes())
    output.append(data[1_503:])
    output.close()
    cable.post([message(after, 9_000), message(lost, 9_000), message(0, 9_000)])
    expect_lines(page, plain(text))
    expect(page.locator(".exit")).to_have_text("running")
    shared.query("UPDATE job SET exit_status = 0 WHERE key = ?", key)
    cable.post({"stream": "torture", "data": {"position": len(data), "text": "", "exit": 0}})
    expect(page.locator(".exit")).to_have_text("exit 0")
    page.reload()
    expect(page.locator(".exit")).to_have_text("exit 0")
    expect_lines(page, plain(text))


def test_a_progress_bar_in_a_terminal_looks_as_it_should(people: People, shared: Showcase) -> None:
    page = people.open(shared, shared.link("organiser", B))
    page.get_by_role("button", name="Run").nth(1).click()
    expect(page.locator(".exit")).to_have_text("exit 0")
    lines = shown(page).splitlines()
    assert lines[0] == "18 certificates for Harbour Cup"
    assert lines[2:20] == [line for line in lines if line.startswith("✓")]
    assert lines[-1] == "Done. Élégant, n’est-ce pas? ♪"


@pytest.mark.parametrize(("command", "status"), [("", 400), ("rm -rf /", 400), ("examples.showcase.job", 400)])
def test_only_known_commands_are_run(shared: Showcase, command: str, status: int) -> None:
    assert shared.post(f"{shared.link('organiser')}/jobs", command=command) == status


@pytest.mark.parametrize(("position", "status"), [("0", 200), ("1", 200), ("999999", 200), ("-1", 400), ("one", 400)])
def test_output_is_fetched_from_a_position(shared: Showcase, position: str, status: int) -> None:
    key = f"job-at-{position}"
    insert_job(shared, key, key).write_bytes(b"abc")
    found, body = shared.request("GET", f"{shared.link('organiser')}/jobs/{key}/output?position={position}")
    assert found == status
    assert status != 200 or body == b"abc"[int(position):]


# Between events, and between people


def test_the_streams_of_one_event_are_of_no_use_for_another(shared: Showcase, cable: ServerProcess) -> None:
    roles = ("viewer", "board", "judge", "organiser")
    names = {event: set().union(*(shared.streams(shared.link(role, event)) for role in roles)) for event in (A, B)}
    assert len(names[A]) == len(names[B]) == 4
    assert not names[A] & names[B]
    for name in names[A] | names[B]:
        key = re.sub(f"^[a-z-]*({A}|{B})-", "", name)
        assert len(key) >= 22  # 128 random bits
        assert not any(key in link or link[1:] in name for event in (A, B) for _, link in shared.links[event])
    # Somebody who knows all of A's names and B's slug hears of B nothing, and is heard by nobody there.
    guesses = {name.replace(A, B) for name in names[A]} | {re.sub(f"{A}.*", B, name) for name in names[A]}
    with cable.connect(*guesses) as eavesdropper:
        for name in names[B]:
            cable.post({"stream": name, "data": "secret"})
        cable.post({"stream": min(guesses), "data": "the end"})
        eavesdropper.expect({"type": "message", "stream": min(guesses), "data": "the end"})


@pytest.mark.parametrize(
    ("role", "method", "path", "status"),
    [
        ("viewer", "POST", "/heat", 403), ("judge", "POST", "/heat", 403), ("viewer", "POST", "/ballot", 403),
        ("viewer", "GET", "/ballot", 403), ("organiser", "POST", "/ballot", 403), ("viewer", "POST", "/draw", 403),
        ("viewer", "GET", "/draw", 403), ("judge", "POST", "/jobs", 403), ("viewer", "GET", "/jobs/x", 403),
        ("organiser", "GET", "/jobs/x", 404), ("organiser", "GET", "/jobs/x/output", 404),
        ("viewer", "GET", "/playlists/x", 404), ("viewer", "GET", "/playlists/x/state", 404),
        ("viewer", "GET", "/playlists/x/y", 404), ("judge", "POST", "/ballot", 400),
    ],
)
def test_a_role_allows_what_it_is_for(shared: Showcase, role: str, method: str, path: str, status: int) -> None:
    assert shared.request(method, shared.link(role) + path)[0] == status


@pytest.mark.parametrize("path", ["/x", "/x/heat", "/x/board", "/x/jobs/y", "/static/../app.py", "/npm/../app.py"])
def test_what_nobody_has_a_link_to_is_not_found(shared: Showcase, path: str) -> None:
    assert shared.request("GET", path)[0] == 404


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"round": 1, "couple": 305, "crossed": "true"}, 409),  # of the other event
        ({"round": 4, "couple": 305, "crossed": "true"}, 409),  # its round, too
        ({"round": 99, "couple": 101, "crossed": "true"}, 409),
        ({"round": "one", "couple": 101, "crossed": "true"}, 400),
        ({"couple": 101, "crossed": "true"}, 400),
        ({"round": 1, "couple": 101}, 400),
    ],
)
def test_a_judge_crosses_the_couples_of_the_own_event(shared: Showcase, fields: dict[str, Any], status: int) -> None:
    assert shared.post(shared.link("judge") + "/ballot", **fields) == status


# Ways to run it


def test_one_process_is_enough(people: People, tmp_path: Path) -> None:
    with Showcase(tmp_path / "data", None, "--pace", "0") as showcase:
        organiser = people.open(showcase, showcase.link("organiser"))
        board = people.open(showcase, showcase.link("board"))
        expect(board.locator("fastcable-stream[connected]")).to_have_count(1)
        organiser.get_by_role("button", name="Next heat").click()
        expect(board.locator(".eyebrow")).to_contain_text("Heat 2 of 2")
        assert showcase.post(f"{showcase.link('judge')}/ballot", round=1, couple=102, crossed="true") == 204
        expect(board.locator(".grid .sum").nth(1)).to_have_text("1")
        organiser.get_by_role("button", name="Run").first.click()
        expect(organiser.locator(".exit")).to_have_text("exit 1")
        expect_lines(organiser, plain(run_report(showcase, "check", 1)))
        organiser.get_by_role("link", name="@rails/actioncable").click()
        expect(organiser.locator("cable-state")).to_have_text("Live")
        expect_lines(organiser, plain(run_report(showcase, "check", 1)))
        board.close()
        organiser.close()
        assert showcase.log() == ""
        assert (showcase.folder / "jobs.log").read_text() == ""


def test_a_crowd_of_judges_can_be_played(shared: Showcase) -> None:
    crowd = [sys.executable, "-m", "examples.showcase.crowd", "--url", f"http://127.0.0.1:{shared.port}", "--event", B]
    subprocess.run([*crowd, "--rate", "100", "--seconds", "0.5"], cwd=ROOT, check=True)
    assert shared.query("SELECT count(*) FROM mark JOIN round ON round.id = round_id WHERE event_id = 2") > 0
    done = subprocess.run([*crowd[:-1], "nowhere"], cwd=ROOT, check=False, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "there is no event 'nowhere', but spring-gala, harbour-cup\n")


def test_a_port_in_use_is_one_line(shared: Showcase, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.showcase", "--host", "127.0.0.1", "--port", str(shared.port)]
    done = subprocess.run(
        [*command, "--data", str(tmp_path)], cwd=ROOT, check=False, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 1
    assert done.stderr == f"cannot listen on 127.0.0.1, port {shared.port}: Address already in use\n"


# The look


def test_nothing_is_wider_than_the_window(people: People, shared: Showcase) -> None:
    assert shared.post(f"{shared.link('organiser')}/jobs", command="certificates") == 303
    key = shared.query("SELECT key FROM job ORDER BY rowid DESC")
    paths = ["/", shared.link("organiser"), shared.link("judge"), shared.link("viewer"), shared.link("board", B),
             f"{shared.link('organiser')}/jobs/{key}"]
    for path in paths:
        page = people.open(shared, path, live=path != "/")
        for width in (320, 390, 768, 1_440):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width, path
