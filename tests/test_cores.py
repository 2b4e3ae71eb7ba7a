"""How many cores are counted on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastcable.cores import available_cores


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.parametrize(("quotas", "cores"), [
    ({}, 8),
    ({"": "max 100000\n"}, 8),
    ({"": "100000 100000\n"}, 1),
    ({"": "99999 100000\n"}, 1),
    ({"": "199999 100000\n"}, 1),
    ({"": "200000 100000\n"}, 2),
    ({"": "1600000 100000\n"}, 8),
    ({"a/b": "300000 100000\n"}, 3),
    ({"a/b": "max 100000\n", "a": "300000 100000\n", "": "400000 100000\n"}, 3),
    ({"a/b": "300000 100000\n", "a": "150000 50000\n", "": "100000 50000\n"}, 2),
    ({"a/other": "100000 100000\n"}, 8),
    ({"": "nonsense\n"}, 8),
])  # fmt: skip
def test_the_least_quota_above_the_process_counts(tmp_path: Path, quotas: dict[str, str], cores: int) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("1:cpu:/elsewhere\n0::/a/b\n")
    for group, text in quotas.items():
        folder = tmp_path / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(text)
    assert available_cores(str(tmp_path)) == cores


@pytest.mark.parametrize("groups", [None, "", "1:cpu:/\n"])
def test_without_control_groups_the_affinity_counts(tmp_path: Path, groups: str | None) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    if groups is not None:
        (tmp_path / "proc/self/cgroup").write_text(groups)
    assert available_cores(str(tmp_path)) == 8


def test_on_this_machine_there_is_at_least_one() -> None:
    assert 1 <= available_cores() <= 8
