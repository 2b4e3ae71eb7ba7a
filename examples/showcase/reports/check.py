"""Check the marks of an event's rounds, and say so in colour."""

from __future__ import annotations

import sys

from examples.showcase.reports.terminal import BOLD, DIM, GOLD, GREEN, RED, RESET, event, pause


def main() -> int:
    database, row = event(sys.argv)
    print(f"{BOLD}Scrutineering — {row['name']}, {row['place']}{RESET}")
    missing = 0
    judges = database.all("SELECT * FROM person WHERE event_id = ? AND role = 'judge' ORDER BY letter", row["id"])
    for round_ in database.all("SELECT * FROM round WHERE event_id = ? ORDER BY position", row["id"]):
        print(f"\n{GOLD}♫ {round_['dance']}{RESET} {DIM}{round_['title']}, {round_['recall']} to be recalled{RESET}")
        for judge in judges:
            crosses = database.all(
                """SELECT number FROM mark JOIN couple ON couple.id = couple_id
                   WHERE round_id = ? AND judge_id = ? ORDER BY number""", round_["id"], judge["id"],
            )
            numbers = " ".join(str(cross["number"]) for cross in crosses) or "–"
            short = round_["recall"] - len(crosses)
            few = "few" if short > 0 else "many"
            verdict = f"{RED}✗ {abs(short)} too {few}{RESET}" if short else f"{GREEN}✓ complete{RESET}"
            missing += bool(short)
            print(f"  {BOLD}{judge['letter']}{RESET} {judge['name']:<16} {verdict}  {DIM}{numbers}{RESET}")
            pause()
    verdict = f"{RED}Ballots that want a look: {missing}" if missing else f"{GREEN}All ballots are complete"
    print(f"\n{BOLD}{verdict}{RESET} ♪")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
