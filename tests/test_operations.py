"""docs/operations.md and docs/threat-model.md: figures are those that were measured, every line of the log is
explained, and options have the names that are given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastcable.settings import OPTIONS

ROOT = Path(__file__).parent.parent
MANUAL = (ROOT / "docs/operations.md").read_text()
RESULTS = (ROOT / "bench/RESULTS.md").read_text()

CALL = re.compile(
    r"(?:logger|log|turned_away|_refused|_throttle\w*)\.(?:debug|info|warning|error|exception|log)\(\s*"
    r'(?:logging\.\w+,\s*)?((?:f?"(?:[^"\\]|\\.)*"\s*)+)')


def messages() -> Iterator[str]:
    """What the server logs, with … for what is filled in."""
    for path in sorted((ROOT / "fastcable").rglob("*.py*")):
        if path.suffix in (".py", ".pyx") and not {"client", "asgi"} & set(path.parts):
            for call in CALL.findall(path.read_text()):
                text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', call))
                yield re.sub(r"(?:%[.\d]*[a-z]|\{[^}]*\})+", "…", text)


def explained() -> list[str]:
    section = MANUAL[MANUAL.index("## What the log says"):]
    rows = re.findall(r"^\| (?:debug|info|warning|error) \| (.*?) \|", section, re.MULTILINE)
    return [message for row in rows for message in row.split("<br>")]


def test_every_line_of_the_log_is_explained() -> None:
    assert sorted(set(messages()) - {"…"} - set(explained())) == []


def test_every_line_that_is_explained_is_logged() -> None:
    assert sorted(set(explained()) - set(messages())) == []


def figures(heading: str) -> list[float]:
    """fastcable's row of the first table behind a heading, as numbers."""
    section = RESULTS[RESULTS.index(heading):]
    row = section[section.index("| **fastcable** |"):].partition("\n")[0]
    return [float(number) for number in re.findall(r"\*\*(?:≈ )?([\d.]+)\*\*", row)]


def given(pattern: str) -> float:
    found = re.search(pattern, MANUAL)
    assert found, pattern
    return float(found[1])


IDLE, PROCESS, KERNEL, STALLED = (
    given(rf"\| {row}[^|]*\| ([\d.]+) [KM]B")
    for row in ("fastcable without connections", "a connection, in fastcable", "a connection, in the kernel",
                "a reader that stalled"))


@pytest.mark.parametrize(("stated", "measured"), [
    (IDLE, figures("**No connections**")[0]),
    (PROCESS, figures("**19,000 connections**")[0]),
    (KERNEL, figures("**19,000 connections**")[4]),
    (STALLED, figures("**500 connections, 50 stalled**")[5]),
], ids=["idle", "connection", "kernel", "stalled"])
def test_the_memory_calculator_has_the_measured_figures(stated: float, measured: float) -> None:
    assert stated == pytest.approx(measured, rel=0.1)


def test_the_formula_and_the_tables_are_of_these_figures() -> None:
    formula = re.search(r"MB = ([\d.]+) \+ N × ([\d.]+) / 1024 \+ S × ([\d.]+) / 1024", MANUAL)
    assert formula
    base, each, stalled = map(float, formula.groups())
    assert (base, stalled) == (IDLE, STALLED)
    assert each == pytest.approx(PROCESS + KERNEL)

    def megabytes(connections: float, share: float) -> float:
        return base + connections * (each + share * stalled) / 1024

    rows = re.findall(r"^\| ([\d,]+) \| (\d+) \| (\d+) \|$", MANUAL, re.MULTILINE)
    assert len(rows) == 5
    for count, rest, some in rows:
        connections = int(count.replace(",", ""))
        assert (int(rest), int(some)) == (round(megabytes(connections, 0)), round(megabytes(connections, 0.05)))
    hosts = re.findall(r"^\| (\d+) (MB|GB) \| ([\d,]+) \| ([\d,]+) \|$", MANUAL, re.MULTILINE)
    assert len(hosts) == 3
    for size, unit, *fit in hosts:
        half = int(size) * (1024 if unit == "GB" else 1) / 2
        for share, text in zip((0, 0.05), fit, strict=True):
            connections = int(text.replace(",", ""))
            assert megabytes(connections, share) <= half < megabytes(connections + 110, share)


OTHERS = {  # that look like options and are others'
    "ip_local_port_range", "proxy_pass", "tcp_keepalive_", "tcp_max_syn_backlog", "tcp_mem", "tcp_syncookies",
    "client_no_context_takeover", "server_no_context_takeover", "server_max_window_bits",
    "worker_connections", "worker_rlimit_nofile", "server_restart", "histogram_quantile", "nf_conntrack_max",
}


@pytest.mark.parametrize("name", ["docs/operations.md", "docs/threat-model.md", "SECURITY.md"])
def test_options_have_the_names_that_are_given(name: str) -> None:
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)\b", (ROOT / name).read_text()))
    named = {each for each in named if not each.startswith(("fastcable_", "process_"))}  # metrics
    assert sorted(named - OPTIONS.keys() - OTHERS) == []


def test_the_files_that_are_named_are_there() -> None:
    for name in ("docs/operations.md", "docs/threat-model.md", "SECURITY.md"):
        path = ROOT / name
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / link).exists(), (name, link)
