"""Pretend to typeset a certificate for each couple, with the kind of progress bar that rewrites its line."""

from __future__ import annotations

import sys

from examples.showcase.reports.terminal import BOLD, DIM, GOLD, GREEN, RESET, event, pause

WIDTH = 40


def main() -> int:
    database, row = event(sys.argv)
    couples = database.all("SELECT * FROM couple WHERE event_id = ? ORDER BY number", row["id"])
    print(f"{BOLD}{len(couples)} certificates for {row['name']}{RESET}\n")
    for done, couple in enumerate(couples, 1):
        full = WIDTH * done // len(couples)
        names = f"{couple['leader']} & {couple['follower']}"
        print(f"\r\x1b[K{GREEN}✓{RESET} {couple['number']}  {names} {DIM}({couple['club']}){RESET}")
        bar = f"{GOLD}{'█' * full}{DIM}{'░' * (WIDTH - full)}{RESET}"
        print(f"\r{bar} {100 * done // len(couples)} %", end="")
        pause()
    print(f"\r\x1b[K\n{BOLD}Done.{RESET} Élégant, n’est-ce pas? ♪")
    return 0


if __name__ == "__main__":
    sys.exit(main())
