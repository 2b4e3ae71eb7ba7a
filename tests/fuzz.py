"""`python -m tests.fuzz TARGET [options and folders of libFuzzer]`: have one of the targets fuzzed, guided by coverage.

`scripts/fuzz` runs this with a build of the server whose coverage is counted and whose memory is watched.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["fastcable"], enable_loader_override=False):
    from tests.fuzz_targets import TARGETS


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz {'|'.join(TARGETS)} [options of libFuzzer]")
    name = sys.argv[1]
    # To merge folders, libFuzzer has the shell run the first of these again and again.
    atheris.Setup([f"{sys.executable} -m tests.fuzz {name}", *sys.argv[2:]], TARGETS[name], internal_libfuzzer=False)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
