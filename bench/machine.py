"""The machine a run was made on."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SPARE_DESCRIPTORS = 1000
"""Of the open-files limit, left for everything that is no connection under test."""


@dataclass(frozen=True)
class Machine:
    cpu: str
    cores: int
    memory: int
    """Bytes."""
    virtualisation: str
    """The hypervisor or container; "none" on bare metal."""
    system: str
    kernel: str
    descriptors: int
    """Files that one process may have open."""


def this_machine() -> Machine:
    return Machine(
        cpu=_value(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory=int((_value(Path("/proc/meminfo"), "MemTotal") or "0 kB").split()[0]) * 1024,
        virtualisation=_virtualisation(),
        system=platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        kernel=platform.release(),
        descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    )


def raise_descriptor_limit() -> None:
    """Let this process and its children open as many files as the system allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_connections(wanted: int) -> int:
    """The largest count of connections that the open-files limit allows, `wanted` at most."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, max(hard - SPARE_DESCRIPTORS, 100))


def _virtualisation() -> str:
    hypervisor = "hypervisor" in (_value(Path("/proc/cpuinfo"), "flags") or "").split()
    container = Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()
    name = ""
    if hypervisor and shutil.which("lscpu"):
        listing = subprocess.run(
            ["lscpu"], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
        ).stdout
        name = _field(listing, "Hypervisor vendor") or ""
    parts = [f"virtual machine ({name})" if name else "virtual machine"] if hypervisor else []
    return ", ".join([*parts, "container"] if container else parts) or "none"


def _value(file: Path, key: str) -> str | None:
    return _field(file.read_text(), key)


def _field(listing: str, key: str) -> str | None:
    """The value of the first `key: value` line."""
    for line in listing.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None
