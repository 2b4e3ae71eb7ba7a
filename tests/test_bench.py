"""What the benchmark says of its samples, and how it counts a process's CPU time and memory."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import process
from bench.machine import Machine
from bench.progress import Progress
from bench.report import END, START, case_title, document, headline, render, update_readme
from bench.results import (
    ACTION_CABLE,
    FASTCABLE,
    FASTCABLE_ACTION_CABLE,
    FLOOR,
    Failure,
    PeerRecord,
    Results,
    case_name,
    number,
    quantile,
    quotients,
    summary,
)
from bench.targets import targets
from tests.harness import PATIENCE

FANOUT = case_name(subscribers=5000, size=100)
MB = 1 << 20
BENCH = Path(process.__file__).parent


@pytest.fixture
def results() -> Results:
    """Three servers that never were."""
    results = Results(
        machine=Machine("Difference Engine", 2, 8 << 30, "none", "Analytical 1", "6.1", 20000),
        date="1843-07-10 12:00", quick=False, versions={"cc": "1"}, seconds=61.0,
    )
    for key, name, cost in ((FASTCABLE, "fastcable", 1.0), (FLOOR, "floor", 0.9), (ACTION_CABLE, "Action Cable", 20.0)):
        results.peers.append(PeerRecord(key, name, 1, "", {"it": "1.0"}))
        for drift in (1.0, 1.1, 1.5):  # the machine became slower, for both of a pair
            results.add("fanout", FANOUT, key, "cpu", 6e-6 * cost * drift, 5.4e-6 * drift)
            results.add("fanout", FANOUT, key, "last_p99", 0.03 * cost * drift, 0.027 * drift)
            results.add("posts", "batch=1", key, "rate", 50_000 / cost)
            results.add("idle", "connections=0", key, "rss", 24 * MB * cost)
            results.add("idle", "connections=1000", key, "rss", 1400 * cost)
            results.add("idle", "connections=1000", key, "host", 5000 * cost)
        results.add_histogram(FANOUT, key, [(0.01 * cost, 90), (0.03 * cost, 10)])
    results.missing["Bun"] = "npm | is not installed"
    return results


@pytest.mark.parametrize(
    ("values", "median", "spread", "steady"),
    [
        pytest.param([5.0], 5, 0, True, id="one run"),
        pytest.param([9.0, 10.0, 11.0], 10, 0.2, True, id="a spread of a fifth"),
        pytest.param([9.0, 10.0, 11.1], 10, 0.21, False, id="a spread of more"),
        pytest.param([1.0, 2.0, 3.0, 4.0], 2.5, 1.2, False, id="an even number of runs"),
        pytest.param([0.0, 0.0], 0, 0, True, id="nothing at all"),
    ],
)
def test_runs_are_summed_up_by_median_and_spread(
    values: list[float], median: float, spread: float, steady: bool
) -> None:
    said = summary(values)
    assert said.median == median
    assert said.spread == pytest.approx(spread)
    assert said.steady == steady


def test_a_ratio_is_the_median_of_the_pairs_ratios() -> None:
    said = quotients([10, 30, 22], [10, 20, 20])
    assert said is not None
    assert said.median == pytest.approx(1.1)
    assert said.spread == pytest.approx(0.5 / 1.1)


def test_a_pair_without_a_partner_or_with_nothing_is_left_out() -> None:
    said = quotients([10, 20, 30], [0, 10])
    assert said is not None
    assert (said.median, said.runs) == (2, 1)
    assert quotients([1], [0]) is None


def test_drift_of_the_machine_is_in_the_spread_but_not_in_the_ratios(results: Results) -> None:
    cpu = results.figure("fanout", FANOUT, FASTCABLE, "cpu")
    to_floor = results.to_floor("fanout", FANOUT, FASTCABLE, "cpu")
    to_action_cable = results.ratio("fanout", FANOUT, ACTION_CABLE, FASTCABLE, "cpu")
    assert cpu
    assert not cpu.steady
    assert to_floor
    assert to_floor.median == pytest.approx(1 / 0.9)
    assert to_floor.steady
    assert to_action_cable
    assert to_action_cable.median == pytest.approx(20)


def test_pairs_know_the_floor_where_it_was_not_measured_by_itself(results: Results) -> None:
    results.series = [series for series in results.series if series.peer != FLOOR]
    said = results.to_floor("fanout", FANOUT, FASTCABLE, "cpu")
    assert said
    assert said.median == pytest.approx(1 / 0.9)


def test_the_floor_is_once_itself(results: Results) -> None:
    said = results.to_floor("idle", "connections=0", FLOOR, "rss")
    assert said
    assert said.median == 1


@pytest.mark.parametrize(("share", "upper"), [(0.5, 1.0), (0.9, 1.0), (0.91, 2.0), (1.0, 3.0)])
def test_a_quantile_is_the_bound_of_its_bucket(share: float, upper: float) -> None:
    assert quantile([(1.0, 90), (2.0, 9), (3.0, 1)], share) == upper


def test_histograms_of_runs_add_up(results: Results) -> None:
    results.add_histogram(FANOUT, FASTCABLE, [(0.02, 7), (0.03, 1)])
    assert results.histograms[FANOUT][FASTCABLE] == [(0.01, 90), (0.02, 7), (0.03, 11)]


def test_results_come_back_from_their_file(results: Results, tmp_path: Path) -> None:
    results.failures.append(Failure("fanout", FANOUT, FLOOR, "broken"))
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.0123, "0.012"), (0.123, "0.12"), (1.234, "1.23"), (9.996, "10.0"), (12.34, "12.3"),
     (99.96, "100"), (12345.6, "12,346"), (-3.21, "-3.21")],
)
def test_numbers_have_the_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("case", "title"),
    [
        ("connections=0", "no connections"),
        ("connections=10000 streams=5000", "10,000 connections, 5,000 streams"),
        ("subscribers=5000 size=100", "5,000 subscribers, 100 B"),
        ("subscribers=100 size=16384", "100 subscribers, 16.0 KB"),
        ("batch=100", "100 messages per post"),
    ],
)
def test_cases_are_named_for_people(case: str, title: str) -> None:
    assert case_title(case) == title


def test_the_report_has_every_figure_with_its_ratios_and_what_is_missing(results: Results) -> None:
    text = document(results, [("memory.png", "Memory")])
    assert "| **fastcable** | **≈ 6.60** <sub>1.11 · 0.050</sub> |" in text
    assert "| Action Cable | ≈ 132 <sub>22.2 · 1.00</sub> |" in text
    assert "fastcable needs 1.11 × the floor's CPU per delivery; Action Cable needs 20.0 × fastcable's." in text
    assert r"| Bun | – | not measured: npm \| is not installed |" in text
    assert "![Memory](memory.png)" in text


def test_a_server_with_faults_is_marked_and_its_fault_is_said(results: Results) -> None:
    results.failures.append(Failure("posts", "batch=1", ACTION_CABLE, "of all deliveries 27 reordered"))
    text = document(results, [])
    assert "| Action Cable | 2,500† <sub>" in text
    assert "† Action Cable: of all deliveries 27 reordered." in text


def test_a_server_that_failed_is_in_the_table_without_figures(results: Results) -> None:
    results.peers.append(PeerRecord("bun", "Bun", 1, "", {}))
    results.failures.append(Failure("posts", "batch=1", "bun", "it ended"))
    text = document(results, [])
    assert "| Bun | –† | – |" in text
    assert "† Bun: it ended." in text


def test_all_tables_are_as_wide_as_their_heads(results: Results) -> None:
    width = 0
    for line in document(results, []).splitlines():
        cells = line.replace(r"\|", "").count("|")
        width = cells if width == 0 else width
        assert cells in (0, width), line
        width = width if cells else 0


def test_the_report_and_its_pictures_are_written(results: Results, tmp_path: Path) -> None:
    render(results, tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    for picture in ("memory.png", "cpu.png", "latency.png"):
        assert f"({picture})" in text
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_targets_are_computed_from_what_was_measured(results: Results) -> None:
    found = {target.what: target for target in targets(results)}
    assert found["resident memory of the idle server"].met
    assert not found["CPU per delivery against the floor's, 5,000 subscribers, 100 B"].met  # 1.11 ×
    assert found["… Action Cable's against it"].met
    assert not any("Go handler" in what for what in found)


@pytest.mark.parametrize(("cost", "met"), [(1.19, True), (1.21, False)])
def test_pings_are_held_against_the_floors_frames_of_the_same_time(results: Results, cost: float, met: bool) -> None:
    case = case_name(connections=19000)
    for drift in (1.0, 1.3, 1.1):
        results.add("pings", case, FASTCABLE_ACTION_CABLE, "cpu", 8e-6 * cost * drift, 8e-6 * drift)
    found = {target.what: target for target in targets(results)}
    target = found["CPU per ping to 19,000 idle connections of Action Cable's protocol against the floor's per frame"]
    assert (round(target.measured, 6), target.met) == (cost, met)
    results.peers.append(PeerRecord(FASTCABLE_ACTION_CABLE, "fastcable, Action Cable", 1, "", {}))
    assert f"<sub>{cost} · –</sub>" in document(results, [])


def test_the_readme_gets_the_headline_between_its_markers(results: Results, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    update_readme(results, readme)
    text = readme.read_text()
    assert text.startswith(f"before\n{START}\n| server |")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert max(line.count("|") for line in headline(results)) <= 8 + 1


def test_a_readme_without_markers_is_left_alone(results: Results, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("text")
    with pytest.raises(ValueError, match="has no"):
        update_readme(results, tmp_path / "README.md")


def test_a_workload_may_be_measured_again(results: Results) -> None:
    newer = Results(results.machine, "2026-02-02 02:02", results.quick, {}, peers=results.peers)
    newer.add("fanout", FANOUT, FASTCABLE, "cpu", 1e-6, 2e-6)
    before = results.median("idle", "connections=0", FASTCABLE, "rss")
    results.replace(["fanout"], newer)
    assert results.median("fanout", FANOUT, FASTCABLE, "cpu") == 1e-6
    assert results.median("fanout", FANOUT, ACTION_CABLE, "cpu") is None
    assert results.median("idle", "connections=0", FASTCABLE, "rss") == before
    assert "after the others: fanout (2026-02-02 02:02 UTC)" in document(results, [])


def test_servers_may_be_added_when_a_workload_is_measured_again(results: Results) -> None:
    added = PeerRecord("bun", "Bun", 1, "", {})
    newer = Results(results.machine, "2026-02-02 02:02", results.quick, {}, peers=[*results.peers, added])
    results.replace(["fanout"], newer)
    assert added in results.peers


def test_what_was_measured_of_other_servers_is_not_mixed_in(results: Results) -> None:
    newer = Results(results.machine, "2026-02-02 02:02", results.quick, {}, peers=results.peers[:1])
    with pytest.raises(ValueError, match="of other servers"):
        results.replace(["fanout"], newer)


def test_what_is_published_is_what_was_measured() -> None:
    published = Results.load(BENCH / "results.json")
    table = "\n".join(headline(published))
    assert table in (BENCH.parent / "README.md").read_text()
    assert table in (BENCH / "RESULTS.md").read_text()


@pytest.fixture
def child() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a Python program in a session of its own, and has read its first line."""
    with ExitStack() as stack:

        def start(program: str) -> subprocess.Popen[str]:
            started = subprocess.Popen(
                [sys.executable, "-c", program], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
                start_new_session=True,
            )
            stack.enter_context(started)
            stack.callback(started.kill)
            assert started.stdout
            started.stdout.readline()
            return started

        yield start


def test_cpu_time_is_what_the_process_itself_counted(child: Callable[[str], subprocess.Popen[str]]) -> None:
    burner = child(
        "import sys, time\n"
        "while time.process_time() < 0.3: pass\n"
        "print('burnt', flush=True); sys.stdin.readline()\n"
        "print(time.process_time(), flush=True); sys.stdin.readline()"
    )
    before = process.usage(burner.pid)
    assert burner.stdin
    assert burner.stdout
    burner.stdin.write("\n")
    burner.stdin.flush()
    counted = float(burner.stdout.readline())
    after = process.usage(burner.pid)
    assert before
    assert after
    assert 0.3 <= before.cpu <= counted <= after.cpu
    assert before.user + before.system > 0.1  # sampled: coarse, but of the same process


def test_memory_is_what_the_process_allocated(child: Callable[[str], subprocess.Popen[str]]) -> None:
    eater = child(
        "import sys\nprint(flush=True); sys.stdin.readline()\n"
        "held = b'x' * (64 << 20)\nprint(flush=True); sys.stdin.readline()"
    )
    before = process.memory(eater.pid)
    assert eater.stdin
    assert eater.stdout
    eater.stdin.write("\n")
    eater.stdin.flush()
    eater.stdout.readline()
    after = process.memory(eater.pid)
    for grown in (after.rss - before.rss, after.pss - before.pss, after.private_dirty - before.private_dirty):
        assert 62 * MB <= grown < 68 * MB  # the kernel may take back pages of before meanwhile


def test_children_and_those_who_left_the_family_but_not_the_session_count(
    child: Callable[[str], subprocess.Popen[str]],
) -> None:
    parent = child(
        "import subprocess, sys\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "own = subprocess.Popen(sleep)\n"
        "orphan = 'import subprocess, sys; subprocess.Popen(sys.argv[1:])'\n"
        "subprocess.run([sys.executable, '-c', orphan, *sleep])\n"
        "print(flush=True); sys.stdin.readline()"
    )
    family = process.descendants({parent.pid})
    assert len(family) == 3
    for pid in family - {parent.pid}:
        subprocess.run(["kill", str(pid)], check=True)
    end = time.monotonic() + PATIENCE
    while process.descendants({parent.pid}) != {parent.pid}:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_process_that_is_gone_has_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert process.usage(gone.pid) is None
    assert process.memory(gone.pid) == process.Memory()
    assert process.descendants({gone.pid}) == set()


def test_the_kernels_buffers_are_summed_from_what_ss_says() -> None:
    listing = (
        "0 0 127.0.0.1:4400 127.0.0.1:50000 skmem:(r0,rb131072,t0,tb65536,f1024,w2048,o16,bl0,d0)\n"
        "0 0 127.0.0.1:4400 127.0.0.1:50001 skmem:(r100,rb131072,t5,tb65536,f0,w0,o0,bl8,d3)\n"
    )
    assert process.buffered(listing) == 1024 + 2048 + 16 + 100 + 8


def test_progress_says_where_it_is_and_what_is_left() -> None:
    said = io.StringIO()
    progress = Progress(said)
    progress.expect([1.0, 1.0])
    progress.step("first")
    progress.detail("seen on a terminal only")
    progress.step("second")
    first, second = said.getvalue().splitlines()
    assert first == "[1/2] first · 0:00 gone, about 0:02 left"
    assert second.startswith("[2/2] second · ")
