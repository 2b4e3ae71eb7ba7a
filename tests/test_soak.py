"""A small soak, and what it finds fault with."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.crowd import Ledger, Subscription


def test_everything_holds_under_everything_at_once() -> None:
    command = [sys.executable, "-m", "tests.soak", "4", "--clients", "100", "--seed", "7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as soak:
        try:
            output, _ = soak.communicate()
        finally:
            soak.send_signal(signal.SIGTERM)
    assert soak.returncode == 0, output
    assert output.count("ok  ") == 12, output


@pytest.mark.parametrize(
    ("events", "right"),
    [
        pytest.param([4, 5, 6], True, id="all from the first that is accepted later"),
        pytest.param([5, 6], True, id="from one that was under way when it was confirmed"),
        pytest.param([6, 7], True, id="from the first after the confirmation"),
        pytest.param([3, 4], False, id="one from before"),
        pytest.param([7, 8], False, id="the first left out"),
        pytest.param([4, 6], False, id="one left out"),
        pytest.param([4, 4], False, id="one twice"),
        pytest.param([5, 4], False, id="out of order"),
        pytest.param([4, "gap 2", 7], True, id="a gap"),
        pytest.param(["gap 2", 6], True, id="a gap at once"),
        pytest.param([4, "gap 2", 6], False, id="a gap too large"),
        pytest.param([4, "gap 2", 8], False, id="a gap too small"),
        pytest.param(["gap 3", 6], False, id="a gap from before"),
    ],
)
def test_a_client_knows_what_it_must_get(events: list[int | str], right: bool) -> None:
    ledger = Ledger()
    ledger.posted = ledger.accepted = 3
    subscription = Subscription(ledger)
    ledger.posted = 5
    subscription.confirmed()
    results = []
    for event in events:
        if isinstance(event, str):
            subscription.gap(int(event.split()[1]))
        else:
            results.append(subscription.message(event))
    assert all(results) is right


def test_an_account_is_complete_when_all_came_or_was_told_to_be_lost() -> None:
    ledger = Ledger()
    subscription = Subscription(ledger)
    subscription.confirmed()
    ledger.posted = 3
    subscription.message(1)
    assert not subscription.complete
    subscription.gap(2)
    assert subscription.complete
    assert (ledger.got, ledger.missed) == (1, 2)
